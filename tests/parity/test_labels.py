"""Labels: right numbers under wrong names are wrong answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import families
from bertx.checkpoint import Checkpoint, open_folder
from bertx.model.tasks import TASKS
from bertx.parity.compare import Row
from bertx.parity.judge import Subject
from bertx.parity.labels import compare_labels, difference
from program import Ran

NAMES = {0: "negative", 1: "neutral", 2: "positive"}
STATED = {"id2label": {str(k): v for k, v in NAMES.items()}, "label2id": {v: k for k, v in NAMES.items()}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("labels") / "checkpoint"
    folder.mkdir()
    families.make("distilbert", folder, "text-classification", num_labels=3)
    write_config(folder, **STATED)
    return open_folder(folder)


def write_config(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "config.json").read_text("utf-8")) | changes
    kept = {name: value for name, value in values.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept), "utf-8")


def look(home: Path | None, checkpoint: Checkpoint, task: str = "text-classification") -> Row | None:
    subject = Subject(Path("model.onnx"), "model.onnx", "onnx", "float32", None, (), home)
    return compare_labels(subject, checkpoint, TASKS[task], 1.0)


def test_the_same_labels_pass_and_are_counted(checkpoint: Checkpoint) -> None:
    row = look(checkpoint.folder, checkpoint)
    assert row is not None
    assert row.passed
    assert row.cases[0].count == 3


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"id2label": {"0": "positive", "1": "neutral", "2": "negative"}}, "the labels are permuted: 0 is positive"),
        ({"id2label": None}, "id2label is missing, the checkpoint names 3 labels"),
        ({"id2label": {"0": "negative", "1": "positive"}}, "id2label names 2 labels, the checkpoint 3"),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}, "label 0 is LABEL_0, in the checkpoint neg"),
        ({"label2id": None}, "label2id is missing, the checkpoint has 3 entries"),
        ({"label2id": {"negative": 2, "neutral": 1, "positive": 0}}, "label2id says 2 for negative, in the checkpoint"),
        ({"num_labels": 2}, "num_labels is 2, in the checkpoint 3"),
    ],
)
def test_other_labels_are_told(changes: dict[str, Any], problem: str) -> None:
    made = {name: value for name, value in {**STATED, **changes}.items() if value is not None}
    told = difference(made, STATED)
    assert told is not None
    assert told.startswith(problem)


def test_a_config_that_cannot_be_read_fails(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", "utf-8")
    row = look(tmp_path, checkpoint)
    assert row is not None
    assert not row.passed


@pytest.mark.parametrize("task", ["feature-extraction", "fill-mask"])
def test_a_task_without_labels_has_no_such_row(task: str, checkpoint: Checkpoint) -> None:
    assert look(checkpoint.folder, checkpoint, task) is None


def test_a_file_with_no_config_beside_it_has_no_such_row(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert look(None, checkpoint) is None
    assert look(tmp_path, checkpoint) is None


def test_verify_fails_a_folder_whose_labels_are_permuted(
    bertx: Callable[..., Ran], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint.folder, tmp_path / "folder")
    swapped = {"0": "positive", "1": "neutral", "2": "negative"}
    write_config(tmp_path / "folder", id2label=swapped, label2id={v: int(k) for k, v in swapped.items()})
    ran = bertx("verify", tmp_path / "folder", "--against", checkpoint.folder, "--json")
    assert ran.code == 1, ran.err
    (result,) = ran.results
    row = next(row for row in result["outputs"] if row["name"] == "labels")
    assert row["problem"].startswith("the labels are permuted: 0 is positive instead of negative")
    assert result["cause"].startswith("labels: the labels are permuted")
