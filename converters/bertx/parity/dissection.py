"""A failed artifact, looked at inside its first bad layer: which part of it is wrong.

It is a diagnosis and no more: it runs after the verdict, on failures alone, and what goes wrong with it leaves the
verdict and the cause as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bertx.parity.boundaries import known
from bertx.parity.cases import Case
from bertx.parity.compare import Row
from bertx.parity.diagnosis import layer_prefix
from bertx.parity.findings import TAP, boundaries, boundary
from bertx.parity.judge import Bench, Run
from bertx.parity.origin import Origin
from bertx.parity.part import Made, Part, first_bad_part
from bertx.parity.report import Result
from bertx.runtimes import inside, process
from bertx.runtimes.protocol import Tensors

#: how many cases are looked at, and how many numbers a boundary may have in one, since each value of the layer is kept;
#: and the same where all values of the file are
_CASES, _NUMBERS = 3, 2**19
_FEW_CASES, _FEW_NUMBERS = 2, 2**16


@dataclass(frozen=True)
class Probe:
    """How to look inside an artifact: `run` gives it cases with more metadata, in a runtime that looks inside."""

    run: Callable[[Sequence[Case], Mapping[str, str]], Run]
    bench: Bench
    origin: Origin
    dtype: str
    device: str
    limits: process.Limits


@dataclass(frozen=True)
class _Place:
    """Where a failure begins: a layer, and the part of it where that could be told."""

    layer: str
    part: Part | None


def dissected(results: Sequence[Result], probe: Callable[[Result], Probe | None]) -> list[Result]:
    """The results, those that failed with the layer and the part of it, where these can be told.

    An artifact that fails at one layer in several runtimes is looked at once.
    """
    places: dict[tuple[str, str | None], _Place | None] = {}
    found = []
    for result in results:
        key = (result.artifact, result.first_bad_layer)
        if result.verdict == "fail" and key not in places:
            places[key] = _looked(result, probe)
        place = places[key] if result.verdict == "fail" else None
        found.append(_placed(result, place) if place else result)
    return found


def _placed(result: Result, place: _Place) -> Result:
    if place.part is None and result.first_bad_layer is not None:
        return result
    told = f"first bad: {place.layer}{f', in {place.part.words()}' if place.part else ''}"
    words = "; ".join(filter(None, [result.cause, told]))
    return replace(result, first_bad_layer=place.layer, first_bad_part=place.part, cause=words)


def _looked(result: Result, probe: Callable[[Result], Probe | None]) -> _Place | None:
    tap, output = _first_bad_tap(result), _bad_output(result)
    try:
        found = probe(result) if tap or output else None
        if found is None:
            return None
        if tap and result.first_bad_layer:
            return _Place(result.first_bad_layer, _between_taps(tap, found))
        return _unmarked(output, found) if output else None
    except Exception:  # noqa: BLE001 - whatever a reader or a library raises here, the verdict stands without it
        return None


def _bad_output(result: Result) -> Row | None:
    """An output that was compared and is wrong, of a file that names no layer boundary and is judged by noise."""
    rows = (*result.outputs, *result.taps)
    if any(row.name.startswith(TAP) or row.spent for row in rows):
        return None
    return next((row for row in result.outputs if row.bad_cases), None)


def _first_bad_tap(result: Result) -> Row | None:
    taps = [row for row in (*result.outputs, *result.taps) if row.name.startswith(TAP) and not row.passed]
    return min(taps, key=lambda row: boundary(row.name), default=None)


def _between_taps(tap: Row, probe: Probe) -> Part | None:
    number = boundary(tap.name)
    cases = chosen(tap, probe.bench)
    ran = probe.run(cases, {inside.KEY: str(number)}) if cases else None
    if ran is None or ran.made is None or inside.KEY not in ran.made.metadata:
        return None
    return _part(ran.made, number, cases, probe, whole=True)


def _unmarked(output: Row, probe: Probe) -> _Place | None:
    """The same in a file that names no boundaries: those that are right are found by what they hold."""
    states = boundaries(probe.bench.specs)
    cases = chosen(output, probe.bench, states[0], _FEW_NUMBERS)[:_FEW_CASES] if states else []
    ran = probe.run(cases, {inside.KEY: inside.FROM}) if cases else None
    if ran is None or ran.made is None or inside.KEY not in ran.made.metadata:
        return None
    told = inside.stated(ran.made.metadata[inside.KEY])
    right = known(probe.bench, cases, ran.made.arrays, list(told.values), probe.dtype)
    if not 0 < len(right) < len(states):
        return None
    layer = f"{layer_prefix(probe.bench.weights, len(states) - 1)}{len(right) - 1}"
    again = probe.run(cases, {inside.KEY: f"{inside.FROM}{told.values[right[-1]]}"})
    return _Place(layer, _part(again.made, len(right), cases, probe, whole=False) if again.made else None)


def _part(made: Tensors, number: int, cases: Sequence[Case], probe: Probe, *, whole: bool) -> Part | None:
    """The first bad part before a boundary; `whole` where the artifact's values end there."""
    right = probe.origin.stations(probe.dtype, cases, number, probe.device, probe.limits)
    if right is None:
        return None
    told = inside.stated(made.metadata[inside.KEY])
    constants = {n: array for held in made.arrays.values() for n, array in held.items() if n.startswith("constant.")}
    masks = {case.name: case.inputs.get("attention_mask") for case in cases}
    end = told.end if whole else None
    return first_bad_part(right, Made(told.nodes, end, made.arrays, constants, masks, probe.dtype, probe.bench.factor))


def chosen(row: Row, bench: Bench, state: str | None = None, most: int = _NUMBERS) -> list[Case]:
    """The cases that are looked at: those of moderate size in which a tap, or an output, is worst.

    Their size is that of a layer boundary, `state`, or of the row itself.
    """
    bad = row.bad_cases or [case.name for case in bench.cases]
    exact, sized = bench.reference.exact.arrays, state or row.name
    able = [
        case
        for case in bench.cases
        if case.name in bad and "empty" not in case.traits and exact[case.name][sized].size <= most
    ]
    return sorted(able, key=lambda case: -row.case_max.get(case.name, 0.0))[:_CASES]
