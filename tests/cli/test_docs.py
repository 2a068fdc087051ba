"""The pages of docs/ that describe the program say what the program says."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertx.cli import COMMANDS
from bertx.runtimes import Job, foreign
from bertx.runtimes.process import Limits, run
from bertx.runtimes.protocol import read_tensors, write_cases
from bertx.signature import Signature, TensorSpec
from program import ROOT, Ran

DOCS = ROOT / "docs"
OPTION = re.compile(r"(?<![\w-])-{1,2}[a-z][a-z-]*")


def section(command: str) -> str:
    """What docs/commands.md says of a command, its heading first."""
    parts = re.split(r"(?m)^## ", (DOCS / "commands.md").read_text("utf-8"))
    (found,) = [part for part in parts if re.match(rf"bertx {re.escape(command)}(\s|$)", part)]
    return found


def documented(command: str) -> dict[str, str]:
    """option -> its words in the table of a command: "--opset" -> "`--opset INTEGER` | the ONNX operator set, …"."""
    rows = [line for line in section(command).splitlines() if line.startswith("| `-")]
    return {option: row for row in rows for option in OPTION.findall(row.split(" | ")[0])}


def helped(text: str) -> dict[str, str]:
    """option -> what --help says of it."""
    options = text.partition("Options:\n")[2]
    entries = re.split(r"(?m)^  (?=-)", options)[1:]
    return {option: entry for entry in entries for option in OPTION.findall(re.split(r"\s{2,}|\n", entry)[0])}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_commands_has_the_options_of_help(command: str, bertx: Callable[..., Ran]) -> None:
    told = helped(bertx(command, "--help").out)
    assert set(documented(command)) == set(told) - {"-h", "--help"}
    for option, row in documented(command).items():
        for choice in re.findall(r"\[([a-z0-9|]+)\]", told[option]):
            assert choice.replace("|", r"\|") in row
        value = re.match(r"[^\n]*? ([A-Z]{3,})\b", re.split(r"\s{2,}|\n", told[option])[0])
        assert value is None or f"{value[1]}`" in row


@pytest.mark.parametrize("command", COMMANDS)
def test_the_heading_has_the_arguments_of_help(command: str, bertx: Callable[..., Ran]) -> None:
    usage = bertx(command, "--help").out.splitlines()[0].removeprefix("Usage: ").replace("[OPTIONS] ", "")
    assert section(command).splitlines()[0] == usage.replace(" [OPTIONS]", "")


def test_the_page_of_commands_has_every_command_in_order() -> None:
    text = (DOCS / "commands.md").read_text("utf-8")
    assert re.findall(r"(?m)^## bertx (\S+)", text) == list(COMMANDS)


def test_every_page_links_to_files_that_are_there() -> None:
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
            assert target.startswith("https://") or (DOCS / target).exists(), f"{page.name}: {target}"


def example(folder: Path) -> Path:
    """The runner of docs/runners.md as a file."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "runners.md").read_text("utf-8"), re.DOTALL)
    path = folder / "example.py"
    path.write_text(code, "utf-8")
    return path


def test_the_example_of_a_runner_passes(
    bertx: Callable[..., Ran], exports: tuple[Path, dict[str, Ran]], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    artifact, against = exports[0] / "onnx" / "model.onnx", checkpoint("feature-extraction")
    runner = f"onnx={shlex.join([sys.executable, str(example(tmp_path))])}"
    ran = bertx("verify", artifact, "--against", against, "--runner", runner, "--json")
    assert ran.code == 0, ran.err
    own, theirs = (each for each in ran.json["results"] if each["verdict"] != "not-run")
    assert (own["runtime"], own["verdict"]) == ("onnxruntime", "pass")
    assert (theirs["verdict"], theirs["provider"], theirs["device"]) == ("pass", "CPUExecutionProvider", "cpu")
    assert [row["rms_ratio"] for row in theirs["outputs"]] == [row["rms_ratio"] for row in own["outputs"]]


def test_the_example_refuses_a_device_that_it_does_not_know(tmp_path: Path) -> None:
    runner = foreign(f"{sys.executable} {example(tmp_path)}", frozenset({"onnx"}))
    ended = run(runner.command(Job(tmp_path / "a", tmp_path / "i", tmp_path / "o", "cuda")), Limits(60))
    assert ended.exit_code == 5
    assert ended.reason is not None
    assert ended.reason.startswith("exit 5: E_DEVICE: ")


def test_the_page_of_runners_names_the_metadata_that_bertx_writes(tmp_path: Path) -> None:
    spec = TensorSpec("input_ids", "int64", ("batch", "sequence"))
    cases = {"one": {"input_ids": np.ones((1, 2), np.int64)}}
    write_cases(tmp_path / "cases", cases, Signature((spec,), (spec,)), "fill-mask", "float32", {"threads": "1"})
    about_cases = (DOCS / "runners.md").read_text("utf-8").partition("## OUT")[0]
    assert set(re.findall(r"(?m)^\| `(\w+)` \|", about_cases)) == set(read_tensors(tmp_path / "cases").metadata)
