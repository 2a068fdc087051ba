"""From artifacts to a report: which runtimes, which cases, one reference per dtype and set of inputs.

`verify_subjects` is what exporters use on a staged bundle and what `api.verify` uses on a published one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import bertx.bundle as bundle
from bertx.checkpoint import Checkpoint
from bertx.errors import LocalProblem
from bertx.model.tasks import Task
from bertx.model.wrapper import default_outputs, input_names
from bertx.parity import cases as probes
from bertx.parity import reference as references
from bertx.parity.cases import Case
from bertx.parity.compare import Row
from bertx.parity.judge import Bench, Subject, conclude, run_artifact
from bertx.parity.labels import compare_labels
from bertx.parity.report import Report, Result
from bertx.parity.text import open_tokenizer
from bertx.parity.weights import compare_weights
from bertx.runtimes import Foreign, Runtime, device, process, registry, runtime_named, trust
from bertx.runtimes.protocol import write_cases
from bertx.signature import BATCH, SEQUENCE, Signature, TensorSpec

Progress = Callable[[str], None]


@dataclass(frozen=True)
class VerifyOptions:
    """How to verify. `runtimes` empty means all that are ready; `limit` scales both limits; `timeout` in seconds."""

    runtimes: tuple[str, ...] = ()
    runners: tuple[Foreign, ...] = ()
    cases: str = "quick"
    texts: tuple[str, ...] = ()
    seed: int = 0
    limit: float = 1.0
    dtype: str | None = None
    device: str = "auto"
    trust: bool = False
    timeout: float = 600.0
    memory_bytes: int | None = None
    cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "bertx")

    def limits(self) -> process.Limits:
        return process.Limits(self.timeout, self.memory_bytes)


@dataclass(frozen=True)
class Verified:
    """A report, and the benches it was made on, for golden cases."""

    report: Report
    benches: tuple[Bench, ...]


def check_options(options: VerifyOptions) -> str:
    """Refuses before any work what cannot be done; the device that will be used.

    Raises UsageError for unknown names, LocalProblem where a named runtime is not ready or the device is not here.
    """
    for name in options.runtimes:
        lacking = runtime_named(name).missing()
        if lacking:
            raise LocalProblem("E_RUNTIME", f"runtime {name} is not ready", lacking)
    return device.resolve(options.device)


def verify_subjects(
    subjects: Sequence[Subject],
    checkpoint: Checkpoint,
    task: Task,
    options: VerifyOptions,
    progress: Progress = lambda line: None,
) -> Verified:
    """Judges every subject in every chosen runtime. A crash of a runner is a verdict, not an exception."""
    where = check_options(options)
    plan: list[_Job | Result] = []
    with _whole_folders(subjects, checkpoint) as whole:
        for subject in whole:
            plan += _plan(subject, where, options)
        jobs = [each for each in plan if isinstance(each, _Job)]
        keys = dict.fromkeys((job.subject.dtype, _inputs(job.subject, checkpoint)) for job in jobs)
        questions = {key: _questions(checkpoint, key[1], options) for key in keys}
        progress(f"the reference and {len(jobs)} runners, at most {_workers(checkpoint)} at a time")
        with _stoppable(options.limits(), _workers(checkpoint)) as (pool, limits):
            asked = {
                key: pool.submit(_reference, checkpoint, task, key[0], cases, where, limits, options.cache)
                for key, cases in questions.items()
            }
            runs = {}
            for job in jobs:
                cases = questions[job.subject.dtype, _inputs(job.subject, checkpoint)]
                arguments = (job.subject, job.runtime, where, cases, _signature(cases), task.name, limits)
                runs[job] = pool.submit(run_artifact, *arguments)
            beside = {
                subject: pool.submit(_beside, subject, checkpoint, task, options.limit)
                for subject in dict.fromkeys(job.subject for job in jobs)
            }
            benches = {}
            for key, future in asked.items():
                benches[key] = _bench(checkpoint, task, questions[key], future.result(), options)
                progress(f"the reference in {key[0]} is there")
            results = []
            for each in plan:
                if isinstance(each, _Job):
                    bench = benches[each.subject.dtype, _inputs(each.subject, checkpoint)]
                    each_run = runs[each].result()
                    progress(f"{each.subject.name} in {each.runtime.name}: {each_run.facts['seconds']:.2f} s")
                    rows = beside[each.subject].result()
                    results.append(conclude(each_run, each.subject, each.runtime, bench, each.asked, rows))
                else:
                    results.append(each)
    return Verified(_report(results, benches, checkpoint, options), tuple(benches.values()))


@dataclass(frozen=True)
class _Job:
    """One artifact that is run in one runtime."""

    subject: Subject
    runtime: Runtime | Foreign
    asked: bool


def _beside(subject: Subject, checkpoint: Checkpoint, task: Task, factor: float) -> tuple[Row, ...]:
    """What can be compared without running the artifact: the weights inside it, the labels beside it."""
    rows = (
        compare_weights(subject, checkpoint.weights, factor),
        compare_labels(subject, checkpoint, task, factor),
    )
    return tuple(row for row in rows if row is not None)


def _plan(subject: Subject, where: str, options: VerifyOptions) -> list[_Job | Result]:
    """What is to be run for a subject, and what is not run and why."""
    chosen = _runtimes(subject, options)
    if not chosen:
        asked = None if options.runtimes else True
        return [_not_run(subject, "none", "no chosen runtime reads this format", asked)]
    found: list[_Job | Result] = []
    for runtime, asked in chosen:
        why = _obstacle(subject, runtime, where, options)
        counts = asked or subject.format == "torchscript"
        found.append(_Job(subject, runtime, asked) if why is None else _not_run(subject, runtime.name, why, counts))
    return found


def _workers(checkpoint: Checkpoint) -> int:
    """How many runners run side by side: two where there are processors and free memory for both."""
    import psutil

    weights = sum(info.nbytes for info in checkpoint.weights.values())
    room = psutil.virtual_memory().available > 2 * (6 * weights + 2**30)
    return 2 if room and (os.cpu_count() or 1) > 1 else 1


@contextmanager
def _stoppable(limits: process.Limits, workers: int) -> Iterator[tuple[ThreadPoolExecutor, process.Limits]]:
    """A pool whose runners are ended when the block is left by an exception, an interrupt included."""
    stop = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield pool, replace(limits, stop=stop)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def make_bench(
    checkpoint: Checkpoint,
    task: Task,
    dtype: str,
    inputs: tuple[str, ...],
    where: str,
    options: VerifyOptions,
) -> Bench:
    """Cases for these inputs, and what eager PyTorch computes on them at `dtype` and in float64."""
    cases = _questions(checkpoint, inputs, options)
    reference = _reference(checkpoint, task, dtype, cases, where, options.limits(), options.cache)
    return _bench(checkpoint, task, cases, reference, options)


def _questions(checkpoint: Checkpoint, inputs: tuple[str, ...], options: VerifyOptions) -> tuple[Case, ...]:
    tokenizer = open_tokenizer(checkpoint.folder)
    encoded = tokenizer.encode([*probes.TEXTS, *options.texts]) if tokenizer else []
    known = probes.facts(checkpoint.config.values, encoded, tokenizer.special if tokenizer else ())
    return probes.build(options.cases, inputs, known, options.seed)


def _signature(cases: Sequence[Case]) -> Signature:
    return Signature(tuple(TensorSpec(name, "int64", (BATCH, SEQUENCE)) for name in cases[0].inputs), ())


def _reference(
    checkpoint: Checkpoint,
    task: Task,
    dtype: str,
    cases: Sequence[Case],
    where: str,
    limits: process.Limits,
    cache: Path,
) -> references.Reference:
    with tempfile.TemporaryDirectory(prefix="bertx-") as folder:
        path = Path(folder) / "cases.safetensors"
        write_cases(path, {case.name: case.inputs for case in cases}, _signature(cases), task.name, dtype)
        return references.compute(checkpoint, path, dtype, where, limits, cache)


def _bench(
    checkpoint: Checkpoint, task: Task, cases: Sequence[Case], reference: references.Reference, options: VerifyOptions
) -> Bench:
    outputs, weights = default_outputs(checkpoint, task), tuple(checkpoint.weights)
    signature, limits = _signature(cases), options.limits()
    return Bench(cases, reference, signature, task.name, options.limit, limits, weights, outputs)


def _inputs(subject: Subject, checkpoint: Checkpoint) -> tuple[str, ...]:
    """The inputs that the subject takes, by our names: by its own where they are known, else by position."""
    ours = input_names(checkpoint)
    if subject.signature is None:
        return ours
    theirs = {spec.name for spec in subject.signature.inputs}
    return tuple(name for name in ours if name in theirs) if theirs <= set(ours) else ours[: len(theirs)]


def trusted(subject: Subject, options: VerifyOptions) -> bool:
    """Whether loading the file runs no code, or only code that bertx wrote here, or the user trusts it."""
    if subject.format != "torchscript" or options.trust:
        return True
    return trust.known(options.cache, bundle.sha256(subject.path))


def _runtimes(subject: Subject, options: VerifyOptions) -> list[tuple[Runtime | Foreign, bool]]:
    """(runtime, asked for by name) for each that reads the subject's format."""
    named = [runtime_named(name) for name in options.runtimes] or list(registry().values())
    asked = bool(options.runtimes)
    found: list[tuple[Runtime | Foreign, bool]] = [(r, asked) for r in named if subject.format in r.reads]
    return found + [(runner, True) for runner in options.runners if subject.format in runner.reads]


def _obstacle(subject: Subject, runtime: Runtime | Foreign, where: str, options: VerifyOptions) -> str | None:
    """Why a subject is not run in a runtime, None where it is."""
    lacking = runtime.missing()
    if lacking:
        return f"not ready: {lacking}"
    if where == "cpu" and subject.dtype in runtime.not_on_cpu:
        return f"{runtime.name} has no {subject.dtype} kernels on the CPU"
    if subject.signature and any(isinstance(size, int) for spec in subject.signature.inputs for size in spec.shape):
        return "the file declares a static input shape"
    if not trusted(subject, options):
        return "TorchScript runs code, and bertx did not write this file here; add --trust"
    return None


def _not_run(subject: Subject, runtime: str, reason: str, asked: bool | None) -> Result:
    return Result(subject.name, subject.format, subject.dtype, runtime, "not-run", reason=reason, asked=asked)


def _report(
    results: Sequence[Result],
    benches: Mapping[tuple[str, tuple[str, ...]], Bench],
    checkpoint: Checkpoint,
    options: VerifyOptions,
) -> Report:
    bench = next(iter(benches.values()), None)
    facts = bench.reference.facts if bench else {}
    cases = {"set": options.cases, "count": len(bench.cases) if bench else 0, "seed": options.seed}
    source = {"checkpoint": checkpoint.source, "commit": checkpoint.commit, "origin": checkpoint.origin}
    told = {name: facts.get(name) for name in ("torch", "transformers", "attention", "pure", "noise")}
    return Report(cases, options.limit, {**source, **told}, tuple(results))


@contextmanager
def _whole_folders(subjects: Sequence[Subject], checkpoint: Checkpoint) -> Iterator[list[Subject]]:
    """Subjects whose weights lie alone get the checkpoint's configuration beside them, in a temporary folder."""

    def whole(subject: Subject, folder: Path) -> Subject:
        beside = subject.path.parent / "config.json"
        if subject.format != "safetensors" or (beside.is_file() and subject.path.name == "model.safetensors"):
            return subject
        for name in checkpoint.companions():
            _place(checkpoint.folder / name, folder / name)
        _place(subject.path, folder / "model.safetensors")
        return replace(subject, path=folder / "model.safetensors")

    with tempfile.TemporaryDirectory(prefix="bertx-") as temporary:
        yield [whole(subject, Path(temporary) / str(k)) for k, subject in enumerate(subjects)]


def _place(source: Path, target: Path) -> None:
    """A hard link where the file systems allow one, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
