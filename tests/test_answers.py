"""From numbers to answers: pure functions, on numbers whose answer is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bertx.answers import ANSWERS, LONGEST_ANSWER, Question, Row, averaged, labels, softmax, span, to_json, words
from bertx.model.tasks import TASKS

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "red", "green", "blue", "##ish"]


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer of whole words."""

    special: tuple[int, ...] = (0, 1, 2, 3)
    mask: int | None = 3
    longest: int | None = None

    def tokens(self, ids: list[int]) -> list[str]:
        return [WORDS[number] if number < len(WORDS) else f"(id {number})" for number in ids]

    def decode(self, ids: list[int]) -> str:
        return " ".join(WORDS[number] for number in ids if number < len(WORDS) and number not in self.special)


def question(*rows: tuple[int, ...], config: dict[str, Any] | None = None, top: int = 2, context: int = 0) -> Question:
    tokenizer: Any = Vocabulary()
    made = tuple(Row("text", ids, (0,) * len(ids), len(ids)) for ids in rows)
    return Question(made, tokenizer, config or {}, top, context)


def test_every_task_on_text_can_be_answered() -> None:
    assert set(ANSWERS) == set(TASKS) - {"image-classification"}
    for task in (TASKS[name] for name in ANSWERS):
        assert ANSWERS[task.name].readable(task.outputs)
        assert ANSWERS[task.name].readable((task.torchscript,))


def test_padding_does_not_count_in_a_mean() -> None:
    states = np.array([[[1.0, 0.0], [3.0, 4.0], [99.0, 99.0]], [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]])
    found = averaged({"last_hidden_state": states}, question((1, 2), (1, 4, 2)))
    assert found.first == ((2.0, 2.0), (0.0, 1.0))
    assert found.cosines is not None
    assert found.cosines[0][1] == pytest.approx(2**-0.5)


def test_the_best_words_of_each_mask_come_first() -> None:
    logits = np.zeros((1, 4, 10), dtype=np.float32)
    logits[0, 1, [4, 6]] = 5, 3
    logits[0, 2, [9, 7]] = 5, 3
    found = words({"logits": logits}, question((1, 3, 3, 2)))
    assert [(mask.position, [word.word for word in mask.words]) for mask in found.masks] == [
        (1, ["red", "blue"]),
        (2, ["(id 9)", "##ish"]),  # models count further than their vocabulary
    ]
    assert found.masks[0].words[0].probability == pytest.approx(float(softmax(logits[0, 1])[4]))
    assert to_json(found)["kind"] == "words"


@pytest.mark.parametrize(
    ("config", "count", "function", "scores"),
    [
        ({}, 2, "softmax", (0.75, 0.25)),
        ({"problem_type": "single_label_classification"}, 2, "softmax", (0.75, 0.25)),
        ({"problem_type": "multi_label_classification"}, 2, "sigmoid", (0.75, 0.5)),
        ({}, 1, "sigmoid", (0.75,)),
        ({"problem_type": "regression"}, 1, "none", (float(np.log(3)),)),
    ],
)
def test_scores_are_made_as_the_configuration_says(
    config: dict[str, Any], count: int, function: str, scores: tuple[float, ...]
) -> None:
    logits = np.array([[np.log(3), 0.0][:count]])
    found = labels({"logits": logits}, question((1, 2), config=config))
    assert found.function == function
    assert tuple(label.score for label in found.texts[0]) == pytest.approx(scores)
    assert [label.label for label in found.texts[0]] == [f"LABEL_{k}" for k in range(count)]


def test_labels_have_the_names_of_the_configuration() -> None:
    found = labels({"logits": np.array([[0.0, 1.0]])}, question((1, 2), config={"id2label": {"0": "no", "1": "yes"}}))
    assert [label.label for label in found.texts[0]] == ["yes", "no"]


def test_an_answer_lies_in_the_context_and_does_not_run_backwards() -> None:
    ids = (1, 4, 2, 5, 6, 7, 2)
    start, end = np.full((1, 7), -5.0), np.full((1, 7), -5.0)
    start[0, [1, 5, 4]] = 9, 4, 3  # the question's own token, the last of the context, the one before
    end[0, [6, 3, 5]] = 9, 8, 2  # a separator, a token before both, the last
    found = span({"start_logits": start, "end_logits": end}, question(ids, context=3))
    assert (found.start, found.end, found.answer) == (5, 5, "##ish")
    stacked = span({"logits": np.stack([start, end], axis=-1)}, question(ids, context=3))
    assert stacked == found


def test_an_answer_is_not_longer_than_allowed() -> None:
    ids = (1, 4, 2, *[5] * 60, 2)
    start, end = np.zeros((1, 64)), np.zeros((1, 64))
    start[0, 3] = end[0, 62] = 20
    found = span({"start_logits": start, "end_logits": end}, question(ids, context=3))
    assert found.end - found.start < LONGEST_ANSWER


def test_softmax_of_large_numbers_is_finite() -> None:
    assert softmax(np.array([1e4, 0.0], dtype=np.float32)).tolist() == [1.0, 0.0]
