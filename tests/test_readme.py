"""The README is true: its commands run, and print what it shows but for figures that depend on the machine."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from bertx.runtimes import registry
from japanese import COMMANDS
from program import ROOT, Ran

README = (ROOT / "README.md").read_text("utf-8")


def commands() -> list[list[str]]:
    """Every `$ bertx …` line of the README, without its comment."""
    lines = re.findall(r"^\$ bertx (.*)$", README, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def shown(begin: str) -> str:
    """The block of output that begins with a line containing `begin`."""
    (block,) = [text for text in re.findall(r"```text\n(.*?)```", README, re.DOTALL) if begin in text.splitlines()[0]]
    return block


def shape(text: str) -> list[str]:
    """Lines with figures, rules, runs of spaces, places that are worst here and what this machine lacks made alike."""
    plain = re.sub(r"last_hidden_state|sentence_embedding  |pooler_output|hidden_states\.\d+", "OUTPUT", text)
    plain = re.sub(r"in case [\w-]+", "in case CASE", plain)
    plain = re.sub(r"\d+(\.\d+)?(e[+-]\d+)?", "#", plain)
    plain = re.sub(r"not ready here.*", lambda found: _names(found[0]), plain)
    return [re.sub(r"\s+", " ", re.sub("─+", "─", line)).strip() for line in plain.splitlines() if line.strip()]


def _names(line: str) -> str:
    """The runtimes that are not ready, without what each lacks: one machine has no browser, another no compiler."""
    words = set(re.split(r"[,;: ]+", line))
    return f"not ready here: {sorted(name for name in registry() if name in words)}"


def test_the_first_commands_are_those_that_are_run_on_the_japanese_checkpoint() -> None:
    assert [tuple(command) for command in commands()[: len(COMMANDS)]] == list(COMMANDS)


def test_the_shown_demo_is_what_the_demo_prints(bertx: Callable[..., Ran], minilm_bundle: Path, tmp_path: Path) -> None:
    target = next(line for line in (ROOT / "Makefile").read_text("utf-8").splitlines() if "bertx try" in line)
    assert "onnx/model.onnx" in target
    texts = ["How do I reset my password?", "I forgot my login and cannot get in.", "The bakery opens at seven."]
    out = tmp_path / "build" / "all-MiniLM-L6-v2"
    first = bertx("run", ROOT / "recipes" / "minilm.toml", cwd=tmp_path)
    second = bertx("try", out / "onnx" / "model.onnx", *texts)
    assert (first.code, second.code) == (0, 0)
    assert shape(first.out + second.out) == shape(shown("artifact               runtime"))


def test_the_shown_failure_is_what_verify_prints(
    bertx: Callable[..., Ran], plain_and_fused: tuple[Path, Path], minilm: Path
) -> None:
    ran = bertx("verify", plain_and_fused[1], "--against", minilm)
    assert ran.code == 1
    assert shape(ran.out + ran.err) == shape(shown("artifact     runtime"))


def test_every_page_that_is_linked_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) >= 7
    assert [link for link in links if not (ROOT / link).exists()] == []
