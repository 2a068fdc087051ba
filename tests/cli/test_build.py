"""bertx build: native runners into the cache. The compiler here is a script, so that every end can be had at once."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import checked

from bertx.exchange import locked
from bertx.runtimes import registry
from bertx.runtimes.native import Native, files
from bertx.runtimes.native.building import chosen
from program import ROOT, Ran

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the compiler of these tests is a shell script")

NATIVE = {name: leaf for name, leaf in registry().items() if isinstance(leaf, Native)}

#: stands for cargo: says which package it was asked for and makes its binary, or fails
CARGO = """#!/bin/sh
echo "   Compiling $5 here" >&2
case "$MODE" in
  fail) echo "error: linker not found" >&2; exit 101;;
  nothing) exit 0;;
esac
mkdir -p "$7/release" && echo "#!/bin/sh" > "$7/release/$5" && chmod +x "$7/release/$5"
"""


@pytest.fixture
def build(bertx: Callable[..., Ran], tmp_path: Path) -> Callable[..., Ran]:
    """Runs `bertx build` with a cargo and a cache of its own."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "cargo").write_text(CARGO, "utf-8")
    (tools / "cargo").chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return lambda *arguments, **more: bertx(
        "build", *arguments, **{"PATH": path, "BERTX_CACHE": str(tmp_path / "cache"), **more}
    )


def test_a_build_makes_the_runtime_ready_and_the_next_one_has_nothing_to_do(
    build: Callable[..., Ran], bertx: Callable[..., Ran], tmp_path: Path
) -> None:
    first, second = build("rten", "--json"), build("rten", "--json")
    (made,) = checked(first.json)["runtimes"]
    assert (first.code, made["state"], first.err) == (0, "built", "")
    assert (Path(made["folder"]) / "run-rten").is_file()
    assert Path(made["log"]).read_text("utf-8") == "   Compiling run-rten here\n"
    assert [each["state"] for each in checked(second.json)["runtimes"]] == ["ready"]
    assert second.json["runtimes"][0]["folder"] == made["folder"]
    told = bertx("doctor", "--json", BERTX_CACHE=str(tmp_path / "cache")).json["runtimes"]
    assert next(each["state"] for each in told if each["name"] == "rten") == "ready"


def test_nothing_is_written_outside_the_cache(build: Callable[..., Ran], tmp_path: Path) -> None:
    sources = ROOT / "converters" / "bertx" / "runtimes" / "native"
    before = {path: path.stat().st_mtime_ns for path in sources.rglob("*") if path.suffix != ".pyc"}
    assert build("rten").code == 0
    assert before == {path: path.stat().st_mtime_ns for path in sources.rglob("*") if path.suffix != ".pyc"}


def test_force_builds_again(build: Callable[..., Ran]) -> None:
    build("rten")
    assert build("rten", "--force", "--json").json["runtimes"][0]["state"] == "built"


def test_a_failed_build_shows_the_end_of_what_the_compiler_said_and_leaves_what_was_there(
    build: Callable[..., Ran],
) -> None:
    folder = Path(build("rten", "--json").json["runtimes"][0]["folder"])
    failed = build("rten", "--force", MODE="fail")
    assert failed.code == 5
    assert "rten: error: linker not found" in failed.out
    assert failed.err.startswith("bertx: error[E_BUILD]: rten was not built: cargo ended with exit code 101; see ")
    assert failed.err.count("\n") == 1
    assert (folder / "run-rten").is_file()
    assert checked(build("rten", "--force", "--json", MODE="fail").json)["runtimes"][0]["tail"][-2:] == [
        "error: linker not found",
        "cargo ended with exit code 101",
    ]


def test_a_compiler_that_makes_nothing_is_a_failed_build(build: Callable[..., Ran]) -> None:
    ran = build("rten", MODE="nothing")
    assert ran.code == 5
    assert "the build did not make" in ran.err


def test_a_missing_toolchain_is_exit_5_and_says_what_to_install(build: Callable[..., Ran], tmp_path: Path) -> None:
    ran = build("rten", "--json", PATH=str(tmp_path))
    assert (ran.code, checked(ran.json)["runtimes"][0]["state"]) == (5, "missing")
    assert ran.err.startswith("bertx: error[E_RUNTIME]: rten cannot be built here; install Rust")


def test_all_is_every_runtime_that_can_be_built(tmp_path: Path) -> None:
    assert [each.name for each in chosen(["all"], tmp_path)] == list(NATIVE)


def test_all_is_exit_5_where_none_can_be_built(build: Callable[..., Ran], tmp_path: Path) -> None:
    ran = build("all", "--json", PATH=str(tmp_path))
    assert ran.code == 5
    assert {each["state"] for each in ran.json["runtimes"]} == {"missing"}


@pytest.mark.parametrize(("name", "said"), [("onnxruntime", "is not built"), ("nothing", "is unknown")])
def test_what_is_no_native_runtime_is_a_usage_error(name: str, said: str, build: Callable[..., Ran]) -> None:
    ran = build(name)
    assert (ran.code, said in ran.err) == (2, True)


def test_a_second_builder_of_the_same_language_is_kept_out(build: Callable[..., Ran], tmp_path: Path) -> None:
    with locked(tmp_path / "cache" / "native" / "work" / "rust"):
        ran = build("rten")
    assert (ran.code, "error[E_LOCKED]" in ran.err) == (5, True)


def test_verbose_tells_what_the_compiler_says(build: Callable[..., Ran]) -> None:
    assert "rten: Compiling run-rten here" in build("rten", "-v").err


@pytest.mark.parametrize("runtime", NATIVE.values(), ids=lambda runtime: runtime.name)
def test_every_change_of_a_source_makes_another_build(
    runtime: Native, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "sources"
    shutil.copytree(runtime.folder, copy, ignore=shutil.ignore_patterns("target", "node_modules", "*.lock"))
    monkeypatch.setattr(type(runtime), "folder", copy)
    key = runtime.key()
    assert key == runtime.key()
    for path in list(files(copy, runtime.sources)):
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        assert runtime.key() != key, path
        path.write_bytes(before)
    assert runtime.key() == key


@pytest.mark.parametrize("runtime", NATIVE.values(), ids=lambda runtime: runtime.name)
def test_the_library_that_computes_is_pinned_in_the_sources(runtime: Native) -> None:
    if runtime.engine is None:
        assert runtime.distributions  # whichever version is installed
        return
    text = "".join(path.read_text("utf-8", "replace") for path in files(runtime.folder))
    assert all(part in text for part in runtime.engine)


def test_the_version_of_a_library_is_part_of_what_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = next(iter(NATIVE.values()))
    before = runtime.key()
    monkeypatch.setattr(type(runtime), "versions", lambda self: {"torch": "9.9.9"})
    assert runtime.key() != before


def test_a_runtime_that_is_not_built_is_refused_by_name_with_the_command_to_build_it(
    bertx: Callable[..., Ran], tiny: Path, tmp_path: Path
) -> None:
    ran = bertx("verify", tiny, "--against", tiny, "--runtime", "rten", BERTX_CACHE=str(tmp_path))
    assert (ran.code, ran.err) == (5, "bertx: error[E_RUNTIME]: runtime rten is not ready; bertx build rten\n")
