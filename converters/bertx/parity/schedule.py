"""What is to be run: each artifact in each runtime that reads it, or why it is not run there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import bertx.bundle as bundle
from bertx.parity.binding import Binding, bind
from bertx.parity.judge import Subject
from bertx.parity.options import VerifyOptions
from bertx.parity.origin import Asked, Origin
from bertx.parity.report import NOT_READY, Result
from bertx.parity.texts import reading
from bertx.runtimes import Foreign, Reading, Runtime, registry, runtime_named, trust
from bertx.signature import TensorSpec

_UNTRUSTED = "TorchScript runs code, and bertx did not write this file here; add --trust"


@dataclass(frozen=True, eq=False)
class Job:
    """One artifact that is run in one runtime; `by_name` where the user named it, `reading` as `texts.reading` says."""

    subject: Subject
    runtime: Runtime | Foreign
    by_name: bool
    binding: Binding
    asked: Asked
    reading: Reading | str | None


def scheduled(subject: Subject, origin: Origin, where: str, options: VerifyOptions) -> list[Job | Result]:
    """What is to be run for a subject, and what is not run and why."""
    chosen = _runtimes(subject, options)
    if not chosen:
        asked = None if options.runtimes else True
        return [_not_run(subject, "none", "no chosen runtime reads this format", asked)]
    binding = bind(subject.signature, origin.inputs)
    asked_for = _asked(subject, binding, origin)
    fed = binding.fed(subject.signature, origin.inputs)
    found: list[Job | Result] = []
    safe = trusted(subject, options)
    for runtime, by_name in chosen:
        why = _obstacle(subject, fed, runtime, origin.task, where) or (None if safe else _UNTRUSTED)
        counts = by_name or not safe
        if why is None:
            why, counts = binding.problem or origin.obstacle(subject, asked_for, options), True
        if why is None:
            read = reading(subject, runtime, fed, binding.static)
            found.append(Job(subject, runtime, by_name, binding, asked_for, read))
        else:
            found.append(_not_run(subject, runtime.name, why, counts))
    return found


def spared(jobs: Sequence[Job], origin: Origin) -> set[Job]:
    """Jobs that would compute the reference over again, where it is computed (or cached) for another job anyhow.

    Who names the runtime gets it run.
    """
    needed = {job.asked for job in jobs if job.subject.format != "safetensors"}
    return {
        job
        for job in jobs
        if job.runtime.name == "eager" and not job.by_name and job.asked in needed and origin.repeats(job.subject)
    }


def _asked(subject: Subject, binding: Binding, origin: Origin) -> Asked:
    taken = tuple(spec.name for spec in origin.inputs if spec.name in binding.order)
    return Asked(subject.dtype, taken, tuple(sorted(binding.static.items())), subject.budget is not None)


def job_of(result: Result, jobs: Sequence[Job]) -> Job | None:
    """The job that a result came of."""
    return next((j for j in jobs if (j.subject.name, j.runtime.name) == (result.artifact, result.runtime)), None)


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
