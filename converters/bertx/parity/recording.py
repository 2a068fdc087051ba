"""Golden cases as the reference: the inputs, the right answers and their noise as somebody recorded them.

No PyTorch is needed. What was not recorded is not guessed: an expected value without noise, another dtype, a shape
that no case has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.checkpoint.tensors import TensorInfo
from bertx.errors import InputRefused, escape
from bertx.parity.cases import Case
from bertx.parity.compare import MAX_LIMIT, RMS_LIMIT, Noise
from bertx.parity.findings import TAP
from bertx.parity.golden import CASES, EXPECTED
from bertx.parity.judge import Subject
from bertx.parity.options import VerifyOptions
from bertx.parity.origin import Asked, Origin
from bertx.parity.reference import Reference
from bertx.parity.rows import Regrouped, independent, regrouped, row_axis
from bertx.runtimes import process
from bertx.runtimes.protocol import Tensors, read_tensors
from bertx.signature import Signature, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: what an input that a file does not take must be in a case, so that the case says something of the file
_DEFAULTS = {"attention_mask": 1, "token_type_ids": 0}


def holds_recording(folder: Path) -> bool:
    """Whether a folder holds golden cases; whether they can be read, `Recording` says."""
    return all((folder / name).is_file() for name in (CASES, EXPECTED))


class Recording(Origin):
    """A folder with cases.safetensors and expected.safetensors. Raises InputRefused(E_CASES) where it is malformed."""

    weights: Mapping[str, TensorInfo] = {}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        asked, answers = read_tensors(folder / CASES), read_tensors(folder / EXPECTED)
        signature = _signature(asked)
        self.inputs, self.specs = signature.inputs, signature.outputs
        named = tuple(spec.name for spec in signature.outputs)
        self.outputs = tuple(name for name in named if not name.startswith(TAP))
        self.task = asked.metadata.get("task", "")
        self.dtype = asked.metadata.get("dtype", "float32")
        _check(asked, answers, signature)
        self.recorded = tuple(Case(name, inputs) for name, inputs in asked.arrays.items())
        self.pooled = {name: _one(stated, name) for name, stated in _json(answers, "noise").items()}
        noise = _noise(answers, named, self.pooled)
        _check_noise(answers, noise)
        self.facts = _json(answers, "facts") if "facts" in answers.metadata else {}
        self.answers = Reference(answers, answers, {**self.facts, "noise": self.facts.get("noise")}, noise)
        self.rows = row_axis(self.inputs)
        room = {name: 2 * MAX_LIMIT * each.max for name, each in self.pooled.items()}
        self.independent = self.rows is not None and independent(answers.arrays, self.specs, self.rows, room)

    def obstacle(self, subject: Subject, asked: Asked, options: VerifyOptions) -> str | None:
        if subject.format == "safetensors" and not (subject.path.parent / "config.json").is_file():
            return "weights without a configuration can be compared with a checkpoint only"
        if asked.dtype != self.dtype:
            return f"the recording holds the noise of {self.dtype}, not of {asked.dtype}"
        if not self.cases(asked, options):
            return "no recorded case fits what it takes"
        return None

    def cases(self, asked: Asked, options: VerifyOptions) -> tuple[Case, ...]:
        """The recorded cases that fit: of the sizes that are fixed, and saying nothing by what is not taken."""
        held = {case.name: case.inputs for case in self.recorded}
        specs = {spec.name: spec for spec in self.inputs}
        return tuple(
            Case(each.name, each.of({n: held[each.case][n] for n in asked.inputs}, specs, self.rows or ""))
            for each in self._batches(asked)
        )

    def _batches(self, asked: Asked) -> list[Regrouped]:
        """The recorded batches that fit; in the size that is fixed where rows are known to be independent."""
        sizes = dict(asked.static)
        fixed = sizes.pop(self.rows, None) if self.rows and self.independent else None
        fitting = {c.name: self._count(c) for c in self.recorded if self._fits(c, asked.inputs, sizes)}
        if fixed is None:
            return [Regrouped(name, name, tuple(range(count))) for name, count in fitting.items()]
        return list(regrouped(fitting, fixed))

    def _count(self, case: Case) -> int:
        named = (spec.name for spec in self.inputs if spec.shape[:1] == (self.rows,))
        return next((len(case.inputs[name]) for name in named), 1)

    def _fits(self, case: Case, taken: Sequence[str], sizes: Mapping[str, int]) -> bool:
        for spec in self.inputs:
            array = case.inputs[spec.name]
            if spec.name not in taken and not (array == _DEFAULTS.get(spec.name, math.nan)).all():
                return False
            if any(isinstance(s, str) and sizes.get(s, n) != n for s, n in zip(spec.shape, array.shape, strict=True)):
                return False
        return True

    def reference(
        self, asked: Asked, cases: Sequence[Case], device: str, limits: process.Limits, cache: Path
    ) -> Reference:
        specs = {spec.name: spec for spec in self.specs}
        batches, held, noise = self._batches(asked), self.answers.exact.arrays, self.answers.noise or {}
        kept = {each.name: each.of(held[each.case], specs, self.rows or "") for each in batches}
        exact = replace(self.answers.exact, arrays=kept)
        known = {each.name: noise[each.case] for each in batches}
        return replace(self.answers, exact=exact, rounded=exact, noise=known)

    def told(self) -> dict[str, Any]:
        named = str(self.facts.get("checkpoint") or self.folder)
        return {"checkpoint": named, "commit": self.facts.get("commit"), "origin": "recorded"}

    def case_set(self, cases: Sequence[Case], options: VerifyOptions) -> dict[str, Any]:
        return {"set": "recorded", "seed": None}

    def signature(self, cases: Sequence[Case]) -> Signature:
        return replace(super().signature(cases), outputs=self.specs)


def _refused(what: str) -> InputRefused:
    return InputRefused("E_CASES", what, "record them again; docs/runners.md says what they hold")


def _json(tensors: Tensors, key: str) -> dict[str, Any]:
    try:
        found = json.loads(tensors.metadata[key])
    except (KeyError, ValueError) as error:
        raise _refused(f"the recording states no {key}") from error
    if not isinstance(found, dict):
        raise _refused(f"the recording's {key} is malformed")
    return found


def _signature(cases: Tensors) -> Signature:
    try:
        signature = Signature.from_json(_json(cases, "signature"))
    except InputRefused as error:
        raise _refused(error.message) from error
    if not signature.inputs or not signature.outputs:
        raise _refused("the recording's signature lacks inputs or outputs")
    return signature


def _check(asked: Tensors, answers: Tensors, signature: Signature) -> None:
    """Every case has every input in its shape, and a finite answer of every output."""
    import numpy as np

    if not asked.arrays:
        raise _refused("the recording holds no case")
    for name in answers.arrays.keys() - asked.arrays.keys():
        raise _refused(f"{EXPECTED} answers case {escape(name)}, which {CASES} does not have")
    for name, inputs in asked.arrays.items():
        given = answers.arrays.get(name, {})
        for specs, held, file in ((signature.inputs, inputs, CASES), (signature.outputs, given, EXPECTED)):
            for spec in specs:
                if spec.name not in held:
                    raise _refused(f"{file} has no {escape(spec.name)} in case {escape(name)}")
                if not _fits(spec, held[spec.name].shape):
                    shape = held[spec.name].shape
                    raise _refused(f"{escape(spec.name)} in case {escape(name)} has shape {shape}, not {spec.shape}")
                if not np.isfinite(held[spec.name]).all():
                    raise _refused(f"{escape(spec.name)} in case {escape(name)} holds NaN or Inf")
        mask = inputs.get("attention_mask")
        if mask is not None and not (mask == 1).any():
            raise _refused(f"case {escape(name)} has no valid token")


def _fits(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    pairs = zip(spec.shape, shape, strict=False)
    return len(spec.shape) == len(shape) and all(isinstance(size, str) or size == n for size, n in pairs)


def _noise(answers: Tensors, outputs: Sequence[str], pooled: Mapping[str, Noise]) -> dict[str, dict[str, Noise]]:
    """{case: {output: its noise}}; where only that of all cases together was recorded, it is every case's."""
    each = _json(answers, "case_noise") if "case_noise" in answers.metadata else {}
    found: dict[str, dict[str, Noise]] = {case: {} for case in answers.arrays}
    for name in outputs:
        if name not in pooled:
            raise _refused(f"the recording states no noise of {escape(name)}")
        own = each.get(name)
        for case in found:
            found[case][name] = _one(own.get(case), name) if isinstance(own, dict) else pooled[name]
    return found


def _check_noise(answers: Tensors, noise: Mapping[str, Mapping[str, Noise]]) -> None:
    """Refuses noise that would let zeros pass for the answers: whatever it was, rounding is not as large as that."""
    import numpy as np

    for name in dict.fromkeys(name for held in noise.values() for name in held):
        values = np.concatenate([held[name].reshape(-1) for held in answers.arrays.values()]).astype(np.float64)
        size, largest = float(np.sqrt(np.mean(values**2))), float(np.abs(values).max())
        stated = [held[name] for held in noise.values()]
        if size and (max(n.rms for n in stated) * RMS_LIMIT >= size or max(n.max for n in stated) >= largest):
            raise _refused(f"the recording's noise of {escape(name)} is as large as its answers")


def _one(stated: Any, name: str) -> Noise:
    numbers = [stated.get(key) if isinstance(stated, dict) else None for key in ("rms", "max")]
    if not all(isinstance(n, int | float) and math.isfinite(n) and n >= 0 for n in numbers):
        raise _refused(f"the recording's noise of {escape(name)} is no number")
    return Noise(float(numbers[0]), float(numbers[1]))  # type: ignore[arg-type]
