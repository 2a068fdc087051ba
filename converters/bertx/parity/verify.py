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

from bertx.checkpoint import Checkpoint
from bertx.model.tasks import Task
from bertx.parity.binding import IDS, filled
from bertx.parity.cases import Case
from bertx.parity.compare import Row
from bertx.parity.dissection import Probe, dissected
from bertx.parity.every_id import with_every_id
from bertx.parity.judge import Bench, Run, Subject, conclude, run_artifact
from bertx.parity.latency import batches, measured
from bertx.parity.options import VerifyOptions, check_options
from bertx.parity.origin import Asked, Origin, Stock
from bertx.parity.reference import Reference
from bertx.parity.report import Report, Result
from bertx.parity.schedule import Job, job_of, scheduled, spared
from bertx.parity.texts import Spoken, only, unheard, with_texts
from bertx.runtimes import Reading, lookups, process, registry
from bertx.runtimes.lookups import Lookups
from bertx.signature import Signature

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["Verified", "VerifyOptions", "make_bench", "verify_subjects"]

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Verified:
    """A report, and the benches it was made on, for golden cases."""

    report: Report
    benches: tuple[Bench, ...]


@dataclass(frozen=True)
class _Setting:
    """What all runs of one verification share: the reference, the device, the options, and what a runner may use."""

    origin: Origin
    where: str
    options: VerifyOptions
    limits: process.Limits
    progress: Progress


def verify_subjects(
    subjects: Sequence[Subject],
    origin: Origin,
    options: VerifyOptions,
    progress: Progress = lambda line: None,
) -> Verified:
    """Judges every subject in every chosen runtime. A crash of a runner is a verdict, not an exception."""
    where = check_options(options)
    plan: list[Job | Result] = []
    with origin.whole(subjects) as whole:
        for subject in whole:
            plan += scheduled(subject, origin, where, options)
        jobs = [each for each in plan if isinstance(each, Job)]
        again = spared(jobs, origin)
        questions = {asked: origin.cases(asked, options) for asked in dict.fromkeys(job.asked for job in jobs)}
        heard = dict.fromkeys(job.asked for job in jobs if isinstance(job.reading, Reading))
        spoken = {asked: said for asked in heard if (said := origin.spoken(asked, options))}
        workers = _workers(origin)
        progress(f"the reference and {len(jobs) - len(again)} runners, at most {workers} at a time")
        with stoppable(options.limits(), workers) as (pool, limits):
            setting = _Setting(origin, where, options, limits, progress)
            answers = {
                asked: pool.submit(origin.reference, asked, (*cases, *said), where, limits, options.cache)
                for asked, cases in questions.items()
                for said in [spoken[asked].cases if asked in spoken else ()]
            }
            runs = {
                job: pool.submit(_run_with_texts, job, questions[job.asked], spoken.get(job.asked), setting)
                for job in jobs
                if job not in again
            }
            tokens = {
                home: pool.submit(origin.tokens, home, options, limits)
                for home in dict.fromkeys(job.subject.home for job in jobs)
            }
            beside = {
                subject: pool.submit(origin.beside, subject, options.limit)
                for subject in dict.fromkeys(job.subject for job in jobs)
            }
            benches, texts_of, read = {}, {}, dict[Subject, Lookups | None]()
            for asked, future in answers.items():
                benches[asked] = _bench(origin, questions[asked], future.result(), options)
                if asked in spoken:
                    benches[asked], texts_of[asked] = _divided(benches[asked], spoken[asked])
                progress(f"the reference in {asked.dtype} is there")
            results = []
            for each in plan:
                if isinstance(each, Job):
                    ids = tokens[each.subject.home].result()
                    rows = (*beside[each.subject].result().rows, *([ids] if ids else []))
                    if each in again:
                        results.append(_bytes(each.subject, rows))
                        continue
                    ran = runs[each].result()
                    read[each.subject] = read.get(each.subject) or ran.lookups
                    progress(f"{each.subject.name} in {each.runtime.name}: {ran.facts['seconds']:.2f} s")
                    found = conclude(ran, each.subject, each.runtime, benches[each.asked], each.by_name, rows)
                    found = _with_texts(found, ran, each, spoken.get(each.asked), texts_of.get(each.asked))
                    unasked = origin.unasked(questions[each.asked], each.asked, options) if ran.made else None
                    found = replace(found, unjudged=(*found.unjudged, *([unasked] if unasked else [])))
                    results.append(replace(found, inputs=each.binding.names, static=each.binding.static))
                else:
                    results.append(each)

            def probe(result: Result) -> Probe | None:
                return _probe(result, jobs, benches, setting)

            results = dissected(results, probe)
            held = {asked: _held_ids(cases) for asked, cases in questions.items()}

            def seen(job: Job) -> bool:
                return beside[job.subject].result().ids_seen(held[job.asked], read.get(job.subject))

            unseen = [job.subject for job in jobs if not seen(job)]
            results = _every_id(results, jobs, unseen, benches, setting)
        if options.latency:
            alone = replace(setting, limits=options.limits())
            results = [_timed(result, jobs, benches, alone) for result in results]
    return Verified(_report(results, benches, origin, options), tuple(benches.values()))


def _bytes(subject: Subject, rows: tuple[Row, ...]) -> Result:
    """The result of weights that are the checkpoint's own, bit for bit: what was compared is in its rows."""
    bad = [f"{row.name}: {row.problem}" for row in rows if not row.passed] + ["nothing was compared"] * (not rows)
    verdict, cause = ("fail", "; ".join(bad)) if bad else ("pass", None)
    return Result(subject.name, subject.format, subject.dtype, "bytes", verdict, outputs=rows, cause=cause, asked=True)


def _probe(result: Result, jobs: Sequence[Job], benches: Mapping[Asked, Bench], setting: _Setting) -> Probe | None:
    """How to look inside the artifact of a result, in its own runtime or another that can; None where none can."""
    job = job_of(result, jobs)
    able = [r for r in registry().values() if job and r.looks_inside and job.subject.format in r.reads]
    device = setting.where.partition(":")[0]
    runtime = next((r for r in able if r.missing() is None and device in r.devices), None)
    if job is None or runtime is None:
        return None
    setting.progress(f"{result.artifact}: looking inside {result.first_bad_layer or 'its layers'}")
    chosen = replace(job, runtime=runtime)

    def run(cases: Sequence[Case], more: Mapping[str, str]) -> Run:
        return _run(chosen, cases, setting, more)

    return Probe(run, benches[job.asked], setting.origin, job.subject.dtype, setting.where, setting.limits)


def _run(
    job: Job,
    cases: Sequence[Case],
    setting: _Setting,
    more: Mapping[str, str] | None = None,
    reading: Reading | None = None,
) -> Run:
    """Runs an artifact on the cases, its inputs by its own names in its own order."""
    specs = job.binding.fed(job.subject.signature, setting.origin.inputs)
    fed = [replace(case, inputs=filled(case.inputs, job.binding, specs)) for case in cases]
    signature, task = Signature(specs, ()), setting.origin.task
    return run_artifact(job.subject, job.runtime, setting.where, fed, signature, task, setting.limits, more, reading)


def _held_ids(cases: Sequence[Case]) -> frozenset[int]:
    """The token ids that some case holds."""
    return frozenset(int(each) for case in cases for row in case.inputs.get(IDS, ()) for each in row)


def _run_with_texts(job: Job, cases: Sequence[Case], said: Spoken | None, setting: _Setting) -> Run:
    """Runs an artifact on the cases, and on texts where its runtime takes them; asks where its ids go."""
    asked = {lookups.KEY: job.binding.ids} if job.binding.ids else {}
    if said is None or not isinstance(job.reading, Reading):
        return _run(job, cases, setting, asked)
    return _run(job, [*cases, *said.blank], setting, {**asked, **said.metadata}, job.reading)


def _with_texts(result: Result, ran: Run, job: Job, said: Spoken | None, bench: Bench | None) -> Result:
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
    jobs: Sequence[Job],
    unseen: Sequence[Subject],
    benches: Mapping[Asked, Bench],
    setting: _Setting,
) -> list[Result]:
    """Results, of which those that passed and need it were also asked about every id."""
    made, ids = list(results), setting.origin.ids()
    for place, job in _in_need(results, jobs, unseen, setting.options) if ids else ():
        setting.progress(f"{job.subject.name} in {job.runtime.name}: all {ids:,} token ids")

        def judged(some: tuple[int, int], job: Job = job) -> Result:
            asked = replace(job.asked, ids=some)
            bench = bench_of(setting.origin, asked, setting.where, setting.options, setting.limits)
            ran = _run(job, bench.cases, setting)
            return conclude(ran, job.subject, job.runtime, bench, job.by_name)

        bench = replace(benches[job.asked], allowance=job.runtime.allowance)
        made[place] = with_every_id(made[place], ids, bench, judged)
    return made


def _in_need(
    results: Sequence[Result], jobs: Sequence[Job], unseen: Sequence[Subject], options: VerifyOptions
) -> Iterator[tuple[int, Job]]:
    """The places of results that are to be asked about every id: with `full` all that passed.

    With `quick`, it is artifacts whose embeddings were not recognised that are in question: one runtime is enough.
    """
    left = set(unseen)
    for place, result in enumerate(results):
        job = job_of(result, jobs)
        if job is None or result.verdict != "pass" or job.subject.budget is not None:
            continue
        if options.cases == "full" or (options.cases == "quick" and job.subject in left):
            left.discard(job.subject)
            yield place, job


def _timed(result: Result, jobs: Sequence[Job], benches: Mapping[Asked, Bench], setting: _Setting) -> Result:
    """A result that passed, with how long its runtime takes. Nothing else of bertx runs meanwhile."""
    job = job_of(result, jobs)
    if job is None or result.verdict != "pass":
        return result
    setting.progress(f"{result.artifact} in {result.runtime}: its latency")
    cases = batches(benches[job.asked].cases)
    alone = {"threads": str(os.cpu_count() or 1)}
    made = _run(job, cases, setting, alone).made if cases else None
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


def bench_of(
    origin: Origin, asked: Asked, where: str, options: VerifyOptions, limits: process.Limits | None = None
) -> Bench:
    """The cases for what is asked, and the right answers to them, computed within `limits` or those of the options."""
    cases = origin.cases(asked, options)
    answers = origin.reference(asked, cases, where, limits or options.limits(), options.cache)
    return _bench(origin, cases, answers, options)


def _bench(origin: Origin, cases: Sequence[Case], reference: Reference, options: VerifyOptions) -> Bench:
    signature, weights = origin.signature(cases), tuple(origin.weights)
    return Bench(cases, reference, signature, origin.task, options.limit, options.limits(), weights, origin.outputs)


def _report(
    results: Sequence[Result], benches: Mapping[Asked, Bench], origin: Origin, options: VerifyOptions
) -> Report:
    bench = next(iter(benches.values()), None)
    facts = bench.reference.facts if bench else {}
    cases = {**origin.case_set(bench.cases if bench else (), options), "count": len(bench.cases) if bench else 0}
    told = {name: facts.get(name) for name in ("torch", "transformers", "attention", "pure", "noise")}
    return Report(cases, options.limit, {**origin.told(), **told}, tuple(results), options.allow_static)
