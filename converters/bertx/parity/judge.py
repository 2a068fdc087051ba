"""One artifact in one runtime: start the runner, read back what it computed, judge every output and tap."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.errors import BertxError, LocalProblem, escape
from bertx.model.tasks import HIDDEN_STATES, TASKS
from bertx.parity import diagnosis
from bertx.parity.budget import Budget, spend
from bertx.parity.cases import Case
from bertx.parity.compare import Row, compare, failed, judged_positions, pool
from bertx.parity.findings import TAP, boundaries, boundary
from bertx.parity.match import match, renamed
from bertx.parity.reference import Reference
from bertx.parity.report import UNSUPPORTED, Result
from bertx.runtimes import Foreign, Job, Reading, Runtime, lookups, process
from bertx.runtimes.device import instructions
from bertx.runtimes.lookups import Lookups
from bertx.runtimes.protocol import Tensors, read_tensors, write_cases
from bertx.signature import Signature, TensorSpec, sizes, symbolic

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

STACKED = HIDDEN_STATES


@dataclass(frozen=True)
class Subject:
    """An artifact to be judged. `outputs` must all be there; `signature` None means weights alone.

    `home` is the folder whose config.json and tokenizer go with it, `budget` what it may differ by instead of noise.
    """

    path: Path
    name: str
    format: str
    dtype: str
    signature: Signature | None
    outputs: tuple[str, ...]
    home: Path | None = None
    budget: Budget | None = None


@dataclass(frozen=True)
class Bench:
    """What a subject is judged against: cases, their reference, the factor on limits, what a runner may use.

    `inputs` has the outputs too where they were recorded; `weights` are the names of the checkpoint's tensors,
    `outputs` those that the task gives. `allowance` is the runtime's own factor on the rms limit.
    """

    cases: Sequence[Case]
    reference: Reference
    inputs: Signature
    task: str
    factor: float
    limits: process.Limits
    weights: tuple[str, ...]
    outputs: tuple[str, ...]
    allowance: float = 1.0

    @cached_property
    def specs(self) -> dict[str, TensorSpec]:
        """Symbolic shapes of everything the reference gives: as they were recorded, else read off its answers."""
        if self.inputs.outputs or self.reference.outputs:
            return {spec.name: spec for spec in self.inputs.outputs or self.reference.outputs}
        exact = self.reference.exact
        names = dict.fromkeys(name for outputs in exact.arrays.values() for name in outputs)
        shapes = [{name: array.shape for name, array in case.inputs.items()} for case in self.cases]
        seen = [sizes(self.inputs.inputs, each) for each in shapes]
        return {
            name: symbolic(name, "float64", [exact.arrays[c.name][name].shape for c in self.cases], seen)
            for name in names
        }

    def judged(self, case: Case, name: str) -> Array:
        """Which numbers of an output are compared: at valid positions of text, else all of them."""
        mask = case.inputs.get("attention_mask") if "input_ids" in case.inputs else None
        return judged_positions(self.specs[name], mask, self.reference.exact.arrays[case.name][name].shape)

    def claimed(self, name: str, dtype: str) -> str:
        """The dtype that an output must have: the artifact's, or its own where it is no floating number."""
        own = self.reference.exact.dtypes.get(name, dtype)
        return dtype if "float" in own else own


@dataclass(frozen=True)
class Run:
    """What came of running one artifact on the cases: its outputs, or why there are none, and what it took.

    `lacks` is what the runtime's library lacks, where its runner said so instead of computing anything.
    """

    facts: Mapping[str, Any]
    made: Tensors | None = None
    reason: str | None = None
    lacks: str | None = None

    @property
    def lookups(self) -> Lookups | None:
        """Where its runner saw token ids go, where it tells."""
        return lookups.stated(self.made.metadata.get(lookups.KEY)) if self.made else None


def run_artifact(
    subject: Subject,
    runtime: Runtime | Foreign,
    device: str,
    cases: Sequence[Case],
    inputs: Signature,
    task: str,
    limits: process.Limits,
    more: Mapping[str, str] | None = None,
    reading: Reading | None = None,
) -> Run:
    """Runs an artifact in a runner process; `more` is metadata for its cases, `reading` what makes ids of texts.

    Raises LocalProblem where the device was not really used, or this machine let the program down.
    """
    with tempfile.TemporaryDirectory(prefix="bertx-") as folder:
        files = (Path(folder) / "cases.safetensors", Path(folder) / "outputs.safetensors")
        job = Job(subject.path, *files, device, reading)
        outputs = subject.signature.outputs if subject.signature else ()
        named = outputs or tuple(TensorSpec(name, subject.dtype, ()) for name in subject.outputs)
        signature = Signature(inputs.inputs, named)
        write_cases(
            job.inputs,
            {case.name: case.inputs for case in cases},
            signature,
            task,
            subject.dtype,
            {"threads": str(process.threads()), **(more or {})},
        )
        ended = process.run(runtime.command(job), limits)
        facts = {"seconds": ended.seconds, "peak_rss_bytes": ended.peak_rss_bytes, "device": device}
        facts["instructions"] = instructions() if device == "cpu" else None
        if ended.exit_code == LocalProblem.exit_code and "E_DEVICE" in (ended.reason or ""):
            raise LocalProblem("E_DEVICE", f"{runtime.name}: {ended.reason}", "use --device cpu")
        refused = process.refusal(ended)
        if isinstance(refused, LocalProblem):  # a full disk says nothing of the artifact
            raise refused
        if ended.reason is not None:
            # Who has written answers has computed, and what goes wrong then is a failure.
            return Run(facts, None, ended.reason, None if job.outputs.exists() else process.unsupported(ended))
        try:
            made = read_tensors(job.outputs)
        except (BertxError, OSError) as error:
            return Run(facts, None, f"its outputs cannot be read: {error}")
        return Run({**facts, **_told(made, device, runtime)}, made)


def conclude(
    run: Run, subject: Subject, runtime: Runtime | Foreign, bench: Bench, asked: bool, beside: Sequence[Row] = ()
) -> Result:
    """The verdict on what a run computed; a run that computed nothing is a failure, unless the library lacks
    what the artifact needs.

    `beside` is what a look at the artifact's own weights, labels and the like gave: rows like any other.
    """
    blank = Result(subject.name, subject.format, subject.dtype, runtime.name, "fail", asked=asked)
    if run.lacks is not None:
        return replace(blank, verdict="not-run", reason=f"{UNSUPPORTED}{run.lacks}")
    result = replace(blank, **run.facts)
    if run.made is None:
        return replace(result, reason=run.reason, cause=_why(str(run.reason), subject, bench))
    judged = judge_outputs(result, subject, run.made, replace(bench, allowance=runtime.allowance))
    if judged.verdict == "not-run":
        return judged
    judged = replace(judged, outputs=(*judged.outputs, *beside))
    bad = [f"{row.name}: {row.problem}" for row in beside if not row.passed]
    # What is found in the file itself says more than a guess from what it computes, and comes first.
    return replace(judged, verdict="fail", cause="; ".join([*bad, *filter(None, [judged.cause])])) if bad else judged


def _why(reason: str, subject: Subject, bench: Bench) -> str:
    """Why a runner gave nothing; a shape that the file says it takes is named."""
    case = next((case for case in bench.cases if f"in case {case.name}: " in reason), None)
    inputs = subject.signature.inputs if subject.signature else ()
    moving = dict.fromkeys(size for spec in inputs for size in spec.shape if isinstance(size, str))
    if case is None or not moving:
        return f"the runner failed: {reason}"
    shape = "×".join(map(str, next(iter(case.inputs.values())).shape))
    said = reason.partition(f"in case {case.name}: ")[2]
    named = " and ".join(escape(name, 60) for name in moving if name != "?") or "its axes"
    return f"it refuses a batch of {shape} (case {case.name}), though it declares {named} dynamic: {said}"


def judge(subject: Subject, runtime: Runtime | Foreign, device: str, bench: Bench, asked: bool) -> Result:
    """The verdict of one artifact in one runtime: run, then conclude."""
    run = run_artifact(subject, runtime, device, bench.cases, bench.inputs, bench.task, bench.limits)
    return conclude(run, subject, runtime, bench, asked)


def _told(made: Tensors, device: str, runtime: Runtime | Foreign) -> dict[str, Any]:
    """What the runner says of itself; a device other than the one asked for is never accepted."""
    used = made.metadata.get("device", device)
    if used.partition(":")[0] != device.partition(":")[0]:
        raise LocalProblem("E_DEVICE", f"{runtime.name} ran on {used}, not on {device}", "see `bertx doctor`")
    return {
        "runtime_version": made.metadata.get("version"),
        "provider": made.metadata.get("provider"),
        "device": used,
    }


def judge_outputs(result: Result, subject: Subject, made: Tensors, bench: Bench) -> Result:
    """`result` with its verdict and evidence, from what a runner computed on the bench's cases."""
    specs = bench.specs
    made = _unstacked(_asked(made, bench.cases))
    if not subject.outputs:
        names = match(made, bench.reference.exact, bench.outputs, [n for n in specs if not n.startswith(TAP)])
        made = renamed(made, names)
        result = replace(result, matched=names)
    states = boundaries(specs)
    recorded = bench.reference.noise is not None
    # What a recording does not have is not compared, which is another thing than wrong.
    unknown = [name for name in subject.outputs if recorded and name not in specs]
    wanted = [name for name in subject.outputs if name not in unknown]
    required = [n for name in wanted for n in (states if name == STACKED else [name])]
    offered = dict.fromkeys(name for outputs in made.arrays.values() for name in outputs)
    named = tuple(dict.fromkeys((*required, *(n for n in offered if n in specs and not n.startswith(TAP)))))
    outputs = tuple(_row(name, subject, made, bench, specs) for name in named)
    tapped = [name for name in states if name in offered and name not in named]
    result = replace(result, unjudged=tuple(name for name in offered if name not in (*named, *tapped)))
    taps = tuple(_row(name, subject, made, bench, specs) for name in tapped)
    if not outputs:
        return replace(result, verdict="not-run", reason="none of its outputs is one of the reference's", asked=True)
    if subject.budget is not None and not (unknown and all(row.passed for row in outputs)):
        return _budgeted(result, subject, outputs, taps)
    if unknown and all(row.passed for row in (outputs if subject.budget else (*outputs, *taps))):
        reason = f"the recording has no {', '.join(unknown)}"
        return replace(result, verdict="not-run", reason=reason, outputs=outputs, taps=taps, asked=True)
    if all(row.passed for row in (*outputs, *taps)):
        doubt = _in_doubt(made, bench, named, result.unjudged)
        judged = replace(result, verdict="pass", outputs=outputs, taps=taps)
        return replace(judged, verdict="not-run", reason=doubt, asked=True) if doubt else judged
    layers = sorted((row for row in (*outputs, *taps) if row.name.startswith(TAP)), key=lambda row: boundary(row.name))
    layer = diagnosis.first_bad_layer(layers, bench.weights)
    traits = {case.name: case.traits for case in bench.cases}
    inputs = {case.name: case.inputs for case in bench.cases}
    evidence = diagnosis.Evidence(inputs, made.arrays, bench.reference.exact.arrays, subject.dtype)
    cause = diagnosis.cause(outputs, taps, traits, layer, evidence)
    return replace(result, outputs=outputs, taps=taps, first_bad_layer=layer, cause=cause)


def _in_doubt(made: Tensors, bench: Bench, named: Sequence[str], unjudged: Sequence[str]) -> str | None:
    """Why the task's own answer cannot be said to be right: it goes by no name, and what may be meant is not it."""
    task = TASKS.get(bench.task)
    if task is None or task.torchscript in named or task.torchscript not in bench.specs:
        return None
    own, exact = task.torchscript, bench.reference.exact.arrays

    def alike(name: str) -> bool:
        held = [made.arrays[case.name].get(name) for case in bench.cases]
        return all(
            a is not None and a.shape == exact[c.name][own].shape for a, c in zip(held, bench.cases, strict=True)
        )

    meant = next((name for name in unjudged if alike(name)), None)
    return None if meant is None else f"{own} is missing, and {escape(meant, 60)}, which has its shape, is not it"


def _budgeted(result: Result, subject: Subject, outputs: tuple[Row, ...], taps: tuple[Row, ...]) -> Result:
    """The verdict by a budget: of the outputs alone, since what lies inside may differ as it likes."""
    labels = subject.budget is not None and subject.budget.labels is not None
    if labels and not any(row.spent is not None and row.spent.labels is not None for row in outputs):
        reason = "the budget asks for labels, and none of its outputs has any"
        return replace(result, verdict="not-run", reason=reason, outputs=outputs, taps=taps, asked=True)
    bad = [f"{row.name}: {row.problem or (row.spent and row.spent.problem)}" for row in outputs if not row.passed]
    verdict = "fail" if bad else "pass"
    return replace(result, verdict=verdict, outputs=outputs, taps=taps, cause="; ".join(bad) or None)


def _asked(made: Tensors, cases: Sequence[Case]) -> Tensors:
    """Without the answers to cases that nobody asked about: there is nothing to compare them with."""
    return replace(made, arrays={case.name: made.arrays.get(case.name, {}) for case in cases})


def _unstacked(made: Tensors) -> Tensors:
    """An output of all layer boundaries, (layers + 1, batch, sequence, hidden), as one array each."""
    if STACKED not in made.dtypes:
        return made
    arrays = {case: dict(outputs) for case, outputs in made.arrays.items()}
    dtypes = dict(made.dtypes)
    for outputs in arrays.values():
        for k, state in enumerate(outputs.pop(STACKED, ())):
            outputs[f"{TAP}{k}"] = state
            dtypes[f"{TAP}{k}"] = made.dtypes[STACKED]
    return Tensors(arrays, dtypes, made.metadata)


def _row(name: str, subject: Subject, made: Tensors, bench: Bench, specs: Mapping[str, TensorSpec]) -> Row:
    """One output or tap over all cases; whatever keeps it from being compared is a failure, never a pass."""
    import numpy as np

    if name not in specs:
        return failed(name, "the reference has no such output", bench.factor)
    claimed = bench.claimed(name, subject.dtype)
    if name in made.dtypes and made.dtypes[name] != claimed:
        return failed(name, f"is {made.dtypes[name]} where {claimed} is claimed", bench.factor)
    found, vectors = [], []
    for case in bench.cases:
        value = made.arrays.get(case.name, {}).get(name)
        exact = bench.reference.exact.arrays[case.name][name]
        rounded = bench.reference.rounded.arrays[case.name][name]
        if value is None:
            return failed(name, f"is missing in case {case.name}", bench.factor)
        if value.shape != exact.shape:
            return failed(name, f"has shape {value.shape} in case {case.name}, not {exact.shape}", bench.factor)
        # Eager PyTorch itself may give no number in a row that holds no token, and nowhere else: it is refused then.
        if not (np.isfinite(value) | ~np.isfinite(rounded)).all():
            return failed(name, f"holds NaN or Inf in case {case.name}", bench.factor)
        judged = bench.judged(case, name)
        if not judged.any():
            return failed(name, f"has nothing to compare in case {case.name}", bench.factor)
        compared = compare(case.name, value, exact, rounded, judged)
        if bench.reference.noise is not None:
            known = bench.reference.noise[case.name][name]
            compared = replace(compared, rms_noise=known.rms, max_noise=known.max)
        found.append(compared)
        vectors.append((case.name, value, exact, judged))
    row = pool(name, found, subject.dtype, bench.factor, bench.allowance)
    return row if subject.budget is None else replace(row, spent=spend(subject.budget, specs[name], vectors))
