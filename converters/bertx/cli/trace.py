"""bertx trace"""

from __future__ import annotations

from typing import Any

import click

from bertx.cli.exporting import export, exporter
from bertx.errors import UsageError
from bertx.formats import ExportOptions


@click.command("trace")
@exporter("output_name")
def command(checkpoint: str, output_name: tuple[str, ...], **chosen: Any) -> None:
    """Write torchscript/model.pt: any device and dtype, any batch and length, one Tensor out."""
    if len(output_name) > 1:
        raise UsageError("E_USAGE", "TorchScript gives one Tensor", "name one --output-name")
    export("torchscript", checkpoint, chosen, ExportOptions(chosen["dtype"], output_name))
