"""The table of tasks: which head computes them and what their artifacts put out.

A new task is a new row here; nothing else branches on a task's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bertx.errors import InputRefused, UsageError, escape

#: the stacked tensor of all layer boundaries: (layers + 1, batch, sequence, hidden)
HIDDEN_STATES = "hidden_states"


@dataclass(frozen=True)
class Task:
    """One row of the table. `outputs` are those of ONNX; TorchScript puts out the one in `torchscript`.

    `labelled`: the last axis of its output are the labels that config.json names.
    """

    name: str
    auto_class: str
    architecture_suffixes: tuple[str, ...]
    outputs: tuple[str, ...]
    torchscript: str
    synonyms: tuple[str, ...] = ()
    labelled: bool = False


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "feature-extraction",
            "AutoModel",
            ("Model", "ForPreTraining"),
            ("last_hidden_state", "pooler_output"),
            "last_hidden_state",
            ("default", "image-feature-extraction"),
        ),
        Task(
            "sentence-similarity",
            "AutoModel",
            (),
            ("last_hidden_state", "sentence_embedding"),
            "sentence_embedding",
            ("sentence-transformers",),
        ),
        Task("fill-mask", "AutoModelForMaskedLM", ("ForMaskedLM",), ("logits",), "logits", ("masked-lm",)),
        Task(
            "text-classification",
            "AutoModelForSequenceClassification",
            ("ForSequenceClassification",),
            ("logits",),
            "logits",
            ("sequence-classification", "zero-shot-classification"),
            labelled=True,
        ),
        Task(
            "token-classification",
            "AutoModelForTokenClassification",
            ("ForTokenClassification",),
            ("logits",),
            "logits",
            ("ner",),
            labelled=True,
        ),
        Task(
            "image-classification",
            "AutoModelForImageClassification",
            ("ForImageClassification",),
            ("logits",),
            "logits",
            labelled=True,
        ),
        Task(
            "question-answering",
            "AutoModelForQuestionAnswering",
            ("ForQuestionAnswering",),
            ("start_logits", "end_logits"),
            "logits",
        ),
    )
}

_NAMES = ", ".join(TASKS)


def task_named(name: str) -> Task:
    """The row of a task by its name or a synonym. Raises UsageError where there is none."""
    for task in TASKS.values():
        if name == task.name or name in task.synonyms:
            return task
    raise UsageError("E_TASK", f"unknown task {escape(name)}", f"choose one of {_NAMES}")


def resolve_task(asked: str | None, architectures: tuple[str, ...], folder: Path) -> Task:
    """The task asked for, or for "auto" the one that the checkpoint itself states; never a guess.

    A sentence-transformers folder (it has modules.json) is sentence-similarity, a bare model or one for
    pre-training is feature-extraction, everything else is what its architecture's head computes.
    """
    if asked not in (None, "auto"):
        task = task_named(str(asked))
        if task.name == "sentence-similarity" and not (folder / "modules.json").is_file():
            raise InputRefused(
                "E_TASK_UNSUPPORTED",
                "sentence-similarity needs modules.json, which says how tokens are pooled",
                "use --task feature-extraction, or a sentence-transformers folder",
            )
        return task
    if (folder / "modules.json").is_file():
        return TASKS["sentence-similarity"]
    found = {
        task.name
        for architecture in architectures
        for task in TASKS.values()
        if architecture.endswith(task.architecture_suffixes or ("\0",))
    }
    if len(found) == 1:
        return TASKS[found.pop()]
    stated = ", ".join(escape(a, 60) for a in architectures) or "no architecture"
    raise UsageError(
        "E_TASK", f"config.json states {stated}, from which no task follows", f"add --task, one of {_NAMES}"
    )
