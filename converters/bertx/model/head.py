"""A head that a checkpoint lacks, initialised as transformers does: what a fine-tuning program starts from.

    python -m bertx.model.head FOLDER TASK LABELS SEED OUT

The program runs the stock class's own initialisation from a seed and writes OUT/head.safetensors (the new tensors) and
OUT/head.json (every tensor that the class needs, and where it comes from); `headed` makes a checkpoint of both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bertx.checkpoint import Checkpoint, open_folder
from bertx.checkpoint.config import Config
from bertx.checkpoint.naming import SPELLINGS, respelled
from bertx.checkpoint.tensors import read_header
from bertx.ending import leave
from bertx.errors import BertxError, InputRefused, UsageError
from bertx.model.loading import load
from bertx.model.tasks import Task, task_named

_TENSORS, _NAMES = "head.safetensors", "head.json"


@dataclass(frozen=True)
class HeadOptions:
    """How many labels a new head has, and the seed of torch's generator from which it is initialised."""

    labels: int
    seed: int = 0


def head_options(asked: bool, labels: int | None, seed: int | None) -> HeadOptions | None:
    """What --init-head, --num-labels and --seed ask for together. Raises UsageError where one lacks another."""
    if asked and labels is not None:
        return HeadOptions(labels, seed or 0)
    if asked or labels is not None or seed is not None:
        lacking = "--num-labels" if asked else "--init-head"
        raise UsageError("E_USAGE", f"{lacking} is missing", "a new head needs --init-head and --num-labels")
    return None


def check_head(task: Task, options: HeadOptions) -> None:
    """Raises UsageError where a task has no head with labels, or a number of them that it cannot have."""
    if not task.labelled and task.name != "question-answering":
        hint = "name a classifier: --task text-classification or token-classification"
        raise UsageError("E_TASK", f"--init-head has no meaning for {task.name}", hint)
    if options.labels < 1 or (task.name == "question-answering" and options.labels != 2):
        raise UsageError(
            "E_USAGE", f"a head for {task.name} cannot have {options.labels} labels", "correct --num-labels"
        )


def headed(checkpoint: Checkpoint, folder: Path, options: HeadOptions) -> Checkpoint:
    """The checkpoint with the head that the program left in `folder`, its names those of the head's class."""
    told = json.loads((folder / _NAMES).read_text("utf-8"))
    new = read_header(folder / _TENSORS)
    names: Mapping[str, str | None] = told["names"]
    weights = {name: new[name] if old is None else checkpoint.weights[old] for name, old in names.items()}
    values = {**_labelled(checkpoint.config.values, options.labels), "architectures": [told["head"]]}
    started = {"tensors": sorted(new), "labels": options.labels, "seed": options.seed}
    config = Config(values, checkpoint.config.dropped, True)
    return replace(checkpoint, config=config, weights=weights, initialised=started)


def _labelled(values: Mapping[str, Any], labels: int) -> dict[str, Any]:
    names = {str(k): f"LABEL_{k}" for k in range(labels)}
    kept = {key: value for key, value in values.items() if key not in ("num_labels", "problem_type")}
    return {**kept, "num_labels": labels, "id2label": names, "label2id": {name: int(k) for k, name in names.items()}}


def _write(checkpoint: Checkpoint, task: Task, options: HeadOptions, folder: Path) -> None:
    from safetensors.torch import save_file

    config = replace(checkpoint.config, values=_labelled(checkpoint.config.values, options.labels))
    loaded = load(replace(checkpoint, config=config), task, seed=options.seed)
    if not loaded.initialised:
        raise InputRefused("E_WEIGHTS", f"the checkpoint has a head for {task.name} already", "leave --init-head out")
    model = loaded.model
    state = model.state_dict()
    names = {
        name: None if name in loaded.initialised else _source(name, model.base_model_prefix, checkpoint.weights)
        for name in state
    }
    save_file({name: state[name].contiguous() for name in loaded.initialised}, folder / _TENSORS)
    (folder / _NAMES).write_text(json.dumps({"head": loaded.head, "names": names}), "utf-8")


def _source(name: str, prefix: str, weights: Iterable[str]) -> str:
    """The checkpoint's own name for a tensor of the class."""
    for each in (name, name.removeprefix(f"{prefix}.")):
        for spelling in (None, *SPELLINGS):
            if respelled(each, spelling) in weights:
                return respelled(each, spelling)
    raise InputRefused("E_WEIGHTS", f"{name} is renamed at load", "--init-head cannot tell which tensor it is")


def main() -> int:
    folder, task, labels, seed, out = sys.argv[1:]
    try:
        _write(open_folder(Path(folder)), task_named(task), HeadOptions(int(labels), int(seed)), Path(out))
    except BertxError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    leave(main())
