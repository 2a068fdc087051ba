"""export_module: any nn.Module into a bundle, judged as checkpoints are, with its golden cases as the reference."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bertx
import bertx.bundle as bundle
import bertx.manifest as manifests
from bertx import exchange
from bertx.api import Export, Progress, remember, silent
from bertx.errors import InputRefused, UsageError, escape
from bertx.formats import ExportOptions, Format, Written, format_named
from bertx.manifest import MODULE, ArtifactEntry, FileEntry, Manifest, Source
from bertx.model.plain import Plain, samples_for_export, source, take
from bertx.parity import golden
from bertx.parity.judge import Subject
from bertx.parity.options import VerifyOptions, check_options
from bertx.parity.origin import Asked
from bertx.parity.own import Own, is_own, same_bytes
from bertx.parity.plain import Answers, array, ask, check_coverage
from bertx.parity.report import Report, Result
from bertx.parity.verify import bench_of, verify_subjects
from bertx.runtimes import device
from bertx.signature import TensorSpec

if TYPE_CHECKING:
    import torch

__all__ = ["export_module"]


def export_module(
    module: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    output: str | Path,
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    formats: Sequence[str] = ("safetensors", "torchscript", "onnx"),
    outputs: Sequence[str] | None = None,
    output_name: str | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    options: ExportOptions | None = None,
    verify: VerifyOptions | None = VerifyOptions(),  # noqa: B008 - frozen
    force: bool = False,
    progress: Progress = silent,
) -> Export:
    """Writes any nn.Module into a bundle and publishes it once every artifact was compared with it and passed.

    `inputs` is a sample of each input by name, in order: the names of forward's parameters, or names of your own.
    `dynamic` says which axes move, {input: {axis: name}}; axes of one name have one size. `outputs` names what forward
    gives, in order (default: its keys, fields or places), `output_name` the one that TorchScript gives. `ranges` are
    the values that an input may have, {input: (lowest, highest)}; default those of the sample. The module is copied,
    exported in eval mode at its own dtype, and stays as it is.

    Raises BertxError; of a failed comparison it carries `report`, and the output is as it was. Where `force` is false,
    so does an output that holds another module, other weights or other cases.
    """
    how = verify or VerifyOptions(device="cpu")
    folder = exchange.meant(output)
    bundle.check_place(folder)
    where = check_options(how) if verify else device.resolve("cpu")
    chosen = options or ExportOptions()
    _check(formats, chosen)
    leaves = [format_named(name) for name in formats]
    plain = take(module, inputs, dynamic or {}, outputs)
    progress("asking the module")
    answers = ask(plain, ranges or {}, str(how.cases), how.seed, where)
    if answers.left_out:
        progress(f"the module gives no finite numbers in {', '.join(answers.left_out)}")
    one = _one_output(plain, answers, output_name, formats)
    origin = Own(plain, answers)
    manifest = Manifest(bertx.__version__, _source(plain, answers), MODULE, plain.name, (), {})
    old = manifests.read(folder) if bundle.is_bundle(folder) else None
    replaced = old is not None and _differs(old, manifest, force)
    with bundle.stage(folder, replace=replaced) as staged:
        if staged.old is not None and not replaced:
            _differs(staged.old, manifest, False)  # another writer was there
            manifest = replace(manifest, artifacts=staged.old.artifacts)
        _record(origin, answers, how, staged)
        entries = []
        for leaf in leaves:
            path = leaf.file_name(chosen)
            progress(f"writing {path}")
            staged.remove(f"{path}_data")
            entries.append(_write(leaf, plain, answers, one, chosen, staged, path))
        report = _judge(entries, staged.folder, origin, verify, progress)
        for entry in entries:
            manifest = manifest.with_artifact(replace(entry, report=report.only(entry.path).to_json()))
        progress("publishing")
        published = staged.publish(manifest)
    warnings = remember(published, entries, how.cache)
    return Export(folder.resolve(), published, tuple(entry.path for entry in entries), report, warnings)


def _check(formats: Sequence[str], chosen: ExportOptions) -> None:
    if not formats or isinstance(formats, str):
        raise UsageError("E_USAGE", "formats names none", 'write formats=["safetensors", "torchscript", "onnx"]')
    if chosen.dtype is not None or chosen.output_names:
        what = "a module is exported as it is, at its own dtype, with all that it gives"
        raise UsageError("E_USAGE", what, "convert it before (module.half()), and use output_name for TorchScript")


def _one_output(plain: Plain, answers: Answers, asked: str | None, formats: Sequence[str]) -> TensorSpec:
    """The output that a format of one tensor gives: the one asked for, else the only one. Raises UsageError."""
    named = {spec.name: spec for spec in answers.outputs}
    offered = ", ".join(named)
    if asked is not None and asked not in named:
        raise UsageError("E_USAGE", f"{plain.name} gives no {escape(asked)}", f"it gives {offered}")
    if asked is None and len(named) > 1 and "torchscript" in formats:
        what = f"TorchScript gives one tensor, and {plain.name} gives {offered}"
        raise UsageError("E_USAGE", what, "say which: output_name=…, or leave torchscript out of formats")
    return named[asked or answers.outputs[0].name]


def _source(plain: Plain, answers: Answers) -> Source:
    """What the bundle is of: a module by its class, its weights and its cases by their hash."""
    weights = {name: array(value) for name, value in plain.module.state_dict().items()}
    cases = {f"{case.name}/{name}": value for case in answers.cases for name, value in case.inputs.items()}
    return Source(plain.name, None, None, {"state_dict": _digest(weights), "cases": _digest(cases)})


def _digest(arrays: Mapping[str, Any]) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    for name, value in sorted(arrays.items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
        size += value.nbytes
    return FileEntry(digest.hexdigest(), size)


def _differs(old: Manifest, new: Manifest, force: bool) -> bool:
    """Whether a bundle is of something else: it is replaced by force, else InputRefused is raised."""
    if is_own(old) and (old.source, old.head) == (new.source, new.head):
        return False
    if not force:
        other = "other weights or cases of " if is_own(old) and old.head == new.head else ""
        holds = f"the output holds {other}{escape(old.source.checkpoint)}"
        raise InputRefused("E_BUNDLE_MISMATCH", holds, "name another output, or replace it with force=True")
    return True


def _record(origin: Own, answers: Answers, options: VerifyOptions, staged: bundle.Stage) -> None:
    """Writes the golden cases. Raises InputRefused where too few fit to be the reference from now on."""
    bench = bench_of(origin, Asked(answers.dtype, tuple(spec.name for spec in origin.inputs)), "cpu", options)
    told = {"checkpoint": origin.plain.name, "commit": None}

    def place(name: str) -> Path:
        return staged.path(f"{golden.FOLDER}/{name}")

    kept = golden.fitting(bench, origin.outputs)
    still = check_coverage(origin.plain, [case for case in answers.cases if case.name in kept])
    if still is not None:
        what = f"golden cases of {escape(still)} do not fit in {golden.MOST // 2**20} MiB, and they are the reference"
        raise InputRefused("E_CASES", what, "give smaller samples, with more of their axes in dynamic")
    with bundle.disk_errors():
        golden.write(bench, origin.outputs, place, dtype=answers.dtype, source=told)


def _write(
    leaf: Format,
    plain: Plain,
    answers: Answers,
    one: TensorSpec,
    chosen: ExportOptions,
    staged: bundle.Stage,
    path: str,
) -> ArtifactEntry:
    outputs = (one,) if leaf.name == "torchscript" else answers.outputs
    made = source(plain, outputs, answers.dtype, samples_for_export(plain))
    with bundle.disk_errors():
        written = leaf.write_module(made, chosen, staged.path(path))
    return _entry(path, leaf.name, written)


def _entry(path: str, name: str, written: Written) -> ArtifactEntry:
    recorded = dict(written.options)
    return ArtifactEntry(
        path, name, written.dtype, MODULE, written.signature, written.taps, recorded, written.versions, None
    )


def _judge(
    entries: Sequence[ArtifactEntry],
    folder: Path,
    origin: Own,
    options: VerifyOptions | None,
    progress: Progress,
) -> Report:
    """The report on staged artifacts. Raises, with the report, where one of them did not pass."""
    told = {**origin.told(), **{k: origin.answers.reference.facts.get(k) for k in _FACTS}}
    if options is None:
        unread = tuple(_not_run(entry) for entry in entries)
        return Report({"set": "none", "count": 0, "seed": 0}, 1.0, told, unread)
    subjects = [_subject(entry, folder, origin) for entry in entries]
    copied = [s for s in subjects if s.signature is None]
    same = tuple(same_bytes(subject, options.limit) for subject in copied)
    run = [s for s in subjects if s not in copied]
    if not run:
        return Report({"set": "bytes", "count": len(same), "seed": 0}, options.limit, told, same)
    # These files were written a moment ago, by this process.
    judged = verify_subjects(run, origin, replace(options, trust=True), progress)
    report = replace(judged.report, results=(*same, *judged.report.results))
    error = report.error()
    if error is not None:
        error.report = report
        raise error
    return report


_FACTS = ("torch", "transformers", "attention", "pure", "noise")


def _not_run(entry: ArtifactEntry) -> Result:
    return Result(entry.path, entry.format, entry.dtype, "none", "not-run", reason="--no-verify", asked=True)


def _subject(entry: ArtifactEntry, folder: Path, origin: Own) -> Subject:
    outputs = tuple(spec.name for spec in entry.signature.outputs) if entry.signature else origin.outputs
    return Subject(folder / entry.path, entry.path, entry.format, entry.dtype, entry.signature, outputs, folder)
