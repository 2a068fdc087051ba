"""bertx record"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from bertx.cli import emit, emit_json
from bertx.cli.options import POSITIVE, Phases, cache_folder, cases_option, common, fetching, own_texts, text_option
from bertx.errors import escape
from bertx.recorder import Recorded, RecordOptions, described, record


@click.command("record")
@click.argument("source", metavar="CHECKPOINT|MODULE:CALLABLE")
@click.option(
    "--inputs",
    "inputs",
    multiple=True,
    help='What your module takes: "image=float32[batch,3,32,32]", or names alone; repeatable.',
)
@click.option("--output-name", "outputs", multiple=True, help="What your module gives, in order; repeatable.")
@cases_option
@text_option
@click.option(
    "--timeout",
    type=POSITIVE,
    default=600.0,
    show_default=True,
    help="Seconds for the model.",
)
@common(
    *("output", "revision", "task", "dtype", "device", "force", "offline", "json", "verbose", "quiet"),
    output="A new or empty folder; default ./<name>-golden.",
    dtype="Of the artifacts to be verified; default float32, your module's own.",
    device="cpu, cuda, cuda:N or auto: where rounding is measured.",
    force="Replace golden cases that are there.",
)
def command(source: str, **chosen: Any) -> None:
    """Write golden cases (inputs, right answers and their noise) by which others verify artifacts without the model.

    MODULE:CALLABLE is code of your own that builds an nn.Module, found from the current folder as Python does: for a
    model that only runs in your own environment.
    """
    phases = Phases(chosen["verbose"], chosen["quiet"])
    options = RecordOptions(
        task=None if chosen["task"] == "auto" else chosen["task"],
        dtype=chosen["dtype"],
        device=chosen["device"],
        cases=chosen["cases"],
        texts=own_texts(chosen["text_file"]),
        inputs=tuple(described(text) for text in chosen["inputs"]),
        outputs=chosen["outputs"],
        timeout=chosen["timeout"],
        cache=cache_folder(),
    )
    output = chosen["output"] or Path(f"{re.split(r'[/:.]', source.rstrip('/'))[-1] or 'model'}-golden")
    looked = fetching(chosen["revision"], chosen["offline"], quiet=chosen["quiet"])
    try:
        made = record(source, output, options=options, fetching=looked, force=chosen["force"], progress=phases)
    finally:
        phases.close()
    if chosen["as_json"]:
        emit_json(made.to_json())
    elif not chosen["quiet"]:
        emit(_summary(made))


def _summary(made: Recorded) -> str:
    found = made.recording
    takes = ", ".join(f"{spec.name} {spec.dtype}{list(spec.shape)}" for spec in found.inputs)
    lines = [f"{len(found.recorded)} cases of {escape(found.told()['checkpoint'])}, {found.dtype}", f"takes {takes}"]
    for spec in found.specs:
        noise = found.pooled[spec.name]
        lines.append(
            f"gives {spec.name} {list(spec.shape)}, rounding noise {noise.rms:.2g} (rms), {noise.max:.2g} (max)"
        )
    return "\n".join([*lines, escape(made.folder, 4096)])
