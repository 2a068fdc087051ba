"""bertx pull"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bertx.checkpoint.pull import copy, pull
from bertx.cli import emit, emit_json
from bertx.cli.options import Phases, common, fetching
from bertx.errors import escape


@click.command("pull")
@click.argument("checkpoint")
@click.option("-o", "--output", type=click.Path(), help="Copy the files into this new or empty folder.")
@common("revision", "offline", "json", "verbose", "quiet")
def command(checkpoint: str, output: str | None, **chosen: Any) -> None:
    """Download one pinned commit of a checkpoint into the Hub cache, and print its folder and commit.

    A local folder is printed as it is; a bundle stands for the checkpoint that it was made from.
    """
    phases = Phases(chosen["verbose"], chosen["quiet"])
    try:
        phases(f"fetching {checkpoint}")
        found = pull(checkpoint, fetching(chosen["revision"], chosen["offline"], quiet=chosen["quiet"]))
        hashes = None
        if output is not None:
            phases(f"copying to {output}")
            found, hashes = copy(found, Path(output))
        elif chosen["as_json"]:
            phases("hashing")
            hashes = found.hashes()
    finally:
        phases.close()
    if chosen["as_json"]:
        files = [{"path": name, **entry.to_json()} for name, entry in (hashes or {}).items()]
        emit_json(
            {
                "schema": "bertx.pull/1",
                "checkpoint": found.checkpoint,
                "commit": found.commit,
                "folder": str(found.folder),
                "files": files,
            }
        )
    elif not chosen["quiet"]:
        emit(f"{escape(found.folder, 4096)}\n{found.commit or 'no commit: a local folder'}")
