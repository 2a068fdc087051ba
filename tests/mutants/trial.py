"""A trial: one artifact run in this process, judged on the quick cases, and its true error on the broad ones."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertx.formats import format_named
from bertx.parity.binding import bind, filled
from bertx.parity.compare import FEWEST, compare, judged_positions, pool
from bertx.parity.diagnosis import STUMBLED
from bertx.parity.judge import Bench, Subject, judge_outputs
from bertx.parity.report import Result
from bertx.parity.weights import compare_weights
from bertx.runtimes import lookups
from bertx.runtimes.lookups import Lookups
from bertx.runtimes.onnxruntime import OnnxRuntimeProgram
from bertx.runtimes.protocol import Program, Tensors
from bertx.runtimes.torchscript import TorchScriptProgram
from mutants.stands import Stand

#: a wrong artifact whose error is never this many times the noise cannot be told from a right one
OBSERVABLE = 30.0
PROGRAMS: dict[str, Callable[[], Program]] = {"onnx": OnnxRuntimeProgram, "torchscript": TorchScriptProgram}


class Inapplicable(Exception):
    """This fault cannot be made in this family: it has no such part."""


@dataclass(frozen=True)
class Mutant:
    """An artifact made from a right one: wrong in one way, or right and odd-looking (`right`).

    `full`: wrong where no case of `quick` looks; found by the weights' bytes, or else by the cases of `full`.
    """

    name: str
    fault: str
    stand: str
    format: str
    make: Callable[[Stand, Path], None]
    right: bool = False
    full: bool = False

    @property
    def label(self) -> str:
        return f"{self.stand}/{self.format}/{self.name}"


@dataclass(frozen=True)
class Ran:
    """What an artifact computed; `stopped` names the cases in which it raised, with its words; `lookups` is what its
    program read of its graph."""

    made: Tensors
    stopped: dict[str, str]
    lookups: Lookups | None = None


@dataclass(frozen=True)
class Trial:
    """How a mutant fared: the judge's result, its true error in units of noise, and the cases that each kill it."""

    mutant: Mutant
    result: Result
    ratio: float
    killing: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.result.verdict == "pass"

    @property
    def observable(self) -> bool:
        return not self.ratio < OBSERVABLE

    @property
    def share(self) -> float | None:
        """The largest judged ratio over its limit; None where something else than a ratio decided."""
        rows = (*self.result.outputs, *self.result.taps)
        if not rows or any(row.problem for row in rows) or self.result.reason:
            return None
        return max(
            share
            for row in rows
            for share in (
                row.rms_ratio / row.rms_limit,
                row.max_ratio / row.max_limit,
                *(row.case_rms[each.case] / row.rms_limit for each in row.cases if each.count >= FEWEST),
            )
        )


@contextmanager
def made(mutant: Mutant, stand: Stand) -> Iterator[Path]:
    """The mutant's file, in a folder of its own. Raises Inapplicable."""
    with tempfile.TemporaryDirectory(prefix="bertx-mutant-") as folder:
        path = Path(folder) / f"model{stand.right(mutant.format).suffix}"
        with _quiet():
            mutant.make(stand, path)
        yield path


def run(subject: Subject, bench: Bench) -> Ran:
    """Runs an artifact on every case of a bench, fed as verify feeds it."""
    program = PROGRAMS[subject.format]()
    assert subject.signature is not None
    ours = subject.signature.inputs
    arrays: dict[str, dict[str, Any]] = {}
    dtypes: dict[str, str] = {}
    stopped: dict[str, str] = {}
    # Optimising a trace anew for each shape takes longer than all of the cases.
    with _quiet(), torch.jit.optimized_execution(False):
        try:
            theirs = format_named("onnx").contents(subject.path).signature if subject.format == "onnx" else None
            binding = bind(theirs, ours)
            specs = binding.fed(theirs, ours)
            metadata = {
                "signature": json.dumps(replace(subject.signature, inputs=specs).to_json()),
                "inputs": json.dumps([spec.name for spec in specs]),
                "threads": "1",
                **({lookups.KEY: binding.ids} if binding.ids else {}),
            }
            program.open(subject.path, "cpu", metadata)
        except Exception as error:  # noqa: BLE001 - what keeps a file from being loaded is its verdict
            return Ran(Tensors({}, {}, {}), {case.name: _line(error) for case in bench.cases})
        for case in bench.cases:
            try:
                fed = filled(case.inputs, binding, specs)
                made = {**program.taps(fed), **program.run(fed)}
                arrays[case.name] = {name: np.asarray(value) for name, value in made.items()}
                dtypes |= {name: str(value.dtype) for name, value in arrays[case.name].items()}
            except Exception as error:  # noqa: BLE001 - the same for a case
                stopped[case.name] = _line(error)
    return Ran(Tensors(arrays, dtypes, {}), stopped, lookups.stated(program.facts().get(lookups.KEY)))


def verdict(subject: Subject, ran: Ran, bench: Bench) -> Result:
    """The judge's result on the cases of a bench, as if a runner process had given these outputs."""
    blank = Result(subject.name, subject.format, subject.dtype, "in-process", "fail", asked=True)
    stopped = next((ran.stopped[case.name] for case in bench.cases if case.name in ran.stopped), None)
    if stopped is not None:
        return replace(blank, reason=stopped, cause=f"the runner failed: {stopped}")
    judged = judge_outputs(blank, subject, ran.made, bench)
    assert STUMBLED not in (judged.cause or ""), judged.cause
    return judged


def true_ratio(subject: Subject, ran: Ran, bench: Bench) -> float:
    """The largest error over noise of any output on all cases of a bench; infinite where a shape or a value is no
    answer at all."""
    found = 0.0
    for name in subject.outputs:
        rows = []
        for case in bench.cases:
            exact = bench.reference.exact.arrays[case.name][name]
            value = ran.made.arrays.get(case.name, {}).get(name)
            if value is None or value.shape != exact.shape or not np.isfinite(value).all():
                return math.inf
            judged = judged_positions(bench.specs[name], case.inputs["attention_mask"], exact.shape)
            rows.append(compare(case.name, value, exact, bench.reference.rounded.arrays[case.name][name], judged))
        row = pool(name, rows, subject.dtype, 1.0)
        rms = [row.case_rms[each.case] for each in rows if each.count >= FEWEST]
        found = max(found, row.rms_ratio, row.max_ratio, *rms)
    return found


def killing(subject: Subject, ran: Ran, bench: Bench) -> tuple[str, ...]:
    """The cases each of which shows that an artifact is wrong."""
    found = set(ran.stopped)
    for case in bench.cases:
        exact = bench.reference.exact.arrays[case.name]
        for name, value in ran.made.arrays.get(case.name, {}).items():
            if name in exact and (value.shape != exact[name].shape or not np.isfinite(value).all()):
                found.add(case.name)
    # One number that is none fails an output before its other cases are looked at.
    rest = replace(bench, cases=tuple(case for case in bench.cases if case.name not in found))
    if rest.cases:
        result = verdict(subject, ran, rest)
        found |= {case for row in (*result.outputs, *result.taps) for case in row.bad_cases}
    return tuple(case.name for case in bench.cases if case.name in found)


def attempt(mutant: Mutant, stand: Stand) -> Trial:
    """Makes, runs and judges one mutant. Raises Inapplicable."""
    with made(mutant, stand) as path:
        subject = stand.subject(mutant.format, path)
        ran = run(subject, stand.broad)
        weighed = compare_weights(subject, stand.checkpoint.weights, 1.0)
        weights = weighed.row
        held = {int(each) for case in stand.quick.cases for each in case.inputs["input_ids"].flat}
        seen = weighed.looks_up(stand.config.vocab_size, held, ran.lookups)
        result = verdict(subject, ran, stand.full if mutant.full and not seen else stand.quick)
        # What the outputs show is to be found by them; bytes decide only where no case of `quick` looks.
        if weights is not None and weights.problem and (mutant.right or mutant.full) and result.verdict == "pass":
            result = replace(result, verdict="fail", cause=f"weights: {weights.problem}")
        ratio = true_ratio(subject, ran, stand.broad)
        return Trial(mutant, result, ratio, killing(subject, ran, stand.quick))


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what C++ libraries print on standard error from the table."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
