"""Labels beside an artifact against the checkpoint's: right numbers under wrong names are wrong answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertx.checkpoint import Checkpoint
from bertx.checkpoint.config import MAX_CONFIG_BYTES, parse_json, read_bounded
from bertx.errors import InputRefused, escape
from bertx.model.tasks import Task
from bertx.parity.compare import Compared, Row, failed, pool
from bertx.parity.judge import Subject

NAME = "labels"


def compare_labels(subject: Subject, checkpoint: Checkpoint, task: Task, factor: float) -> Row | None:
    """A row of the report: how many labels are the checkpoint's, or how they differ.

    None where the task gives no labels, no config.json goes with the artifact, or the checkpoint names no label.
    """
    wanted = checkpoint.config.values
    if not task.labelled or subject.home is None or not (_names(wanted) or _ids(wanted)):
        return None
    path = subject.home / "config.json"
    if not path.is_file():
        return None
    try:
        made = parse_json(read_bounded(path, MAX_CONFIG_BYTES, "E_CONFIG"), path, "E_CONFIG")
    except InputRefused as error:
        return failed(NAME, f"config.json cannot be read: {error}", factor)
    problem = difference(made, wanted)
    if problem is not None:
        return failed(NAME, problem, factor)
    count = max(len(_names(wanted)), len(_ids(wanted)))
    return pool(NAME, [Compared("config", count, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, ())], "float32", factor)


def difference(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """In words, how the labels of one configuration differ from those of another; None where they do not."""
    ours, theirs = _names(made), _names(wanted)
    if theirs and not ours:
        return f"id2label is missing, the checkpoint names {len(theirs)} labels"
    if theirs and len(ours) != len(theirs):
        return f"id2label names {len(ours)} labels, the checkpoint {len(theirs)}"
    wrong = [k for k in sorted(theirs) if ours.get(k) != theirs[k]]
    if wrong and sorted(ours.values()) == sorted(theirs.values()):
        listed = ", ".join(f"{k} is {_shown(ours.get(k))} instead of {_shown(theirs[k])}" for k in wrong[:4])
        return f"the labels are permuted: {listed}"
    if wrong:
        k = wrong[0]
        return f"label {k} is {_shown(ours.get(k))}, in the checkpoint {_shown(theirs[k])}"
    return _inverse(made, wanted)


def _inverse(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """What is wrong with label2id or num_labels, where the checkpoint has them."""
    ours, theirs = _ids(made), _ids(wanted)
    if theirs and not ours:
        return f"label2id is missing, the checkpoint has {len(theirs)} entries"
    for name in sorted({*ours, *theirs} if theirs else ()):
        if ours.get(name) != theirs.get(name):
            return f"label2id says {_shown(ours.get(name))} for {_shown(name)}, in the checkpoint {theirs.get(name)}"
    count, stated = made.get("num_labels"), wanted.get("num_labels") or len(_names(wanted) or theirs)
    if count is not None and count != stated:
        return f"num_labels is {_shown(count)}, in the checkpoint {stated}"
    return None


def _names(values: Mapping[str, Any]) -> dict[int, str]:
    """id2label with whole numbers as keys; what is no number is no label."""
    found = values.get("id2label")
    return {int(k): str(v) for k, v in found.items() if str(k).isdecimal()} if isinstance(found, dict) else {}


def _ids(values: Mapping[str, Any]) -> dict[str, Any]:
    found = values.get("label2id")
    return {str(k): v for k, v in found.items()} if isinstance(found, dict) else {}


def _shown(value: Any) -> str:
    return "nothing" if value is None else escape(str(value), 40)
