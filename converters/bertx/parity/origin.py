"""What artifacts are compared with: a checkpoint that eager PyTorch runs, or golden cases that somebody recorded.

An origin makes the cases for what an artifact takes, and knows the right answers.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bertx.checkpoint import Checkpoint
from bertx.checkpoint.tensors import TensorInfo
from bertx.checkpoint.weights import INDEX, read_file
from bertx.errors import UsageError, escape
from bertx.model.pictures import PIXELS, at_size, takes_pictures
from bertx.model.tasks import Task
from bertx.model.wrapper import default_outputs, input_specs
from bertx.parity import cases as probes
from bertx.parity import reference as references
from bertx.parity import sampled, stations, texts
from bertx.parity.binding import IDS, bind
from bertx.parity.cases import Case
from bertx.parity.companions import compare_companions
from bertx.parity.compare import Row
from bertx.parity.given import given
from bertx.parity.judge import Bench, Subject
from bertx.parity.labels import compare_labels
from bertx.parity.options import VerifyOptions
from bertx.parity.rows import fitted, resized
from bertx.parity.stations import Stations
from bertx.parity.texts import Spoken
from bertx.parity.tokens import compare_tokens, text_folder
from bertx.parity.unchanged import unchanged
from bertx.parity.weights import compare_weights
from bertx.runtimes import process
from bertx.runtimes.lookups import Lookups
from bertx.runtimes.protocol import write_cases
from bertx.signature import BATCH, SEQUENCE, Signature, TensorSpec
from bertx.tokenizer import open_tokenizer, settings


@dataclass(frozen=True)
class Asked:
    """What an artifact is asked, and so what its reference must answer: a dtype, the inputs that it takes by our
    names in our order, and the sizes of the axes that it fixes, by symbol. `ids` asks about
    nothing but each token id from one to another."""

    dtype: str
    inputs: tuple[str, ...]
    static: tuple[tuple[str, int], ...] = ()
    budget: bool = False
    ids: tuple[int, int] | None = None


@dataclass(frozen=True)
class Beside:
    """What a look at an artifact told without running it: rows of the report, and whether the embeddings of all ids
    were seen to be the checkpoint's, by the ids that cases hold and what a runner read of the graph."""

    rows: tuple[Row, ...] = ()
    ids_seen: Callable[[Container[int], Lookups | None], bool] = lambda held, told: True


class Origin(ABC):
    """Where a reference comes from. `inputs` and `outputs` are those of the whole model, `weights` its tensors."""

    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, TensorInfo]

    @abstractmethod
    def obstacle(self, subject: Subject, asked: Asked, options: VerifyOptions) -> str | None:
        """Why there is no reference for what this artifact is asked, None where there is."""

    @abstractmethod
    def cases(self, asked: Asked, options: VerifyOptions) -> tuple[Case, ...]:
        """The cases for this, each with the inputs that were asked for."""

    @abstractmethod
    def reference(
        self, asked: Asked, cases: Sequence[Case], device: str, limits: process.Limits, cache: Path
    ) -> references.Reference:
        """The right answers to these cases. Raises BertxError where there are none."""

    @abstractmethod
    def told(self) -> dict[str, Any]:
        """checkpoint, commit and origin, as a report states them."""

    def case_set(self, cases: Sequence[Case], options: VerifyOptions) -> dict[str, Any]:
        """The name of the set of cases and its seed, as a report states them."""
        if isinstance(options.cases, Path):
            return {"set": escape(options.cases.name), "seed": None}
        if cases and all(case.name.startswith("text") for case in cases):
            return {"set": "text", "seed": None}
        return {"set": options.cases, "seed": options.seed}

    def unasked(self, cases: Sequence[Case], asked: Asked, options: VerifyOptions) -> str | None:
        """What the model takes and no case asks for, None where there is nothing."""
        return None

    def beside(self, subject: Subject, factor: float) -> Beside:
        """What can be compared without running the artifact."""
        return Beside()

    def spoken(self, asked: Asked, options: VerifyOptions) -> Spoken | None:
        """Texts for runners that make the ids themselves, None where there is no tokenizer to compare with."""
        return None

    def ids(self) -> int:
        """How many token ids there are to be asked about one by one."""
        return 0

    def tokens(self, home: Path | None, options: VerifyOptions, limits: process.Limits) -> Row | None:
        """The row of the tokenizer in the folder of some artifacts, None where there is nothing to compare."""
        return None

    def stations(
        self, dtype: str, cases: Sequence[Case], boundary: int, device: str, limits: process.Limits
    ) -> Stations | None:
        """What is right between the layer boundaries before `boundary` and at it, None where there are no layers.

        Raises BertxError where it cannot be told.
        """
        return None

    def repeats(self, subject: Subject) -> bool:
        """Whether eager PyTorch on this artifact would compute the reference over again."""
        return False

    def signature(self, cases: Sequence[Case]) -> Signature:
        """The signature of the cases; its outputs are empty where the reference's answers tell them."""
        return Signature(tuple(spec for spec in self.inputs if spec.name in cases[0].inputs), ())

    @contextmanager
    def whole(self, subjects: Sequence[Subject]) -> Iterator[list[Subject]]:
        """The subjects as they can be run."""
        yield list(subjects)


class Stock(Origin):
    """A checkpoint: the stock model of a task, run by eager PyTorch. `texts` is whose tokenizer encodes cases."""

    def __init__(self, checkpoint: Checkpoint, task: Task) -> None:
        self.checkpoint = checkpoint
        self.kind, self.task = task, task.name
        self.inputs = input_specs(checkpoint)
        self.pictures = takes_pictures(checkpoint.config.values)
        self.outputs = default_outputs(checkpoint, task)
        self.weights = checkpoint.weights
        self.texts = checkpoint.folder

    def obstacle(self, subject: Subject, asked: Asked, options: VerifyOptions) -> str | None:
        if self.pictures:
            return None
        length, most = dict(asked.static).get(SEQUENCE, 1), self._facts().longest
        return f"the file takes {length} tokens and no other number, the model {most}" if length > most else None

    def cases(self, asked: Asked, options: VerifyOptions) -> tuple[Case, ...]:
        static = dict(asked.static)
        if self.pictures:
            made = self._pictures(options)
            return resized(made, self.inputs, static[BATCH]) if BATCH in static else made
        if isinstance(options.cases, Path):
            made = given(options.cases, asked.inputs, self._facts(static.get(SEQUENCE)))
        else:
            tokenizer = open_tokenizer(self.texts)
            encoded = tokenizer.encode([*probes.TEXTS, *options.texts]) if tokenizer else []
            special = tokenizer.special if tokenizer else ()
            known = probes.facts(self.checkpoint.config.values, encoded, special)
            known = probes.shortened(known, static.get(SEQUENCE, known.longest))
            if asked.ids is not None:
                made = probes.every_id(asked.inputs, known, range(*asked.ids))
            elif asked.budget and known.texts:
                made = probes.of_texts(asked.inputs, known)
            else:
                made = probes.build(options.cases, asked.inputs, known, options.seed, ids=False, most=self._room())
        return fitted(made, static, self._facts().padding) if static else made

    def _room(self) -> int:
        """The tokens of one row that the reference and a runner beside it have memory for."""
        import psutil

        return probes.room(self.checkpoint.config.values, psutil.virtual_memory().available // 2)

    def unasked(self, cases: Sequence[Case], asked: Asked, options: VerifyOptions) -> str | None:
        if self.pictures or asked.budget or asked.static or isinstance(options.cases, Path):
            return None
        had, most = max(case.inputs["input_ids"].shape[1] for case in cases), self._facts().longest
        hint = " (--cases full asks more)" if options.cases == "quick" else ""
        return f"tokens beyond {had:,} of {most:,}{hint}" if had < most else None

    def _pictures(self, options: VerifyOptions) -> tuple[Case, ...]:
        if isinstance(options.cases, Path) or options.texts:
            raise UsageError("E_USAGE", "an image model has cases of its own", "leave out --text and the file of cases")
        import numpy as np

        shape = [2 if isinstance(size, str) else size for size in self.inputs[0].shape]
        # Processors normalise pictures, so that they are noise of about unit size.
        sample = {PIXELS: np.random.default_rng(options.seed).standard_normal(shape, dtype=np.float32)}
        return sampled.build(options.cases, sampled.Known(self.inputs, sample), lambda inputs: True, options.seed)

    def _facts(self, length: int | None = None) -> probes.Facts:
        known = probes.facts(self.checkpoint.config.values, (), ())
        return known if length is None else probes.shortened(known, length)

    def reference(
        self, asked: Asked, cases: Sequence[Case], device: str, limits: process.Limits, cache: Path
    ) -> references.Reference:
        if not asked.static:
            return self._answers(asked.dtype, cases, device, limits, cache)
        # Where all cases have one size, a case of another tells which axes of an output move.
        other = _of_another_size(cases[0], None if self.pictures else self._facts().longest)
        answers = self._answers(asked.dtype, [*cases, other], device, limits, cache)
        bench = Bench((*cases, other), answers, self.signature(cases), self.task, 1.0, limits, (), ())
        kept = {case.name for case in cases}
        exact, rounded = (
            replace(held, arrays={name: held.arrays[name] for name in kept})
            for held in (answers.exact, answers.rounded)
        )
        return replace(answers, exact=exact, rounded=rounded, outputs=tuple(bench.specs.values()))

    def _answers(
        self, dtype: str, cases: Sequence[Case], device: str, limits: process.Limits, cache: Path
    ) -> references.Reference:
        with self._asked(dtype, cases) as path:
            return references.compute(self.checkpoint, path, dtype, device, limits, cache)

    @contextmanager
    def _asked(self, dtype: str, cases: Sequence[Case]) -> Iterator[Path]:
        """A file of cases in a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="bertx-") as folder:
            path = Path(folder) / "cases.safetensors"
            named = {case.name: case.inputs for case in cases}
            write_cases(path, named, self.signature(cases), self.task, dtype, {"threads": str(process.threads())})
            yield path

    def stations(
        self, dtype: str, cases: Sequence[Case], boundary: int, device: str, limits: process.Limits
    ) -> Stations | None:
        with self._asked(dtype, cases) as path:
            return stations.compute(self.checkpoint, path, dtype, device, boundary, limits)

    def told(self) -> dict[str, Any]:
        source = self.checkpoint
        return {"checkpoint": source.source, "commit": source.commit, "origin": source.origin}

    def repeats(self, subject: Subject) -> bool:
        return unchanged(subject, self.checkpoint)

    def beside(self, subject: Subject, factor: float) -> Beside:
        """The weights inside an artifact and the labels beside it."""
        weighed = compare_weights(subject, self.weights, factor, bind(subject.signature, self.inputs).ids or IDS)
        labels = compare_labels(subject, self.checkpoint, self.kind, factor)
        rows = (weighed.row, labels, compare_companions(subject.home, self.checkpoint, factor))
        return Beside(tuple(row for row in rows if row is not None), partial(weighed.looks_up, self.ids()))

    def spoken(self, asked: Asked, options: VerifyOptions) -> Spoken | None:
        tokenizer = open_tokenizer(self.texts)
        if tokenizer is None:
            return None
        return texts.spoken(tokenizer, settings.read(self.texts), options.texts, asked.inputs, self._facts())

    def ids(self) -> int:
        return 0 if self.pictures else self._facts().vocabulary

    def tokens(self, home: Path | None, options: VerifyOptions, limits: process.Limits) -> Row | None:
        return compare_tokens(home, self.checkpoint, options.texts, limits, options.cache)

    @contextmanager
    def whole(self, subjects: Sequence[Subject]) -> Iterator[list[Subject]]:
        """Weights that lie alone get the checkpoint's configuration beside them, in a temporary folder."""
        self.texts = text_folder([subject.home for subject in subjects], self.checkpoint)
        self.inputs = self._sized(subjects)
        with tempfile.TemporaryDirectory(prefix="bertx-") as temporary:
            yield [self._whole(subject, Path(temporary) / str(k)) for k, subject in enumerate(subjects)]

    def _sized(self, subjects: Sequence[Subject]) -> tuple[TensorSpec, ...]:
        """The inputs; those of an image model at the size that all files fix, where the model takes it."""
        fixed = {s.signature.inputs[0].shape[2:]: s.signature.inputs[0] for s in subjects if s.signature}
        if not self.pictures or len(fixed) != 1 or not all(s.signature for s in subjects):
            return self.inputs
        other = at_size(self.inputs[0], next(iter(fixed.values())), self.weights)
        return self.inputs if other is None else (other,)

    def _whole(self, subject: Subject, folder: Path) -> Subject:
        beside = subject.path.parent / "config.json"
        usual = subject.path.name.removesuffix(INDEX) == "model.safetensors"
        if subject.format != "safetensors" or (beside.is_file() and usual):
            return subject
        for name in self.checkpoint.companions():
            _place(self.checkpoint.folder / name, folder / name)
        index = subject.path.name.endswith(INDEX)
        for shard in {info.file for info in read_file(subject.path).values()} if index else ():
            _place(shard, folder / shard.name)
        path = folder / f"model.safetensors{INDEX if index else ''}"
        _place(subject.path, path)
        return replace(subject, path=path)


def _of_another_size(case: Case, longest: int | None) -> Case:
    """A case with one row more, and one token less where that is possible; pictures keep their size."""
    import numpy as np

    def changed(array: Any) -> Any:
        rows = np.concatenate([array, array[:1]])
        if longest is None:
            return rows
        return rows[:, :-1] if array.shape[1] > 1 else np.repeat(rows, min(2, longest), axis=1)

    made = {name: np.ascontiguousarray(changed(array)) for name, array in case.inputs.items()}
    if "attention_mask" in made:
        made["attention_mask"] = np.ones_like(made["attention_mask"])
    return Case("of-another-size", made)


def _place(source: Path, target: Path) -> None:
    """A hard link where the file systems allow one, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
