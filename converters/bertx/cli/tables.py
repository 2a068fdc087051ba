"""Reports as tables that a person can read."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Sequence

from bertx.errors import escape
from bertx.parity.compare import Row
from bertx.parity.report import NOT_READY, Report, Result

_MOST = 10_000  # characters of a line
_STYLES = {"pass": "green", "fail": "bold red", "not-run": "yellow", "incomplete": "yellow"}


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """A table as text; columns in `right` are aligned to the right. Colour only on a terminal without NO_COLOR."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        drawn.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(escape(cell, _MOST), style=_STYLES.get(cell, "")) for cell in row))
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    stream = io.StringIO()
    # Into a file or a pipe nothing is cut; a terminal folds what does not fit.
    width = shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 1000
    Console(file=stream, force_terminal=coloured, width=width, legacy_windows=False).print(drawn)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())


def report_table(report: Report) -> str:
    """The table of verdicts: an artifact in a runtime per line, at the output or tap that comes nearest to a limit."""
    shapes = list(dict.fromkeys(shape for r in report.results if r.latency for shape in r.latency.seconds))
    named = ("artifact", "runtime", "device", "verdict", "rms ratio", "max ratio", "worst at", "s", "MiB")
    columns = (*named, *(f"ms {shape}" for shape in shapes))
    idle = [result for result in report.results if result.asked is False and _unready(result)]
    rows = [(*_cells(result), *_times(result, shapes)) for result in report.results if result not in idle]
    text = [table(columns, rows, right=("rms ratio", "max ratio", *columns[7:]))]
    told = [r for r in report.results if r.verdict != "pass" and r.asked is not None and r not in idle]
    text += [f"{result.artifact} in {result.runtime}: {result.cause or result.reason}" for result in told]
    for result in report.results:
        fed = [f"{theirs} is fed {ours}" for theirs, ours in result.inputs.items() if theirs != ours]
        read = [f"{theirs} is read as {ours}" for ours, theirs in result.matched.items() if theirs != ours]
        text += [f"{result.artifact} in {result.runtime}: {', '.join(fed + read)}"] if fed or read else []
        if result.unjudged:
            extra = ", ".join(escape(name) for name in result.unjudged)
            text.append(f"{result.artifact} in {result.runtime}: nothing was compared with {extra}")
    if idle:
        text.append(f"not ready here, so not run: {_hints(idle)}")
    for result in report.results:
        budget = next((row.spent.budget for row in result.outputs if row.spent is not None), None)
        if budget is not None:
            asked = ", ".join(f"{key} {value:g}" for key, value in budget.to_json().items() if value is not None)
            where = f" on {result.instructions}" if result.instructions else ""
            text.append(f"{result.artifact} in {result.runtime}{where}: judged by the budget ({asked}), not by noise")
    limits = next((row for r in report.results for row in r.outputs if row.spent is None), None)
    if limits is not None and report.cases.get("set") != "bytes":
        seed = "" if report.cases["seed"] is None else f", seed {report.cases['seed']}"
        text.append(
            f"Ratio: error over rounding noise, allowed {limits.rms_limit:g} (rms) and {limits.max_limit:g} (max); "
            f"{report.cases['count']} {report.cases['set']} cases{seed}."
        )
    text.append(f"verdict: {report.verdict}")
    return "\n".join([text[0], *(escape(line, _MOST) for line in text[1:])])


def _unready(result: Result) -> str | None:
    """What would make the runtime of a result ready, None where it is or that is not why it was not run."""
    reason = result.reason or ""
    return reason.removeprefix(NOT_READY) if result.verdict == "not-run" and reason.startswith(NOT_READY) else None


def _hints(idle: Sequence[Result]) -> str:
    """Runtimes that were not ready, by what would make them so: "ort, tch (bertx build all); djl (install Java 17)"."""
    groups: dict[str, list[str]] = {}
    for result in idle:
        hint = str(_unready(result)).replace(f"bertx build {result.runtime}", "bertx build all")
        groups.setdefault(hint, []).append(result.runtime)
    return "; ".join(f"{', '.join(dict.fromkeys(names))} ({hint})" for hint, names in groups.items())


def _cells(result: Result) -> tuple[str, ...]:
    start = (result.artifact, result.runtime, result.device or "-", result.verdict)
    if result.runtime == "bytes" and result.verdict == "pass":
        return (*start, "same bytes", "same bytes", "-", "-", "-")
    spent = [row for row in result.outputs if row.spent is not None]
    rows = [row for row in (*result.outputs, *result.taps) if row.rms_ratio == row.rms_ratio]
    size = str(result.peak_rss_bytes >> 20) if result.peak_rss_bytes else "-"
    end = (f"{result.seconds:.1f}" if result.seconds else "-", size)
    if spent:
        least = min(spent, key=lambda row: row.spent.cosine if row.spent else 1.0)
        assert least.spent is not None
        labels = [row.spent.labels for row in spent if row.spent and row.spent.labels is not None]
        agreed = f"labels {min(labels):.4g}" if labels else "-"
        return (*start, f"cosine {least.spent.cosine:.4g}", agreed, least.name, *end)
    if not rows:
        return (*start, "-", "-", "-", *end)
    worst = max(rows, key=_closeness)
    return (*start, f"{worst.rms_ratio:.3g}", f"{worst.max_ratio:.3g}", worst.name, *end)


def _times(result: Result, shapes: Sequence[str]) -> list[str]:
    """Median milliseconds by shape, a dash where it was not measured."""
    seconds = result.latency.seconds if result.latency else {}
    return [f"{1000 * seconds[shape]:.3g}" if shape in seconds else "-" for shape in shapes]


def _closeness(row: Row) -> float:
    """How near an output or tap comes to a limit: 1 is at it."""
    return max(row.rms_ratio / row.rms_limit, row.max_ratio / row.max_limit)
