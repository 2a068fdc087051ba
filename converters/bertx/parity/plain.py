"""A plain module as the reference: its answers to the cases, computed in the process of whoever has it.

R64 is a twin of it in float64 on the CPU, R32 the module at its own dtype on its artifact's device. Where float64 is
impossible the exact answer is the module's own, and rounding is imitated by moving its inputs by one unit in the last
place. What cannot be judged is refused here: answers that change from run to run, NaN, an output that never changes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertx.errors import InputRefused, escape
from bertx.model.plain import Plain, answer, dtype_name
from bertx.model.precision import precision
from bertx.parity.cases import Case
from bertx.parity.reference import Reference
from bertx.parity.sampled import Known, build
from bertx.runtimes.protocol import Tensors
from bertx.signature import TensorSpec, sizes, symbolic

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

Outputs = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Answers:
    """What a module answers: the cases that say something, the reference, the outputs, and the cases left out."""

    cases: tuple[Case, ...]
    reference: Reference
    outputs: tuple[TensorSpec, ...]
    dtype: str
    left_out: tuple[str, ...]


def known(plain: Plain, ranges: Mapping[str, tuple[float, float]]) -> Known:
    """What cases are made from. A bfloat16 sample is widened to float32, which numpy has."""
    return Known(plain.inputs, {name: array(value) for name, value in plain.samples.items()}, ranges)


def array(value: Any) -> Array:
    """A tensor as numpy has it; bfloat16 as float32."""
    wide = value.float() if dtype_name(value) == "bfloat16" else value
    found: Array = wide.detach().cpu().contiguous().numpy()
    return found


def ask(plain: Plain, ranges: Mapping[str, tuple[float, float]], chosen: str, seed: int, device: str) -> Answers:
    """Makes the cases and answers them. Raises InputRefused(E_MODULE) where the module cannot be judged."""
    return answers(plain, cases(plain, ranges, chosen, seed), device)


def cases(
    plain: Plain, ranges: Mapping[str, tuple[float, float]], chosen: str, seed: int, dtype: str | None = None
) -> tuple[Case, ...]:
    """Cases of a set from the module's inputs and samples, of sizes that it takes at `dtype`."""
    import torch

    with _untouched("cpu"):
        twin = copy.deepcopy(plain.module).to(getattr(torch, dtype) if dtype else None)
        return build(chosen, known(plain, ranges), _runs(plain, twin), seed)


def answers(
    plain: Plain, made: Sequence[Case], device: str, dtype: str | None = None, *, given: bool = False
) -> Answers:
    """Answers cases, the first of which the module must take; at `dtype` instead of the module's own.

    Cases that the user has `given` need not cover anything. Raises InputRefused(E_MODULE) where it cannot be judged.
    """
    import torch

    with _untouched(device):
        module = copy.deepcopy(plain.module).to(device, getattr(torch, dtype) if dtype else None)
        rounded = _answers(plain, module, made, device)
        _check_repeated(plain, module, made[0], rounded[made[0].name], device)
        exact, pure = _exact(plain, made, rounded)
        if exact is None:
            exact, rounded = rounded, _imitated(plain, module, made, device)
        kept = [case for case in made if _finite(exact[case.name]) and _finite(rounded[case.name])]
        facts = {
            **_versions(),
            "attention": None,
            "pure": pure,
            "noise": "ulp" if pure is None else "float64",
            "head": plain.name,
        }
    left_out = tuple(case.name for case in made if case not in kept)
    if made[0] not in kept:
        raise _unfit(f"{plain.name} gives NaN or Inf for the sample itself", "correct the module or the sample")
    symbol = None if given else check_coverage(plain, kept)
    if symbol is not None:
        what = f"{plain.name} gives finite numbers for one size of {symbol} only"
        raise _unfit(what, f"leave {symbol} out of dynamic, or state the ranges that its inputs lie in")
    specs = _specs(plain, kept, rounded)
    _check_outputs(plain, kept, exact, rounded, specs, constant=given)
    dtype = _dtype(plain, specs)
    reference = Reference(_tensors(exact, kept), _tensors(rounded, kept), facts)
    return Answers(tuple(kept), reference, specs, dtype, left_out)


def _unfit(what: str, hint: str) -> InputRefused:
    return InputRefused("E_MODULE", escape(what), hint)


@contextmanager
def _untouched(device: str) -> Iterator[None]:
    """Draws no number from the caller's random state."""
    import torch

    devices = [] if device == "cpu" else [torch.device(device).index or 0]
    with torch.random.fork_rng(devices=devices):
        yield


def _versions() -> dict[str, str | None]:
    import torch

    return {"torch": torch.__version__, "transformers": None}


def _runs(plain: Plain, module: Any) -> Callable[[Mapping[str, Array]], bool]:
    """Whether the module runs on inputs, and gives numbers; asked of a twin, which may remember it."""

    def runs(inputs: Mapping[str, Array]) -> bool:
        try:
            found = answer(plain, module, tensors(plain, inputs, "cpu"))
        except InputRefused:
            raise
        except Exception:  # noqa: BLE001 - whatever the module raises, it does not take this size
            return False
        return all(value.numel() > 0 for value in found.values())

    return runs


def tensors(plain: Plain, inputs: Mapping[str, Array], device: str, *, double: bool = False) -> dict[str, Any]:
    """A case's inputs as the module takes them."""
    import torch

    def one(spec: TensorSpec) -> Any:
        kind = getattr(torch, spec.dtype)
        kind = torch.float64 if double and kind.is_floating_point else kind
        return torch.from_numpy(inputs[spec.name].copy()).to(device, kind)

    return {spec.name: one(spec) for spec in plain.inputs}


def _answers(plain: Plain, module: Any, made: Sequence[Case], device: str) -> Outputs:
    return _answered(plain, module, {case.name: tensors(plain, case.inputs, device) for case in made})


def _answered(plain: Plain, module: Any, fed: Mapping[str, Mapping[str, Any]]) -> Outputs:
    found = {}
    for case, inputs in fed.items():
        try:
            outputs = answer(plain, module, inputs)
        except InputRefused:
            raise
        except Exception as error:
            what = f"{plain.name} does not run on case {case}: {error or type(error).__name__}"
            raise _unfit(what, "give inputs that it is made for, and ranges that it allows") from error
        found[case] = {name: value.detach().cpu() for name, value in outputs.items()}
    return found


def _imitated(plain: Plain, module: Any, made: Sequence[Case], device: str) -> Outputs:
    """Rounding imitated: inputs moved by one unit in the last place, or the weights of a module without such inputs."""
    fed = {case.name: tensors(plain, case.inputs, device) for case in made}
    if any("float" in spec.dtype for spec in plain.inputs):
        moved = {case: {name: _moved(value) for name, value in inputs.items()} for case, inputs in fed.items()}
        return _answered(plain, module, moved)
    twin = copy.deepcopy(module)
    for value in twin.parameters():
        value.data = _moved(value.data)
    return _answered(plain, twin, fed)


def _moved(value: Any) -> Any:
    """A floating tensor moved by one unit in the last place, up and down in turn."""
    import torch

    if not value.is_floating_point():
        return value
    sign = torch.where(torch.arange(value.numel(), device=value.device).reshape(value.shape) % 2 == 0, 1.0, -1.0)
    return value + (sign * value.abs() * torch.finfo(value.dtype).eps).to(value.dtype)


def _check_repeated(plain: Plain, module: Any, case: Case, before: Mapping[str, Any], device: str) -> None:
    """The first case again, after all others: a module that draws numbers or remembers gives another answer."""
    again = _answers(plain, module, [case], device)[case.name]
    for name, value in before.items():
        if again[name].shape != value.shape or not _near(again[name], value):
            what = (
                f"{plain.name} gives another {name} whenever it runs, so that no single program computes what it does"
            )
            raise _unfit(what, "turn randomness off in eval mode (dropout: training=self.training) and keep no state")


def _near(one: Any, other: Any) -> bool:
    import torch

    if not one.is_floating_point():
        return bool(torch.equal(one, other))
    limit = torch.finfo(one.dtype).eps ** 0.5 * float(other.double().abs().nan_to_num().max())
    return bool(torch.allclose(one.double(), other.double(), rtol=0.0, atol=limit, equal_nan=True))


def _exact(plain: Plain, made: Sequence[Case], rounded: Outputs) -> tuple[Outputs | None, bool | None]:
    """(answers in float64, whether all of it was float64); (None, None) where the module has no wider twin."""
    import torch

    first = rounded[made[0].name]
    if any(value.dtype == torch.float64 for value in first.values()):
        return None, None
    twin = copy.deepcopy(plain.module).double()
    fed = {case.name: tensors(plain, case.inputs, "cpu", double=True) for case in made}
    try:
        with torch.inference_mode(), precision() as watch:
            answer(plain, twin, fed[made[0].name])
        found = {case: answer(plain, twin, inputs) for case, inputs in fed.items()}
    except (RuntimeError, TypeError, ValueError):
        return None, None
    # What comes back narrow was not computed in float64 at its end.
    narrow = any(v.is_floating_point() and v.dtype != torch.float64 for v in found[made[0].name].values())
    same = all(found[case][name].shape == value.shape for case in found for name, value in rounded[case].items())
    return (found, watch.pure) if same and not narrow else (None, None)


def _finite(outputs: Mapping[str, Any]) -> bool:
    return all(bool(value.isfinite().all()) for value in outputs.values())


def check_coverage(plain: Plain, kept: Sequence[Case]) -> str | None:
    """A moving axis that has fewer than two sizes in these cases (of none, the sample); None where all have two."""
    seen = [sizes(plain.inputs, {name: a.shape for name, a in case.inputs.items()}) for case in kept]
    if not seen:
        return "the sample"
    return next((symbol for symbol in seen[0] if len({each[symbol] for each in seen}) < 2), None)


def _specs(plain: Plain, kept: Sequence[Case], rounded: Outputs) -> tuple[TensorSpec, ...]:
    """The outputs with their symbols, read off the answers."""
    first = rounded[kept[0].name]
    seen = [sizes(plain.inputs, {name: a.shape for name, a in case.inputs.items()}) for case in kept]
    shapes = {name: [tuple(rounded[case.name][name].shape) for case in kept] for name in first}
    try:
        return tuple(symbolic(name, dtype_name(first[name]), shapes[name], seen) for name in first)
    except InputRefused as error:
        raise _unfit(error.message, "let each output have one number of axes") from error


def _check_outputs(
    plain: Plain,
    kept: Sequence[Case],
    exact: Outputs,
    rounded: Outputs,
    specs: Sequence[TensorSpec],
    *,
    constant: bool,
) -> None:
    """Refuses outputs that say nothing; those that are `constant` over the cases only where that is no accident."""
    for spec in specs:
        for case in kept:
            one, other = exact[case.name][spec.name], rounded[case.name][spec.name]
            if one.numel() == 0:
                raise _unfit(f"{spec.name} is empty in case {case.name}", "there is nothing to compare: leave it out")
            if one.shape != other.shape:
                raise _unfit(f"the shape of {spec.name} depends on rounding", "let shapes depend on shapes alone")
        # Adding nothing makes a negative zero the same as zero.
        values = {(array(exact[case.name][spec.name]) + 0).tobytes() for case in kept}
        shapes = {tuple(exact[case.name][spec.name].shape) for case in kept}
        if len(values) <= len(shapes) and not constant:
            what = f"{spec.name} is the same whatever goes in, so that no comparison says anything"
            raise _unfit(what, "leave it out, or state the range in which inputs matter: ranges={…}")


def _dtype(plain: Plain, specs: Sequence[TensorSpec]) -> str:
    """The one dtype of the outputs that are no integers."""
    found = sorted({spec.dtype for spec in specs if "float" in spec.dtype})
    if len(found) > 1:
        raise _unfit(f"{plain.name} gives outputs in {' and '.join(found)}", "give all of them in one dtype")
    return found[0] if found else "float32"


def _tensors(outputs: Outputs, kept: Sequence[Case]) -> Tensors:
    arrays = {case.name: {name: array(value) for name, value in outputs[case.name].items()} for case in kept}
    return Tensors(arrays, {name: dtype_name(value) for name, value in outputs[kept[0].name].items()}, {})
