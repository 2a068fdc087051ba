"""Every runtime in the folder keeps the protocol; a new leaf is covered without an edit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bertx.errors import UsageError
from bertx.formats import registry as formats
from bertx.runtimes import Job, Runtime, foreign, registry, runtime_named, trust
from bertx.runtimes.native import Native
from bertx.runtimes.process import Limits, run

FORMATS = frozenset(formats())

#: those that run as they are; test_native.py has the programs in other languages
OWN = [runtime for runtime in registry().values() if not isinstance(runtime, Native)]


def test_every_format_has_a_runtime() -> None:
    assert {name for runtime in registry().values() for name in runtime.reads} == FORMATS


@pytest.mark.parametrize("runtime", OWN, ids=lambda runtime: runtime.name)
def test_a_runtime_is_ready_with_what_bertx_depends_on(runtime: Runtime) -> None:
    assert runtime.missing() is None


@pytest.mark.parametrize("runtime", OWN, ids=lambda runtime: runtime.name)
def test_a_runner_given_nonsense_ends_with_one_line(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"no model")
    (tmp_path / "cases").write_bytes(b"no cases")
    job = Job(tmp_path / "model", tmp_path / "cases", tmp_path / "out", "cpu")
    ended = run(runtime.command(job), Limits(60))
    assert ended.reason is not None
    assert "E_FORMAT" in ended.reason
    assert not job.outputs.exists()


def test_nothing_in_the_current_folder_runs_in_a_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("numpy", "torch", "safetensors", "onnxruntime", "argparse", "bertx"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    job = Job(tmp_path / "model", tmp_path / "cases", tmp_path / "out", "cpu")
    run(runtime_named("onnxruntime").command(job), Limits(60))
    assert not (tmp_path / "ran").exists()


def test_a_program_is_split_as_a_shell_would_and_reads_every_format() -> None:
    made = foreign('"./my check" --fast', FORMATS)
    assert (made.name, made.program, made.reads) == ("my check", ("./my check", "--fast"), FORMATS)


def test_a_program_may_say_which_format_it_reads() -> None:
    made = foreign(f"onnx={sys.executable} x.py", FORMATS)
    assert (made.program[1:], made.reads) == (("x.py",), {"onnx"})


@pytest.mark.parametrize("text", ["", "onnx=", "'unclosed"])
def test_a_program_that_is_none_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        foreign(text, FORMATS)


def test_an_unknown_runtime_is_a_usage_error_that_lists_the_known() -> None:
    with pytest.raises(UsageError, match="choose one of eager, onnxruntime, torchscript"):
        runtime_named("tensorrt")


def test_only_what_was_remembered_is_trusted(tmp_path: Path) -> None:
    trust.remember(tmp_path, "a" * 64)
    assert trust.known(tmp_path, "a" * 64)
    assert not trust.known(tmp_path, "b" * 64)
    assert not trust.known(tmp_path, "../torchscript/" + "a" * 64)
