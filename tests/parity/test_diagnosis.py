"""Each cause in words is provoked by an artifact that is wrong in that way, judged by the real rule."""

from __future__ import annotations

import numpy as np
import pytest

from bertx.parity import diagnosis
from bertx.parity.compare import failed
from mutants.catalogue import catalogue
from mutants.stands import shared
from mutants.trial import made, run, verdict

ALL = {mutant.label: mutant for mutant in catalogue()}


def told(label: str, dtype: str = "float32") -> str:
    """The cause of a mutant's failure, told with its arrays as evidence; `dtype` is what it claims."""
    mutant, stand = ALL[label], shared()[ALL[label].stand]
    with made(mutant, stand) as path:
        subject = stand.subject(mutant.format, path)
        ran = run(subject, stand.quick)
        result = verdict(subject, ran, stand.quick)
    assert result.verdict == "fail"
    cases = stand.quick.cases
    evidence = diagnosis.Evidence(
        {case.name: case.inputs for case in cases}, ran.made.arrays, stand.quick.reference.exact.arrays, dtype
    )
    traits = {case.name: case.traits for case in cases}
    words = diagnosis.cause(result.outputs, result.taps, traits, result.first_bad_layer, evidence)
    assert words is not None
    return words


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("bert/onnx/mask-ignored", "attention_mask: right without padding and wrong with it, so the mask is ignored"),
        ("bert/onnx/mask-as-length", "attention_mask: wrong only on rows that are padded on the left or have holes"),
        ("bert/onnx/mask-as-length-from-right", "attention_mask: wrong only on rows that are padded on the right"),
        ("bert/onnx/mask-start-to-end", "attention_mask: wrong only on rows with holes, which are taken for valid"),
        ("bert/onnx/mask-minus-10", "attention_mask: right without padding and a little wrong with it"),
        ("bert/onnx/mask-inverted", "attention_mask: in encoder.layer.0 a sequence of one token is right"),
        ("bert/onnx/segments-zero", "token_type_ids: embeddings are wrong exactly where segments differ from 0"),
        ("bert/onnx/mask-and-segments-swapped", "token_type_ids: embeddings are wrong exactly where segments differ "
         "from 1, so attention_mask stands in their place (inputs swapped)"),
        ("bert/onnx/positions-wrap-at-32", "positions: embeddings are right up to position 31 and wrong from there on"),
        ("bert/onnx/positions-cut-at-last-but-one", "positions: wrong only at the longest sequence"),
        ("bert/onnx/long-padded-rows-off", "long rows: wrong only where they are padded, holed, of several segments"),
        ("bert/onnx/positions-of-valid-tokens", "positions: wrong only behind padding"),
        ("bert/onnx/positions-run-on-over-rows", "positions: right in the first row of a batch and wrong in the"),
        ("bert/onnx/word-of-text-moved", "embeddings: wrong wherever the token is 7 and nowhere else"),
        ("bert/onnx/norm-bias-dropped", "the first tap already differs: embeddings, positions or segment ids"),
        ("bert/onnx/scale-1-over-d", "attention in encoder.layer.0: a token that sees only itself is right"),
        ("bert/onnx/value-transposed", "everything before encoder.layer.0 is right: a weight or an operator in that"),
        ("bert/onnx/first-layer-skipped", "encoder.layer.0 is skipped: hidden_states.1 is what hidden_states.0"),
        ("bert/onnx/output-of-layer-before-last", "last_hidden_state is the output of layer 2 of 3"),
        ("bert/onnx/pooler-random", "every layer is right and pooler_output is wrong"),
        ("bert/onnx/tanh-gelu", "wrong by 0.0001 of the values in every case from encoder.layer.0 on: the size of an "
         "approximated function (tanh for erf in gelu)"),
        ("bert/onnx/products-in-tf32", "wrong by 0.0005 of the values in every case from encoder.layer.0 on: the size "
         "of float16 or TF32 arithmetic"),
        ("bert/onnx/products-in-bfloat16", "wrong by 0.004 of the values in every case from encoder.layer.0 on: the "
         "size of bfloat16"),
        ("bert/onnx/output-through-float16", "last_hidden_state holds float16 numbers in a wider tensor"),
        ("bert/onnx/output-through-bfloat16", "last_hidden_state holds bfloat16 numbers in a wider tensor"),
        ("bert/onnx/first-row-for-all", "every row gets the answer of the first one: the sample's batch was baked in"),
        ("bert/onnx/rows-sorted-by-length", "last_hidden_state: every row is right and in another place: rows were"),
        ("bert/onnx/window-of-8", "long rows: right up to 8 tokens and wrong from 12 on, so attention in"),
        ("bert/onnx/noise-left-on", "the same row gets another answer each time: dropout or another random number"),
        ("bert/onnx/rows-beyond-the-second", "a row's answer depends on its place in the batch"),
        ("bert/onnx/batch-mean-leaks", "a row's answer depends on the other rows of its batch"),
        ("bert/torchscript/module-dropout-on", "the same row gets another answer each time: dropout"),
        ("bert/onnx/constant-output", "last_hidden_state is the same whatever goes in"),
        ("distilbert-classifier/onnx/labels-permuted", "logits: the numbers are right in another order, so the labels "
         "are permuted (0 is 1, 1 is 0)"),
        ("bert-pooled/torchscript/pooled-cls", "sentence_embedding: the tokens are right and pooled in another way, "
         "by the first valid token"),
        ("bert-pooled/torchscript/pooled-max", "sentence_embedding: the tokens are right and pooled in another way, "
         "by the maximum"),
        ("modernbert/onnx/window-one-token-short", "long rows: right up to 13 tokens and wrong from 17 on, so "
         "attention in layers.1 sees another window"),
        ("bert-answers/onnx/start-and-end-exchanged", "start_logits is what end_logits should be"),
        ("bert-pooled/torchscript/embedding-not-normalised", "sentence_embedding is not normalised: directions are"),
    ],
)  # fmt: skip
def test_the_cause_says_what_is_wrong(label: str, words: str) -> None:
    assert told(label).startswith(words)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_numbers_of_the_claimed_dtype_are_no_cause(dtype: str) -> None:
    assert "wider tensor" not in told(f"bert/onnx/output-through-{dtype}", dtype)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("bert/onnx/nan-at-padding", "at padding only: something is divided by the mask"),
        ("bert/onnx/nan-in-empty-rows", "only beside or in a row that is padding only: a softmax or a mean over no"),
        ("bert/onnx/float16-overflow", "in every case: a number is too large for the precision"),
        ("bert-sentences/torchscript/embedding-without-dense", "only its last axis differs"),
    ],
)
def test_what_keeps_an_output_from_being_compared_is_explained(label: str, words: str) -> None:
    assert words in told(label)


def test_a_fixed_shape_is_told_from_one_wrong_shape() -> None:
    shapes = {"one": (1, 3, 4), "two": (2, 5, 4)}
    exact = {case: {"y": np.zeros(shape)} for case, shape in shapes.items()}
    fixed = {case: {"y": np.zeros((2, 7, 4))} for case in shapes}
    row = failed("y", "has shape (2, 7, 4) in case one, not (1, 3, 4)", 1.0)
    words = diagnosis.cause([row], [], {}, None, diagnosis.Evidence({}, fixed, exact))
    assert words is not None
    assert words.endswith("it is the same in every case: the sample's shape was baked in")


def test_without_evidence_the_choice_of_cases_still_tells() -> None:
    mutant, stand = ALL["bert/onnx/segments-zero"], shared()["bert"]
    with made(mutant, stand) as path:
        subject = stand.subject(mutant.format, path)
        result = verdict(subject, run(subject, stand.quick), stand.quick)
    traits = {case.name: case.traits for case in stand.quick.cases}
    words = diagnosis.cause(result.outputs, result.taps, traits, result.first_bad_layer)
    assert words is not None
    assert words.startswith(
        "token_type_ids: wrong only where segments differ, so they are ignored or fixed (long-mixed, segments)"
    )


def test_nothing_wrong_has_no_cause() -> None:
    assert diagnosis.cause([], [], {}, None) is None


def test_layers_are_named_as_the_checkpoint_names_them() -> None:
    names = [f"bert.encoder.layer.{k}.output.dense.weight" for k in range(3)] + ["bert.pooler.0.weight"]
    assert diagnosis.layer_prefix(names, 3) == "bert.encoder.layer."
    assert diagnosis.layer_prefix(names, 5) == "layer "


def test_a_cause_that_stumbles_does_not_take_the_verdict_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(found: object) -> str:
        raise IndexError("no such row")

    with monkeypatch.context() as patched:
        patched.setattr(diagnosis, "CAUSES", (stumble,))
        with pytest.raises(AssertionError, match=r"the diagnosis failed \(IndexError: no such row\), report this"):
            told("bert/onnx/mask-ignored")
