"""Options that commands share, and what is read from the environment: nothing else reads it."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from bertx.checkpoint import FetchOptions
from bertx.checkpoint.hub import HubOptions
from bertx.cli import warn
from bertx.errors import escape
from bertx.parity.cases import SETS
from bertx.parity.given import lines_of

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_OUTPUT = "The bundle's folder; default ./<model name>, for a local folder ./<folder name>-bertx."
_COMMON: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "output": (("-o", "--output"), {"type": click.Path(path_type=Path), "help": _OUTPUT}),
    "revision": (("--revision",), {"help": "A branch, tag or commit on the Hub."}),
    "task": (
        ("--task",),
        {"default": "auto", "show_default": True, "help": "What the model computes, by the Hub's name."},
    ),
    "dtype": (
        ("--dtype",),
        {"type": click.Choice(["float32", "float16", "bfloat16"]), "help": "Of the artifact; default float32."},
    ),
    "device": (("--device",), {"default": "auto", "show_default": True, "help": "cpu, cuda, cuda:N or auto."}),
    "json": (("--json", "as_json"), {"is_flag": True, "help": "One JSON document on standard output."}),
    "force": (("--force",), {"is_flag": True, "help": "Replace a bundle of another commit, task or head."}),
    "offline": (("--offline",), {"is_flag": True, "help": "Ask nothing of the network."}),
    "verbose": (("-v", "--verbose"), {"is_flag": True, "help": "Tell each phase and its seconds."}),
    "quiet": (("-q", "--quiet"), {"is_flag": True, "help": "Print no result: the exit code tells."}),
    "no_verify": (("--no-verify",), {"is_flag": True, "help": "Publish without a comparison."}),
    "output_name": (
        ("--output-name",),
        {"multiple": True, "help": "Give this output instead of the task's; repeatable."},
    ),
}


class _Positive(click.FloatRange):
    """A finite number above 0: Python reads `inf` and `nan` as numbers, too."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{found} is no finite number.", param, ctx)
        return found


POSITIVE = _Positive()


def _cases(ctx: click.Context, parameter: click.Parameter, value: str) -> str | Path:
    """The name of a set, or the user's file."""
    if value in SETS:
        return value
    if not Path(value).is_file():
        raise click.BadParameter(f"{escape(value)} is neither {' nor '.join(SETS)} nor a file", ctx, parameter)
    return Path(value)


cases_option = click.option(
    "--cases",
    default="quick",
    show_default=True,
    metavar="[quick|full|FILE]",
    callback=_cases,
    help="Which cases; a file has your own, as docs/runners.md says.",
)
text_option = click.option(
    "--text",
    "text_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of your own texts, one a line.",
)


def _writable(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """A file to be written, in a folder that is there: refused before any work."""
    if value is not None and not value.absolute().parent.is_dir():
        raise click.BadParameter(f"the folder of {escape(value)} does not exist", ctx, parameter)
    return value


def written(name: str, says: str) -> Decorator:
    """An option that names a file to be written beside the result."""
    return click.option(name, type=click.Path(dir_okay=False, path_type=Path), callback=_writable, help=says)


def own_texts(path: Path | None) -> tuple[str, ...]:
    """The lines of --text that are not empty. Raises UsageError where there are none."""
    return () if path is None else lines_of(path)


def common(*names: str, **says: str) -> Decorator:
    """Adds shared options to a command, in this order; `says` are those that --help tells in other words there."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            words, settings = _COMMON[name]
            function = click.option(*words, **{**settings, "help": says.get(name, settings["help"])})(function)
        return function

    return add


def cache_folder() -> Path:
    """Where bertx remembers what it wrote: BERTX_CACHE, else the user's cache folder."""
    stated = os.environ.get("BERTX_CACHE")
    if stated:
        return Path(stated)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bertx"


def fetching(revision: str | None, offline: bool, *, quiet: bool = False, recheck: bool = True) -> FetchOptions:
    """How a checkpoint is looked for; huggingface_hub reads its own HF_… variables."""
    progress = sys.stderr.isatty() and not quiet
    return FetchOptions(revision, HubOptions(offline=offline, progress=progress, recheck=recheck, tell=warn))


@dataclass
class Phases:
    """Tells what is being done: a line each, with the seconds since the start, under -v; one rewritten line on a
    terminal; nothing where standard error is no terminal."""

    verbose: bool = False
    quiet: bool = False
    started: float = field(default_factory=time.monotonic)

    def __call__(self, line: str) -> None:
        if self.verbose:
            sys.stderr.write(f"bertx: {time.monotonic() - self.started:6.2f} s  {escape(line)}\n")
        elif self._rewrites():
            sys.stderr.write(f"\r\x1b[2K{escape(line, 100)} …")
            sys.stderr.flush()

    def close(self) -> None:
        """Clears the terminal's line."""
        if self._rewrites():
            sys.stderr.write("\r\x1b[2K")

    def _rewrites(self) -> bool:
        return not (self.verbose or self.quiet) and sys.stderr.isatty()
