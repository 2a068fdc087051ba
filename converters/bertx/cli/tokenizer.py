"""bertx tokenizer"""

from __future__ import annotations

from typing import Any

import click

from bertx import api
from bertx.checkpoint import fetch
from bertx.cli import emit, emit_json
from bertx.cli.exporting import mecab_option
from bertx.cli.options import Phases, cache_folder, common, fetching
from bertx.errors import escape
from bertx.tokenizer.settings import TOKENIZER
from bertx.tokenizer.writer import Made

_KINDS = {
    "taken": "tokenizer.json is the checkpoint's own",
    "built": "tokenizer.json was made of the checkpoint's vocabulary",
    "japanese": "tokenizer.json takes what mecab_contract.json makes of a text",
}


@click.command("tokenizer")
@click.argument("checkpoint")
@mecab_option
@common("output", "revision", "task", "force", "offline", "json", "verbose", "quiet")
def command(checkpoint: str, dictionary: str | None, **chosen: Any) -> None:
    """Write tokenizer.json, which any tokenizers binding loads, and golden tokens beside it.

    The ids are compared with those of the checkpoint's own tokenizer. The exporters do the same.
    """
    phases = Phases(chosen["verbose"], chosen["quiet"])
    try:
        api.check(checkpoint, chosen["output"], chosen["task"], None)
        phases("fetching")
        source = fetch(checkpoint, fetching(chosen["revision"], chosen["offline"], quiet=chosen["quiet"]))
        phases("making and comparing")
        made = api.tokenizer(
            source,
            chosen["output"],
            task=chosen["task"],
            dictionary=dictionary,
            force=chosen["force"],
            cache=cache_folder(),
        )
    finally:
        phases.close()
    if chosen["as_json"]:
        emit_json(document(made))
    elif not chosen["quiet"]:
        emit("\n".join([*summary(made.made), escape(made.folder / TOKENIZER, 4096)]))


def document(exported: api.TokenizerExport) -> dict[str, Any]:
    """bertx.tokenizer/1."""
    made, manifest = exported.made, exported.manifest
    return {
        "schema": "bertx.tokenizer/1",
        "bundle": str(exported.folder),
        "kind": made.kind,
        "class": made.class_name,
        "limit": made.limit,
        "changes": list(made.changes),
        "notes": list(made.notes),
        "compared": {"texts": made.texts, "ids": made.compared, "transformers": made.transformers},
        "dictionary": made.contract.dictionary.name if made.contract else None,
        "files": [{"path": name, **manifest.files[name].to_json()} for name in made.files],
    }


def summary(made: Made) -> list[str]:
    """What was made and changed, for a person."""
    limit = "nothing limits a text" if made.limit is None else f"texts are cut at {made.limit} tokens"
    contract = [f"MeCab dictionary: {made.contract.dictionary.name}"] if made.contract else []
    return [
        f"{escape(made.class_name)}: {_KINDS[made.kind]}; {limit}",
        *contract,
        *(escape(change, 500) for change in made.changes),
        f"same ids as the checkpoint's own tokenizer: {made.compared} of {made.texts} texts and pairs",
        *(f"note: {escape(note, 500)}" for note in made.notes),
    ]
