"""bertx doctor"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bertx.cli import emit, emit_json
from bertx.cli.inspect import size
from bertx.cli.options import Phases, cache_folder, common
from bertx.cli.tables import table
from bertx.machine import Folder, Machine, examine


@click.command("doctor")
@common("offline", "json", "verbose", "quiet")
def command(**chosen: Any) -> None:
    """Say which runtimes and devices work here, and what each missing one needs.

    Exit 0 where every format has a runtime that is ready, else 5.
    """
    from huggingface_hub import constants

    Phases(chosen["verbose"], quiet=True)("looking at runtimes and devices")
    found = examine(cache_folder(), Path(constants.HF_HUB_CACHE))
    if chosen["as_json"]:
        emit_json(found.to_json())
    elif not chosen["quiet"]:
        emit("\n".join(described(found)))
    problem = found.problem()
    if problem is not None:
        problem.report = found  # it was printed: --json gives one document
        raise problem


def described(found: Machine) -> list[str]:
    """The lines for a person."""
    runtimes = [
        (
            each.name,
            each.state,
            ", ".join(each.reads),
            ", ".join(f"{name} {number}" for name, number in each.versions.items()) or "-",
            each.missing or "-",
        )
        for each in found.runtimes
    ]
    dictionaries = [
        (
            each.name,
            "ready" if each.version else "missing",
            each.purpose,
            each.version or "-",
            _install(each.name, each.version),
        )
        for each in found.dictionaries
    ]
    return [
        table(("runtime", "state", "reads", "version", "to install"), runtimes),
        "",
        table(("Japanese", "state", "what", "version", "to install"), dictionaries),
        "",
        *(f"device     {line}" for line in _devices(found)),
        f"driver     {_driver(found)}",
        f"memory     {size(found.free_memory_bytes)} free of {size(found.memory_bytes)}",
        f"python     {found.python} on {found.platform}",
        f"cache      {_folder(found.cache)}",
        f"Hub cache  {_folder(found.hub_cache)}",
    ]


def _install(name: str, version: str | None) -> str:
    return "-" if version else f"pip install {name}"


def _devices(found: Machine) -> list[str]:
    cpu = f"cpu: {found.processor}, {found.cores} cores"
    return [
        cpu,
        *(f"{d.name}: {d.model}, {size(d.memory_bytes)}" for d in (found.driver.devices if found.driver else ())),
    ]


def _driver(found: Machine) -> str:
    if found.driver is None:
        return "no CUDA driver"
    return f"{found.driver.version or 'version unknown'}, CUDA {found.driver.cuda}"


def _folder(folder: Folder) -> str:
    state = "" if folder.writable else ", cannot be written"
    return f"{folder.path}, {size(folder.free_bytes)} free{state}"
