"""bertx to-safetensors"""

from __future__ import annotations

import re
from typing import Any

import click

from bertx.checkpoint.naming import SPELLINGS
from bertx.cli.exporting import export, exporter
from bertx.errors import UsageError
from bertx.formats import ExportOptions
from bertx.model.head import HeadOptions


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
@click.option("--init-head", is_flag=True, help="Add the head of --task, initialised as transformers does.")
@click.option("--num-labels", type=click.IntRange(1, 100_000), help="How many labels a new head has.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="What a new head is initialised from; default 0.")
def command(checkpoint: str, max_shard_size: int | None, rename: str | None, **chosen: Any) -> None:
    """Write the weights to model.safetensors: streamed, names and bytes unchanged unless asked otherwise."""
    head = _head(chosen.pop("init_head"), chosen.pop("num_labels"), chosen.pop("seed"))
    options = ExportOptions(chosen["dtype"], spelling=rename, shard_bytes=max_shard_size, head=head)
    export("safetensors", checkpoint, chosen, options)


def _head(asked: bool, labels: int | None, seed: int | None) -> HeadOptions | None:
    if asked and labels is not None:
        return HeadOptions(labels, seed or 0)
    if asked or labels is not None or seed is not None:
        lacking = "--num-labels" if asked else "--init-head"
        raise UsageError("E_USAGE", f"{lacking} is missing", "a new head needs --init-head and --num-labels")
    return None
