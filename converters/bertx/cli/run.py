"""bertx run"""

from __future__ import annotations

from dataclasses import replace
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
from bertx.parity.report import Report


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
    phases = Phases(chosen["verbose"], chosen["quiet"])
    documents: list[dict[str, Any]] = []
    reports: list[Report] = []
    worst: BertxError | None = None
    for each in read:
        try:
            made = recipe.run(
                each,
                fetching=fetching(None, chosen["offline"], quiet=chosen["quiet"]),
                force=chosen["force"],
                progress=phases,
            )
        except BertxError as error:
            phases.close()
            if error.report is None:
                raise
            worst = error if worst is None or error.exit_code < worst.exit_code else worst
            reports.append(error.report)
            failed = {
                "schema": "bertx.export/1",
                "bundle": None,
                "artifacts": [],
                "report": error.report.to_json(),
            }
            documents.append({"recipe": each.path.name, **failed})
            text = report_table(error.report)
        else:
            phases.close()
            for line in made.warnings:
                warn(line)
            reports.append(made.report)
            documents.append({"recipe": each.path.name, **document(made)})
            text = summary(made)
        if not (chosen["as_json"] or chosen["quiet"]):
            emit(text)
    if chosen["junit"] is not None:
        write_junit(
            replace(reports[0], results=tuple(r for report in reports for r in report.results)),
            chosen["junit"],
        )
    if chosen["html"] is not None:
        write_page(reports[0], chosen["html"])
    if chosen["as_json"]:
        emit_json({"schema": "bertx.run/1", "runs": documents})
    if worst is not None:
        raise worst


def _settled(read: recipe.Recipe, chosen: dict[str, Any]) -> recipe.Recipe:
    """The recipe with what the command line says instead of it."""
    device = chosen["device"] or read.verify.device
    verify = replace(read.verify, device=device, cache=cache_folder())
    return replace(read, verify=verify, output=chosen["output"] or read.output)
