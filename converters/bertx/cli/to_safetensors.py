"""bertx to-safetensors"""

from __future__ import annotations

import re
from typing import Any

import click

from bertx.checkpoint.naming import SPELLINGS
from bertx.cli.exporting import export, exporter
from bertx.formats import ExportOptions


def size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Bytes from a number with a unit of thousands (KB, MB, GB, as transformers counts) or of 1,024 (KiB, MiB, GiB)."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,15})\s*(?:([KMGT])(i?)B)?", value)
    if found is None or int(found[1]) == 0:
        raise click.BadParameter("it is no size such as 500MB or 2GiB")
    power = " KMGT".index(found[2] or " ")
    unit: int = (1024 if found[3] else 1000) ** power
    return int(found[1]) * unit


@click.command("to-safetensors")
@exporter()
@click.option(
    "--max-shard-size",
    metavar="SIZE",
    callback=size,
    help="Split into files of at most this size, such as 5GB, and an index.",
)
@click.option(
    "--rename",
    type=click.Choice(sorted(SPELLINGS)),
    help="Name LayerNorm's tensors weight/bias (torch) or gamma/beta (legacy).",
)
def command(checkpoint: str, max_shard_size: int | None, rename: str | None, **chosen: Any) -> None:
    """Write the weights to model.safetensors: streamed, names and bytes unchanged unless asked otherwise."""
    options = ExportOptions(chosen["dtype"], spelling=rename, shard_bytes=max_shard_size)
    export("safetensors", checkpoint, chosen, options)
