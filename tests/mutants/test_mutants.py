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
    "ids-through-float16",
    "counts-in-int8",
    "distances-turned",
    "distances-shifted",
)
OTHERS = (
    "bert/onnx/tap-in-the-place-of-the-output",
    "bert/onnx/rare-word-moved",
    "bert/torchscript/wrapped-rare-id-read-as-another",
    "bert/torchscript/module-dropout-on",
    "bert/torchscript/remembered-by-shape",
    "deberta/onnx/distances-turned",
    "bert-pooled/torchscript/embedding-not-normalised",
    "bert-pooled/torchscript/pooled-cls",
    "bert-pooled/torchscript/pooled-max",
    "bert-pooled/torchscript/pooled-over-padding",
    "distilbert-classifier/onnx/labels-permuted",
    "bert-answers/onnx/start-and-end-exchanged",
    "modernbert/onnx/frequencies-in-float16",
    "modernbert/torchscript/window-one-token-wide",
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


#: cases -> a mutant that lives where they are taken away; right padding is in several, and they are taken together
ONLY = (
    (("single-token",), "bert/onnx/length-1-off"),
    (("two-tokens",), "bert/onnx/length-2-off"),
    (("three-tokens",), "bert/onnx/length-3-off"),
    (("batch-of-seven",), "bert/onnx/rows-beyond-the-sixth"),
    (("longest", "long-mixed"), "bert/onnx/positions-cut-at-last-but-one"),
    (("longest", "long-mixed"), "bert/onnx/reads-48-tokens-only"),
    (("left-padded", "long-mixed"), "bert/onnx/mask-leading-padding-seen"),
    (("holes", "long-mixed"), "bert/onnx/mask-start-to-end"),
    (("left-padded", "holes", "long-mixed"), "bert/onnx/mask-as-length"),
    (("right-padded", "left-padded", "holes", "one-valid-token", "long-mixed", "text"), "bert/onnx/mask-ignored"),
    (("one-valid-token",), "bert/onnx/lone-tokens-off"),
    (("empty-row",), "bert/onnx/nan-in-empty-rows"),
    (("segments", "long-mixed"), "bert/onnx/segments-zero"),
    (("edge-ids",), "bert/onnx/last-id-clipped"),
    (("repeated-token",), "bert/onnx/repeated-tokens-off"),
    (("rows-together",), "bert/torchscript/remembered-without-order"),
    (("rows-permuted",), "bert/torchscript/remembered-without-order"),
    (("row-alone",), "bert/torchscript/remembered-row"),
    (("long-mixed",), "bert/onnx/long-padded-rows-off"),
    (("long-mixed",), "bert/onnx/segments-of-long-rows-zero"),
    (("text",), "bert/onnx/word-of-text-moved"),
)


def test_every_quick_case_is_among_those_that_are_taken_away() -> None:
    assert {name for cases, _ in ONLY for name in cases} == {case.name for case in shared()["bert"].quick.cases}


@pytest.mark.parametrize(("cases", "label"), ONLY)
def test_without_a_case_a_mutant_lives(cases: tuple[str, ...], label: str) -> None:
    stand, mutant = shared()["bert"], ALL[label]
    assert not passes(mutant, stand)
    assert passes(mutant, stand, without=cases)


@pytest.mark.parametrize(("factor", "fault"), [(10.0, "epsilon-1e-5"), (100.0, "key-element-1e-3")])
def test_with_wider_limits_a_mutant_lives(factor: float, fault: str) -> None:
    stand, mutant = shared()["bert"], ALL[f"bert/onnx/{fault}"]
    assert not passes(mutant, stand)
    assert passes(mutant, stand, factor=factor)


@pytest.mark.parametrize(("limit", "kind"), [("RMS_LIMIT", "even"), ("MAX_LIMIT", "one number")])
def test_with_one_limit_twice_as_wide_a_mutant_lives(limit: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An even error is caught by the root mean square alone, one wrong number by the maximum alone."""
    stand = shared()["bert"]
    mutant = Mutant("graded", "graded", "bert", "onnx", edit(lambda g: _graded(g, stand, kind)))
    assert not passes(mutant, stand)
    monkeypatch.setattr(compare, limit, 2 * getattr(compare, limit))
    assert passes(mutant, stand)


def test_without_the_limit_of_each_case_a_mutant_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """An even error in one short case is lost among all of the others."""
    stand = shared()["bert"]
    mutant = Mutant("graded", "graded", "bert", "onnx", edit(lambda g: _graded(g, stand, "three tokens")))
    assert not passes(mutant, stand)
    monkeypatch.setattr("bertx.parity.compare.FEWEST", 10**9)
    assert passes(mutant, stand)


def _graded(g: Graph, stand: Stand, kind: str) -> None:
    """Adds 4.5 times the rms noise (everywhere, or in sequences of three tokens), or 17 times the maximal noise to
    one number of the longest case."""
    row = tried(ALL["bert/onnx/as-written"]).result.outputs[0]
    size = stand.broad.specs["last_hidden_state"].shape[-1]
    assert isinstance(size, int)
    bump = np.where(np.arange(size) % 2 == 0, 1, -1) * 4.5 * row.rms_noise
    one = g.constant(1, np.int64)
    ones = g.add("Add", g.add("Sub", "input_ids", "input_ids"), one)
    if kind == "one number":
        bump = np.where(np.arange(size) == 0, 17 * row.max_noise, 0)
        where = g.add("Equal", g.add("CumSum", ones, one), g.constant(64, np.int64))
    elif kind == "three tokens":
        where = g.add("Equal", g.add("ReduceSum", ones, g.constant([1], np.int64), keepdims=1), g.constant(3, np.int64))
    else:
        where = g.add("Equal", ones, one)
    wide = g.add("Unsqueeze", g.cast(where, 1), g.constant([2], np.int64))
    added = g.add("Mul", wide, g.constant(bump, np.float32))
    g.after("last_hidden_state", lambda value: g.add("Add", value, added))
