"""A plain nn.Module as bertx takes it: a copy in eval mode on the CPU, fed by names, whose outputs have names.

The user's own module is copied and never run, so that it stays as it was: mode, gradients, device, buffers.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertx.errors import InputRefused, UsageError, escape
from bertx.manifest import MODULE
from bertx.model.tasks import Task
from bertx.model.wrapper import Source
from bertx.signature import DTYPES, Signature, TensorSpec, sizes

_NAME = re.compile(r"[A-Za-z_][\w.-]{0,99}", re.ASCII)
#: names that stand for the layer boundaries of an encoder
_TAKEN = re.compile(r"hidden_states(\.(?!\d+$).*)?")


@dataclass(frozen=True)
class Plain:
    """A module to export. `samples` are the user's inputs in order, on the CPU; `stated` the names of its outputs.

    `by_name`: forward has parameters of these names, else inputs go by position.
    """

    module: Any
    name: str
    inputs: tuple[TensorSpec, ...]
    samples: Mapping[str, Any]
    by_name: bool
    stated: tuple[str, ...] | None

    @property
    def left_out(self) -> tuple[str, ...]:
        """Buffers that state_dict leaves out, by the module's own choice: whoever builds the module makes them."""
        return tuple(sorted({name for name, _ in self.module.named_buffers()} - set(self.module.state_dict())))


def take(
    module: Any,
    inputs: Mapping[str, Any],
    dynamic: Mapping[str, Mapping[int, str]],
    outputs: Sequence[str] | None = None,
) -> Plain:
    """Copies a module and checks how it is to be fed.

    `dynamic` is {input: {axis: name}}; axes of one name have one size. Raises UsageError where the arguments do not
    fit together, InputRefused(E_MODULE) where the module cannot be copied.
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise UsageError("E_USAGE", f"a {type(module).__name__} is no nn.Module", "give a torch.nn.Module")
    if not isinstance(inputs, Mapping) or not inputs:
        raise UsageError("E_USAGE", "a module needs inputs by name", 'write inputs={"image": torch.rand(2, 3, 32, 32)}')
    samples = {name: _sample(name, value) for name, value in inputs.items()}
    specs = _specs(samples, dynamic)
    stated = None if outputs is None else tuple(_checked(name) for name in outputs)
    if stated is not None and len(set(stated)) != len(stated):
        raise UsageError("E_USAGE", "outputs names one twice", "give each output a name of its own")
    try:
        own = copy.deepcopy(module)
    except Exception as error:
        what = f"{type(module).__name__} cannot be copied: {escape(error)}"
        raise _unfit(
            what, "a tensor in it has a history: load its state_dict into a new one, and export that"
        ) from error
    own = own.cpu().eval().requires_grad_(False)
    wrong = [name for name, value in own.named_parameters() if not bool(torch.isfinite(value).all())]
    if wrong:
        raise InputRefused("E_WEIGHTS", f"{escape(wrong[0])} is not finite", "train it again, or load good weights")
    return Plain(own, type(module).__name__, specs, samples, _takes(module, tuple(samples)), stated)


def _unfit(what: str, hint: str) -> InputRefused:
    return InputRefused("E_MODULE", what, hint)


def _checked(name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError("E_USAGE", f"{escape(name)!r} is no name", "use letters, digits, _ . and -")
    return name


def _sample(name: Any, value: Any) -> Any:
    import torch

    _checked(name)
    if not isinstance(value, torch.Tensor):
        raise UsageError("E_USAGE", f"input {name} is a {type(value).__name__}", "give a torch.Tensor")
    kind = dtype_name(value)
    if kind not in DTYPES:
        raise UsageError("E_USAGE", f"input {name} is {kind}", f"give one of {', '.join(DTYPES)}")
    if value.numel() == 0 or not bool(torch.isfinite(value).all()):
        raise UsageError("E_USAGE", f"input {name} is empty or not finite", "give an input that the module is made for")
    return value.detach().cpu().clone()


def dtype_name(value: Any) -> str:
    """A tensor's dtype as signatures name it."""
    return str(value.dtype).removeprefix("torch.")


def _specs(samples: Mapping[str, Any], dynamic: Mapping[str, Mapping[int, str]]) -> tuple[TensorSpec, ...]:
    for name in dynamic:
        if name not in samples:
            raise UsageError(
                "E_USAGE", f"dynamic names {escape(name)}, which is no input", f"inputs: {', '.join(samples)}"
            )
    found = []
    known: dict[str, int] = {}
    for name, value in samples.items():
        shape: list[str | int] = list(value.shape)
        for axis, symbol in dynamic.get(name, {}).items():
            if not isinstance(axis, int) or not 0 <= axis < len(shape):
                raise UsageError("E_USAGE", f"input {name} has no axis {escape(axis)}", f"it has {len(shape)} axes")
            size = int(value.shape[axis])
            if known.setdefault(_checked(symbol), size) != size:
                what = f"axes of the name {symbol} have the sizes {known[symbol]} and {size}"
                raise UsageError("E_USAGE", what, "axes of one name have one size: give them two names")
            shape[axis] = symbol
        found.append(TensorSpec(name, dtype_name(value), tuple(shape)))
    return tuple(found)


def _takes(module: Any, names: tuple[str, ...]) -> bool:
    """Whether forward has parameters of these names."""
    try:
        taken = inspect.signature(module.forward).parameters
    except (TypeError, ValueError):  # a compiled module tells nothing
        return False
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return all(name in taken and taken[name].kind in kinds for name in names)


def answer(plain: Plain, module: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs by name of `module`, which is `plain`'s or a twin of it.

    Names are those that were stated; else the fields, keys and places of what forward gives, joined by dots; a single
    tensor is "output". Raises InputRefused(E_MODULE) where something else than tensors comes out.
    """
    import torch

    with torch.inference_mode():
        return named(plain, call(plain, module, inputs))


def call(plain: Plain, module: Any, inputs: Mapping[str, Any]) -> Any:
    """What forward gives."""
    return module(**inputs) if plain.by_name else module(*inputs.values())


def named(plain: Plain, result: Any) -> dict[str, Any]:
    """The tensors of whatever forward gave, by name."""
    found = list(_leaves(result, ""))
    if not found:
        raise _unfit(f"{plain.name} gives no tensor", "let forward return tensors")
    names = plain.stated or tuple(name for name, _ in found)
    if len(names) != len(found):
        offered = ", ".join(name for name, _ in found)
        raise _unfit(f"{plain.name} gives {len(found)} outputs ({offered})", f"{len(names)} were named: name them all")
    if len(set(names)) != len(names) or not all(_NAME.fullmatch(n) and not _TAKEN.fullmatch(n) for n in names):
        raise _unfit(f"outputs called {escape(', '.join(names))}", "state names of your own: outputs=[…]")
    return dict(zip(names, (value for _, value in found), strict=True))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of everything in nested dicts, dataclasses, tuples and lists; None is skipped."""
    import torch

    def inner(parts: Sequence[tuple[Any, Any]], numbered: bool) -> Iterator[tuple[str, Any]]:
        for key, part in parts:
            start = f"{path}." if path else "output_" if numbered else ""
            yield from _leaves(part, f"{start}{key}")

    if value is None:
        return
    if isinstance(value, torch.Tensor):
        yield path or "output", value
    elif isinstance(value, Mapping):
        yield from inner(list(value.items()), False)
    elif dataclasses.is_dataclass(value):
        yield from inner([(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)], False)
    elif hasattr(value, "_fields"):
        yield from inner(list(zip(value._fields, value, strict=True)), False)
    elif isinstance(value, tuple | list):
        yield from inner(list(enumerate(value)), True)
    else:
        what = f"{path or 'the output'} is a {type(value).__name__}, not a tensor"
        raise _unfit(what, "let forward return tensors alone")


def samples_for_export(plain: Plain) -> dict[str, Any]:
    """The user's samples, with every moving axis of at least two: an exporter takes a size of one for fixed."""
    found = dict(plain.samples)
    for spec in plain.inputs:
        for axis, symbol in enumerate(spec.shape):
            if isinstance(symbol, str) and found[spec.name].shape[axis] == 1:
                found[spec.name] = found[spec.name].repeat_interleave(2, dim=axis)
    return found


def source(plain: Plain, outputs: Sequence[TensorSpec], dtype: str, samples: Mapping[str, Any]) -> Source:
    """What a format writes from: the module with these outputs."""
    import torch

    names = tuple(spec.name for spec in outputs)

    class TensorsOnly(torch.nn.Module):
        """Tensors in by position, tensors out in the order of the signature."""

        def __init__(self) -> None:
            super().__init__()
            self.module = copy.deepcopy(plain.module)  # to be captured it is run, and may remember that

        def forward(self, *inputs: Any) -> Any:
            fed = dict(zip((spec.name for spec in plain.inputs), inputs, strict=True))
            found = named(plain, call(plain, self.module, fed))
            return found[names[0]] if len(names) == 1 else tuple(found[name] for name in names)

    task = Task(MODULE, plain.name, (), names, names[0])
    signature = Signature(plain.inputs, tuple(outputs))
    state = plain.module.state_dict()
    return Source(TensorsOnly().eval(), dict(samples), signature, 0, plain.name, plain.left_out, task, dtype, state)


def symbol_sizes(plain: Plain, inputs: Mapping[str, Any]) -> dict[str, int]:
    """{symbol: size} of one batch of inputs."""
    return sizes(plain.inputs, {name: tuple(value.shape) for name, value in inputs.items()})
