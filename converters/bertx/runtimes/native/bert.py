"""What programs refuse that compute a BERT from its weights: they know this one family, and few heads."""

from __future__ import annotations

import json
from pathlib import Path

from bertx.errors import escape

#: the tasks that take the encoder's states, pooled or not, and the one head that they know
TASKS = ("feature-extraction", "sentence-similarity", "token-classification")


def refusal(artifact: Path, task: str) -> str | None:
    """Why such a program cannot compute these weights, by the config.json beside them; None where it can."""
    try:
        told = json.loads((artifact.parent / "config.json").read_text("utf-8"))
        family = told.get("model_type") if isinstance(told, dict) else None
    except (OSError, ValueError):
        return "there is no config.json beside it that can be read"
    if family != "bert":
        return f"it knows model_type bert alone, and this is {escape(family, 40)}"
    if task not in TASKS:
        return f"it knows the encoder and heads that label tokens, and the task is {escape(task, 40)}"
    return None
