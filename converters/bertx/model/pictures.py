"""Image models: one input, pixel_values of (batch, channels, height, width), which is what their processors give.

The picture's size is the one that the configuration or the processor states; the batch moves. At half precision the
artifact still takes float32 and converts it itself, so that a program feeds every artifact in one way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bertx.checkpoint import Checkpoint
from bertx.errors import InputRefused, escape
from bertx.signature import BATCH, TensorSpec

PIXELS = "pixel_values"
#: families whose vocabulary is the codes of patches that they were trained to guess
_CODES = frozenset({"beit", "data2vec-vision"})
#: what a configuration without a size is trained on, as a rule
_USUAL = 224
#: the largest picture that cases are made of: a larger number is damage, and memory grows with its square
_MOST = 4096
#: rows of the samples
_ROWS = (2, 3)


def takes_pictures(values: Mapping[str, Any]) -> bool:
    """Whether a configuration is of a model that takes images alone: it has channels and no vocabulary of words."""
    words = "vocab_size" in values and values.get("model_type") not in _CODES
    return "num_channels" in values and not words and "text_config" not in values


def picture_spec(checkpoint: Checkpoint) -> TensorSpec:
    """The input of an image model. Raises InputRefused(E_CONFIG) where its size is none."""
    values = checkpoint.config.values
    height, width = _size(values.get("image_size") or _processor(checkpoint.folder))
    channels = values["num_channels"]
    numbers = (channels, height, width)
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= _MOST for n in numbers):
        what = f"config.json states pictures of {escape(numbers)}"
        raise InputRefused("E_CONFIG", what, f"num_channels and image_size are 1 to {_MOST}")
    return TensorSpec(PIXELS, "float32", (BATCH, channels, height, width))


def at_size(spec: TensorSpec, stated: TensorSpec, weights: Iterable[str]) -> TensorSpec | None:
    """The input at the height and width that a file fixes, where these are others; None where the model does not take
    them: it has learnt where in a picture something is."""
    shape = stated.shape
    placed = any(word in name for name in weights for word in ("position", "attention_bias"))
    whole = all(isinstance(size, int) and 0 < size <= _MOST for size in shape[2:])
    if placed or not whole or len(shape) != len(spec.shape) or shape[1:2] != spec.shape[1:2]:
        return None
    return replace(spec, shape=(*spec.shape[:2], *shape[2:]))


def _processor(folder: Path) -> Any:
    """The size that a processor cuts pictures to, the usual one where there is no processor."""
    path = folder / "preprocessor_config.json"
    try:
        values = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise InputRefused("E_CONFIG", f"{path.name} is malformed: {escape(error)}", "correct it") from error
    return (values.get("crop_size") or values.get("size") or _USUAL) if isinstance(values, dict) else _USUAL


def _size(stated: Any) -> tuple[Any, Any]:
    """(height, width) of a size as configurations and processors write it."""
    if isinstance(stated, Mapping):
        edge = stated.get("shortest_edge")
        return stated.get("height", edge), stated.get("width", edge)
    if isinstance(stated, list | tuple) and len(stated) == 2:
        return stated[0], stated[1]
    return stated, stated


def picture_samples(spec: TensorSpec, rows: int) -> Any:
    """Pictures of normal noise, as processors normalise them; the same ones every time."""
    import torch

    shape = [rows if isinstance(size, str) else size for size in spec.shape]
    return torch.randn(shape, generator=torch.Generator().manual_seed(rows))


def tensor_only(loaded: Any, outputs: tuple[str, ...], taps: list[str]) -> Any:
    """The module that is exported: pixel_values in, tensors out; `compute` gives everything by name.

    `taps` are filled later with the names of its layer boundaries.
    """
    import torch

    from bertx.model.stock import named_outputs
    from bertx.model.tasks import HIDDEN_STATES

    alike: list[bool] = []  # whether all layer boundaries have one shape, as the first run showed
    own = next(p.dtype for p in loaded.model.parameters() if p.is_floating_point())

    class TensorOnly(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = loaded.model

        def compute(self, pixel_values: Any) -> dict[str, Any]:
            fed = pixel_values if own == torch.float32 else pixel_values.to(own)
            result = self.model(pixel_values=fed, output_hidden_states=True, return_dict=True)
            if not alike:
                alike.append(len({tuple(state.shape) for state in result.hidden_states or ()}) == 1)
            found = named_outputs(result, loaded.pooler, alike[0])
            if HIDDEN_STATES in found:
                found |= {f"{HIDDEN_STATES}.{k}": state for k, state in enumerate(result.hidden_states)}
            return found

        def forward(self, pixel_values: Any) -> Any:
            found = self.compute(pixel_values)
            return found[outputs[0]] if len(outputs) == 1 else tuple(found[name] for name in outputs)

        def hidden_states(self, pixel_values: Any) -> Any:
            return self.compute(pixel_values)[HIDDEN_STATES]

        def with_taps(self, pixel_values: Any) -> Any:
            found = self.compute(pixel_values)
            return tuple(found[name] for name in (*outputs, *taps))

    return TensorOnly().eval()
