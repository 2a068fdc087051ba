"""The command line. One file per command; the only room that knows Click, rich and the environment.

A command's module is imported when it is called, so `bertx --help` costs what Click costs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import click

from bertx.ending import leave
from bertx.errors import BertxError, Bug, Interrupted, LocalProblem, Terminated, UsageError, escape, is_unicode

#: command -> (module, function, what --help says); in the order in which people use them
COMMANDS = {
    "pull": ("pull", "download one pinned commit of a checkpoint"),
    "inspect": ("inspect", "what a checkpoint or artifact is, from its headers"),
    "to-safetensors": ("to_safetensors", "weights to model.safetensors, unchanged"),
    "trace": ("trace", "TorchScript, one Tensor out"),
    "to-onnx": ("to_onnx", "ONNX with dynamic batch and sequence"),
    "tokenizer": ("tokenizer", "tokenizer.json for any language, golden tokens beside it"),
    "verify": ("verify", "compare every artifact with eager PyTorch"),
    "run": ("run", "the pre-release parity job, from a recipe"),
    "try": ("try_", "what an artifact answers to texts"),
    "record": ("record", "golden cases from a checkpoint or your own code"),
    "doctor": ("doctor", "which runtimes and devices work here"),
    "build": ("build", "build runners in Rust, C++, Java, Go and JavaScript"),
}


class Commands(click.Group):
    """A group whose commands are imported on use."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            emit(ctx.get_help())
            raise UsageError("E_USAGE", "no command was given", "name one of these")
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    import bertx

    lines = [f"bertx {bertx.__version__}", f"python {sys.version.split()[0]}"]
    for name in (
        "torch",
        "transformers",
        "safetensors",
        "tokenizers",
        "onnx",
        "onnxruntime-gpu",
        "onnxruntime",
    ):
        with contextlib.suppress(PackageNotFoundError):
            lines.append(f"{name} {version(name)}")
    emit("\n".join(lines))
    ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="The versions that decide results.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def bertx_command() -> None:
    """Export encoder checkpoints to safetensors, TorchScript and ONNX, and prove that each file is right.

    CHECKPOINT is a Hub id (cl-tohoku/bert-base-japanese-v3), a local folder, or a bundle: the folder that bertx made of
    one. Begin with `bertx to-onnx CHECKPOINT`.

    Exit codes: 0 all was compared and is right, 1 an artifact is wrong, 2 usage, 3 input refused, 4 source not
    available, 5 this machine lacks something, 6 not everything was compared, 70 a bug.
    """


def emit(text: str) -> None:
    """Writes a command's result to standard output. Raises LocalProblem(E_STDOUT) where it cannot."""
    try:
        if sys.stdout is None:
            raise OSError("it is closed")
        # A terminal that cannot show a character gets a question mark.
        sys.stdout.write(text.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding) + "\n")
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        raise _stdout_lost(error) from error


def _stdout_lost(error: Exception) -> LocalProblem:
    """The error for a standard output that refuses; what is still buffered goes nowhere, so that the exit is quiet."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return LocalProblem("E_STDOUT", f"standard output cannot be written ({escape(error)})", "keep it open")


def emit_json(document: Any) -> None:
    """Writes the one JSON document of --json, in UTF-8: in ASCII where standard output or a path is in no UTF-8."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    encoding = sys.stdout.encoding.lower() if sys.stdout is not None else ""
    plain = encoding in ("utf-8", "utf8") and is_unicode(text)
    emit(text if plain else json.dumps(document, indent=2, allow_nan=False))


def warn(message: str) -> None:
    """One warning line on standard error."""
    sys.stderr.write(f"bertx: warning: {escape(message, 500)}\n")


def main() -> NoReturn:
    """The entry point: runs the command of sys.argv and ends the process at once, which has written its result."""
    leave(run())


def run() -> int:
    """Runs the command of sys.argv. Gives the contract's exit code."""
    _open_streams()
    interrupts = _watch_signals()
    arguments = sys.argv[1:]
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    # --debug is understood anywhere on the line.
    kept = [a for k, a in enumerate(arguments) if a != "--debug" or k >= len(options)]
    status = 0
    try:
        if sys.stdout is None:
            raise LocalProblem("E_STDOUT", "standard output is closed", "keep it open")
        bertx_command.main(args=kept, prog_name="bertx", standalone_mode=False)
    except BaseException as error:  # noqa: BLE001 - however a command ends, it ends as the contract says
        status = _interrupted(interrupts[-1], options) if interrupts else _ended(error, options)
    return status


#: where Python's import system runs, and seconds until it has gone on
_IMPORT, _SOON = "<frozen importlib", 0.01


def _watch_signals() -> list[int]:
    """Makes SIGINT and SIGTERM end the command; the list that is returned fills with those that came.

    An interrupt inside a native import comes back as any exception, so that the list, not the exception, tells. Where
    Python itself imports, nothing may be raised: parts of that are callbacks, which swallow it and leave locked what
    every import waits for. There it is put off for a moment, as it is in `__del__`, which swallows everything.
    """
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        again(number, frame)

    def again(_number: int, frame: FrameType | None) -> None:
        if _swallows(frame) and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, _SOON)
            return
        raise SystemExit(128 + came[-1])

    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, again)
    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in the background it is ignored, and stays so
        signal.signal(signal.SIGINT, stop)
    return came


def _swallows(frame: FrameType | None) -> bool:
    """Whether what is raised in a frame would not arrive, or leave something locked."""
    if frame is not None and frame.f_code.co_filename.startswith(_IMPORT):
        return True
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def _open_streams() -> None:
    """Gives a standard input or error that is closed to the null device.

    Else the next file that is opened would get its number, and what a library complains of would be written into it.
    """
    for number in (0, 2):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 - it stays open


def _interrupted(number: int, options: list[str]) -> int:
    if number == signal.SIGTERM:
        return _report(Terminated("E_TERMINATED", "it was asked to end", "run it again"), options)
    return _report(Interrupted("E_INTERRUPTED", "it was interrupted", "run it again"), options)


def _ended(error: BaseException, options: list[str]) -> int:
    """Tells why a command ended, and gives its exit code."""
    if isinstance(error, BertxError):
        return _report(error, options)
    if isinstance(error, click.UsageError):
        hint = f"see `{error.ctx.command_path} --help`" if error.ctx else "see `bertx --help`"
        return _report(UsageError("E_USAGE", error.format_message().rstrip("."), hint), options)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return _interrupted(signal.SIGINT, options)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 70
    import traceback

    where = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, OSError) and where.filename == click.utils.__file__:  # Click prints --help itself
        return _report(_stdout_lost(error), options)
    if isinstance(error, ImportError) and not (error.name or "").startswith("bertx"):
        what = f"a Python package cannot be loaded ({escape(error, 200)})"
        return _report(LocalProblem("E_PACKAGE", what, "install bertx again: pip install bertx"), options)
    what = f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})"  # noqa: PTH119
    return _report(Bug("E_BUG", what, "report it, with what --debug shows"), options)


def _report(error: BertxError, options: list[str]) -> int:
    if "--debug" in options:
        import traceback

        traceback.print_exc()
    code = error.exit_code
    if "--json" in options and error.report is None and not error.documented and error.code != "E_STDOUT":
        try:
            emit_json(error.to_json())
        except LocalProblem as closed:
            error, code = closed, closed.exit_code
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"bertx: error[{error.code}]: {escape(error.message, 500)}; {escape(error.hint, 300)}\n")
    return code
