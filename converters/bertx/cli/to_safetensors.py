"""bertx to-safetensors"""

from __future__ import annotations

from typing import Any

import click

from bertx.cli.exporting import export, exporter
from bertx.formats import ExportOptions


@click.command("to-safetensors")
@exporter()
def command(checkpoint: str, **chosen: Any) -> None:
    """Write the weights to model.safetensors: streamed, names and bytes unchanged unless --dtype is given."""
    export("safetensors", checkpoint, chosen, ExportOptions(chosen["dtype"]))
