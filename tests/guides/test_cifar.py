"""The guide of the three nets: it trains, exports, and what it exports is right in every runtime that is here."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bertx.cli.options import cache_folder
from bertx.runtimes import registry
from bertx.runtimes.native import Native
from program import ROOT, Ran

GUIDE = ROOT / "docs" / "guides" / "cifar"
NETS = ("dense", "convolutions", "autoencoder")


@pytest.fixture(scope="module")
def trained(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(the folder of three bundles, what the program printed), after fewer steps than the guide takes.

    bertx remembers there, as in any home, which TorchScript files it wrote.
    """
    folder = tmp_path_factory.mktemp("guide")
    command = [sys.executable, "-W", "ignore", str(GUIDE / "train.py"), "cifar", "40"]
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**environment, "HOME": str(folder)}, cwd=folder, timeout=500
    )
    assert ended.returncode == 0, ended.stderr
    return folder / "cifar", ended.stdout


def test_every_loss_falls_and_every_file_passes(trained: tuple[Path, str]) -> None:
    found = re.findall(r"(?m)^(\w+): loss ([\d.]+) -> ([\d.]+), pass$", trained[1])
    assert [name for name, _, _ in found] == list(NETS)
    assert all(float(last) < 0.9 * float(first) for _, first, last in found)


def test_the_page_shows_what_the_program_prints(trained: tuple[Path, str]) -> None:
    page = (GUIDE / "README.md").read_text("utf-8")
    (shown,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert re.sub(r"[\d.]+", "#", shown) == re.sub(r"[\d.]+", "#", trained[1])
    shortened = re.sub(r"\s*#.*", "", re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    called = " ".join((GUIDE / "train.py").read_text("utf-8").split())
    assert all(" ".join(line.split()) in called for line in shortened.splitlines())


def cache(trained: tuple[Path, str]) -> str:
    return str(trained[0].parent / ".cache" / "bertx")


def commands() -> list[list[str]]:
    """The `$ bertx verify` lines of the page that need nothing built."""
    lines = re.findall(r"(?m)^\$ bertx (verify .*)$", (GUIDE / "README.md").read_text("utf-8"))
    return [line.split() for line in lines if "--runtime" not in line]


def test_the_commands_of_the_page_verify_every_net(bertx: Callable[..., Ran], trained: tuple[Path, str]) -> None:
    assert [command[1] for command in commands()] == [f"cifar/{net}" for net in NETS]
    ran = bertx(*commands()[-1], cwd=trained[0].parent, BERTX_CACHE=cache(trained))
    assert (ran.code, ran.err) == (0, "")


def built() -> list[tuple[str, str]]:
    """(runtime in another language, net): all nets in those of which the guide tells, one in each of the others."""
    names = [name for name, runtime in registry().items() if isinstance(runtime, Native)]
    return [(name, net) for name in names for net in (NETS if name in ("tch", "tract") else ("autoencoder",))]


@pytest.mark.parametrize(("name", "net"), built())
def test_the_nets_run_in_other_languages(
    name: str, net: str, bertx: Callable[..., Ran], trained: tuple[Path, str]
) -> None:
    runtime = registry()[name].at(cache_folder())
    reads = {"onnx": "onnx/model.onnx", "torchscript": "torchscript/model.pt"}
    artifact = next((trained[0] / net / path for kind, path in reads.items() if kind in runtime.reads), None)
    fed = runtime.takes is None or "float32" in runtime.takes
    why = runtime.missing() or (artifact is None and "it reads neither") or (not fed and "it is fed no float32")
    why = why or (artifact is not None and runtime.refuses(artifact, "module"))
    if why:
        pytest.skip(f"{name} does not run them: {why}")
    options = ("--runtime", name, "--device", "cpu", "--trust", "--json")
    ran = bertx("verify", artifact, *options, BERTX_CACHE=str(cache_folder()))
    assert ran.code == 0, ran.err
    assert [(r["runtime"], r["verdict"]) for r in ran.json["results"]] == [(name, "pass")]
