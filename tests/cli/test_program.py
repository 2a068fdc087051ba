"""The program as a whole: help, versions, imports, standard output, colour."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from bertx.cli import COMMANDS
from program import ROOT, Ran

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "onnx",
    "onnxruntime",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "rich",
)


def imported(environment: dict[str, str], *arguments: str | Path) -> tuple[int, set[str]]:
    """(exit code, the top-level packages that a run of the program imports), from Python's own log."""
    command = [sys.executable, "-X", "importtime", "-m", "bertx", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    lines = [line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")]
    return ended.returncode, {line.partition(".")[0] for line in lines}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_imports_nothing_heavy(command: str, environment: dict[str, str]) -> None:
    code, packages = imported(environment, command, "--help")
    assert code == 0
    assert not packages & set(HEAVY)


def test_help_imports_nothing_heavy_and_lists_every_command(
    bertx: Callable[..., Ran], environment: dict[str, str]
) -> None:
    code, packages = imported(environment, "--help")
    assert (code, packages & {*HEAVY, "bertx"}) == (0, {"bertx"})
    text = bertx("--help").out
    for command, (_, says) in COMMANDS.items():
        assert f"  {command} " in text
        assert says in text


@pytest.mark.parametrize("arguments", [(), ("inspect",), ("to-onnx",)])
def test_h_says_what_help_says(arguments: tuple[str, ...], bertx: Callable[..., Ran]) -> None:
    short, long = bertx(*arguments, "-h"), bertx(*arguments, "--help")
    assert (short.code, short.out, short.err) == (0, long.out, "")


def test_version_tells_the_versions_that_decide_results(bertx: Callable[..., Ran], environment: dict[str, str]) -> None:
    from importlib.metadata import version

    ran = bertx("--version")
    stated = dict(line.split(" ", 1) for line in ran.out.splitlines())
    assert (ran.code, ran.err) == (0, "")
    assert {"bertx", "python", "torch", "transformers", "onnx"} <= set(stated)
    assert stated["transformers"] == version("transformers")
    assert not imported(environment, "--version")[1] & set(HEAVY)


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("--frobnicate",),
        ("inspect",),
        ("inspect", "x", "--frobnicate"),
        ("to-onnx", "x", "--opset", "17"),
        ("to-onnx", "x", "--dtype", "float8"),
        ("try", "x"),
        ("verify", "x", "--limit", "0"),
        ("verify", "x", "--cases", "none"),
        ("run",),
    ],
    ids=" ".join,
)
def test_what_is_not_understood_is_one_line_and_exit_2(arguments: tuple[str, ...], bertx: Callable[..., Ran]) -> None:
    ran = bertx(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("bertx: error[E_USAGE]: ")
    assert ran.err.count("\n") == 1


def test_without_a_command_the_help_is_shown_and_one_line_says_so(bertx: Callable[..., Ran]) -> None:
    ran = bertx()
    assert (ran.code, ran.out) == (2, bertx("--help").out)
    assert ran.err == "bertx: error[E_USAGE]: no command was given; name one of these\n"


def test_a_closed_standard_output_is_exit_5(environment: dict[str, str]) -> None:
    line = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "bertx", "doctor"]
    ended = subprocess.run(line, stderr=subprocess.PIPE, text=True, env=environment, timeout=60)
    assert ended.returncode == 5
    assert ended.stderr.startswith("bertx: error[E_STDOUT]: standard output is closed; ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("doctor",), ("doctor", "--json"), ("--help",), ("--version",)], ids=" ".join)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_standard_output_is_exit_5(arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "bertx", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=60,
        )
    assert ended.returncode == 5
    assert ended.stderr.startswith("bertx: error[E_STDOUT]: ")
    assert ended.stderr.count("\n") == 1


def test_a_reader_that_went_away_is_exit_5(environment: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "bertx", "doctor"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, timeout=60)
    os.close(writer)
    assert ended.returncode == 5
    assert ended.stderr.startswith("bertx: error[E_STDOUT]: ")


def test_colour_is_for_terminals_and_not_where_no_color_is_set(
    exports: tuple[Path, dict[str, Ran]], plain: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "bertx", "inspect", str(exports[0])]
    colour = {**plain, "TERM": "xterm-256color", "COLUMNS": "150"}
    on_terminal = terminal(command, colour)
    assert "pass" in on_terminal
    assert "\x1b[" in on_terminal
    assert "\x1b" not in terminal(command, {**colour, "NO_COLOR": "1"})
    piped = subprocess.run(command, capture_output=True, text=True, env=colour, timeout=60)
    assert "\x1b" not in piped.stdout + piped.stderr
    assert "pass" in piped.stdout


def test_progress_is_for_terminals(checkpoint: Callable[[str], Path], plain: dict[str, str]) -> None:
    command = [sys.executable, "-m", "bertx", "pull", str(checkpoint("feature-extraction")), "--json"]
    assert "hashing" in terminal(command, {**plain, "TERM": "xterm"})
    piped = subprocess.run(command, capture_output=True, text=True, env=plain, timeout=60)
    assert (piped.returncode, piped.stderr) == (0, "")


def terminal(command: list[str], environment: dict[str, str]) -> str:
    """What a command writes to a terminal that is its standard output and error."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment, close_fds=True
    )
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:  # how Linux says that the other side is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(60) == 0
    return seen.decode("utf-8")


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
@pytest.mark.parametrize(("name", "code"), [("tiny-feature-extraction", 0), ("nothing", 2)])
def test_a_closed_standard_input_or_error_changes_no_exit_code(
    closed: str, name: str, code: int, checkpoint: Callable[[str], Path], environment: dict[str, str]
) -> None:
    target = checkpoint("feature-extraction").parent / name
    command = f"{shlex.join([sys.executable, '-m', 'bertx', 'inspect', str(target), '--json'])} {closed}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=60)
    assert ended.returncode == code
    assert json.loads(ended.stdout)["schema"] == ("bertx.error/1" if code else "bertx.inspect/1")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8:strict"])
def test_what_standard_output_cannot_show_is_no_failure(
    encoding: str, checkpoint: Callable[[str], Path], tmp_path: Path, bertx: Callable[..., Ran]
) -> None:
    folder = tmp_path / os.fsdecode("日本".encode() + b"\xff")
    shutil.copytree(checkpoint("feature-extraction"), folder)
    shown = bertx("inspect", folder, PYTHONIOENCODING=encoding)
    assert (shown.code, shown.err) == (0, "")
    ran = bertx("inspect", folder, "--json", PYTHONIOENCODING=encoding)
    assert (ran.code, ran.json["checkpoint"]) == (0, str(folder))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_options_that_all_have(command: str, bertx: Callable[..., Ran]) -> None:
    text = bertx(command, "--help").out
    assert [option for option in ("--json", "-v, --verbose", "-q, --quiet") if option not in text] == []
    assert ("--offline" in text) is (command != "build")  # compilers fetch what they need


def test_quiet_inspection_prints_nothing(bertx: Callable[..., Ran], checkpoint: Callable[[str], Path]) -> None:
    ran = bertx("inspect", checkpoint("feature-extraction"), "-q")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_a_folder_whose_name_begins_with_a_tilde_is_that_folder(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(checkpoint("feature-extraction"), tmp_path / "~nobody-of-this-name")
    assert bertx("inspect", "./~nobody-of-this-name", cwd=tmp_path).code == 0


def test_a_package_that_cannot_be_loaded_is_no_bug(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "onnx.py").write_text("raise ImportError('onnx.so: failed to map segment', name='onnx')", "utf-8")
    path = os.pathsep.join([str(tmp_path), str(ROOT / "converters")])
    ran = bertx("to-onnx", checkpoint("feature-extraction"), "-o", tmp_path / "out", "--no-verify", PYTHONPATH=path)
    assert (ran.code, ran.out) == (5, "")
    assert ran.err.startswith("bertx: error[E_PACKAGE]: a Python package cannot be loaded (onnx.so: failed to map")


def test_names_of_files_are_escaped_in_tables_and_reports(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], unverified: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir()
    artifact = unverified("feature-extraction", "onnx") / "onnx" / "model.onnx"
    shutil.copyfile(artifact, tmp_path / "theirs" / "m\x1b[31m\n.onnx")
    junit, page = tmp_path / "parity.xml", tmp_path / "parity.html"
    against = ("--against", checkpoint("feature-extraction"))
    ran = bertx("verify", tmp_path / "theirs", *against, "--junit", junit, "--html", page)
    assert (ran.code, ran.err) == (0, "")
    assert "m\\x1b[31m\\n.onnx   onnxruntime" in ran.out
    assert "m\\x1b[31m\\n.onnx" in page.read_text("utf-8")
    case = ElementTree.parse(junit).find("testcase")
    assert case is not None
    assert case.get("classname") == "m\\x1b[31m\\n.onnx"


@pytest.mark.skipif(os.name != "posix", reason="file sizes are limited by ulimit")
@pytest.mark.parametrize("blocks", [4, 400], ids=["the cases", "the answers"])
def test_a_full_disk_is_no_verdict_and_no_bug(
    blocks: int, environment: dict[str, str], unverified: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = unverified("feature-extraction", "onnx")
    command = shlex.join([sys.executable, "-m", "bertx", "verify", str(bundle), "--json"])
    ended = subprocess.run(
        ["bash", "-c", f"ulimit -f {blocks}; {command}"],
        capture_output=True,
        text=True,
        env={**environment, "BERTX_CACHE": str(tmp_path)},
        timeout=120,
    )
    assert (ended.returncode, json.loads(ended.stdout)["code"]) == (5, "E_DISK")
    assert ended.stderr.startswith("bertx: error[E_DISK]: the disk refused (")
