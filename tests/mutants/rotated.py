"""Faults of encoders that turn queries and keys by their positions and look at a window, as ModernBERT does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mutants.changed import Change
from mutants.trial import Inapplicable

_KINDS = ("full_attention", "sliding_attention")


def _frequencies(build: Callable[[Any, Any], tuple[Any, Any]]) -> Change:
    """Other frequencies, of what there is for layers that look at all tokens and for those that look at a window."""

    def change(model: Any) -> None:
        found = [m for m in model.modules() if all(hasattr(m, f"{kind}_inv_freq") for kind in _KINDS)]
        if not found:
            raise Inapplicable("no frequencies of two kinds")
        for module in found:
            made = build(*(getattr(module, f"{kind}_inv_freq") for kind in _KINDS))
            for kind, value in zip(_KINDS, made, strict=True):
                setattr(module, f"{kind}_inv_freq", value.clone())

    return change


def _window(build: Callable[[int], int]) -> Change:
    """Another number of tokens that a layer sees on each side."""

    def change(model: Any) -> None:
        if "sliding_attention" not in (getattr(model.config, "layer_types", None) or ()):
            raise Inapplicable("no window")
        model.config.sliding_window = build(model.config.sliding_window)

    return change


def _kinds(build: Callable[[list[str]], list[str]]) -> Change:
    """Other layers look at a window."""

    def change(model: Any) -> None:
        layers = [m for m in model.modules() if hasattr(m, "attention_type")]
        if not layers:
            raise Inapplicable("no layers of two kinds")
        for layer, kind in zip(layers, build([layer.attention_type for layer in layers]), strict=True):
            layer.attention_type = kind

    return change


#: fault class -> name -> change before export
FAULTS: Mapping[str, Mapping[str, Change]] = {
    "rotary positions": {
        "frequencies-of-full-attention-everywhere": _frequencies(lambda full, window: (full, full)),
        "frequencies-exchanged": _frequencies(lambda full, window: (window, full)),
        "frequencies-in-float16": _frequencies(lambda full, window: (full.half().float(), window.half().float())),
        "turned-backwards": _frequencies(lambda full, window: (-full, window)),
        "one-frequency-lost": _frequencies(lambda full, window: (full, window * (window != window.min()))),
    },
    "attention window": {
        "window-one-token-short": _window(lambda size: size - 1),
        "window-one-token-wide": _window(lambda size: size + 1),
        "window-doubled": _window(lambda size: size * 2),
        "window-nowhere": _kinds(lambda kinds: [_KINDS[0]] * len(kinds)),
        "window-everywhere": _kinds(lambda kinds: [_KINDS[1]] * len(kinds)),
        "window-one-layer-late": _kinds(lambda kinds: [kinds[-1], *kinds[:-1]]),
    },
}
