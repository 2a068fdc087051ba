"""What a verification found: frozen records, their JSON (bertx.report/1) and the words for exit codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bertx.errors import BertxError, NotCompared, ParityFailed
from bertx.parity.compare import Row

if TYPE_CHECKING:
    from bertx.parity.latency import Latency
    from bertx.parity.part import Part

SCHEMA = "bertx.report/1"

#: how the reason begins where a runtime is not ready; what would make it so follows
NOT_READY = "not ready: "
#: the same where its library lacks what the artifact needs; what that is follows
UNSUPPORTED = "not supported: "


@dataclass(frozen=True)
class Result:
    """One artifact in one runtime: the verdict, evidence first."""

    artifact: str
    format: str
    dtype: str
    runtime: str
    verdict: str  # pass, fail or not-run
    runtime_version: str | None = None
    provider: str | None = None
    device: str | None = None
    outputs: tuple[Row, ...] = ()
    taps: tuple[Row, ...] = ()
    first_bad_layer: str | None = None
    #: the part of that layer where the difference begins, where it could be told
    first_bad_part: Part | None = None
    cause: str | None = None
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    #: the processor's instruction set, where the CPU computed
    instructions: str | None = None
    reason: str | None = None
    #: {the file's input: ours} in the file's order
    inputs: Mapping[str, str] = field(default_factory=dict)
    #: {axis: its size} that the file fixes: it was checked at that shape alone
    static: Mapping[str, int] = field(default_factory=dict)
    #: {the reference's output: the file's}, where outputs were not matched by name
    matched: Mapping[str, str] = field(default_factory=dict)
    #: outputs of the file that the reference does not have: nobody checked them
    unjudged: tuple[str, ...] = ()
    #: how long it takes, where that was measured
    latency: Latency | None = None
    #: asked for by name: True; offered because it was ready: False; outside of what was chosen: None
    asked: bool | None = False

    def to_json(self) -> dict[str, Any]:
        return {
            "artifact": self.artifact,
            "format": self.format,
            "dtype": self.dtype,
            "runtime": self.runtime,
            "runtime_version": self.runtime_version,
            "provider": self.provider,
            "device": self.device,
            "instructions": self.instructions,
            "verdict": self.verdict,
            "inputs": [{"name": theirs, "fed": ours} for theirs, ours in self.inputs.items()],
            "static": dict(self.static),
            "outputs": [_output(row, self.matched.get(row.name)) for row in self.outputs],
            "taps": [
                {"name": row.name, "rms_ratio": _number(row.rms_ratio), "max_ratio": _number(row.max_ratio)}
                for row in self.taps
            ],
            "unjudged": list(self.unjudged),
            "first_bad_layer": self.first_bad_layer,
            "first_bad_part": self.first_bad_part.to_json() if self.first_bad_part else None,
            "cause": self.cause,
            "seconds": round(self.seconds, 3),
            "peak_rss_bytes": self.peak_rss_bytes,
            "latency": self.latency.to_json() if self.latency else None,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Report:
    """All results of one verification, and what they were compared with.

    `allow_static`: a file that fixes its shape counts as compared.
    """

    cases: Mapping[str, Any]
    limit: float
    reference: Mapping[str, Any]
    results: tuple[Result, ...]
    allow_static: bool = False

    @property
    def verdict(self) -> str:
        """fail if anything failed, incomplete if something asked for was not compared, else pass."""
        if any(result.verdict == "fail" for result in self.results):
            return "fail"
        return "incomplete" if self._left() is not None else "pass"

    def _left(self) -> tuple[str, str, str] | None:
        """E_CODE, what was to be compared and was not, what to do about it; None where all of it was."""
        code, doctor = "E_NOT_COMPARED", "see `bertx doctor`"
        wanted = {result.artifact for result in self.results if result.asked is not None}
        ran = {result.artifact for result in self.results if result.verdict == "pass"}
        for result in self.results:
            if result.verdict != "pass" and (result.asked or result.artifact in wanted - ran):
                what = f"{result.artifact} was not compared in {result.runtime}: {result.reason}"
                if (result.reason or "").startswith(UNSUPPORTED):
                    return "E_UNSUPPORTED", what, "choose another --runtime"
                return code, what, doctor
            if result.static and not self.allow_static:
                fixed = " and ".join(f"{axis} at {size}" for axis, size in result.static.items())
                what = f"{result.artifact} fixes {fixed} and was checked at no other size"
                return code, what, "accept it by --allow-static"
        return None if ran else (code, "nothing was compared", doctor)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "cases": dict(self.cases),
            "limit": self.limit,
            "reference": dict(self.reference),
            "results": [result.to_json() for result in self.results],
        }

    def only(self, artifact: str) -> Report:
        """The part of the report that concerns one artifact."""
        return replace(self, results=tuple(r for r in self.results if r.artifact == artifact))

    def error(self) -> BertxError | None:
        """What this report means for the caller: None where everything passed."""
        if self.verdict == "fail":
            bad = next(result for result in self.results if result.verdict == "fail")
            layer = f", first at {bad.first_bad_layer}" if bad.first_bad_layer else ""
            why = bad.cause or bad.reason or "see the report"
            return ParityFailed("E_PARITY", f"{bad.artifact} is wrong in {bad.runtime}{layer}: {why}", "do not ship it")
        left = self._left()
        return NotCompared(*left) if left else None


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _output(row: Row, theirs: str | None) -> dict[str, Any]:
    compared = sum(case.count for case in row.cases)
    worst = max(row.cases, key=lambda case: _finite_first(case.max_error), default=None)
    norms = sum(case.norms for case in row.cases)
    rms = math.sqrt(sum(c.rms_error**2 * c.count for c in row.cases) / compared) if compared else math.nan
    return {
        "name": row.name,
        "cases": len(row.cases),
        "compared": compared,
        "max_abs_error": _number(worst.max_error) if worst else None,
        "max_noise": _number(row.max_noise),
        "max_ratio": _number(row.max_ratio),
        "max_limit": row.max_limit,
        "rms_error": _number(rms),
        "rms_noise": _number(row.rms_noise),
        "rms_ratio": _number(row.rms_ratio),
        "rms_limit": row.rms_limit,
        "cosine": round(sum(c.dot for c in row.cases) / norms, 9) if norms and math.isfinite(norms) else None,
        "worst": {"case": worst.case, "index": list(worst.worst)} if worst else None,
        "judged": "noise" if row.spent is None else "budget",
        "budget": None if row.spent is None else row.spent.to_json(),
        "problem": row.problem or (row.spent.problem if row.spent else None),
        "matched": theirs,
    }


def _finite_first(value: float) -> float:
    return value if math.isfinite(value) else math.inf
