"""What a stock model takes: asked of the model itself by running it, so that no family needs a line of code here.

The wrapper builds the four-dimensional additive mask, the position ids and, where there is one segment only, the
segment ids with tensor operations only. Whether a family means the same by them is found by running it with and
without, on a sample that is padded on the left, has holes and a padding id among its tokens, and reaches beyond every
attention window. What changes any answer, or is not taken, is left to the model.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from bertx.errors import InputRefused, escape
from bertx.model.loading import Loaded
from bertx.model.stock import named_outputs

#: what the wrapper can build itself, in the order in which it is tried; segments only where they are no input
_BUILT = ("attention_mask", "position_ids", "token_type_ids")
#: keys of a configuration that say how far a token sees
_WINDOWS = re.compile(r"window|local_attention")


def sample(shape: tuple[int, int], names: tuple[str, ...], model: Any) -> dict[str, Any]:
    """A batch (batch, sequence) of int64 whose first row is padded on the left and has a hole; the others are full.

    A padding id stands at a valid place too, as text that holds it would put it there.
    """
    import torch

    padding = getattr(model.config, "pad_token_id", None) or 0
    ids = (torch.arange(shape[0] * shape[1]).reshape(shape) % 13 + 5) % int(model.config.get_text_config().vocab_size)
    mask = torch.ones(shape, dtype=torch.int64)
    mask[0, 0] = mask[0, 3] = 0
    ids[0, 0] = ids[1, 4] = padding
    values = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": torch.zeros(shape, dtype=torch.int64),
    }
    return {name: values[name] for name in names}


def tensor_arguments(model: Any, arguments: Mapping[str, Any], explicit: tuple[str, ...]) -> dict[str, Any]:
    """The mask, positions and segments that the wrapper builds itself, of those in `explicit`."""
    import torch

    made: dict[str, Any] = {}
    if "attention_mask" in explicit:
        keep = arguments["attention_mask"][:, None, None, :].type_as(model.get_input_embeddings().weight)
        # log(0) is −inf, which nan_to_num turns into the lowest number of whatever dtype the file is moved to.
        made["attention_mask"] = torch.nan_to_num(torch.log(keep))
    if "position_ids" in explicit:
        made["position_ids"] = torch.cumsum(torch.ones_like(arguments["input_ids"]), dim=1) - 1
    if "token_type_ids" in explicit:
        made["token_type_ids"] = torch.zeros_like(arguments["input_ids"])
    return made


def explicit_arguments(loaded: Loaded, names: tuple[str, ...]) -> tuple[str, ...]:
    """Which arguments the wrapper may build: those that leave every answer as it is.

    Raises InputRefused(E_EXPORT) where the model does not run on `names` alone, a single token included, gives no
    finite numbers, or is another model afterwards.
    """
    batch = sample((2, _length(loaded.model.config)), names, loaded.model)
    before = _traits(loaded.model)
    try:
        plain = _answers(loaded, batch, ())
        _answers(loaded, {name: value[1:, :1] for name, value in batch.items()}, ())
        again = _answers(loaded, batch, ())
    except Exception as error:  # whatever a family raises, it cannot be run on these inputs
        told = escape(error) or type(error).__name__
        raise InputRefused(
            "E_EXPORT",
            f"{escape(loaded.head)} does not run on {', '.join(names)} of every size: {told}",
            "this family cannot be exported",
        ) from error
    unfit = next((name for name in plain if not _finite(plain[name], batch)), None)
    if unfit is not None:
        raise InputRefused(
            "E_EXPORT",
            f"{escape(loaded.head)} gives no finite {unfit} in {str(plain[unfit].dtype).removeprefix('torch.')}",
            "choose a --dtype of more range: bfloat16 or float32",
        )
    changed = sorted(key for key, value in _traits(loaded.model).items() if before.get(key) != value)
    if changed or not _same(again, plain, batch):
        what = f"changes {escape(changed[0])}" if changed else "gives another answer"
        raise InputRefused(
            "E_EXPORT",
            f"{escape(loaded.head)} {what} whenever it runs, so that no single program computes what it does",
            "fix that in config.json, where the family allows it",
        )
    chosen: tuple[str, ...] = ()
    taken = inspect.signature(loaded.model.forward).parameters
    for name in _BUILT:
        if name in taken and (name not in names or name == "attention_mask"):
            try:
                made = _answers(loaded, batch, (*chosen, name))
            except Exception:  # noqa: BLE001 - whatever a family raises, it does not take this argument
                continue
            chosen = (*chosen, name) if _same(made, plain, batch) else chosen
    return chosen


def _length(config: Any) -> int:
    """Tokens of the sample: more than any attention window that the configuration states, where positions allow."""
    stated = [value for key, value in config.to_dict().items() if _WINDOWS.search(key)]
    flat = [each for value in stated for each in (value if isinstance(value, list) else [value])]
    reach = max((each for each in flat if isinstance(each, int)), default=0)
    positions = getattr(config, "max_position_embeddings", None) or 512
    return max(11, min(reach + 3, positions - 8))


def _answers(loaded: Loaded, batch: dict[str, Any], explicit: tuple[str, ...]) -> dict[str, Any]:
    """Every output by name, and every hidden state by its number."""
    import torch

    with torch.inference_mode():
        arguments = batch | tensor_arguments(loaded.model, batch, explicit)
        result = loaded.model(**arguments, output_hidden_states=True, return_dict=True)
    states = result.get("hidden_states") or ()
    found = named_outputs(result, loaded.pooler) | {f"hidden_states.{k}": state for k, state in enumerate(states)}
    return {name: value for name, value in found.items() if name != "hidden_states"}  # stacked: each stands alone


def _valid(value: Any, batch: dict[str, Any]) -> Any:
    """What of an output a caller reads: the valid positions, or all of it where it has none."""
    keep = batch["attention_mask"].bool()
    return (value[keep] if value.shape[:2] == keep.shape else value).double()


def _finite(value: Any, batch: dict[str, Any]) -> bool:
    return bool(_valid(value, batch).isfinite().all())


def _same(made: dict[str, Any], plain: dict[str, Any], batch: dict[str, Any]) -> bool:
    """Whether two answers are the same but for rounding, at valid positions."""
    import torch

    def close(one: Any, other: Any) -> bool:
        limit = torch.finfo(other.dtype).eps ** 0.5
        one, other = _valid(one, batch), _valid(other, batch)
        return one.shape == other.shape and bool((one - other).abs().max() <= limit * other.abs().max())

    return made.keys() == plain.keys() and all(close(made[name], plain[name]) for name in plain)


def _traits(model: Any) -> dict[str, str]:
    """Every module's class and settings in words: what a module that rewires itself changes."""
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        found[path] = type(module).__name__
        found |= {f"{path}.{key}".lstrip("."): value for key, value in vars(module).items() if isinstance(value, str)}
    return found
