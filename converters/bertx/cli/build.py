"""bertx build"""

from __future__ import annotations

from typing import Any

import click

from bertx.cli import emit, emit_json
from bertx.cli.options import Phases, cache_folder, common
from bertx.cli.tables import table
from bertx.errors import escape
from bertx.runtimes.native.building import Building, build_all


@click.command("build")
@click.argument("runtimes", nargs=-1, required=True, metavar="RUNTIME...")
@click.option("--force", "again", is_flag=True, help="Build also what is there already.")
@common("json", "verbose", "quiet")
def command(runtimes: tuple[str, ...], **chosen: Any) -> None:
    """Build runners in Rust, C++, Java, Go and JavaScript, into the cache; `all` is every one that can be built here.

    `bertx verify` uses those that are built. A runner is built again where its sources or its libraries changed. The
    toolchains must be here, see `bertx doctor`; they fetch their packages from their registries.
    """
    phases = Phases(chosen["verbose"], chosen["quiet"])
    try:
        made = build_all(runtimes, cache_folder(), phases, again=chosen["again"])
    finally:
        phases.close()
    if chosen["as_json"]:
        emit_json(made.to_json())
    elif not chosen["quiet"]:
        emit("\n".join(described(made)))
    problem = made.problem()
    if problem is not None:
        problem.report = made  # it was printed: --json gives one document
        raise problem


def described(made: Building) -> list[str]:
    """The lines for a person: a table, then the end of what the compiler of each failed one said."""
    rows = [
        (
            each.runtime.name,
            each.state,
            f"{each.seconds:.0f}" if each.seconds else "-",
            ", ".join(f"{name} {number}" for name, number in each.runtime.versions().items()),
            each.missing or "-",
        )
        for each in made.built
    ]
    lines = [table(("runtime", "state", "s", "version", "to install"), rows, right=("s",))]
    for each in made.built:
        lines += [f"{each.runtime.name}: {escape(line)}" for line in each.tail]
    return lines
