"""Budgets: what an int8 file may differ by is stated, counted per token and label, and said in the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bertx import api
from bertx.cli.tables import report_table
from bertx.errors import UsageError
from bertx.parity.budget import Budget, read, spend
from bertx.parity.cases import Facts, of_texts
from bertx.parity.options import VerifyOptions
from bertx.parity.report import Report
from bertx.signature import TensorSpec
from cli.documents import checked

STATE = TensorSpec("last_hidden_state", "float32", ("batch", "sequence", 4))
LOGITS = TensorSpec("logits", "float32", ("batch", 3))
RNG = np.random.default_rng(2)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("cosine=0.99", Budget(0.99)),
        ("labels=0.98", Budget(None, 0.98)),
        ("cosine=0.99, labels=1", Budget(0.99, 1.0)),
    ],
)
def test_a_budget_is_read(text: str, meant: Budget) -> None:
    assert read(text) == meant


@pytest.mark.parametrize(
    "text",
    ["", "cosine", "cosine=", "cosine=2", "cosine=0", "cosine=nan", "cosine=-1", "mean=0.9", "cosine=1,cosine=0.1"],
)
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not understood"):
        read(text)


def test_one_bad_token_is_the_least_cosine_and_padding_is_none() -> None:
    exact = RNG.standard_normal((2, 5, 4))
    made, judged = exact.copy(), np.ones((2, 5, 4), bool)
    made[1, 3] = -made[1, 3]
    made[0, 4] = -made[0, 4]
    judged[0, 4] = False
    spent = spend(Budget(0.99), STATE, [("one", made, exact, judged)])
    assert (spent.cosine, spent.case, spent.index) == (pytest.approx(-1), "one", (1, 3))
    assert spent.problem == "cosine -1 in case one at [1, 3], the budget asks for 0.99"
    assert spent.labels is None


def test_labels_that_agree_are_counted_over_all_cases() -> None:
    exact = np.eye(3)[[0, 1, 2, 0]] + 0.1
    made = exact.copy()
    made[3] = made[3][[1, 0, 2]]
    compared = [
        ("one", made[:2], exact[:2], np.ones((2, 3), bool)),
        ("two", made[2:], exact[2:], np.ones((2, 3), bool)),
    ]
    assert spend(Budget(None, 0.75), LOGITS, compared).problem is None
    assert spend(Budget(None, 0.76), LOGITS, compared).problem == "0.75 of the labels agree, the budget asks for 0.76"


def test_the_answer_of_a_span_is_sought_among_valid_tokens() -> None:
    spec = TensorSpec("start_logits", "float32", ("batch", "sequence"))
    exact, made = np.array([[1.0, 3.0, 2.0]]), np.array([[1.0, 3.0, 9.0]])
    judged = np.array([[True, True, False]])
    spent = spend(Budget(0.9, 1.0), spec, [("one", made, exact, judged)])
    assert (spent.labels, spent.cosine) == (1.0, pytest.approx(1.0))


def test_a_number_per_row_is_compared_over_the_batch() -> None:
    spec = TensorSpec("logits", "float32", ("batch", 1))
    exact = np.array([[1.0], [2.0], [-3.0]])
    spent = spend(Budget(0.99), spec, [("one", exact * [[1], [1], [-1]], exact, np.ones((3, 1), bool))])
    assert spent.cosine < 0
    assert spent.labels is None


def test_a_budget_of_labels_alone_does_not_excuse_what_has_none() -> None:
    exact = RNG.standard_normal((2, 5, 4))
    spent = spend(Budget(None, 0.9), STATE, [("one", exact, exact, np.ones((2, 5, 4), bool))])
    assert spent.problem == "the budget says nothing of it: it needs a cosine"


def test_a_budgets_cases_are_text_alone_in_a_batch_and_padded() -> None:
    known = Facts(vocabulary=90, longest=64, segments=2, padding=0, special=(), texts=((1, 7, 8, 2), (1, 9)))
    made = {case.name: case for case in of_texts(("input_ids", "attention_mask"), known)}
    assert set(made) == {"text", "text-left-padded", "text-permuted", "text-0-alone", "text-1-alone"}
    left = made["text-left-padded"].inputs
    assert left["input_ids"].tolist() == [[1, 7, 8, 2], [0, 0, 1, 9]]
    assert left["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert made["text-1-alone"].inputs["input_ids"].tolist() == [[1, 9]]


@pytest.fixture(scope="session")
def quantized(minilm_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM's ONNX file in int8, as ONNX Runtime's own dynamic quantization writes it."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = tmp_path_factory.mktemp("quantized") / "model_quantized.onnx"
    chosen = {"per_channel": True, "reduce_range": True, "op_types_to_quantize": ["MatMul"]}
    quantize_dynamic(minilm_bundle / "onnx" / "model.onnx", path, weight_type=QuantType.QInt8, **chosen)
    return path


def verify(artifact: Path, against: Path, budget: Budget | None) -> Report:
    options = VerifyOptions(("onnxruntime",), device="cpu", budget=budget)
    return api.verify(artifact, str(against), options=options).report


def test_a_quantized_file_passes_within_its_budget(quantized: Path, minilm: Path) -> None:
    found = verify(quantized, minilm, Budget(0.85))
    assert found.verdict == "pass"
    document = checked(found.to_json())
    (result,) = document["results"]
    assert {row["judged"] for row in result["outputs"] if row["name"] != "weights"} == {"budget"}
    embedding = next(row for row in result["outputs"] if row["name"] == "sentence_embedding")
    assert 0.85 <= embedding["budget"]["cosine"] < 1
    assert result["instructions"].split()
    assert (document["cases"]["set"], document["cases"]["count"] > 6) == ("text", True)
    assert "judged by the budget (cosine 0.85), not by noise" in report_table(found)


def test_a_quantized_file_fails_by_a_tighter_budget_and_without_one(quantized: Path, minilm: Path) -> None:
    (tight,) = verify(quantized, minilm, Budget(0.9999)).results
    assert tight.verdict == "fail"
    assert "the budget asks for 0.9999" in str(tight.cause)
    (plain,) = verify(quantized, minilm, None).results
    assert plain.verdict == "fail"
    assert plain.outputs[0].spent is None


def test_labels_that_nothing_has_are_not_compared(quantized: Path, minilm: Path) -> None:
    found = verify(quantized, minilm, Budget(0.85, 0.9))
    assert found.verdict == "incomplete"
    assert found.results[0].reason == "the budget asks for labels, and none of its outputs has any"


def test_a_budget_does_not_excuse_the_other_files_of_a_folder(minilm_bundle: Path, minilm: Path) -> None:
    with pytest.raises(UsageError, match="--budget is for quantized files, and none is here"):
        verify(minilm_bundle, minilm, Budget(0.5))
