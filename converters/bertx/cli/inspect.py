"""bertx inspect"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from bertx.cli import emit, emit_json
from bertx.cli.options import Phases, common, fetching
from bertx.cli.tables import table
from bertx.errors import escape
from bertx.inspection import BundleFacts, CheckpointFacts, FileFacts, Inspection, TokenizerFiles, inspect, shapes
from bertx.signature import Signature

_LABEL = 14  # characters of the widest label, and a space


@click.command("inspect")
@click.argument("target", metavar="CHECKPOINT|TARGET")
@common("revision", "offline", "json", "verbose", "quiet")
def command(target: str, **chosen: Any) -> None:
    """Say what a checkpoint, a bundle or one artifact file is, from headers alone.

    A checkpoint on the Hub is downloaded into its cache first, as `bertx pull` does.
    """
    Phases(chosen["verbose"], quiet=True)("reading headers")  # sooner done than read on a terminal
    # What lies in the cache is not hashed again: that would take the longer the larger it is.
    looked = fetching(chosen["revision"], chosen["offline"], quiet=chosen["quiet"], recheck=False)
    found = inspect(target, looked)
    if chosen["as_json"]:
        emit_json(found.to_json())
    elif not chosen["quiet"]:
        emit("\n".join(described(found)))


def described(found: Inspection) -> list[str]:
    """The lines for a person."""
    if isinstance(found, CheckpointFacts):
        return _checkpoint(found)
    return _bundle(found) if isinstance(found, BundleFacts) else _file(found)


def size(count: int | None) -> str:
    """Bytes as a person reads them."""
    if count is None:
        return "missing"
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


def _checkpoint(found: CheckpointFacts) -> list[str]:
    weights = found.weights
    files = [f"{escape(path)} ({size(count)})" for path, count in found.files.items()]
    return _lines(
        {
            "checkpoint": found.checkpoint,
            "commit": found.commit or f"none ({found.origin} folder)",
            "folder": found.folder,
            "architecture": ", ".join(found.architectures) or "none stated",
            "model type": found.model_type,
            "task": found.task or f"none: {found.task_problem}; use --task",
            "inputs": ", ".join(found.inputs),
            "outputs": ", ".join(found.outputs or ()) or None,
            "parameters": f"{weights.parameters:,}",
            "tensors": f"{weights.tensors:,}: {_counts(weights.dtypes)}",
            "weights": ", ".join(files),
            "tokenizer": _tokenizer(found.tokenizer),
            "dropped": ", ".join(f"config.json: {key}" for key in found.dropped) or None,
        }
    )


def _bundle(found: BundleFacts) -> list[str]:
    source = found.manifest.source
    lines = _lines(
        {
            "bundle": found.folder,
            "checkpoint": source.checkpoint,
            "commit": source.commit or (f"none (local folder {source.folder})" if source.folder else "none"),
            "architecture": ", ".join(found.architectures) or "none stated",
            "model type": found.model_type,
            "task": found.manifest.task,
            "tokenizer": _tokenizer(found.tokenizer),
            "size": f"{size(found.bytes)} in {len(found.manifest.files)} files",
            "made by": f"bertx {found.manifest.bertx}",
        }
    )
    rows = []
    for each in found.artifacts:
        opset = each.to_json()["opset"]
        changed = "" if each.bytes in (None, each.listed_bytes) else " (not as listed)"
        rows.append(
            (
                escape(each.entry.path),
                escape(each.entry.dtype),
                str(opset or "-"),
                size(each.bytes) + changed,
                each.verdict,
            )
        )
    lines += ["", table(("artifact", "dtype", "opset", "size", "verdict"), rows, right=("opset", "size"))]
    for each in found.artifacts:
        if each.entry.signature is not None:
            lines += ["", escape(each.entry.path), *_signature(each.entry.signature)]
    return lines


def _file(found: FileFacts) -> list[str]:
    weights = found.weights
    lines = _lines(
        {
            "file": found.path,
            "format": found.format,
            "size": size(found.bytes),
            "dtype": found.dtype,
            "task": found.task,
            "parameters": None if weights is None or weights.parameters is None else f"{weights.parameters:,}",
            "tensors": None if weights is None else f"{weights.tensors:,}{_after(weights.dtypes)}",
            **{name.replace("_", " "): _value(value) for name, value in found.facts.items()},
        }
    )
    return lines if found.signature is None else [*lines, "", *_signature(found.signature)]


def _lines(facts: Mapping[str, object]) -> list[str]:
    """One line per fact; those that are None are left out."""
    return [f"{name:<{_LABEL}}{escape(value, 500)}" for name, value in facts.items() if value is not None]


def _signature(signature: Signature) -> list[str]:
    return table(("", "name", "dtype", "shape"), [tuple(map(escape, row)) for row in shapes(signature)]).splitlines()


def _tokenizer(found: TokenizerFiles | None) -> str:
    return "none" if found is None else f"{found.name or 'class not stated'} ({', '.join(found.files)})"


def _counts(dtypes: Mapping[str, int] | None) -> str:
    return ", ".join(f"{count} {name}" for name, count in (dtypes or {}).items())


def _after(dtypes: Mapping[str, int] | None) -> str:
    return f": {_counts(dtypes)}" if dtypes else ""


def _value(value: object) -> str | None:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return None if value is None else str(value)
