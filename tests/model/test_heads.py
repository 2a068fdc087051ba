"""Every task's head: what it puts out, that the wrapper leaves its numbers alone, and when it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bertx.checkpoint import open_folder
from bertx.errors import InputRefused, UsageError
from bertx.formats import ExportOptions, format_named
from bertx.model.loading import load
from bertx.model.stock import run_stock
from bertx.model.tasks import TASKS, resolve_task, task_named
from bertx.model.wrapper import default_outputs, input_names, wrap

BARE = ("feature-extraction", "sentence-similarity")
HEADS = tuple(name for name in TASKS if name not in (*BARE, "image-classification"))
FAMILIES = ("albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "roberta")

#: symbolic shapes of the tiny checkpoints: 160 words, 3 labels
SHAPES: dict[str, dict[str, tuple[str | int, ...]]] = {
    "fill-mask": {"logits": ("batch", "sequence", 160)},
    "text-classification": {"logits": ("batch", 3)},
    "token-classification": {"logits": ("batch", "sequence", 3)},
    "question-answering": {"start_logits": ("batch", "sequence"), "end_logits": ("batch", "sequence")},
}

#: rows: full, padded on the right, padded on the left, with holes
MASK = torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [0] * 3 + [1] * 6, [1, 0, 1, 1, 0, 1, 1, 0, 1]])
IDS = torch.arange(36).reshape(4, 9) % 150 + 5


def batch(names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    segments = (torch.arange(9) > 4).long().expand_as(IDS)
    return {name: {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": segments}[name] for name in names}


def three(task: str) -> dict[str, int]:
    """Two labels are what questions' answers have: their start and end."""
    return {} if task in ("fill-mask", "question-answering") else {"num_labels": 3}


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_is_wrapped_bit_for_bit(made: Callable[..., Path], family: str, task: str) -> None:
    checkpoint = open_folder(made(family, task, **three(task)))
    row, inputs = TASKS[task], batch(input_names(checkpoint))
    source = wrap(checkpoint, row, "float32", default_outputs(checkpoint, row), fused=False)
    expected, _ = run_stock(load(checkpoint, row), inputs)
    with torch.inference_mode():
        found = source.module.compute(**inputs)
    assert {spec.name: spec.shape for spec in source.signature.outputs} == SHAPES[task]
    for name in SHAPES[task]:
        keep = MASK.bool() if SHAPES[task][name][1:2] == ("sequence",) else ...
        assert torch.equal(found[name][keep], expected[name][keep])


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_head_that_reads_the_mask_itself_is_given_the_plain_one(made: Callable[..., Path], pooling: str) -> None:
    checkpoint = open_folder(made("modernbert", "text-classification", classifier_pooling=pooling))
    row, inputs = TASKS["text-classification"], batch(input_names(checkpoint))
    expected, _ = run_stock(load(checkpoint, row), inputs)
    module = wrap(checkpoint, row, "float32", ("logits",), fused=False).module
    with torch.inference_mode():
        assert torch.equal(module(*inputs.values()), expected["logits"])


@pytest.mark.parametrize("task", ["feature-extraction", *HEADS])
def test_the_checkpoint_states_its_own_task(made: Callable[..., Path], task: str) -> None:
    checkpoint = open_folder(made("bert", task))
    assert resolve_task("auto", checkpoint.config.architectures, checkpoint.folder).name == task


def test_every_synonym_names_its_task() -> None:
    assert {task_named(word).name for task in TASKS.values() for word in (task.name, *task.synonyms)} == set(TASKS)


def test_an_unknown_task_is_a_usage_error_that_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"unknown task summarise; choose one of feature-extraction"):
        task_named("summarise")


def test_an_architecture_without_a_head_of_ours_is_asked_for_never_guessed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="BertForNextSentencePrediction, from which no task follows; add --task"):
        resolve_task(None, ("BertForNextSentencePrediction",), tmp_path)


def test_a_family_without_the_head_is_refused(made: Callable[..., Path]) -> None:
    with pytest.raises(InputRefused, match="has no ModelForQuestionAnswering for model type nomic_bert") as caught:
        load(open_folder(made("nomic_bert")), TASKS["question-answering"])
    assert caught.value.code == "E_TASK_UNSUPPORTED"


def test_an_output_that_the_head_does_not_give_is_refused_with_those_it_gives(made: Callable[..., Path]) -> None:
    checkpoint = open_folder(made("bert", "fill-mask"))
    with pytest.raises(InputRefused, match="gives no pooler_output; it gives logits, hidden_states"):
        wrap(checkpoint, TASKS["fill-mask"], "float32", ("pooler_output",), fused=False)


def test_question_answering_is_one_tensor_of_two_in_torchscript(made: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint, row = open_folder(made("bert", "question-answering")), TASKS["question-answering"]
    written = format_named("torchscript").write(checkpoint, row, ExportOptions(), tmp_path / "model.pt")
    inputs = batch(input_names(checkpoint))
    expected, _ = run_stock(load(checkpoint, row), inputs)
    with torch.inference_mode():
        found = torch.jit.load(tmp_path / "model.pt")(*inputs.values())
    assert written.signature is not None
    assert written.signature.outputs[0].shape == ("batch", "sequence", 2)
    for column, name in enumerate(("start_logits", "end_logits")):
        assert torch.allclose(found[..., column][MASK.bool()], expected[name][MASK.bool()], atol=1e-5)
