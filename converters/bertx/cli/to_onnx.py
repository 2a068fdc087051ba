"""bertx to-onnx"""

from __future__ import annotations

from typing import Any

import click

from bertx.cli.exporting import export, exporter
from bertx.formats import OPSETS, ExportOptions


@click.command("to-onnx")
@exporter("output_name")
@click.option(
    "--opset", type=click.IntRange(OPSETS[0], OPSETS[-1]), default=18, show_default=True, help="ONNX operator set."
)
@click.option(
    "--external-data/--embedded",
    default=None,
    help="Weights beside the graph or in it; beside it from 2 GB on.",
)
def command(
    checkpoint: str, output_name: tuple[str, ...], opset: int, external_data: bool | None, **chosen: Any
) -> None:
    """Write onnx/model.onnx: dynamic batch and sequence, checked by onnx.checker and in ONNX Runtime."""
    options = ExportOptions(chosen["dtype"], output_name, opset, external_data)
    export("onnx", checkpoint, chosen, options)
