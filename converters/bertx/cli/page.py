"""A report as one page of HTML: nothing is loaded from elsewhere, nothing runs in it, everything is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import bertx
from bertx.bundle import disk_errors
from bertx.errors import escape
from bertx.parity.report import Report

#: where a bar's limit stands, in percent of its width, and the ratio at which a bar begins
_LIMIT_AT, _LEAST = 60.0, 0.1


def write_page(report: Report, path: Path) -> None:
    """Writes the page. Raises LocalProblem where the disk refuses."""
    text = page(report)
    with disk_errors():
        path.write_text(text, "utf-8")


def page(report: Report) -> str:
    """The page's text, made of the same document that --json prints."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=printable, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"bar": bar, "short": short, "size": size}
    source = resources.files(__package__).joinpath("page.html.jinja").read_text("utf-8")
    document = report.to_json()
    error = report.error()
    words = {"summary": error.message if error else None, "hint": error.hint if error else None}
    made = {"report": document, "bertx": bertx.__version__, "rows": _rows, "told": _told}
    return environment.from_string(source).render(made, **words)


def printable(value: Any) -> Any:
    """A text from outside without control characters; anything else as it is."""
    return escape(value, 10_000) if type(value) is str else value


def bar(ratio: float | None, limit: float) -> float:
    """How long a ratio's bar is in percent: logarithmic, the limit always at the same place; nothing at no number."""
    if ratio is None:
        return 100.0
    reach = math.log10(max(ratio, _LEAST) / _LEAST) / max(math.log10(limit / _LEAST), 0.1)
    return round(min(100.0, _LIMIT_AT * reach), 1)


def short(value: float | None) -> str:
    """A number in three digits."""
    return "–" if value is None else f"{value:.3g}"


def size(count: int) -> str:
    """Bytes as MiB."""
    return f"{count / 2**20:.0f} MiB" if count else "–"


def _told(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What a file calls otherwise: (its name, what was done, our name)."""
    fed = [(each["name"], "is fed", each["fed"]) for each in result["inputs"] if each["name"] != each["fed"]]
    return [*fed, *((row["matched"], "is read as", row["name"]) for row in result["outputs"] if row["matched"])]


def _rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Outputs and taps of a result that have ratios, as rows of one table."""
    limits = next(((row["rms_limit"], row["max_limit"]) for row in result["outputs"]), (3.0, 12.0))
    blank = {"max_abs_error": None, "cosine": None, "worst": None, "problem": None, "judged": "noise", "budget": None}
    taps = [{**blank, **tap, "rms_limit": limits[0], "max_limit": limits[1], "tap": True} for tap in result["taps"]]
    return [*({**row, "tap": False} for row in result["outputs"]), *taps]
