"""The judge before artifacts that are wrong on purpose, and before right ones that look odd.

A reduced set of what `make mutants` judges: every class of faults. Then the judge itself is weakened, a case taken
away or a limit widened, and a mutant that it kills must live: so no case and no limit can go unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from bertx.parity import compare
from mutants.catalogue import catalogue
from mutants.graph import Graph, edit
from mutants.stands import Stand, shared
from mutants.trial import Mutant, Trial, attempt, made, run, verdict

#: of each class, how many mutants of the stand that has most of them
EACH = 2
ALL = {mutant.label: mutant for mutant in catalogue()}
FAULTS = tuple(dict.fromkeys(mutant.fault for mutant in ALL.values() if not mutant.right))


def _reduced() -> Iterator[Mutant]:
    """Mutants of the BERT stand by class, and what only others have: labels, pooling, a trace with dropout."""
    for fault in FAULTS:
        mine = [m for m in ALL.values() if (m.fault, m.stand, m.format) == (fault, "bert", "onnx")]
        yield from [m for m in mine if m.name not in NOT_HERE][:EACH]
    yield from (ALL[label] for label in OTHERS)


#: wrong on paper, but never by thirty times the noise; and faults of parts that this BERT does not have
NOT_HERE = (
    "epsilon-1e-5",
    "epsilon-1e-12",
    "epsilon-1e-5-in-last-norm",
    "epsilon-first-in-addition",
    "classifier-random",
    "labels-permuted",
)
OTHERS = (
    "bert/onnx/rare-word-moved",
    "bert/torchscript/module-dropout-on",
    "bert-pooled/torchscript/embedding-not-normalised",
    "bert-pooled/torchscript/pooled-cls",
    "bert-pooled/torchscript/pooled-max",
    "bert-pooled/torchscript/pooled-over-padding",
    "distilbert-classifier/onnx/labels-permuted",
)
WRONG = {mutant.label: mutant for mutant in _reduced()}
RIGHT = {
    m.label: m
    for m in ALL.values()
    if m.right and (m.stand == "bert" or (m.stand, m.format) == ("distilbert-classifier", "onnx"))
    if not m.name.startswith(("opset", "sdpa", "padding-zeroed"))
}


def tried(mutant: Mutant) -> Trial:
    return attempt(mutant, shared()[mutant.stand])


def passes(mutant: Mutant, stand: Stand, *, without: tuple[str, ...] = (), factor: float = 1.0) -> bool:
    """Whether a mutant passes a judge that lacks some cases or has wider limits."""
    cases = tuple(case for case in stand.quick.cases if case.name not in without)
    assert len(cases) == len(stand.quick.cases) - len(without)
    with made(mutant, stand) as path:
        subject = stand.subject(mutant.format, path)
        weak = replace(stand.quick, cases=cases, factor=factor)
        return verdict(subject, run(subject, weak), weak).verdict == "pass"


@pytest.mark.parametrize("label", WRONG)
def test_a_wrong_artifact_is_killed(label: str) -> None:
    trial = tried(WRONG[label])
    assert trial.observable, f"its error is only {trial.ratio:.3g} times the noise"
    assert not trial.passed


def test_every_class_of_faults_is_among_them() -> None:
    assert {mutant.fault for mutant in WRONG.values()} == set(FAULTS)


@pytest.mark.parametrize("label", RIGHT)
def test_a_right_artifact_that_looks_odd_passes(label: str) -> None:
    trial = tried(RIGHT[label])
    assert trial.passed, trial.result.cause


def test_what_onnxruntime_fuses_wrongly_is_refused() -> None:
    """Its fusion of LayerNorm reads the epsilon only where it is the second operand; else it computes with 1e-5."""
    trial = tried(ALL["deberta/onnx/epsilon-first-in-addition"])
    assert not trial.passed
    assert trial.ratio < 30


def test_a_key_bias_is_not_observable_since_the_softmax_takes_it_out() -> None:
    trial = tried(ALL["bert/onnx/key-bias-dropped"])
    assert (trial.observable, trial.passed) == (False, True)


@pytest.mark.parametrize(
    ("cases", "fault"),
    [
        (("single-token",), "length-1-off"),
        (("two-tokens",), "length-2-off"),
        (("three-tokens",), "length-3-off"),
        (("batch-of-seven",), "rows-beyond-the-sixth"),
        (("longest",), "positions-cut-at-last-but-one"),
        (("longest",), "reads-48-tokens-only"),
        (("left-padded",), "mask-leading-padding-seen"),
        (("holes",), "mask-start-to-end"),
        (("left-padded", "holes"), "mask-as-length"),
        (("right-padded", "left-padded", "holes", "one-valid-token", "text"), "mask-ignored"),
        (("one-valid-token",), "lone-tokens-off"),
        (("empty-row",), "nan-in-empty-rows"),
        (("segments",), "segments-zero"),
        (("edge-ids",), "last-id-clipped"),
        (("repeated-token",), "repeated-tokens-off"),
        (("text",), "word-of-text-moved"),
    ],
)
def test_without_a_case_a_mutant_lives(cases: tuple[str, ...], fault: str) -> None:
    stand, mutant = shared()["bert"], ALL[f"bert/onnx/{fault}"]
    assert not passes(mutant, stand)
    assert passes(mutant, stand, without=cases)


@pytest.mark.parametrize(("factor", "fault"), [(10.0, "epsilon-1e-5"), (100.0, "key-element-1e-3")])
def test_with_wider_limits_a_mutant_lives(factor: float, fault: str) -> None:
    stand, mutant = shared()["bert"], ALL[f"bert/onnx/{fault}"]
    assert not passes(mutant, stand)
    assert passes(mutant, stand, factor=factor)


@pytest.mark.parametrize(
    ("limit", "wider", "even"),
    [("RMS_LIMIT", 12.0, True), ("MAX_LIMIT", 48.0, False)],
)
def test_with_one_limit_four_times_as_wide_a_mutant_lives(
    limit: str, wider: float, even: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An even error is caught by the root mean square alone, one wrong number by the maximum alone."""
    stand = shared()["bert"]
    mutant = Mutant("graded", "graded", "bert", "onnx", edit(lambda g: _graded(g, stand, even)))
    assert not passes(mutant, stand)
    monkeypatch.setattr(compare, limit, wider)
    assert passes(mutant, stand)


def _graded(g: Graph, stand: Stand, even: bool) -> None:
    """Adds six times the rms noise everywhere, or sixteen times the maximal noise to one number of the longest case."""
    row = tried(ALL["bert/onnx/as-written"]).result.outputs[0]
    size = stand.broad.specs["last_hidden_state"].shape[-1]
    if even:
        signs = np.where(np.arange(size) % 2 == 0, 1, -1) * 6 * row.rms_noise
        g.after("last_hidden_state", lambda value: g.add("Add", value, g.constant(signs, np.float32)))
        return
    one = g.constant(1, np.int64)
    counted = g.add("CumSum", g.add("Add", g.add("Sub", "input_ids", "input_ids"), one), one)
    last = g.cast(g.add("Equal", counted, g.constant(64, np.int64)), 1)
    bump = np.zeros(size, np.float32)
    bump[0] = 16 * row.max_noise
    wide = g.add("Mul", g.add("Unsqueeze", last, g.constant([2], np.int64)), g.constant(bump))
    g.after("last_hidden_state", lambda value: g.add("Add", value, wide))
