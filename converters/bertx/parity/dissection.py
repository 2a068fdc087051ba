"""A failed artifact, looked at inside its first bad layer: which part of it is wrong.

It is a diagnosis and no more: it runs after the verdict, on failures alone, and what goes wrong with it leaves the
verdict and the cause as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bertx.parity.cases import Case
from bertx.parity.compare import Row
from bertx.parity.findings import TAP
from bertx.parity.judge import Bench, Run
from bertx.parity.origin import Origin
from bertx.parity.part import Made, Part, first_bad_part
from bertx.parity.report import Result
from bertx.runtimes import inside, process

#: how many cases are looked at, and how many numbers a boundary may have in one, since each value of the layer is kept
_CASES, _NUMBERS = 3, 2**19


@dataclass(frozen=True)
class Probe:
    """How to look inside an artifact: `run` gives it cases with more metadata, in a runtime that looks inside."""

    run: Callable[[Sequence[Case], Mapping[str, str]], Run]
    bench: Bench
    origin: Origin
    dtype: str
    device: str
    limits: process.Limits


def dissected(results: Sequence[Result], probe: Callable[[Result], Probe | None]) -> list[Result]:
    """The results, those that failed at a layer with the part of it, where it can be told.

    An artifact that fails at one layer in several runtimes is looked at once.
    """
    parts: dict[tuple[str, str], Part | None] = {}
    found = []
    for result in results:
        if result.verdict == "fail" and result.first_bad_layer is not None:
            key = (result.artifact, result.first_bad_layer)
            if key not in parts:
                parts[key] = _part(result, probe)
            result = _with_part(result, parts[key])
        found.append(result)
    return found


def _with_part(result: Result, part: Part | None) -> Result:
    if part is None:
        return result
    told = f"first bad: {result.first_bad_layer}, in {part.words()}"
    return replace(result, first_bad_part=part, cause="; ".join(filter(None, [result.cause, told])))


def _part(result: Result, probe: Callable[[Result], Probe | None]) -> Part | None:
    tap = _first_bad_tap(result)
    try:
        found = probe(result) if tap is not None else None
        return _looked(tap, found) if tap is not None and found is not None else None
    except Exception:  # noqa: BLE001 - whatever a reader or a library raises here, the verdict stands without it
        return None


def _first_bad_tap(result: Result) -> Row | None:
    taps = [row for row in (*result.outputs, *result.taps) if row.name.startswith(TAP) and not row.passed]
    return min(taps, key=lambda row: int(row.name.removeprefix(TAP)), default=None)


def _looked(tap: Row, probe: Probe) -> Part | None:
    boundary = int(tap.name.removeprefix(TAP))
    cases = chosen(tap, probe.bench)
    if not cases:
        return None
    ran = probe.run(cases, {inside.KEY: str(boundary)})
    if ran.made is None or inside.KEY not in ran.made.metadata:
        return None
    right = probe.origin.stations(probe.dtype, cases, boundary, probe.device, probe.limits)
    if right is None:
        return None
    nodes, end = inside.stated(ran.made.metadata[inside.KEY])
    arrays = ran.made.arrays
    constants = {n: array for held in arrays.values() for n, array in held.items() if n.startswith("constant.")}
    masks = {case.name: case.inputs.get("attention_mask") for case in cases}
    return first_bad_part(right, Made(nodes, end, arrays, constants, masks, probe.dtype, probe.bench.factor))


def chosen(tap: Row, bench: Bench) -> list[Case]:
    """The cases that are looked at: those of moderate size in which the tap is worst."""
    bad = tap.bad_cases or [case.name for case in bench.cases]
    exact = bench.reference.exact.arrays
    able = [
        case
        for case in bench.cases
        if case.name in bad and "empty" not in case.traits and exact[case.name][tap.name].size <= _NUMBERS
    ]
    return sorted(able, key=lambda case: -tap.case_max.get(case.name, 0.0))[:_CASES]
