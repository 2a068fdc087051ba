"""bertx to-safetensors"""

from __future__ import annotations

from typing import Any

import click

from bertx.checkpoint.naming import SPELLINGS
from bertx.cli.exporting import export, exporter
from bertx.errors import UsageError
from bertx.formats import ExportOptions, shard_size
from bertx.model.head import head_options


def _size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else shard_size(value)
    except UsageError as error:
        raise click.BadParameter("it is no size such as 500MB or 2GiB") from error


@click.command("to-safetensors")
@exporter(dtype="Convert the weights; default unchanged.")
@click.option(
    "--max-shard-size",
    metavar="SIZE",
    callback=_size,
    help="Split into files of at most this size, such as 5GB, and an index.",
)
@click.option(
    "--rename",
    type=click.Choice(sorted(SPELLINGS)),
    help="Name LayerNorm's tensors weight/bias (torch) or gamma/beta (legacy).",
)
@click.option("--init-head", is_flag=True, help="Add the head of --task, initialised as transformers does.")
@click.option("--num-labels", type=click.IntRange(1, 100_000), help="How many labels a new head has.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="What a new head is initialised from; default 0.")
def command(checkpoint: str, max_shard_size: int | None, rename: str | None, **chosen: Any) -> None:
    """Write the weights to model.safetensors: streamed, names and bytes unchanged unless asked otherwise."""
    head = head_options(chosen.pop("init_head"), chosen.pop("num_labels"), chosen.pop("seed"))
    options = ExportOptions(chosen["dtype"], spelling=rename, shard_bytes=max_shard_size, head=head)
    export("safetensors", checkpoint, chosen, options)
