"""What the three exporters share: fetch, export, print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bertx import api
from bertx.checkpoint import fetch
from bertx.cli import emit, emit_json, warn
from bertx.cli.options import Decorator, Phases, cache_folder, common, fetching
from bertx.cli.tables import report_table
from bertx.errors import BertxError, escape
from bertx.formats import ExportOptions
from bertx.parity.options import VerifyOptions
from bertx.tokenizer.mecab import DICTIONARIES

#: the options that every exporter has
OPTIONS = (
    "output",
    "revision",
    "task",
    "dtype",
    "device",
    "force",
    "offline",
    "no_verify",
    "json",
    "verbose",
    "quiet",
)


mecab_option = click.option(
    "--mecab-dictionary",
    "dictionary",
    type=click.Choice(list(DICTIONARIES)),
    help="Of a Japanese tokenizer whose files name none.",
)


def exporter(*more: str, **says: str) -> Decorator:
    """Decorates an exporting command: its argument and options; `says` as in `common`."""
    told = {"device": "cpu, cuda, cuda:N or auto: where it is verified.", **says}

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        return click.argument("checkpoint")(common(*more, *OPTIONS, **told)(mecab_option(function)))

    return add


def export(format_name: str, checkpoint: str, chosen: dict[str, Any], options: ExportOptions) -> None:
    """Runs one exporter and prints what was published; a failed comparison prints its report and is raised."""
    phases = Phases(chosen["verbose"], chosen["quiet"])
    checking = VerifyOptions(device=chosen["device"], cache=cache_folder())
    try:
        api.check(checkpoint, chosen["output"], chosen["task"], checking)
        phases("fetching")
        source = fetch(checkpoint, fetching(chosen["revision"], chosen["offline"], quiet=chosen["quiet"]))
        for key in source.config.dropped:
            warn(f"config.json: {key} was dropped, it would run code")
        made = api.export(
            source,
            [format_name],
            chosen["output"],
            task=chosen["task"],
            options=options,
            verify=None if chosen["no_verify"] else checking,
            dictionary=chosen["dictionary"],
            force=chosen["force"],
            cache=cache_folder(),
            progress=phases,
        )
    except BertxError as error:
        phases.close()
        if error.report is not None:
            _print_failed(error, chosen["as_json"], chosen["quiet"])
        raise
    phases.close()
    for line in made.warnings:
        warn(line)
    if chosen["no_verify"]:
        warn("nothing was compared: --no-verify")
    if chosen["as_json"]:
        emit_json(document(made))
    elif not chosen["quiet"]:
        emit(summary(made))


def _print_failed(error: BertxError, as_json: bool, quiet: bool) -> None:
    if as_json:
        report = error.report.to_json()
        emit_json({"schema": "bertx.export/1", "bundle": None, "artifacts": [], "report": report})
    elif not quiet:
        emit(report_table(error.report))


def document(made: api.Export) -> dict[str, Any]:
    """bertx.export/1: the bundle, the artifacts written, the report."""
    return {
        "schema": "bertx.export/1",
        "bundle": str(made.folder),
        "artifacts": [artifact(made, path) for path in made.written],
        "report": made.report.to_json(),
    }


def artifact(made: api.Export, path: str) -> dict[str, Any]:
    """One artifact of bertx.export/1."""
    entry = next(each for each in made.manifest.artifacts if each.path == path)
    stated = made.manifest.files[path]
    return {
        "path": path,
        "format": entry.format,
        "dtype": entry.dtype,
        "task": entry.task,
        "sha256": stated.sha256,
        "bytes": stated.bytes,
        "signature": entry.signature.to_json() if entry.signature else None,
    }


def summary(made: api.Export) -> str:
    """The table of verdicts and where the files lie."""
    return "\n".join([report_table(made.report), *places(made)])


def places(made: api.Export) -> list[str]:
    """Paths of what was written, relative to the current folder where they lie in it, and their sizes."""
    here = Path.cwd()
    shown = made.folder.relative_to(here) if made.folder.is_relative_to(here) else made.folder
    sizes = {path: made.manifest.listed_bytes(path) for path in made.written}
    return [f"{escape(shown / path, 4096)}  {size / 2**20:.1f} MiB" for path, size in sizes.items()]
