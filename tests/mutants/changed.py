"""Faults of the module: changed before it is exported, as a mistaken converter would, by bertx's own writers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import bertx.model.wrapper as wrapper
from bertx.formats import ExportOptions
from bertx.model.modules import Pooling
from mutants.stands import Stand
from mutants.trial import Inapplicable

Change = Callable[[Any], None]


def export(kind: str, change: Change, options: ExportOptions | None = None) -> Callable[[Stand, Path], None]:
    """A mutant's maker: the stock model is loaded, changed, and written in a format."""

    def make(stand: Stand, path: Path) -> None:
        probe = wrapper.explicit_arguments

        def changed(loaded: Any, names: Any) -> Any:
            # Afterwards, or the probe would refuse a module that computes something else each time.
            found = probe(loaded, names)
            change(loaded.model)
            return found

        with patch.object(wrapper, "explicit_arguments", changed):
            stand.write(kind, path, options)

    return make


def _modules(model: Any, *words: str) -> list[Any]:
    """Modules whose class name holds one of `words`, at least one."""
    found = [module for module in model.modules() if any(word in type(module).__name__ for word in words)]
    if not found:
        raise Inapplicable(f"no module {' or '.join(words)}")
    return found


def _layers(model: Any) -> Any:
    """The list of encoder layers."""
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.config.num_hidden_layers > 1:
            return module
    raise Inapplicable("no list of layers")


def activation(function: Callable[[Any], Any]) -> Change:
    """Puts a function in the place of every layer's activation."""

    class Other(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return function(x)

    def change(model: Any) -> None:
        count = 0
        for module in list(model.modules()):
            for name in ("intermediate_act_fn", "activation", "activation_fn"):
                if callable(getattr(module, name, None)) and "Tanh" not in type(getattr(module, name)).__name__:
                    setattr(module, name, Other())
                    count += 1
        if not count:
            raise Inapplicable("no activation")

    return change


def epsilon(value: float) -> Change:
    def change(model: Any) -> None:
        for module in model.modules():
            for name in ("eps", "variance_epsilon"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, value)

    return change


def dropout(model: Any) -> None:
    """A converter that forgets eval mode."""
    for module in _modules(model, "Dropout"):
        module.forward = lambda x: torch.nn.functional.dropout(x, 0.1, True)


def scaling(by: float) -> Change:
    def change(model: Any) -> None:
        found = [m for m in model.modules() if isinstance(getattr(m, "scaling", None), float)]
        if not found:
            raise Inapplicable("no scaling")
        for module in found:
            module.scaling *= by

    return change


def layers_swapped(model: Any) -> None:
    layers = _layers(model)
    layers[0], layers[1] = layers[1], layers[0]


def layer_repeated(model: Any) -> None:
    layers = _layers(model)
    layers[1] = layers[0]


def layer_removed(model: Any) -> None:
    layers = _layers(model)
    del layers[len(layers) - 1]


def norm_identity(model: Any) -> None:
    """The last LayerNorm of an encoder layer does nothing."""
    norms = [m for m in _layers(model)[-1].modules() if "LayerNorm" in type(m).__name__]
    if not norms:
        raise Inapplicable("no LayerNorm")
    norms[-1].forward = lambda x, *_: x


def argument(name: str, build: Callable[[Any], Any]) -> Change:
    """What the model is given under a name is changed on its way in."""

    def change(model: Any) -> None:
        forward = model.forward

        def other(**given: Any) -> Any:
            if given.get(name) is not None:
                given[name] = build(given[name])
            return forward(**given)

        import functools

        model.forward = functools.wraps(forward)(other)

    return change


def quantised(model: Any) -> None:
    """Dynamic int8 products, as a quantiser puts them in the place of Linear."""
    for module in list(model.modules()):
        for child in list(module.children()):
            if isinstance(child, torch.nn.Linear):
                scale = child.weight.abs().amax(1, keepdim=True) / 127
                child.weight.data = (child.weight / scale).round() * scale
                child.forward = _rounded_input(child)


def _rounded_input(linear: Any) -> Callable[[Any], Any]:
    def forward(x: Any) -> Any:
        scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-9) / 127
        return torch.nn.functional.linear((x / scale).round() * scale, linear.weight, linear.bias)

    return forward


def low_precision(dtype: Any) -> Change:
    """Products of Linear layers in another dtype behind float32 tensors."""

    def change(model: Any) -> None:
        for module in _modules(model, "Linear"):
            module.forward = _in_dtype(module, dtype)

    return change


def _in_dtype(linear: Any, dtype: Any) -> Callable[[Any], Any]:
    def forward(x: Any) -> Any:
        bias = None if linear.bias is None else linear.bias.to(dtype)
        return torch.nn.functional.linear(x.to(dtype), linear.weight.to(dtype), bias).float()

    return forward


def pooled(kind: str, modes: tuple[str, ...] | None = None, dense: bool = True, normalize: bool = True) -> Any:
    """A mutant's maker: other pooling modules than the folder's."""

    def make(stand: Stand, path: Path) -> None:
        if stand.task.name != "sentence-similarity":
            raise Inapplicable("nothing is pooled")
        read = wrapper.read_pooling

        def other(folder: Path) -> Pooling:
            found = read(folder)
            return Pooling(modes or found.modes, found.dense if dense else (), normalize)

        with patch.object(wrapper, "read_pooling", other):
            stand.write(kind, path)

    return make


def pooled_over_padding(kind: str) -> Any:
    """The mean is taken over padding too."""

    def make(stand: Stand, path: Path) -> None:
        if stand.task.name != "sentence-similarity":
            raise Inapplicable("nothing is pooled")
        build = wrapper.build_pooling

        def other(pooling: Pooling) -> Any:
            module = build(pooling)
            forward = module.forward
            module.forward = lambda tokens, mask: forward(tokens, torch.ones_like(mask))
            return module

        with patch.object(wrapper, "build_pooling", other):
            stand.write(kind, path)

    return make


def fed(feed: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Callable[[Stand, Path], None]:
    """A mutant's maker: the right TorchScript file inside another, which changes what it is given."""

    class Fed(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *inputs: Any) -> Any:
            return self.inner(*feed(inputs))

        def hidden_states(self, *inputs: Any) -> Any:
            return self.inner.hidden_states(*feed(inputs))

    def make(stand: Stand, path: Path) -> None:
        inner = torch.jit.load(str(stand.right("torchscript")))
        count = len(stand.quick.cases[0].inputs)
        ids = torch.arange(14).reshape(2, 7) + 5
        samples = (ids, torch.ones_like(ids), torch.zeros_like(ids))[:count]
        with torch.no_grad():
            traced = torch.jit.trace_module(
                Fed(inner), {"forward": samples, "hidden_states": samples}, check_trace=False, _store_inputs=False
            )
        torch.jit.save(traced, str(path))

    return make


def _mask(build: Callable[[Any, Any], Any]) -> Callable[[Stand, Path], None]:
    return fed(lambda given: (given[0], build(given[0], given[1]), *given[2:]))


def _segments(build: Callable[[Any], Any]) -> Callable[[Stand, Path], None]:
    def feed(given: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(given) < 3:
            raise Inapplicable("no segments")
        return (*given[:2], build(given[2]))

    return fed(feed)


def _swap(given: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(given) < 3:
        raise Inapplicable("no segments")
    return (given[0], given[2], given[1])


def _places(mask: Any) -> Any:
    return torch.cumsum(torch.ones_like(mask), 1)


_F = torch.nn.functional
#: fault class -> name -> change before export
FAULTS: Mapping[str, Mapping[str, Change]] = {
    "activation": {
        "module-tanh-gelu": activation(lambda x: _F.gelu(x, approximate="tanh")),
        "module-relu": activation(_F.relu),
    },
    "epsilon": {"module-epsilon-1e-5": epsilon(1e-5), "module-epsilon-1e-3": epsilon(1e-3)},
    "dropout": {"module-dropout-on": dropout},
    "attention scale": {"module-scaling-doubled": scaling(2.0), "module-scaling-squared": scaling(8**-0.5)},
    "layers": {
        "module-layers-swapped": layers_swapped,
        "module-layer-repeated": layer_repeated,
        "module-layer-removed": layer_removed,
    },
    "norms and residuals": {"module-norm-left-out": norm_identity},
    "lower precision": {
        "module-int8": quantised,
        "module-bfloat16": low_precision(torch.bfloat16),
    },
}

#: fault class -> name -> maker of a TorchScript file around the right one
WRAPPED: Mapping[str, Mapping[str, Callable[[Stand, Path], None]]] = {
    "mask ignored": {
        "wrapped-mask-ignored": _mask(lambda ids, mask: torch.ones_like(mask)),
        "wrapped-mask-of-first-row": _mask(lambda ids, mask: mask[:1].expand_as(mask)),
    },
    "mask inverted": {"wrapped-mask-inverted": _mask(lambda ids, mask: 1 - mask)},
    "mask as length": {
        "wrapped-mask-as-length": _mask(lambda ids, mask: (_places(mask) <= mask.sum(1, keepdim=True)).long()),
    },
    "inputs swapped": {"wrapped-mask-and-segments-swapped": fed(_swap)},
    "segments fixed": {"wrapped-segments-zero": _segments(torch.zeros_like)},
    "shape baked in": {
        "wrapped-reads-48-tokens-only": _mask(lambda ids, mask: mask * (_places(mask) <= 48).long()),
        "wrapped-batch-fixed-at-2": fed(lambda given: tuple(value.reshape(2, -1) for value in given)),
        "wrapped-first-row-for-all": fed(lambda given: (given[0][:1].expand_as(given[0]), *given[1:])),
    },
    "ids": {"wrapped-last-id-clipped": fed(lambda given: (given[0].clamp_max(158), *given[1:]))},
}

#: fault class -> name -> (format -> maker)
POOLED: Mapping[str, Mapping[str, Callable[[str], Callable[[Stand, Path], None]]]] = {
    "pooling": {
        "pooled-cls": lambda kind: pooled(kind, ("cls",)),
        "pooled-max": lambda kind: pooled(kind, ("max",)),
        "pooled-last-token": lambda kind: pooled(kind, ("lasttoken",)),
        "pooled-mean-over-root": lambda kind: pooled(kind, ("mean_sqrt_len_tokens",)),
        "pooled-weighted": lambda kind: pooled(kind, ("weightedmean",)),
        "pooled-over-padding": pooled_over_padding,
        "embedding-not-normalised": lambda kind: pooled(kind, normalize=False),
        "embedding-without-dense": lambda kind: pooled(kind, dense=False),
    },
}
