"""bertx verify"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bertx import api, exchange
from bertx.cli import emit, emit_json, warn
from bertx.cli.junit import write_junit
from bertx.cli.options import (
    POSITIVE,
    Phases,
    cache_folder,
    cases_option,
    common,
    fetching,
    own_texts,
    text_option,
    written,
)
from bertx.cli.page import write_page
from bertx.cli.tables import report_table
from bertx.errors import UsageError, escape
from bertx.formats import registry as formats
from bertx.parity import budget
from bertx.parity.options import VerifyOptions
from bertx.runtimes import foreign


@click.command("verify")
@click.argument("target")
@click.option(
    "--against", help="A checkpoint, or a folder of golden cases, to compare with; needed where no bertx.json tells."
)
@click.option(
    "--runtime", "runtimes", multiple=True, help="Only this runtime; repeatable. Default: all that are ready."
)
@click.option(
    "--runner",
    "runners",
    multiple=True,
    help='Your own program: "PROGRAM", "onnx=PROGRAM", "onnx,texts=PROGRAM"; see docs/runners.md.',
)
@cases_option
@text_option
@click.option(
    "--limit",
    type=POSITIVE,
    default=1.0,
    show_default=True,
    help="Scales both limits.",
)
@click.option(
    "--timeout",
    type=POSITIVE,
    default=600.0,
    show_default=True,
    help="Seconds for one runner.",
)
@click.option("--latency", is_flag=True, help="Measure also how long each runtime takes.")
@click.option("--trust", is_flag=True, help="Load TorchScript files that bertx did not write here: they can run code.")
@click.option(
    "--budget", help='What a quantized file may differ by, instead of rounding noise: "cosine=0.99,labels=0.98".'
)
@click.option(
    "--allow-static", is_flag=True, help="A file that fixes its batch or length counts, checked at that shape alone."
)
@written("--junit", "Also write a JUnit file.")
@written("--html", "Also write a page for people.")
@common(
    *("task", "dtype", "device", "revision", "offline", "json", "verbose", "quiet"),
    task="What the file computes, where nothing states it.",
    dtype="What the file claims to compute in; default what it states.",
    revision="A branch, tag or commit of --against.",
)
def command(target: str, **chosen: Any) -> None:
    """Run every artifact of TARGET in each runtime and compare it with eager PyTorch.

    TARGET is a bundle, any folder of artifacts, or one .onnx, .pt or .safetensors file. Nothing in it is changed.
    """
    if chosen["revision"] and not chosen["against"]:
        raise UsageError("E_USAGE", "--revision says which state of --against", "add --against")
    for path in (chosen["junit"], chosen["html"]):
        _refuse_target(target, path)
    phases = Phases(chosen["verbose"], chosen["quiet"])
    known = frozenset(formats())
    options = VerifyOptions(
        runtimes=chosen["runtimes"],
        runners=tuple(foreign(text, known) for text in chosen["runners"]),
        cases=chosen["cases"],
        texts=own_texts(chosen["text_file"]),
        limit=chosen["limit"],
        dtype=chosen["dtype"],
        device=chosen["device"],
        trust=chosen["trust"],
        allow_static=chosen["allow_static"],
        budget=budget.read(chosen["budget"]) if chosen["budget"] is not None else None,
        latency=chosen["latency"],
        timeout=chosen["timeout"],
        cache=cache_folder(),
    )
    looked = fetching(chosen["revision"], chosen["offline"], quiet=chosen["quiet"])
    task = None if chosen["task"] == "auto" else chosen["task"]
    try:
        found = api.verify(target, chosen["against"], task=task, options=options, fetching=looked, progress=phases)
    finally:
        phases.close()
    for name in found.changed:
        warn(f"{escape(name)} is not the file that bertx.json lists")
    if chosen["junit"] is not None:
        write_junit(found.report.results, chosen["junit"])
    if chosen["html"] is not None:
        write_page(found.report, chosen["html"])
    if chosen["as_json"]:
        emit_json(found.report.to_json())
    elif not chosen["quiet"]:
        emit(report_table(found.report))
    error = found.report.error()
    if error is not None:
        error.report = found.report
        raise error


def _refuse_target(target: str, path: Path | None) -> None:
    """Raises UsageError where a report would be written into what is verified."""
    if path is not None and path.resolve().is_relative_to(exchange.named(target).resolve()):
        message = f"{escape(path)} is in {escape(target)}, in which a verification changes nothing"
        raise UsageError("E_USAGE", message, "name a file elsewhere")
