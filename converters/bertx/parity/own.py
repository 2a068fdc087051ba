"""A plain module as the origin of a reference: its cases are made and answered before, by whoever has the module.

Once it is exported the golden cases stand for it, since nobody else can load it. Its weights alone run nowhere but in
the user's own program: they are compared bit for bit when they are written, and by their hash from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import bertx.bundle as bundle
from bertx.checkpoint.tensors import TensorInfo, parameters, read_header
from bertx.errors import SourceUnavailable, escape
from bertx.manifest import MODULE, Manifest
from bertx.model.plain import Plain
from bertx.parity import golden
from bertx.parity.cases import Case
from bertx.parity.compare import Compared, failed, pool
from bertx.parity.judge import Subject
from bertx.parity.options import VerifyOptions
from bertx.parity.origin import Asked, Origin
from bertx.parity.plain import Answers
from bertx.parity.recording import Recording
from bertx.parity.reference import Reference
from bertx.parity.report import Result
from bertx.parity.target import Target
from bertx.runtimes import process
from bertx.signature import Signature


class Own(Origin):
    """A module in this process, with its answers."""

    weights: Mapping[str, TensorInfo] = {}

    def __init__(self, plain: Plain, answers: Answers) -> None:
        self.plain, self.answers = plain, answers
        self.task, self.inputs = MODULE, plain.inputs
        self.outputs = tuple(spec.name for spec in answers.outputs)

    def obstacle(self, subject: Subject, asked: Asked, options: VerifyOptions) -> str | None:
        return None

    def cases(self, asked: Asked, options: VerifyOptions) -> tuple[Case, ...]:
        return tuple(replace(case, inputs={n: case.inputs[n] for n in asked.inputs}) for case in self.answers.cases)

    def reference(
        self, asked: Asked, cases: Sequence[Case], device: str, limits: process.Limits, cache: Path
    ) -> Reference:
        return self.answers.reference

    def signature(self, cases: Sequence[Case]) -> Signature:
        return Signature(self.inputs, self.answers.outputs)

    def told(self) -> dict[str, Any]:
        return {"checkpoint": self.plain.name, "commit": None, "origin": "module"}


def is_own(manifest: Manifest | None) -> TypeGuard[Manifest]:
    """Whether a bundle is of a plain module."""
    return manifest is not None and manifest.task == MODULE


def recorded(home: Path, manifest: Manifest) -> Recording:
    """The golden cases of a plain module's bundle. Raises SourceUnavailable where they were changed."""
    for name in (golden.CASES, golden.EXPECTED):
        path = f"{golden.FOLDER}/{name}"
        if path not in manifest.files or not bundle.holds(home / path, manifest.files[path]):
            what = f"{path} is not the file that bertx.json lists, and nothing else can tell what is right"
            raise SourceUnavailable("E_REFERENCE", what, "export the module again, or name golden cases with --against")
    return Recording(home / golden.FOLDER)


def without_weights(target: Target, subjects: Sequence[Subject], factor: float) -> tuple[list[Subject], list[Result]]:
    """(subjects that can be run, the rows of a plain module's weights, which were compared when they were written)."""
    manifest = target.manifest
    if not is_own(manifest):
        return list(subjects), []
    run, rows = [], []
    for subject in subjects:
        entry = target.entry(subject.name)
        if entry is None or entry.format != "safetensors" or entry.options.get("bytes") != "unchanged":
            run.append(subject)
        elif bundle.holds(subject.path, manifest.files[entry.path]):
            rows.append(same_bytes(subject, factor))
        else:
            rows.append(_other_bytes(subject, factor))
    return run, rows


def same_bytes(subject: Subject, factor: float) -> Result:
    """The row of weights that are, bit for bit, the module's."""
    count = parameters(read_header(subject.path).values())
    same = Compared("bytes", count, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, ())
    row = pool("weights", [same], subject.dtype, factor)
    return Result(subject.name, subject.format, subject.dtype, "bytes", "pass", outputs=(row,), asked=True)


def _other_bytes(subject: Subject, factor: float) -> Result:
    problem = "is not, byte for byte, what the module's weights were written to"
    row = failed("weights", problem, factor)
    words = f"weights: {escape(subject.name)} {problem}"
    return Result(subject.name, subject.format, subject.dtype, "bytes", "fail", outputs=(row,), cause=words, asked=True)
