"""The judge before real runner processes that are wrong in one way each, and before one that is right."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import psutil
import pytest

from bertx.checkpoint import open_folder
from bertx.errors import LocalProblem
from bertx.formats import registry as formats
from bertx.model.tasks import TASKS
from bertx.parity import target
from bertx.parity.judge import Bench, Subject, judge
from bertx.parity.origin import Stock
from bertx.parity.report import Report, Result
from bertx.parity.verify import VerifyOptions, make_bench
from bertx.runtimes import foreign
from bertx.runtimes.process import Limits
from program import ROOT, Ran

Judge = Callable[..., Result]


@pytest.fixture(scope="session")
def tiny_bundle(bertx: Callable[..., Ran], tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged") / "out"
    ran = bertx("to-onnx", tiny, "-o", folder)
    assert ran.code == 0, ran.err
    return folder


@pytest.fixture(scope="session")
def bench(tiny: Path) -> Bench:
    names = ("input_ids", "attention_mask", "token_type_ids")
    return make_bench(open_folder(tiny), TASKS["feature-extraction"], "float32", names, "cpu", VerifyOptions())


@pytest.fixture(scope="session")
def run(tiny_bundle: Path, tiny: Path, bench: Bench) -> Judge:
    """Judges the tiny bundle's ONNX file in a runner with a fault; `limits` for those that do not end."""
    found = target.find(str(tiny_bundle))
    subject: Subject = target.subjects(found, Stock(open_folder(tiny), TASKS["feature-extraction"]), None)[0]

    @cache
    def judged(fault: str, limits: Limits | None = None, allowance: float = 1.0) -> Result:
        program = shlex.join([sys.executable, str(ROOT / "tests" / "runtimes" / "faulty_runner.py"), fault])
        chosen = bench if limits is None else replace(bench, limits=limits)
        return judge(subject, replace(foreign(program, frozenset(formats())), allowance=allowance), "cpu", chosen, True)

    return judged


def test_a_right_runner_passes(run: Judge) -> None:
    assert run("none").verdict == "pass"


def test_any_finite_value_at_padding_passes(run: Judge) -> None:
    assert run("zero-at-padding").verdict == "pass"


def test_an_answer_to_a_case_that_nobody_asked_about_is_left_aside(run: Judge) -> None:
    assert run("unasked-case").verdict == "pass"


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("mask-ignored", "attention_mask: right without padding and wrong with it"),
        ("mask-as-length", "attention_mask: wrong only on rows that are padded on the left or have holes"),
        ("segments-zero", "token_type_ids: wrong only where segments differ"),
        ("inputs-swapped", "last_hidden_state"),
        ("constant", "last_hidden_state"),
        ("half", "last_hidden_state holds float16 numbers in a wider tensor"),
        ("nan-at-padding", "last_hidden_state: holds NaN or Inf in case"),
        ("missing-output", "pooler_output: is missing in case"),
        ("case-dropped", "last_hidden_state: is missing in case holes"),
        ("cut-short", "last_hidden_state: has shape"),
        ("float64", "last_hidden_state: is float64 where float32 is claimed"),
        ("crash", "the runner failed: was ended by SIGABRT"),
        ("garbage", "the runner failed: its outputs cannot be read"),
        ("nothing", "the runner failed: its outputs cannot be read"),
    ],
)
def test_a_wrong_runner_fails_and_the_cause_says_how(run: Judge, fault: str, cause: str) -> None:
    result = run(fault)
    assert result.verdict == "fail"
    assert result.cause is not None
    assert result.cause.startswith(cause)


def test_one_wrong_element_fails_and_the_evidence_is_its_place(run: Judge) -> None:
    result = run("one-element")
    (state,) = [row for row in result.outputs if row.name == "last_hidden_state"]
    worst = max(state.cases, key=lambda case: case.max_error)
    assert result.verdict == "fail"
    assert (worst.case, worst.worst) == ("batch-of-seven", (4, 2, 7))


def test_the_allowance_of_a_runtime_is_in_the_limits_of_its_results_alone(run: Judge) -> None:
    assert {row.rms_limit for row in run("none", allowance=2.0).outputs} == {6.0}
    assert {row.rms_limit for row in run("none").outputs} == {3.0}


def test_a_runner_that_hangs_is_ended_and_fails(run: Judge) -> None:
    result = run("hang", Limits(seconds=2))
    assert (result.verdict, result.reason) == ("fail", "did not end within 2 s")
    assert result.seconds < 10


def test_a_runner_that_takes_too_much_memory_is_ended_and_fails(run: Judge) -> None:
    result = run("memory", Limits(memory_bytes=500 * 2**20))
    assert (result.verdict, result.reason) == ("fail", "used more than its 500 MiB of memory")


def test_a_runners_last_line_is_the_reason_without_its_control_characters(run: Judge) -> None:
    result = run("refuse")
    assert result.reason == "exit 9: the model \\x1b[31mis\\x07 refused"


def test_a_runner_whose_library_lacks_something_is_not_run(run: Judge) -> None:
    result = run("unsupported")
    assert (result.verdict, result.reason) == ("not-run", "not supported: faulty: it has no Frobnicate")
    assert (result.asked, result.outputs) == (True, ())


def test_an_artifact_that_no_library_could_run_was_not_compared_though_nobody_named_it(run: Judge) -> None:
    report = Report({}, 1.0, {}, (replace(run("unsupported"), asked=False),))
    error = report.error()
    assert (report.verdict, error and (error.code, error.exit_code)) == ("incomplete", ("E_UNSUPPORTED", 6))


@pytest.mark.parametrize(
    "fault", ["unsupported-after-answers", "unsupported-by-another-code", "unsupported-in-other-words"]
)
def test_what_a_library_lacks_excuses_nobody_who_computed_or_says_it_otherwise(run: Judge, fault: str) -> None:
    assert run(fault).verdict == "fail"


def test_a_runner_that_used_another_device_is_no_verdict_but_a_local_problem(run: Judge) -> None:
    with pytest.raises(LocalProblem, match="ran on cuda, not on cpu") as raised:
        run("other-device")
    assert (raised.value.code, raised.value.exit_code) == ("E_DEVICE", 5)


def test_a_limit_factor_scales_both_limits_and_is_recorded(run: Judge, bench: Bench) -> None:
    row = run("none").outputs[0]
    assert (row.rms_limit, row.max_limit) == (3.0, 12.0)
    strict = replace(bench, factor=0.01)
    assert strict.factor == 0.01


def test_no_exclusion_of_a_case_goes_unnoticed(run: Judge, bench: Bench) -> None:
    assert {c.case for c in run("none").outputs[0].cases} == {case.name for case in bench.cases}


def test_a_verification_that_is_interrupted_ends_its_runners(tiny_bundle: Path, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    runner = tmp_path / "runner.py"
    runner.write_text(f"import os, time\nopen({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)\n")
    command = [sys.executable, "-m", "bertx", "verify", str(tiny_bundle), "--runner", f"{sys.executable} {runner}"]
    environment = {**os.environ, "BERTX_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (note.exists() and note.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    left = int(note.read_text())
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE
