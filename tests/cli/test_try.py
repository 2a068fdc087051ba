"""bertx try: an artifact's answers are those of transformers and sentence-transformers on the checkpoint itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documents import checked

from program import Ran

CLOSE = {"rel": 1e-3, "abs": 1e-5}
TEXTS = ("ab c d", "7 e: f g h i j k", "x")


def answered(ran: Ran) -> dict[str, Any]:
    """The answer in a document that fits its schema."""
    assert ran.code == 0, ran.err
    answer: dict[str, Any] = checked(ran.json)["answer"]
    return answer


def pipeline(task: str, folder: Path, **options: Any) -> Any:
    from transformers import pipeline as made

    return made(task, model=str(folder), tokenizer=str(folder), device="cpu", **options)


def test_similarities_are_those_of_sentence_transformers(
    bertx: Callable[..., Ran], unverified: Callable[..., Path], checkpoint: Callable[[str], Path]
) -> None:
    from sentence_transformers import SentenceTransformer

    rows = SentenceTransformer(str(checkpoint("sentence-similarity")), device="cpu").encode(list(TEXTS))
    bundle = unverified("sentence-similarity", "onnx")
    answer = answered(bertx("try", bundle, *TEXTS, "--json"))
    assert (answer["output"], answer["pooling"], answer["size"]) == ("sentence_embedding", None, 32)
    np.testing.assert_allclose(answer["cosines"], rows @ rows.T, atol=1e-5)
    np.testing.assert_allclose(answer["first"], rows[:, :8], atol=1e-5)
    one = answered(bertx("try", bundle, TEXTS[0], "--json"))
    assert one["cosines"] is None
    assert one["norms"] == pytest.approx([1.0], abs=1e-5)
    assert "32 numbers of norm 1.0000" in bertx("try", bundle, TEXTS[0]).out


def test_features_are_averaged_over_tokens_and_it_says_so(
    bertx: Callable[..., Ran], unverified: Callable[..., Path], checkpoint: Callable[[str], Path]
) -> None:
    states = [
        np.array(each[0]) for each in pipeline("feature-extraction", checkpoint("feature-extraction"))(list(TEXTS))
    ]
    means = np.stack([each.mean(axis=0) for each in states])
    units = means / np.linalg.norm(means, axis=1, keepdims=True)
    bundle = unverified("feature-extraction", "onnx")
    answer = answered(bertx("try", bundle, *TEXTS, "--json"))
    assert answer["pooling"] == "mean over the tokens of each text"
    np.testing.assert_allclose(answer["cosines"], units @ units.T, atol=1e-5)
    assert "mean over the tokens of each text" in bertx("try", bundle, *TEXTS).out


def test_masked_words_are_those_of_the_pipeline(
    bertx: Callable[..., Ran], unverified: Callable[..., Path], checkpoint: Callable[[str], Path]
) -> None:
    text = "ab [MASK] d [MASK]"
    expected = pipeline("fill-mask", checkpoint("fill-mask"), top_k=3)(text)
    answer = answered(bertx("try", unverified("fill-mask", "onnx"), text, "--top", "3", "--json"))
    assert [mask["position"] for mask in answer["masks"]] == [3, 5]
    for mask, words in zip(answer["masks"], expected, strict=True):
        assert [word["id"] for word in mask["words"]] == [each["token"] for each in words]
        assert [word["probability"] for word in mask["words"]] == pytest.approx([e["score"] for e in words], **CLOSE)


def test_labels_are_those_of_the_pipeline(
    bertx: Callable[..., Ran], unverified: Callable[..., Path], checkpoint: Callable[[str], Path]
) -> None:
    expected = pipeline("text-classification", checkpoint("text-classification"), top_k=2)(list(TEXTS))
    bundle = unverified("text-classification", "onnx")
    answer = answered(bertx("try", bundle, *TEXTS, "--top", "2", "--json"))
    assert answer["function"] == "softmax"
    for labels, wanted in zip(answer["texts"], expected, strict=True):
        assert [each["label"] for each in labels] == [each["label"] for each in wanted]
        assert [each["score"] for each in labels] == pytest.approx([each["score"] for each in wanted], **CLOSE)
    assert expected[0][0]["label"] in bertx("try", bundle, TEXTS[0]).out


def test_labels_of_tokens_are_those_of_the_pipeline(
    bertx: Callable[..., Ran], unverified: Callable[..., Path], checkpoint: Callable[[str], Path]
) -> None:
    tag = pipeline("token-classification", checkpoint("token-classification"), ignore_labels=[])
    answer = answered(bertx("try", unverified("token-classification", "onnx"), *TEXTS[:2], "--json"))
    for tokens, wanted in zip(answer["texts"], [tag(text) for text in TEXTS[:2]], strict=True):
        assert [each["label"] for each in tokens] == [each["entity"] for each in wanted]
        assert [each["token"] for each in tokens] == [each["word"] for each in wanted]
        assert [each["probability"] for each in tokens] == pytest.approx([e["score"] for e in wanted], **CLOSE)


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_the_answer_to_a_question_is_the_best_span_of_the_text(
    name: str, bertx: Callable[..., Ran], unverified: Callable[..., Path], checkpoint: Callable[[str], Path]
) -> None:
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    folder, pair = checkpoint("question-answering"), ("ab c?", "d e f 7 g, h")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    given = tokenizer(*pair, return_tensors="pt", return_token_type_ids=True)
    with torch.inference_mode():
        found = AutoModelForQuestionAnswering.from_pretrained(folder).eval()(**given)
    inside = [k for k, sequence in enumerate(given.sequence_ids(0)) if sequence == 1]
    start = torch.softmax(found.start_logits[0, inside], 0)
    end = torch.softmax(found.end_logits[0, inside], 0)
    spans = ((i, k) for i in range(len(inside)) for k in range(i, len(inside)))
    best = max((float(start[i] * end[k]), i, k) for i, k in spans)
    bundle = unverified("question-answering", "onnx", "torchscript")
    file = {"onnx": "onnx/model.onnx", "torchscript": "torchscript/model.pt"}[name]
    answer = answered(bertx("try", bundle / file, *pair, "--json", "--trust"))
    assert (answer["start"], answer["end"]) == (inside[best[1]], inside[best[2]])
    assert answer["probability"] == pytest.approx(best[0], **CLOSE)
    ids = given["input_ids"][0, inside[best[1]] : inside[best[2]] + 1]
    assert answer["answer"] == tokenizer.decode(ids)


def test_onnx_is_asked_first_and_every_format_gives_the_same_answer(
    bertx: Callable[..., Ran], exports: tuple[Path, dict[str, Ran]]
) -> None:
    bundle = exports[0]
    first = checked(bertx("try", bundle, "ab", "--json").json)
    second = checked(bertx("try", bundle, "ab", "--json", "--runtime", "torchscript").json)
    third = checked(bertx("try", bundle, "ab", "--json", "--runtime", "eager").json)
    assert [(each["artifact"], each["runtime"]) for each in (first, second, third)] == [
        ("onnx/model.onnx", "onnxruntime"),
        ("torchscript/model.pt", "torchscript"),
        ("model.safetensors", "eager"),
    ]
    for each in (second, third):
        np.testing.assert_allclose(each["answer"]["first"], first["answer"]["first"], atol=1e-5)


def test_torchscript_from_elsewhere_needs_trust(
    bertx: Callable[..., Ran], exports: tuple[Path, dict[str, Ran]], tmp_path: Path
) -> None:
    line = ("try", exports[0] / "torchscript" / "model.pt", "ab")
    refused = bertx(*line, BERTX_CACHE=str(tmp_path))
    assert (refused.code, refused.out) == (3, "")
    assert refused.err.startswith("bertx: error[E_UNTRUSTED]: torchscript/model.pt would run code")
    assert bertx(*line, "--trust", BERTX_CACHE=str(tmp_path)).code == 0


def test_a_long_text_is_cut_with_a_warning(bertx: Callable[..., Ran], exports: tuple[Path, dict[str, Ran]]) -> None:
    ran = bertx("try", exports[0], "a b", "a " * 60, "--json")
    assert (ran.code, ran.err) == (0, "bertx: warning: text 2 was cut from 62 to 48 tokens\n")
    assert [(t["tokens"], t["truncated"]) for t in checked(ran.json)["texts"]] == [(4, False), (48, True)]


def test_what_was_never_compared_is_answered_with_a_warning(
    bertx: Callable[..., Ran], unverified: Callable[..., Path]
) -> None:
    ran = bertx("try", unverified("feature-extraction", "onnx"), "a")
    assert (ran.code, ran.err) == (0, "bertx: warning: onnx/model.onnx has not passed a verification\n")


@pytest.mark.parametrize(
    ("task", "texts", "says"),
    [
        ("fill-mask", ("a b",), "text 1 has no mask: a b; write [MASK]"),
        ("fill-mask", ("[MASK]", "a " * 60 + "[MASK]"), "text 2 has a mask beyond the 48 tokens"),
        ("question-answering", ("a?",), "1 texts were given; give a question, then the text with its answer"),
        ("question-answering", ("a?", ""), "the second text is empty"),
        ("question-answering", ("a " * 60, "b"), "the question alone has 62 tokens of 48"),
        ("feature-extraction", (b"\xff".decode("utf-8", "surrogateescape"),), "text 1 is not UTF-8"),
    ],
)
def test_texts_that_do_not_fit_the_task_are_exit_2(
    task: str, texts: tuple[str, ...], says: str, bertx: Callable[..., Ran], unverified: Callable[..., Path]
) -> None:
    formats = ("onnx", "torchscript") if task == "question-answering" else ("onnx",)
    ran = bertx("try", unverified(task, *formats), *texts)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert ran.err.count("\n") == 1


def test_a_file_outside_of_any_bundle_is_refused(
    bertx: Callable[..., Ran], unverified: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copy(unverified("feature-extraction", "onnx") / "onnx" / "model.onnx", tmp_path / "alone.onnx")
    ran = bertx("try", tmp_path / "alone.onnx", "a")
    assert ran.code == 3
    assert ran.err.startswith("bertx: error[E_BUNDLE]: ")


def test_an_artifact_that_does_not_run_is_refused(
    bertx: Callable[..., Ran], unverified: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(unverified("feature-extraction", "onnx"), bundle)
    (bundle / "onnx" / "model.onnx").write_bytes(b"broken")
    ran = bertx("try", bundle, "a")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith("bertx: error[E_FORMAT]: onnx/model.onnx does not run in onnxruntime: ")
    assert ran.err.count("\n") == 1


def test_a_bundle_without_a_tokenizer_is_refused(
    bertx: Callable[..., Ran], unverified: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(unverified("feature-extraction", "onnx"), bundle)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bundle / name).unlink()
    ran = bertx("try", bundle, "a")
    assert ran.code == 3
    assert ran.err.startswith("bertx: error[E_TOKENIZER]: ")


def test_a_mask_is_written_as_the_tokenizer_does_or_as_mask(
    bertx: Callable[..., Ran], unverified: Callable[..., Path], tmp_path: Path
) -> None:
    """A bundle whose tokenizer calls its mask token <mask>, as RoBERTa's does."""
    bundle = tmp_path / "bundle"
    shutil.copytree(unverified("fill-mask", "onnx"), bundle)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (bundle / name).read_text("utf-8").replace("[MASK]", "<mask>")
        (bundle / name).write_text(text, "utf-8")
    theirs = answered(bertx("try", bundle, "a <mask> b", "--json"))
    ours = answered(bertx("try", bundle, "a [MASK] b", "--json"))
    assert theirs == ours
    assert [mask["position"] for mask in ours["masks"]] == [2]
