"""The whole flow: fetch a checkpoint, export it, verify a bundle. The commands are thin over these."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import bertx.bundle as bundle
from bertx import exchange
from bertx.background import Background
from bertx.checkpoint import Checkpoint, FetchOptions, fetch, of_bundle, open_folder
from bertx.checkpoint.hub import check_id
from bertx.checkpoint.tensors import parameters
from bertx.errors import BertxError, InputRefused, UsageError, escape
from bertx.formats import ExportOptions, Format, Written, format_named
from bertx.manifest import ArtifactEntry, Manifest
from bertx.model.completeness import is_complete
from bertx.model.head import HeadOptions, check_head, headed
from bertx.model.tasks import Task, resolve_task, task_named
from bertx.model.wrapper import default_outputs
from bertx.parity.compare import Compared, pool
from bertx.parity.options import VerifyOptions, check_options
from bertx.parity.report import Report, Result
from bertx.runtimes import process, runtime_named, trust
from bertx.staging import begin, default_output, refuse_overlap
from bertx.tokenizer.writer import Made

# What judges is imported where that is done: a copy of weights, which needs none of it, takes half a second.
if TYPE_CHECKING:
    from bertx.parity.judge import Subject
    from bertx.parity.origin import Origin
    from bertx.parity.recording import Recording
    from bertx.parity.target import Target

__all__ = ["Export", "TokenizerExport", "Verification", "export", "fetch", "tokenizer", "verify"]

Progress = Callable[[str], None]


def silent(_line: str) -> None:
    """The default progress: none."""


@dataclass(frozen=True)
class Export:
    """A published bundle, what was written into it and the report that let it be published."""

    folder: Path
    manifest: Manifest
    written: tuple[str, ...]
    report: Report
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenizerExport:
    """A published bundle, and what was made of the checkpoint's tokenizer in it."""

    folder: Path
    manifest: Manifest
    made: Made


@dataclass(frozen=True)
class Verification:
    """A report, and the names of files whose bytes are not those that the manifest lists.

    What is asked of a report most can be asked of it, too.
    """

    report: Report
    changed: tuple[str, ...]

    @property
    def verdict(self) -> str:
        return self.report.verdict

    @property
    def results(self) -> tuple[Result, ...]:
        return self.report.results

    def error(self) -> BertxError | None:
        """What the command would have ended with; None where everything passed."""
        return self.report.error()

    def to_json(self) -> dict[str, Any]:
        """bertx.report/1."""
        return self.report.to_json()


def check(source: str, output: str | Path | None, task: str | None, verify: VerifyOptions | None) -> None:
    """Refuses what can be refused of an export before its checkpoint is downloaded. Raises what `export` would."""
    if task not in (None, "auto"):
        task_named(str(task))
    if verify is not None:
        check_options(verify)
    if not exchange.named(source).exists():
        check_id(source)
        bundle.check_place(exchange.meant(output or source.rpartition("/")[2]))  # as `default_output` will have it


def export(
    checkpoint: Checkpoint | str,
    formats: Sequence[str | tuple[str, ExportOptions]],
    output: str | Path | None = None,
    *,
    task: str | None = None,
    options: ExportOptions | None = None,
    verify: VerifyOptions | None = VerifyOptions(),  # noqa: B008 - frozen
    dictionary: str | None = None,
    force: bool = False,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Export:
    """Writes artifacts into a bundle and publishes it once every one of them was compared and passed.

    A format stands alone, with `options`, or in a pair with options of its own. `verify` None publishes without a
    comparison; `dictionary` is the MeCab dictionary of a Japanese tokenizer whose files name none; `cache` is where it
    is remembered which TorchScript files bertx wrote. Raises BertxError; of a failed comparison it carries `report`,
    and the output is as it was.
    """
    source = fetch(checkpoint) if isinstance(checkpoint, str) else checkpoint
    wanted = [(each, options or ExportOptions()) if isinstance(each, str) else each for each in formats]
    leaves = [(format_named(name), chosen_options) for name, chosen_options in wanted]
    chosen = resolve_task(task, source.config.architectures, source.folder)
    folder = exchange.meant(output) if output is not None else default_output(source)
    refuse_overlap(source, folder)
    if verify is not None:
        check_options(verify)
    heads = [each.head for _, each in leaves if each.head is not None]
    _check_head(heads, leaves, chosen, output)
    limits, remembered = (verify or VerifyOptions()).limits(), cache or (verify or VerifyOptions()).cache
    with (
        begin(source, chosen, folder, force, dictionary) as begun,
        _with_head(source, chosen, heads, verify) as model,
    ):
        staged, tokens = begun.staged, Background(lambda: begun.make_tokens(limits, remembered))
        begun.bring(model)
        removed: set[str] = set()
        entries: list[ArtifactEntry] = []
        for leaf, each in leaves:
            path = leaf.file_name(each)
            progress(f"writing {path}")
            left = [name for pattern in leaf.replaces(path) for name in staged.matching(pattern)]
            for name in left:
                staged.remove(name)
            removed |= {*left} - {path}
            with bundle.disk_errors():
                written = leaf.write(model, chosen, each, staged.path(path))
            for name, digest in written.digests.items():
                staged.vouch((PurePosixPath(path).parent / name).as_posix(), digest)
            entries.append(_entry(path, leaf.name, chosen, written))
        made = tokens.result()
        for change in begun.stage_tokens(made):
            progress(change)
        report = _judge(entries, staged.folder, model, chosen, verify, progress, staged)
        kept = tuple(entry for entry in begun.kept if entry.path not in removed)
        manifest = begun.manifest(chosen, kept, made)
        for entry in entries:
            manifest = manifest.with_artifact(replace(entry, report=report.only(entry.path).to_json()))
        progress("publishing")
        published = staged.publish(manifest)
    warnings = remember(published, entries, remembered)
    return Export(folder.resolve(), published, tuple(entry.path for entry in entries), report, warnings)


def tokenizer(
    checkpoint: Checkpoint | str,
    output: str | Path | None = None,
    *,
    task: str | None = None,
    dictionary: str | None = None,
    force: bool = False,
    limits: process.Limits | None = None,
    cache: Path | None = None,
) -> TokenizerExport:
    """Writes a checkpoint's tokenizer into a bundle: tokenizer.json, golden tokens and what older readers need.

    `dictionary` is the MeCab dictionary of a Japanese tokenizer whose files name none; later exporters into the same
    bundle keep to it. Raises InputRefused(E_TOKENIZER) where there is no tokenizer, or none that can be written so.
    """
    source = fetch(checkpoint) if isinstance(checkpoint, str) else checkpoint
    chosen = resolve_task(task, source.config.architectures, source.folder)
    folder = exchange.meant(output) if output is not None else default_output(source)
    refuse_overlap(source, folder)
    with begin(source, chosen, folder, force, dictionary) as begun:
        made = begun.make_tokens(limits or process.Limits(), cache)
        if made is None:
            what = f"{escape(source.source)} has no tokenizer"
            raise InputRefused("E_TOKENIZER", what, "put tokenizer.json or its vocabulary beside config.json")
        begun.bring(source)
        begun.stage_tokens(made)
        published = begun.staged.publish(begun.manifest(chosen, begun.kept, made))
    return TokenizerExport(folder.resolve(), published, made)


def verify(
    subject: Export | str | Path,
    against: Checkpoint | str | Path | None = None,
    *,
    task: str | None = None,
    options: VerifyOptions | None = None,
    device: str | None = None,
    fetching: FetchOptions | None = None,
    progress: Progress = silent,
) -> Verification:
    """Compares every artifact of a bundle, folder or file with eager PyTorch, or with golden cases.

    `against` is a checkpoint, or the folder of a recording; default what the bundle was made from. Writes nothing.

    Raises BertxError where nothing can be compared at all; what was compared and is wrong is in the report.
    """
    from bertx.parity import own, target
    from bertx.parity.schedule import trusted
    from bertx.parity.verify import verify_subjects

    options = options or VerifyOptions()
    options = replace(options, device=device) if device is not None else options
    check_options(options)
    found = target.find(str(subject.folder if isinstance(subject, Export) else subject))
    origin = _reference(found, against, task, options, fetching)
    subjects = target.subjects(found, origin, options.dtype, options.budget)
    if found.alone and not trusted(subjects[0], options):
        what = f"{found.files[0]} would run code, and bertx did not write it here"
        raise InputRefused("E_UNTRUSTED", escape(what), "add --trust if you trust its author")
    changed = Background(lambda: tuple(target.changed(found)))
    run, kept = own.without_weights(found, subjects, options.limit) if against is None else (subjects, [])
    report = verify_subjects(run, origin, options, progress).report
    return Verification(replace(report, results=(*kept, *report.results)), changed.result())


def _reference(
    found: Target,
    against: Checkpoint | str | Path | None,
    task: str | None,
    options: VerifyOptions,
    fetching: FetchOptions | None,
) -> Origin:
    """What to compare with: golden cases that somebody recorded, a checkpoint, or the one that a bundle names."""
    from bertx.parity import own, target
    from bertx.parity.origin import Stock
    from bertx.parity.recording import Recording, holds_recording

    recorded = exchange.named(str(against)) if isinstance(against, str | Path) else None
    if recorded is not None and holds_recording(recorded):
        return _fitting(Recording(recorded), task, options)
    if against is None and found.home is not None and own.is_own(found.manifest):
        return _fitting(own.recorded(found.home, found.manifest), task, options)
    if isinstance(against, Checkpoint):
        source = against
    elif against is not None:
        source = fetch(str(against), fetching)
    else:
        source = of_bundle(target.require_reference(found), fetching or FetchOptions())
    chosen = resolve_task(task or target.stated_task(found), source.config.architectures, source.folder)
    return Stock(source, chosen)


def _fitting(recording: Recording, task: str | None, options: VerifyOptions) -> Recording:
    """The recording, which brings its own task and cases. Raises UsageError where others are asked for."""
    other = task not in (None, "auto", recording.task) and f"the recording is of {recording.task}, not of {task}"
    cases = (options.cases != "quick" or bool(options.texts)) and "a recording brings its own cases"
    if other or cases:
        raise UsageError("E_USAGE", escape(other or cases), "leave the option out, or name a checkpoint")
    return recording


def _check_head(
    heads: Sequence[HeadOptions], leaves: Sequence[tuple[Format, ExportOptions]], task: Task, output: str | Path | None
) -> None:
    for head in heads:
        check_head(task, head)
        if any(options.dtype is not None or leaf.name != "safetensors" for leaf, options in leaves):
            hint = "export to safetensors without --dtype; then others from that bundle"
            raise UsageError("E_USAGE", "a new head goes into unchanged safetensors only", hint)
        if len(leaves) > 1 or output is None:
            hint = "export to safetensors alone, with -o; then the other formats from that bundle"
            raise UsageError("E_USAGE", "a new head makes a new checkpoint, which needs a folder of its own", hint)


@contextmanager
def _with_head(
    source: Checkpoint, task: Task, heads: Sequence[HeadOptions], options: VerifyOptions | None
) -> Iterator[Checkpoint]:
    """The checkpoint as it will be written: with a new head, where one is asked for."""
    if not heads:
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="bertx-") as folder:
        numbers = (str(heads[0].labels), str(heads[0].seed))
        _strictly("bertx.model.head", (str(source.folder), task.name, *numbers, folder), options)
        yield headed(source, Path(folder), heads[0])


def _entry(path: str, name: str, task: Task, written: Written) -> ArtifactEntry:
    options = dict(written.options)
    return ArtifactEntry(
        path, name, written.dtype, task.name, written.signature, written.taps, options, written.versions, None
    )


def _judge(
    entries: Sequence[ArtifactEntry],
    folder: Path,
    source: Checkpoint,
    task: Task,
    options: VerifyOptions | None,
    progress: Progress,
    staged: bundle.Stage,
) -> Report:
    """The report on staged artifacts. Raises, with the report, where one of them did not pass.

    Unchanged weights were read back bit for bit by their writer, so they are computed with only in runtimes that were
    asked for by name; a strict load of the checkpoint in a process of its own makes sure that they are complete.
    """
    named = frozenset(options.runtimes) if options else frozenset()
    read = any("safetensors" in runtime_named(name).reads for name in named)
    copied = [] if read else [entry for entry in entries if entry.options.get("bytes") == "unchanged"]
    renamed = any(entry.options.get(key) for entry in entries for key in ("aliases", "names", "initialised"))
    if copied and (renamed or len(copied) == len(entries)):
        progress("checking that the weights are complete")
        # As they were written: under other names, or without aliases, where these differ from the source.
        _check_strictly(open_folder(folder) if renamed else source, task, options)
    if options is None:
        unread = tuple(_result(entry, "none", "not-run", "--no-verify") for entry in entries)
        return Report({"set": "none", "count": 0, "seed": 0}, 1.0, _told(source), unread)
    same = tuple(_same_bytes(entry, source, options.limit) for entry in copied)
    if len(same) == len(entries):
        return Report({"set": "bytes", "count": len(same), "seed": 0}, options.limit, _told(source), same)
    from bertx.parity import golden, target
    from bertx.parity.origin import Stock
    from bertx.parity.verify import verify_subjects

    subjects = [_subject(entry, folder, source, task) for entry in entries if entry not in copied]
    subjects = [replace(s, budget=options.budget) if options.budget and target.quantized(s) else s for s in subjects]
    trusting = replace(options, trust=True)  # these files were written a moment ago, by this process
    judged = verify_subjects(subjects, Stock(source, task), trusting, progress)
    report = replace(judged.report, results=(*same, *judged.report.results))
    error = report.error()
    if error is not None:
        error.report = report
        raise error
    plain = next((bench for bench in judged.benches if subjects[0].dtype == "float32"), None)
    if plain is not None:
        names = tuple(n for n in dict.fromkeys((*default_outputs(source, task), task.torchscript)) if n in plain.specs)
        told = {"checkpoint": source.source, "commit": source.commit}
        golden.write(plain, names, lambda name: staged.path(f"{golden.FOLDER}/{name}"), source=told)
    return report


def _subject(entry: ArtifactEntry, folder: Path, source: Checkpoint, task: Task) -> Subject:
    from bertx.parity.judge import Subject

    outputs = tuple(spec.name for spec in entry.signature.outputs) if entry.signature else default_outputs(source, task)
    path = folder / entry.path
    return Subject(path, entry.path, entry.format, entry.dtype, entry.signature, outputs, folder)


def _check_strictly(source: Checkpoint, task: Task, options: VerifyOptions | None) -> None:
    if is_complete(source, task):
        return
    _strictly("bertx.model.check", (str(source.folder), task.name), options)


def _strictly(program: str, arguments: Sequence[str], options: VerifyOptions | None) -> None:
    """Runs one of the programs that load a checkpoint, and raises what it refused."""
    command = [sys.executable, "-P", "-m", program, *arguments]
    ended = process.run(command, (options or VerifyOptions()).limits())
    if ended.reason is None:
        return
    why = f"the checkpoint cannot be loaded: {ended.reason}"
    raise process.refusal(ended) or InputRefused("E_WEIGHTS", why, "check config.json and weights")


def _told(source: Checkpoint) -> dict[str, object]:
    unknown = dict.fromkeys(("torch", "transformers", "attention", "pure", "noise"))
    return {"checkpoint": source.source, "commit": source.commit, "origin": source.origin, **unknown}


def _result(entry: ArtifactEntry, runtime: str, verdict: str, reason: str | None) -> Result:
    return Result(entry.path, entry.format, entry.dtype, runtime, verdict, reason=reason, asked=True)


def _same_bytes(entry: ArtifactEntry, source: Checkpoint, limit: float) -> Result:
    """The row of weights that were read back and compared bit for bit."""
    count = parameters(source.weights.values())
    same = Compared("bytes", count, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, ())
    return replace(_result(entry, "bytes", "pass", None), outputs=(pool("weights", [same], entry.dtype, limit),))


def remember(published: Manifest, entries: Sequence[ArtifactEntry], cache: Path) -> tuple[str, ...]:
    """Notes in the cache which TorchScript files bertx wrote; what is to be known where that cannot be."""
    written = [entry.path for entry in entries if entry.format == "torchscript"]
    lost = [path for path in written if not trust.remember(cache, published.files[path].sha256)]
    return tuple(f"{cache} cannot be written, so that {path} will need --trust" for path in lost)
