"""Strict loading: the stock transformers class of a task, with every weight accounted for.

transformers fills a missing layer with random numbers and only warns; here a tensor that is missing, unknown,
misshapen or not finite is a refusal that names it.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.checkpoint import Checkpoint
from bertx.checkpoint.writer import write_safetensors
from bertx.errors import BertxError, InputRefused, escape
from bertx.model.tasks import Task
from bertx.model.variants import LEFT_ASIDE, layout_of

if TYPE_CHECKING:
    import torch

#: integer tensors that older transformers wrote beside the weights; they are computed anew at load
_BUFFERS = re.compile(r"(^|\.)(position_ids|token_type_ids|num_batches_tracked)$")
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Loaded:
    """A stock model in eval mode, what of the checkpoint it does not use, and what of it is in no checkpoint."""

    model: Any
    pooler: bool
    unused: tuple[str, ...]
    initialised: tuple[str, ...] = ()

    @property
    def head(self) -> str:
        """The transformers class, by name."""
        return str(self.model.bertx_head)


def quiet() -> None:
    """Silences transformers' progress bars and its warnings about weights, which are errors here."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"(torch|transformers)\b")


def model_config(checkpoint: Checkpoint) -> Any:
    """The transformers configuration object of a checkpoint, from the values that the config policy let through."""
    from transformers import CONFIG_MAPPING

    model_type = checkpoint.config.model_type
    if model_type not in CONFIG_MAPPING:
        raise InputRefused(
            "E_CONFIG",
            f"transformers does not know the model type {escape(model_type)}",
            "a newer transformers may know it",
        )
    try:
        config = CONFIG_MAPPING[model_type].from_dict(dict(checkpoint.config.values))
    except Exception as error:
        raise InputRefused(
            "E_CONFIG", f"config.json is refused by transformers: {escape(error)}", "correct it"
        ) from error
    _check_architectures(checkpoint, type(config))
    return config


def _check_architectures(checkpoint: Checkpoint, config_class: type) -> None:
    import transformers

    for name in checkpoint.config.architectures:
        stated = getattr(transformers, name, None) if name.isidentifier() else None
        if not isinstance(stated, type) or not hasattr(stated, "config_class"):
            raise InputRefused("E_CONFIG", f"transformers has no architecture {escape(name)}", "correct config.json")
        if not issubclass(config_class, stated.config_class):
            raise InputRefused(
                "E_CONFIG",
                f"config.json states model type {escape(checkpoint.config.model_type)} but architecture {escape(name)}",
                "correct whichever is wrong",
            )


def has_pooler(names: Iterable[str]) -> bool:
    """Whether a checkpoint holds its base model's pooler: one that lies beside the embeddings.

    A head may have a pooler of its own (DeBERTa's classifier), which the base model does not.
    """
    listed = tuple(names)
    bases = {name[: name.index("embeddings.")] for name in listed if "embeddings." in name}
    return any(name.startswith(f"{base}pooler.") for base in bases for name in listed)


def load(
    checkpoint: Checkpoint, task: Task, *, dtype: str = "float32", attention: str = "eager", seed: int | None = None
) -> Loaded:
    """Loads the task's stock class on the CPU at `dtype`. Raises InputRefused, naming tensors, on any doubt.

    `attention` "sdpa" falls back to "eager" for a family that does not have it. With a `seed`, a head that is missing
    is not refused but left as transformers initialises it.
    """
    import torch

    quiet()
    _check_dtypes(checkpoint)
    config = model_config(checkpoint)
    stock = _head_class(task, config)
    pooler = has_pooler(checkpoint.weights)
    options: dict[str, Any] = {}
    if not pooler and "add_pooling_layer" in inspect.signature(stock.__init__).parameters:
        options["add_pooling_layer"] = False
    # The same class with its lists of tolerated tensors emptied, so that the loader reports all of them.
    strict = type(
        stock.__name__,
        (stock,),
        {
            "__module__": stock.__module__,
            "_keys_to_ignore_on_load_missing": None,
            "_keys_to_ignore_on_load_unexpected": None,
            "bertx_head": stock.__name__,
        },
    )
    try:
        with torch.random.fork_rng(devices=[]), _safetensors_folder(checkpoint) as folder:
            torch.manual_seed(seed or 0)
            model, info = strict.from_pretrained(  # type: ignore[attr-defined]
                str(folder),
                config=config,
                dtype=getattr(torch, dtype),
                attn_implementation=attention if getattr(stock, "_supports_sdpa", False) else "eager",
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **options,
            )
    except BertxError:
        raise
    except Exception as error:  # of transformers and PyTorch: sizes that they cannot divide by, assertions
        raise InputRefused(
            "E_WEIGHTS",
            f"transformers cannot load {escape(checkpoint.name)}: {escape(error)}",
            "check config.json and weights",
        ) from error
    unneeded = set() if pooler or task.auto_class != "AutoModel" else _poolers(info["missing_keys"])
    head = set() if seed is None else _head(info["missing_keys"], model.base_model_prefix)
    unused = _account(checkpoint, config, info, unneeded | head)
    for name in unneeded:  # never put out; zeros, so that an artifact does not hold random numbers
        torch.nn.init.zeros_(model.get_parameter(name))
    _check_finite(model, dtype)
    model.eval().requires_grad_(False)
    return Loaded(model, pooler, unused, tuple(sorted(head)))


@contextlib.contextmanager
def _safetensors_folder(checkpoint: Checkpoint) -> Iterator[Path]:
    """A folder from which transformers can read the weights without unpickling anything.

    Weights of torch.save are copied by our own reader into a temporary one; a tied pair is then two equal tensors.
    """
    if all(path.suffix == ".safetensors" for path in checkpoint.weight_files()):
        yield checkpoint.folder
        return
    with tempfile.TemporaryDirectory(prefix="bertx-", ignore_cleanup_errors=True) as name:
        write_safetensors(checkpoint.weights, Path(name) / "model.safetensors")
        yield Path(name)


def _head_class(task: Task, config: Any) -> Any:
    import transformers

    mapping = getattr(transformers, task.auto_class)._model_mapping
    if type(config) not in mapping:
        raise InputRefused(
            "E_TASK_UNSUPPORTED",
            f"transformers has no {task.auto_class.removeprefix('Auto')} for model type {escape(config.model_type)}",
            "choose another --task",
        )
    found = mapping[type(config)]
    if isinstance(found, tuple):
        stated = set(config.architectures or ())
        found = next((each for each in found if each.__name__ in stated), found[0])
    return found


def _poolers(tensors: Iterable[str]) -> set[str]:
    return {name for name in tensors if ".pooler." in f".{name}"}


def _head(tensors: Iterable[str], prefix: str) -> set[str]:
    """Those of a class's tensors that are not its base model's; the pooler belongs to the heads that use it."""
    return {name for name in tensors if not name.startswith(f"{prefix}.")} | _poolers(tensors)


def _names(tensors: Iterable[str], most: int = 4) -> str:
    names = sorted(tensors)
    listed = ", ".join(escape(name, 80) for name in names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def _count(tensors: set[str]) -> str:
    return "1 tensor is" if len(tensors) == 1 else f"{len(tensors)} tensors are"


def _check_dtypes(checkpoint: Checkpoint) -> None:
    wrong = [n for n, info in checkpoint.weights.items() if info.dtype not in _FLOATS and not _BUFFERS.search(n)]
    if wrong:
        kinds = ", ".join(sorted({checkpoint.weights[name].dtype for name in wrong}))
        raise InputRefused("E_WEIGHTS", f"{_names(wrong)}: of type {kinds}", "weights must be floating point")


def _account(checkpoint: Checkpoint, config: Any, info: dict[str, Any], unneeded: set[str]) -> tuple[str, ...]:
    """The tensors that this task does not use; raises on anything unaccounted for but `unneeded`."""
    mismatched = [
        f"{name} is {tuple(found)}, the model needs {tuple(wanted)}"
        for name, found, wanted in sorted(info.get("mismatched_keys") or ())
    ]
    if mismatched:
        raise InputRefused(
            "E_WEIGHTS",
            f"misshapen: {'; '.join(escape(m, 160) for m in mismatched[:3])}",
            "check config.json",
        )
    if info.get("error_msgs"):
        raise InputRefused("E_WEIGHTS", escape(info["error_msgs"][0]), "check the weights")
    missing = set(info["missing_keys"]) - unneeded
    if missing:
        raise InputRefused(
            "E_WEIGHTS",
            f"{_count(missing)} missing: {_names(missing)}",
            "the checkpoint is incomplete, or lacks this head",
        )
    unexpected = {name for name in info["unexpected_keys"] if not _BUFFERS.search(name)}
    kind = checkpoint.config.model_type
    layout = layout_of(kind, checkpoint.config.values) if unexpected else None
    strangers = unexpected - set(layout.others if layout else LEFT_ASIDE.get(kind, ()))
    strangers -= _family_names(strangers, config) if strangers else set()
    if strangers:
        raise InputRefused(
            "E_WEIGHTS",
            f"{_count(strangers)} of no {escape(config.model_type)} model: {_names(strangers)}",
            "remove them, or correct their prefix",
        )
    buffers = {name for name in checkpoint.weights if _BUFFERS.search(name)}
    return tuple(sorted(unexpected | buffers))


def _family_names(tensors: set[str], config: Any) -> set[str]:
    """Those of `tensors` that some class of the same family has: heads that this task does not use.

    A well-known masked-LM checkpoint carries the pooler and next-sentence head of its pre-training; that is no
    fault. Names are compared in today's spelling (weight/bias for gamma/beta).
    """
    import torch
    import transformers

    autos = [name for name in dir(transformers) if name.startswith("AutoModel")]
    classes: dict[str, Any] = {}
    for auto in autos:
        mapping = getattr(getattr(transformers, auto), "_model_mapping", None)
        if mapping is not None and type(config) in mapping:
            found = mapping[type(config)]
            for each in found if isinstance(found, tuple) else (found,):
                classes[each.__name__] = each
    known: set[str] = set()
    for each in classes.values():
        with torch.device("meta"):
            try:
                model = each(config)
            except (ValueError, TypeError, ImportError, AttributeError):
                continue  # a sibling that this configuration cannot build claims nothing
        names = set(model.state_dict())
        prefix = f"{model.base_model_prefix}."
        known |= names | {prefix + name for name in names} | {name.removeprefix(prefix) for name in names}
    modern = {t: re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", t)) for t in tensors}
    return {tensor for tensor, name in modern.items() if name in known}


def _check_finite(model: torch.nn.Module, dtype: str) -> None:
    import torch

    wrong = [name for name, tensor in model.state_dict().items() if not bool(torch.isfinite(tensor).all())]
    if wrong:
        hint = (
            "the checkpoint is damaged" if dtype == "float32" else f"or {dtype} cannot hold them: try --dtype bfloat16"
        )
        raise InputRefused("E_WEIGHTS", f"not finite: {_names(wrong)}", hint)
