"""bertx run"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from bertx import recipe
from bertx.cli import emit, emit_json, warn
from bertx.cli.exporting import document, summary
from bertx.cli.junit import write_junit
from bertx.cli.options import Phases, cache_folder, common, fetching, written
from bertx.cli.page import write_page
from bertx.cli.tables import report_table
from bertx.errors import BertxError, UsageError
from bertx.parity.report import Report, Result


@click.command("run")
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--device", help="Instead of the recipe's.")
@written("--junit", "Also write a JUnit file.")
@written("--html", "Also write a page for people.")
@common(
    "output", "force", "offline", "json", "verbose", "quiet", output="The bundle's folder, instead of the recipe's."
)
def command(recipes: tuple[Path, ...], **chosen: Any) -> None:
    """Do the whole job of each RECIPE.toml: fetch, export, verify in the runtimes it names, publish."""
    if chosen["output"] is not None and len(recipes) > 1:
        raise UsageError("E_USAGE", "-o names one bundle and there are several recipes", "run them one by one")
    if chosen["html"] is not None and len(recipes) > 1:
        raise UsageError(
            "E_USAGE", "--html is a page of one report and there are several recipes", "run them one by one"
        )
    read = [_settled(recipe.read(path), chosen) for path in recipes]
    for each in read:
        recipe.check(each)
    ended = [_one(each, chosen, alone=len(read) == 1) for each in read]
    if chosen["junit"] is not None:
        write_junit([result for each in ended for result in each.results], chosen["junit"])
    if chosen["html"] is not None and ended[0].report is not None:
        write_page(ended[0].report, chosen["html"])
    if chosen["as_json"]:
        emit_json({"schema": "bertx.run/1", "runs": [each.document for each in ended]})
    failed = [(each.name, each.error) for each in ended if each.error is not None]
    if failed:
        (name, worst), *others = sorted(failed, key=lambda each: each[1].exit_code)
        for other, error in others:
            warn(f"{other}: {error}")
        worst.documented = True
        if len(read) > 1:
            worst.message = f"{name}: {worst.message}"
        raise worst


@dataclass(frozen=True)
class _Ended:
    """What came of one recipe: its JSON document and its table, its report where it came so far, its error if any."""

    name: str
    document: Mapping[str, Any]
    text: str
    report: Report | None
    error: BertxError | None = None
    warnings: Sequence[str] = ()

    @property
    def results(self) -> tuple[Result, ...]:
        """Those of its report; a recipe that did not come so far was asked for and not compared."""
        if self.report is not None:
            return self.report.results
        return (Result(self.name, "", "", "bertx", "not-run", reason=str(self.error), asked=True),)


def _one(each: recipe.Recipe, chosen: dict[str, Any], *, alone: bool) -> _Ended:
    """Does the job of one recipe and shows its table. One that is refused keeps none of the others from being done."""
    phases, name = Phases(chosen["verbose"], chosen["quiet"]), each.path.name
    try:
        made = recipe.run(
            each,
            fetching=fetching(None, chosen["offline"], quiet=chosen["quiet"]),
            force=chosen["force"],
            progress=phases,
        )
        ended = _Ended(name, {"recipe": name, **document(made)}, summary(made), made.report, None, tuple(made.warnings))
    except BertxError as error:
        if alone and error.report is None:
            raise
        ended = _failed(name, error)
    finally:
        phases.close()
    for line in ended.warnings:
        warn(line)
    if ended.text and not (chosen["as_json"] or chosen["quiet"]):
        emit(ended.text)
    return ended


def _failed(name: str, error: BertxError) -> _Ended:
    report: Report | None = error.report
    if report is None:
        return _Ended(name, {"recipe": name, "error": error.to_json()}, "", None, error)
    told: dict[str, Any] = {"schema": "bertx.export/1", "bundle": None, "artifacts": [], "report": report.to_json()}
    return _Ended(name, {"recipe": name, **told}, report_table(report), report, error)


def _settled(read: recipe.Recipe, chosen: dict[str, Any]) -> recipe.Recipe:
    """The recipe with what the command line says instead of it."""
    device = chosen["device"] or read.verify.device
    verify = replace(read.verify, device=device, cache=cache_folder())
    return replace(read, verify=verify, output=chosen["output"] or read.output)
