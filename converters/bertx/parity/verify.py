"""From artifacts to a report: which runtimes, which cases, one reference per dtype and set of inputs.

`verify_subjects` is what exporters use on a staged bundle and what `api.verify` uses on a published one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import bertx.bundle as bundle
from bertx.checkpoint import Checkpoint
from bertx.model.tasks import Task
from bertx.parity.binding import Binding, bind, filled
from bertx.parity.cases import Case
from bertx.parity.compare import Row
from bertx.parity.dissection import Probe, dissected
from bertx.parity.every_id import with_every_id
from bertx.parity.judge import Bench, Run, Subject, conclude, run_artifact
from bertx.parity.latency import batches, measured
from bertx.parity.options import VerifyOptions, check_options
from bertx.parity.origin import Asked, Origin, Stock
from bertx.parity.reference import Reference
from bertx.parity.report import NOT_READY, Report, Result
from bertx.parity.texts import Spoken, only, reading, unheard, with_texts
from bertx.runtimes import Foreign, Reading, Runtime, process, registry, runtime_named, trust
from bertx.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["Verified", "VerifyOptions", "make_bench", "trusted", "verify_subjects"]

Progress = Callable[[str], None]

_UNTRUSTED = "TorchScript runs code, and bertx did not write this file here; add --trust"


@dataclass(frozen=True)
class Verified:
    """A report, and the benches it was made on, for golden cases."""

    report: Report
    benches: tuple[Bench, ...]


def verify_subjects(
    subjects: Sequence[Subject],
    origin: Origin,
    options: VerifyOptions,
    progress: Progress = lambda line: None,
) -> Verified:
    """Judges every subject in every chosen runtime. A crash of a runner is a verdict, not an exception."""
    where = check_options(options)
    plan: list[_Job | Result] = []
    with origin.whole(subjects) as whole:
        for subject in whole:
            plan += _plan(subject, origin, where, options)
        jobs = [each for each in plan if isinstance(each, _Job)]
        spared = _spared(jobs, origin)
        questions = {asked: origin.cases(asked, options) for asked in dict.fromkeys(job.asked for job in jobs)}
        heard = dict.fromkeys(job.asked for job in jobs if isinstance(job.reading, Reading))
        spoken = {asked: said for asked in heard if (said := origin.spoken(asked, options))}
        workers = _workers(origin)
        progress(f"the reference and {len(jobs) - len(spared)} runners, at most {workers} at a time")
        with stoppable(options.limits(), workers) as (pool, limits):
            answers = {
                asked: pool.submit(origin.reference, asked, (*cases, *said), where, limits, options.cache)
                for asked, cases in questions.items()
                for said in [spoken[asked].cases if asked in spoken else ()]
            }
            runs = {
                job: pool.submit(
                    _run_with_texts, job, questions[job.asked], spoken.get(job.asked), origin, where, limits
                )
                for job in jobs
                if job not in spared
            }
            tokens = {
                home: pool.submit(origin.tokens, home, options, limits)
                for home in dict.fromkeys(job.subject.home for job in jobs)
            }
            beside = {
                subject: pool.submit(origin.beside, subject, options.limit)
                for subject in dict.fromkeys(job.subject for job in jobs)
            }
            benches, texts_of = {}, {}
            for asked, future in answers.items():
                benches[asked] = _bench(origin, questions[asked], future.result(), options)
                if asked in spoken:
                    benches[asked], texts_of[asked] = _divided(benches[asked], spoken[asked])
                progress(f"the reference in {asked.dtype} is there")
            results = []
            for each in plan:
                if isinstance(each, _Job):
                    ids = tokens[each.subject.home].result()
                    rows = (*beside[each.subject].result().rows, *([ids] if ids else []))
                    if each in spared:
                        results.append(_bytes(each.subject, rows))
                        continue
                    ran = runs[each].result()
                    progress(f"{each.subject.name} in {each.runtime.name}: {ran.facts['seconds']:.2f} s")
                    found = conclude(ran, each.subject, each.runtime, benches[each.asked], each.by_name, rows)
                    found = _with_texts(found, ran, each, spoken.get(each.asked), texts_of.get(each.asked))
                    results.append(replace(found, inputs=each.binding.names, static=each.binding.static))
                else:
                    results.append(each)

            def probe(result: Result) -> Probe | None:
                return _probe(result, jobs, benches, origin, where, limits, progress)

            results = dissected(results, probe)
            unseen = {subject: future.result().unseen_ids for subject, future in beside.items()}
            results = _every_id(results, jobs, unseen, benches, origin, where, options, limits, progress)
        if options.latency:
            results = [_timed(result, jobs, benches, origin, where, options, progress) for result in results]
    return Verified(_report(results, benches, origin, options), tuple(benches.values()))


@dataclass(frozen=True, eq=False)
class _Job:
    """One artifact that is run in one runtime; `by_name` where the user named it, `reading` as `texts.reading` says."""

    subject: Subject
    runtime: Runtime | Foreign
    by_name: bool
    binding: Binding
    asked: Asked
    reading: Reading | str | None


def _plan(subject: Subject, origin: Origin, where: str, options: VerifyOptions) -> list[_Job | Result]:
    """What is to be run for a subject, and what is not run and why."""
    chosen = _runtimes(subject, options)
    if not chosen:
        asked = None if options.runtimes else True
        return [_not_run(subject, "none", "no chosen runtime reads this format", asked)]
    binding = bind(subject.signature, origin.inputs)
    asked_for = _asked(subject, binding, origin)
    fed = binding.fed(subject.signature, origin.inputs)
    found: list[_Job | Result] = []
    safe = trusted(subject, options)
    for runtime, by_name in chosen:
        why = _obstacle(subject, fed, runtime, origin.task, where) or (None if safe else _UNTRUSTED)
        counts = by_name or not safe
        if why is None:
            why, counts = binding.problem or origin.obstacle(subject, asked_for, options), True
        if why is None:
            read = reading(subject, runtime, fed, binding.static)
            found.append(_Job(subject, runtime, by_name, binding, asked_for, read))
        else:
            found.append(_not_run(subject, runtime.name, why, counts))
    return found


def _spared(jobs: Sequence[_Job], origin: Origin) -> set[_Job]:
    """Jobs that would compute the reference over again, where it is computed (or cached) for another job anyhow.

    Who names the runtime gets it run.
    """
    needed = {job.asked for job in jobs if job.subject.format != "safetensors"}
    return {
        job
        for job in jobs
        if job.runtime.name == "eager" and not job.by_name and job.asked in needed and origin.repeats(job.subject)
    }


def _bytes(subject: Subject, rows: tuple[Row, ...]) -> Result:
    """The result of weights that are the checkpoint's own, bit for bit: what was compared is in its rows."""
    bad = [f"{row.name}: {row.problem}" for row in rows if not row.passed] + ["nothing was compared"] * (not rows)
    verdict, cause = ("fail", "; ".join(bad)) if bad else ("pass", None)
    return Result(subject.name, subject.format, subject.dtype, "bytes", verdict, outputs=rows, cause=cause, asked=True)


def _asked(subject: Subject, binding: Binding, origin: Origin) -> Asked:
    taken = tuple(spec.name for spec in origin.inputs if spec.name in binding.order)
    return Asked(subject.dtype, taken, tuple(sorted(binding.static.items())), subject.budget is not None)


def _probe(
    result: Result,
    jobs: Sequence[_Job],
    benches: Mapping[Asked, Bench],
    origin: Origin,
    where: str,
    limits: process.Limits,
    progress: Progress,
) -> Probe | None:
    """How to look inside the artifact of a result, in its own runtime or another that can; None where none can."""
    mine = [job for job in jobs if job.subject.name == result.artifact]
    job = next((job for job in mine if job.runtime.name == result.runtime), None)
    able = [r for r in registry().values() if job and r.looks_inside and job.subject.format in r.reads]
    runtime = next((r for r in able if r.missing() is None and where.partition(":")[0] in r.devices), None)
    if job is None or runtime is None:
        return None
    progress(f"{result.artifact}: looking inside {result.first_bad_layer}")
    chosen = replace(job, runtime=runtime)

    def run(cases: Sequence[Case], more: Mapping[str, str]) -> Run:
        return _run(chosen, cases, origin, where, limits, more)

    return Probe(run, benches[job.asked], origin, job.subject.dtype, where, limits)


def _run(
    job: _Job,
    cases: Sequence[Case],
    origin: Origin,
    where: str,
    limits: process.Limits,
    more: Mapping[str, str] | None = None,
    reading: Reading | None = None,
) -> Run:
    """Runs an artifact on the cases, its inputs by its own names in its own order."""
    specs = job.binding.fed(job.subject.signature, origin.inputs)
    fed = [replace(case, inputs=filled(case.inputs, job.binding, specs)) for case in cases]
    signature = Signature(specs, ())
    return run_artifact(job.subject, job.runtime, where, fed, signature, origin.task, limits, more, reading)


def _run_with_texts(
    job: _Job, cases: Sequence[Case], said: Spoken | None, origin: Origin, where: str, limits: process.Limits
) -> Run:
    """Runs an artifact on the cases, and on texts where its runtime takes them."""
    if said is None or not isinstance(job.reading, Reading):
        return _run(job, cases, origin, where, limits)
    return _run(job, [*cases, *said.blank], origin, where, limits, said.metadata, job.reading)


def _with_texts(result: Result, ran: Run, job: _Job, said: Spoken | None, bench: Bench | None) -> Result:
    """A result with what its runner made of texts, or with why it was given none."""
    if job.reading is None or ran.made is None or result.verdict == "not-run":
        return result
    if isinstance(job.reading, str):
        return unheard(result, job.reading)
    if said is None or bench is None:
        return unheard(result, "there is no tokenizer to compare with")
    return with_texts(result, ran.made, job.subject, replace(bench, allowance=job.runtime.allowance), said)


def _divided(bench: Bench, said: Spoken) -> tuple[Bench, Bench]:
    """A bench without the cases of texts, and one of these alone, whose few shapes do not tell what moves."""
    own = replace(bench, reference=only(bench.reference, bench.cases))
    known = replace(only(bench.reference, said.cases), outputs=tuple(own.specs.values()))
    return own, replace(bench, cases=said.cases, reference=known)


def _every_id(
    results: Sequence[Result],
    jobs: Sequence[_Job],
    unseen: Mapping[Subject, int],
    benches: Mapping[Asked, Bench],
    origin: Origin,
    where: str,
    options: VerifyOptions,
    limits: process.Limits,
    progress: Progress,
) -> list[Result]:
    """Results, of which one that passed is asked about every id for each artifact whose embeddings were not recognised.

    `quick` alone leaves ids out. It is the file that is in question, so one runtime is enough.
    """
    made, left = list(results), dict(unseen) if options.cases == "quick" else {}
    for place, result in enumerate(made):
        job = _job_of(result, jobs)
        ids = left.pop(job.subject, 0) if job and result.verdict == "pass" and job.subject.budget is None else 0
        if job is None or ids == 0:
            continue
        progress(f"{result.artifact}: its embeddings do not lie there as in the checkpoint; all {ids:,} ids are run")

        def judged(some: tuple[int, int], job: _Job = job) -> Result:
            asked = replace(job.asked, ids=some)
            cases = origin.cases(asked, options)
            bench = _bench(origin, cases, origin.reference(asked, cases, where, limits, options.cache), options)
            ran = _run(job, cases, origin, where, limits)
            return conclude(ran, job.subject, job.runtime, bench, job.by_name)

        made[place] = with_every_id(result, ids, replace(benches[job.asked], allowance=job.runtime.allowance), judged)
    return made


def _job_of(result: Result, jobs: Sequence[_Job]) -> _Job | None:
    """The job that a result came of."""
    return next((j for j in jobs if (j.subject.name, j.runtime.name) == (result.artifact, result.runtime)), None)


def _timed(
    result: Result,
    jobs: Sequence[_Job],
    benches: Mapping[Asked, Bench],
    origin: Origin,
    where: str,
    options: VerifyOptions,
    progress: Progress,
) -> Result:
    """A result that passed, with how long its runtime takes. Nothing else of bertx runs meanwhile."""
    job = _job_of(result, jobs)
    if job is None or result.verdict != "pass":
        return result
    progress(f"{result.artifact} in {result.runtime}: its latency")
    cases = batches(benches[job.asked].cases)
    made = _run(job, cases, origin, where, options.limits()).made if cases else None
    return replace(result, latency=measured(made.metadata) if made else None)


def _workers(origin: Origin) -> int:
    """How many runners run side by side: two where there are processors and free memory for both."""
    import psutil

    weights = sum(info.nbytes for info in origin.weights.values())
    room = psutil.virtual_memory().available > 2 * (6 * weights + 2**30)
    return 2 if room and (os.cpu_count() or 1) > 1 else 1


@contextmanager
def stoppable(limits: process.Limits, workers: int) -> Iterator[tuple[ThreadPoolExecutor, process.Limits]]:
    """A pool whose runners are ended when the block is left by an exception, an interrupt included."""
    from concurrent.futures import ThreadPoolExecutor

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
    return bench_of(Stock(checkpoint, task), Asked(dtype, inputs), where, options)


def bench_of(origin: Origin, asked: Asked, where: str, options: VerifyOptions) -> Bench:
    """The cases for what is asked, and the right answers to them."""
    cases = origin.cases(asked, options)
    return _bench(origin, cases, origin.reference(asked, cases, where, options.limits(), options.cache), options)


def _bench(origin: Origin, cases: Sequence[Case], reference: Reference, options: VerifyOptions) -> Bench:
    signature, weights = origin.signature(cases), tuple(origin.weights)
    return Bench(cases, reference, signature, origin.task, options.limit, options.limits(), weights, origin.outputs)


def trusted(subject: Subject, options: VerifyOptions) -> bool:
    """Whether loading the file runs no code, or only code that bertx wrote here, or the user trusts it."""
    if subject.format != "torchscript" or options.trust:
        return True
    return trust.known(options.cache, bundle.sha256(subject.path))


def _runtimes(subject: Subject, options: VerifyOptions) -> list[tuple[Runtime | Foreign, bool]]:
    """(runtime, asked for by name) for each that reads the subject's format."""
    named = [runtime_named(name) for name in options.runtimes] or list(registry().values())
    asked = bool(options.runtimes)
    found: list[tuple[Runtime | Foreign, bool]] = [
        (runtime.at(options.cache), asked) for runtime in named if subject.format in runtime.reads
    ]
    return found + [(runner, True) for runner in options.runners if subject.format in runner.reads]


def _obstacle(
    subject: Subject, fed: Sequence[TensorSpec], runtime: Runtime | Foreign, task: str, where: str
) -> str | None:
    """Why a subject, which is fed these inputs, is not run in a runtime; None where it is."""
    lacking = runtime.missing()
    if lacking:
        return f"{NOT_READY}{lacking}"
    if where.partition(":")[0] not in runtime.devices:
        return f"{runtime.name} cannot use {where}"
    if where == "cpu" and subject.dtype in runtime.not_on_cpu:
        return f"{runtime.name} does not run {subject.dtype} on the CPU"
    return _uncarried(subject, fed, runtime) or runtime.refuses(subject.path, task)


def _uncarried(subject: Subject, fed: Sequence[TensorSpec], runtime: Runtime | Foreign) -> str | None:
    """An input or output of a dtype that the runtime's program does not carry, in words; None where it carries all."""
    if subject.signature is None:
        return None
    for word, carried, specs in (
        ("is fed", runtime.takes, fed),
        ("gives", runtime.gives, subject.signature.outputs),
    ):
        other = next((spec for spec in specs if carried is not None and spec.dtype not in carried), None)
        if other is not None:
            return f"its program {word} {', '.join(sorted(carried or ()))}, and {other.name} is {other.dtype}"
    return None


def _not_run(subject: Subject, runtime: str, reason: str, asked: bool | None) -> Result:
    return Result(subject.name, subject.format, subject.dtype, runtime, "not-run", reason=reason, asked=asked)


def _report(
    results: Sequence[Result], benches: Mapping[Asked, Bench], origin: Origin, options: VerifyOptions
) -> Report:
    bench = next(iter(benches.values()), None)
    facts = bench.reference.facts if bench else {}
    cases = {**origin.case_set(bench.cases if bench else (), options), "count": len(bench.cases) if bench else 0}
    told = {name: facts.get(name) for name in ("torch", "transformers", "attention", "pure", "noise")}
    return Report(cases, options.limit, {**origin.told(), **told}, tuple(results), options.allow_static)
