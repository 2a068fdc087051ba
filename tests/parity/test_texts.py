"""Texts from end to end in `bertx verify`: a runner that reads one otherwise than Python fails, and is told which."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bertx.parity.judge import Subject
from bertx.parity.texts import LONGEST, reading
from bertx.runtimes import Foreign, runtime_named
from bertx.signature import TensorSpec
from cli.documents import checked
from program import Ran

RUNNER = Path(__file__).parents[1] / "runtimes" / "text_runner.py"
OTHERWISE = "texts: the runner's tokenizer reads a text otherwise: "
#: how a runner is wrong -> what is said of it
FAULTS = {
    "accents-kept": f"{OTHERWISE}“Łódź” gives [UNK] (100) as token 1, the checkpoint gives łodz (17814)",
    "case-kept": f"{OTHERWISE}“",
    "one-letter": f"{OTHERWISE}“Łódź” gives ",
    "cut-short": f"gives [SEP] (102) as token {LONGEST - 2}, the checkpoint gives",
    "padded-left": "texts: it does not pad on the right to the longest text of case texts-",
    "texts-ignored": "texts: it gives back no input_ids of the texts in case texts-0",
    "rows-swapped": "texts: ",
}


def verified(
    bertx: Callable[..., Ran], artifact: Path, faults: Sequence[str], *more: str | Path, code: int = 1
) -> dict[str, Any]:
    """The results of runners that take texts, by how each is wrong."""
    lines = [f"onnx,texts={shlex.join([sys.executable, str(RUNNER), fault])}" for fault in faults]
    runners = [word for line in lines for word in ("--runner", line)]
    ran = bertx("verify", artifact, "--runtime", "onnxruntime", *runners, "--json", *more)
    assert ran.code == code, ran.err
    report = checked(ran.json)
    own, *results = report["results"]
    assert (own["runtime"], rows(own), own["unjudged"]) == ("onnxruntime", {}, [])
    return dict(zip(faults, results, strict=True))


def rows(result: Any) -> dict[str, Any]:
    return {row["name"]: row for row in result["outputs"] if row["name"].startswith("texts")}


@pytest.fixture(scope="module")
def results(
    bertx: Callable[..., Ran], minilm_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Any]:
    own = tmp_path_factory.mktemp("texts") / "own.txt"
    own.write_text("Łódź\n", "utf-8")
    return verified(bertx, minilm_bundle / "onnx" / "model.onnx", ["none", *FAULTS], "--text", own)


def test_a_runner_that_reads_texts_as_python_does_passes_end_to_end(results: Mapping[str, Any]) -> None:
    result = results["none"]
    assert (result["verdict"], result["cause"], result["unjudged"]) == ("pass", None, [])
    found = rows(result)
    assert list(found) == ["texts", "texts.last_hidden_state", "texts.sentence_embedding"]
    assert found["texts"]["compared"] > 500
    for name in ("last_hidden_state", "sentence_embedding"):
        row = found[f"texts.{name}"]
        assert row["cases"] >= 5
        assert row["rms_ratio"] <= row["rms_limit"]
        assert row["problem"] is None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_runner_that_reads_a_text_otherwise_fails_and_says_which(fault: str, results: Mapping[str, Any]) -> None:
    result = results[fault]
    assert result["verdict"] == "fail"
    assert FAULTS[fault] in result["cause"]
    assert all(row["problem"] is None for row in result["outputs"] if row["name"] not in rows(result))


def test_right_ids_with_the_answers_to_others_fail(results: Mapping[str, Any]) -> None:
    found = rows(results["rows-swapped"])
    assert found["texts"]["problem"] is None
    assert found["texts.sentence_embedding"]["max_ratio"] > 1e3


def test_a_tokenizer_that_was_changed_fails_though_the_runner_obeys_it(
    bertx: Callable[..., Ran], minilm: Path, minilm_bundle: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(minilm_bundle, changed)
    document = json.loads((changed / "tokenizer.json").read_text("utf-8"))
    document["normalizer"]["strip_accents"] = False
    (changed / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    artifact = changed / "onnx" / "model.onnx"
    (result,) = verified(bertx, artifact, ["none"], "--against", minilm).values()
    assert result["verdict"] == "fail"
    assert "tokenizer: “Zürich" in result["cause"]


def test_by_a_budget_the_ids_of_texts_are_judged_and_the_report_says_what_is_not(
    bertx: Callable[..., Ran], minilm_bundle: Path
) -> None:
    """It is stated for plain texts, and these are not."""
    artifact = minilm_bundle / "onnx" / "model.onnx"
    found = verified(bertx, artifact, ["none"], "--budget", "cosine=0.99", code=0)["none"]
    assert (found["verdict"], list(rows(found))) == ("pass", ["texts"])
    assert found["unjudged"] == ["texts: outputs (a budget is for plain texts)"]


TAKEN = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask"))
#: what somebody's program or file is -> why it is given no texts
REASONS: Mapping[str, tuple[dict[str, Any], str | None]] = {
    "takes none": ({"runtime": runtime_named("onnxruntime")}, None),
    "no tokenizer": ({"without": ("tokenizer.json",)}, None),
    "no bundle": ({"without": ("bertx.json",)}, "the file lies in no bundle"),
    "a fixed shape": ({"static": {"batch": 1}}, "the file fixes batch"),
    "int32": (
        {"fed": (replace(TAKEN[0], dtype="int32"), TAKEN[1])},
        "the file is fed input_ids (int32), attention_mask (int64), "
        "where texts give input_ids, attention_mask, token_type_ids (int64)",
    ),
    "positions": (
        {"fed": (*TAKEN, replace(TAKEN[0], name="position_ids"))},
        "the file is fed input_ids (int64), attention_mask (int64), position_ids (int64), "
        "where texts give input_ids, attention_mask, token_type_ids (int64)",
    ),
    "no mask": (
        {"fed": TAKEN[:1]},
        "the file is fed input_ids (int64), where texts give input_ids, attention_mask, token_type_ids (int64)",
    ),
    "Japanese": (
        {"contract": {}, "runtime": runtime_named("transformers-js")},
        "transformers-js does not do the MeCab contract that tokenizer.json is made for",
    ),
    "a malformed contract": ({"contract": {}}, "mecab_contract.json is malformed ('mecab')"),
}


@pytest.mark.parametrize("which", REASONS)
def test_why_no_texts_are_given_is_said(which: str, minilm_bundle: Path, tmp_path: Path) -> None:
    given, why = REASONS[which]
    for name in {"tokenizer.json", "bertx.json"} - set(given.get("without", ())):
        shutil.copyfile(minilm_bundle / name, tmp_path / name)
    if "contract" in given:
        (tmp_path / "mecab_contract.json").write_text(json.dumps(given["contract"]), "utf-8")
    runtime = given.get("runtime", Foreign("mine", ("./mine",), frozenset({"onnx"}), takes_texts=True))
    subject = Subject(tmp_path / "model.onnx", "model.onnx", "onnx", "float32", None, ("logits",), tmp_path)
    assert reading(subject, runtime, given.get("fed", TAKEN), given.get("static", {})) == why
    assert reading(replace(subject, home=None), runtime, TAKEN, {}) is None
