"""The tensor-only wrapper: one module that serves every encoder, and what a trace of it may rely on.

It builds the four-dimensional additive mask and the position ids with tensor operations only, so that a trace holds
no device, no dtype and no branch that depended on the sample; `probe` tells which of them a family takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import bertx.model.loading as loading
from bertx.checkpoint import Checkpoint
from bertx.errors import InputRefused, escape
from bertx.manifest import MODULE
from bertx.model.layouts import LAYOUTS, SEGMENTS
from bertx.model.modules import build_pooling, read_pooling
from bertx.model.pictures import PIXELS, picture_samples, picture_spec, takes_pictures, tensor_only
from bertx.model.probe import explicit_arguments, sample, tensor_arguments
from bertx.model.stock import named_outputs
from bertx.model.tasks import HIDDEN_STATES, Task
from bertx.signature import BATCH, SEQUENCE, Signature, TensorSpec, sizes, symbolic

#: sizes of the two sample batches; all four differ, so that a dimension that follows one is told from the others
_FIRST, _SECOND = (2, 7), (3, 11)


@dataclass(frozen=True)
class Source:
    """What a format writes from: the wrapped model, its sample inputs, its signature and its taps.

    `state` is the state_dict of a plain module.
    """

    module: Any
    samples: dict[str, Any]
    signature: Signature
    layers: int
    head: str
    unused: tuple[str, ...]
    task: Task
    dtype: str
    state: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether it is a plain module, which has no layer boundaries and takes its inputs by position."""
        return self.task.name == MODULE


def input_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The inputs of a checkpoint's artifacts, from its configuration alone: segments where there is more than one."""
    if takes_pictures(checkpoint.config.values):
        return (PIXELS,)
    segments = checkpoint.config.values.get("type_vocab_size")
    if segments is None:
        segments = _default_segments(checkpoint.config.model_type)
    names = ("input_ids", "attention_mask")
    return (*names, "token_type_ids") if isinstance(segments, int) and segments > 1 else names


def input_specs(checkpoint: Checkpoint) -> tuple[TensorSpec, ...]:
    """The same with dtype and shape."""
    if takes_pictures(checkpoint.config.values):
        return (picture_spec(checkpoint),)
    return tuple(TensorSpec(name, "int64", (BATCH, SEQUENCE)) for name in input_names(checkpoint))


def wrap(checkpoint: Checkpoint, task: Task, dtype: str, outputs: tuple[str, ...], *, fused: bool) -> Source:
    """Loads and wraps a checkpoint for export at `dtype`, putting out `outputs` in this order.

    `fused` takes PyTorch's one attention operator where the family has it (faster on a GPU) instead of the plain
    operators that other runtimes know. Raises InputRefused where the checkpoint cannot give one of the outputs.
    """
    import torch

    loaded = loading.load(checkpoint, task, dtype=dtype, attention="sdpa" if fused else "eager")
    specs, taps = input_specs(checkpoint), list[str]()
    if takes_pictures(checkpoint.config.values):
        module = tensor_only(loaded, outputs, taps)
        batches = [{PIXELS: picture_samples(specs[0], batch)} for batch, _ in (_FIRST, _SECOND)]
    else:
        module, batches = _text(checkpoint, loaded, task, outputs, taps)
    with torch.inference_mode():
        one, two = (module.compute(**batch) for batch in batches)
    taps += [name for name in one if name.startswith(f"{HIDDEN_STATES}.")]
    lacking = [name for name in outputs if name not in one]
    if lacking:
        offered = ", ".join(name for name in one if name not in taps)
        raise InputRefused(
            "E_TASK_UNSUPPORTED",
            f"{escape(checkpoint.name)} gives no {', '.join(map(escape, lacking))}",
            f"it gives {offered}",
        )
    seen = [sizes(specs, {name: tuple(value.shape) for name, value in batch.items()}) for batch in batches]
    shapes = {name: (tuple(one[name].shape), tuple(two[name].shape)) for name in outputs}
    return Source(
        module,
        batches[0],
        Signature(specs, tuple(symbolic(name, dtype, shapes[name], seen) for name in outputs)),
        len(taps),
        loaded.head,
        loaded.unused,
        task,
        dtype,
    )


def _text(
    checkpoint: Checkpoint, loaded: loading.Loaded, task: Task, outputs: tuple[str, ...], taps: list[str]
) -> tuple[Any, list[dict[str, Any]]]:
    """The module of a text model, and two sample batches; `taps` are filled later."""
    import torch

    names = input_names(checkpoint)
    dtype = next(loaded.model.parameters()).dtype
    pooling = build_pooling(read_pooling(checkpoint.folder)) if task.name == "sentence-similarity" else None
    if loaded.model.config.is_encoder_decoder:
        raise InputRefused(
            "E_TASK_UNSUPPORTED", f"{escape(loaded.head)} has a decoder", "bertx exports encoders; export its encoder"
        )
    explicit = explicit_arguments(loaded, names)

    class TensorOnly(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = loaded.model
            self.pooling = pooling.to(dtype) if pooling is not None else None

        def compute(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> dict[str, Any]:
            arguments = {"input_ids": input_ids, "attention_mask": attention_mask}
            if token_type_ids is not None:
                arguments["token_type_ids"] = token_type_ids
            arguments |= tensor_arguments(self.model, arguments, explicit)
            result = self.model(**arguments, output_hidden_states=True, return_dict=True)
            found = named_outputs(result, loaded.pooler)
            if self.pooling is not None:
                found["sentence_embedding"] = self.pooling(found["last_hidden_state"], attention_mask)
            if HIDDEN_STATES in found:
                found |= {f"{HIDDEN_STATES}.{k}": state for k, state in enumerate(result.hidden_states)}
            return found

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            found = self.compute(input_ids, attention_mask, token_type_ids)
            return found[outputs[0]] if len(outputs) == 1 else tuple(found[name] for name in outputs)

        def hidden_states(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            return self.compute(input_ids, attention_mask, token_type_ids)[HIDDEN_STATES]

        def with_taps(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            found = self.compute(input_ids, attention_mask, token_type_ids)
            return tuple(found[name] for name in (*outputs, *taps))

    return TensorOnly().eval(), [sample(shape, names, loaded.model) for shape in (_FIRST, _SECOND)]


def _default_segments(model_type: str) -> int:
    """What transformers takes for a type_vocab_size that config.json leaves out; 0 where a family has none."""
    if model_type in LAYOUTS:
        return LAYOUTS[model_type].defaults.get("type_vocab_size", 0)
    if model_type in SEGMENTS:
        return SEGMENTS[model_type]
    from transformers import CONFIG_MAPPING

    found = getattr(CONFIG_MAPPING[model_type](), "type_vocab_size", 0) if model_type in CONFIG_MAPPING else 0
    return found if isinstance(found, int) else 0


def default_outputs(checkpoint: Checkpoint, task: Task) -> tuple[str, ...]:
    """The ONNX outputs of a task for this checkpoint: pooler_output only where its weights exist."""
    pooler = loading.has_pooler(checkpoint.weights)
    return tuple(name for name in task.outputs if name != "pooler_output" or pooler)
