"""The tensor-only wrapper: one module that serves every encoder, and what a trace of it may rely on.

It builds the four-dimensional additive mask and the position ids with tensor operations only, so that a trace holds
no device, no dtype and no branch that depended on the sample. Whether a family takes them is asked of the model
itself: the wrapper is tried with and without on a padded sample, and what changes the answer is left to the model.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import bertx.model.loading as loading
from bertx.checkpoint import Checkpoint
from bertx.errors import InputRefused, escape
from bertx.model.modules import build_pooling, read_pooling
from bertx.model.stock import named_outputs
from bertx.model.tasks import HIDDEN_STATES, Task
from bertx.signature import BATCH, SEQUENCE, Signature, TensorSpec, symbolic

#: sizes of the two sample batches; all four differ, so that a dimension that follows one is told from the others
_FIRST, _SECOND = (2, 7), (3, 11)


@dataclass(frozen=True)
class Source:
    """What a format writes from: the wrapped model, its sample inputs, its signature and its taps."""

    module: Any
    samples: dict[str, Any]
    signature: Signature
    layers: int
    head: str
    unused: tuple[str, ...]
    task: Task
    dtype: str


def input_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The inputs of a checkpoint's artifacts, from its configuration alone: segments where there is more than one."""
    segments = checkpoint.config.values.get("type_vocab_size", 2 if checkpoint.config.model_type == "bert" else 0)
    names = ("input_ids", "attention_mask")
    return (*names, "token_type_ids") if isinstance(segments, int) and segments > 1 else names


def wrap(checkpoint: Checkpoint, task: Task, dtype: str, outputs: tuple[str, ...], *, fused: bool) -> Source:
    """Loads and wraps a checkpoint for export at `dtype`, putting out `outputs` in this order.

    `fused` takes PyTorch's one attention operator where the family has it (faster on a GPU) instead of the plain
    operators that other runtimes know. Raises InputRefused where the checkpoint cannot give one of the outputs.
    """
    import torch

    loaded = loading.load(checkpoint, task, dtype=dtype, attention="sdpa" if fused else "eager")
    names = input_names(checkpoint)
    pooling = build_pooling(read_pooling(checkpoint.folder)) if task.name == "sentence-similarity" else None
    first, second = (_sample(shape, names) for shape in (_FIRST, _SECOND))
    explicit = _explicit_arguments(loaded, first)

    class TensorOnly(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = loaded.model
            self.pooling = pooling.to(getattr(torch, dtype)) if pooling is not None else None

        def compute(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> dict[str, Any]:
            arguments = {"input_ids": input_ids, "attention_mask": attention_mask}
            if token_type_ids is not None:
                arguments["token_type_ids"] = token_type_ids
            arguments |= _tensor_arguments(self.model, arguments, explicit)
            result = self.model(**arguments, output_hidden_states=True, return_dict=True)
            found = named_outputs(result, loaded.pooler)
            if self.pooling is not None:
                found["sentence_embedding"] = self.pooling(found["last_hidden_state"], attention_mask)
            for k, state in enumerate(result.hidden_states or ()):
                found[f"{HIDDEN_STATES}.{k}"] = state
            return found

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            found = self.compute(input_ids, attention_mask, token_type_ids)
            return found[outputs[0]] if len(outputs) == 1 else tuple(found[name] for name in outputs)

        def hidden_states(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            return self.compute(input_ids, attention_mask, token_type_ids)[HIDDEN_STATES]

        def with_taps(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            found = self.compute(input_ids, attention_mask, token_type_ids)
            return tuple(found[name] for name in (*outputs, *taps))

    module = TensorOnly().eval()
    with torch.inference_mode():
        one, two = module.compute(**first), module.compute(**second)
    taps = tuple(name for name in one if name.startswith(f"{HIDDEN_STATES}."))
    lacking = [name for name in outputs if name not in one]
    if lacking:
        offered = ", ".join(name for name in one if name not in taps)
        raise InputRefused(
            "E_TASK_UNSUPPORTED",
            f"{escape(checkpoint.name)} gives no {', '.join(map(escape, lacking))}",
            f"it gives {offered}",
        )
    return Source(
        module,
        first,
        Signature(
            tuple(TensorSpec(name, "int64", (BATCH, SEQUENCE)) for name in names),
            tuple(symbolic(n, dtype, (tuple(one[n].shape), tuple(two[n].shape)), (_FIRST, _SECOND)) for n in outputs),
        ),
        len(taps),
        loaded.head,
        loaded.unused,
        task,
        dtype,
    )


def default_outputs(checkpoint: Checkpoint, task: Task) -> tuple[str, ...]:
    """The ONNX outputs of a task for this checkpoint: pooler_output only where its weights exist."""
    pooler = any(".pooler." in f".{name}" for name in checkpoint.weights)
    return tuple(name for name in task.outputs if name != "pooler_output" or pooler)


def _sample(shape: tuple[int, int], names: tuple[str, ...]) -> dict[str, Any]:
    """A batch whose first row is padded on the right and whose last is full; ids avoid the special tokens' range."""
    import torch

    ids = torch.arange(shape[0] * shape[1]).reshape(shape) % 13 + 5
    mask = torch.ones(shape, dtype=torch.int64)
    mask[0, -2:] = 0
    values = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": torch.zeros(shape, dtype=torch.int64),
    }
    return {name: values[name] for name in names}


def _tensor_arguments(model: Any, arguments: dict[str, Any], explicit: tuple[str, ...]) -> dict[str, Any]:
    """The mask and positions that the wrapper builds itself, of those in `explicit`."""
    import torch

    made: dict[str, Any] = {}
    if "attention_mask" in explicit:
        keep = arguments["attention_mask"][:, None, None, :].type_as(model.get_input_embeddings().weight)
        # log(0) is −inf, which nan_to_num turns into the lowest number of whatever dtype the file is moved to.
        made["attention_mask"] = torch.nan_to_num(torch.log(keep))
    if "position_ids" in explicit:
        made["position_ids"] = torch.cumsum(torch.ones_like(arguments["input_ids"]), dim=1) - 1
    return made


def _explicit_arguments(loaded: loading.Loaded, sample: dict[str, Any]) -> tuple[str, ...]:
    """Which of attention_mask and position_ids the wrapper may build: those that leave the model's answer as it is."""
    import torch

    accepted = inspect.signature(loaded.model.forward).parameters
    keep = sample["attention_mask"].bool()

    def answer(explicit: tuple[str, ...]) -> Any:
        arguments = sample | _tensor_arguments(loaded.model, sample, explicit)
        with torch.inference_mode():
            state = loaded.model(**arguments, output_hidden_states=True, return_dict=True).hidden_states[-1]
        return state[keep].float()

    plain = answer(())
    chosen: tuple[str, ...] = ()
    for name in ("attention_mask", "position_ids"):
        if name not in accepted:
            continue
        try:
            made = answer((*chosen, name))
        except (RuntimeError, ValueError, IndexError):
            continue
        if made.shape == plain.shape and bool((made - plain).abs().max() <= 1e-2 * plain.abs().max()):
            chosen = (*chosen, name)
    return chosen
