"""Asking an artifact: which of a bundle's artifacts answers, in which runtime, and what it is given.

    tried = ask("bert-base-japanese-v3", ["東京は[MASK]の首都です。"], TryOptions())
    tried.to_json()  # bertx.try/1

The artifact runs in its runtime's own program, as in a verification; nothing is judged here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bertx.bundle as bundle
from bertx.answers import ANSWERS, Answer, Question, Row, to_json
from bertx.checkpoint import open_folder
from bertx.checkpoint.config import Config, read_config
from bertx.errors import BertxError, InputRefused, LocalProblem, UsageError, escape, is_unicode
from bertx.formats import format_of
from bertx.manifest import ArtifactEntry
from bertx.model.wrapper import input_names
from bertx.parity import target as targets
from bertx.parity.cases import facts
from bertx.runtimes import Job, Runtime, device, process, registry, runtime_named, trust
from bertx.runtimes.protocol import Tensors, read_tensors, write_cases
from bertx.signature import BATCH, SEQUENCE, Signature, TensorSpec
from bertx.tokenizer import Tokenizer, open_tokenizer

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SCHEMA = "bertx.try/1"
#: formats in the order in which they are asked; any other comes after them
_ORDER = ("onnx", "torchscript", "safetensors")
_PAIRS = frozenset({"question-answering"})
_CASE = "try"


@dataclass(frozen=True)
class TryOptions:
    """How to ask: `runtime` None means the first that is ready, `timeout` is in seconds."""

    runtime: str | None = None
    device: str = "auto"
    top: int = 5
    trust: bool = False
    timeout: float = 600.0
    cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "bertx")


@dataclass(frozen=True)
class Candidate:
    """An artifact that could answer. `signature` None means weights alone; `verified` is the manifest's word."""

    path: Path
    name: str
    format: str
    dtype: str
    signature: Signature | None
    verified: bool


@dataclass(frozen=True)
class Tried:
    """What was asked, who answered, and the answer."""

    target: str
    artifact: Candidate
    runtime: str
    facts: Mapping[str, str]
    device: str
    task: str
    rows: tuple[Row, ...]
    seconds: float
    answer: Answer

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the answer should know: texts that were cut, an artifact that nothing was compared with."""
        cut = [(k, row) for k, row in enumerate(self.rows, 1) if row.whole > len(row.ids)]
        lines = [f"text {k} was cut from {row.whole} to {len(row.ids)} tokens" for k, row in cut]
        unverified = [] if self.artifact.verified else [f"{self.artifact.name} has not passed a verification"]
        return (*lines, *unverified)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "target": self.target,
            "artifact": self.artifact.name,
            "format": self.artifact.format,
            "dtype": self.artifact.dtype,
            "runtime": self.runtime,
            "runtime_version": self.facts.get("version"),
            "provider": self.facts.get("provider"),
            "device": self.device,
            "task": self.task,
            "texts": [row.to_json() for row in self.rows],
            "seconds": round(self.seconds, 3),
            "answer": to_json(self.answer),
        }


def ask(target: str, texts: Sequence[str], options: TryOptions) -> Tried:
    """Gives the texts as one batch to an artifact of TARGET, a bundle or a file inside one, and reads its answer.

    Raises UsageError where the texts do not fit the task, InputRefused where the artifact or its tokenizer is refused,
    LocalProblem where no runtime or device is ready.
    """
    found = targets.find(target)
    if found.home is None or found.manifest is None:
        message = f"{escape(target)} lies in no bundle, so that its task and tokenizer are not known"
        raise InputRefused("E_BUNDLE", message, "export it with bertx, or name a bundle")
    task = found.manifest.task
    if task not in ANSWERS:
        raise UsageError("E_TASK", f"{escape(task)} takes no texts", "ask it in your own program, or verify it")
    where = device.resolve(options.device)
    artifact, runtime = choose(candidates(found), task, where, options)
    tokenizer = open_tokenizer(found.home)
    if tokenizer is None:
        raise InputRefused(
            "E_TOKENIZER", f"{escape(found.home)} holds no tokenizer", "export a checkpoint that has one"
        )
    config = read_config(found.home)
    question = prepare(texts, task, tokenizer, config, options.top)
    signature = _signature(artifact, found.home, task)
    made, seconds = _run(artifact, runtime, where, signature, _batch(question, signature, config), task, options)
    used = made.metadata.get("device", where)
    if used.partition(":")[0] != where.partition(":")[0]:
        raise LocalProblem("E_DEVICE", f"{runtime.name} ran on {escape(used)}, not on {where}", "see `bertx doctor`")
    answer = ANSWERS[task].find(made.arrays[_CASE], question)
    return Tried(target, artifact, runtime.name, made.metadata, used, task, question.rows, seconds, answer)


def candidates(found: targets.Target) -> list[Candidate]:
    """The artifacts of a target in the order in which they are asked: by format, float32 first."""
    assert found.home is not None
    assert found.manifest is not None
    if found.alone:
        return [_candidate(found, found.files[0], found.entry(found.files[0]))]
    listed = [_candidate(found, entry.path, entry) for entry in found.manifest.artifacts]
    places = {name: place for place, name in enumerate(_ORDER)}
    return sorted(listed, key=lambda each: (places.get(each.format, len(places)), each.dtype != "float32"))


def choose(found: Sequence[Candidate], task: str, where: str, options: TryOptions) -> tuple[Candidate, Runtime]:
    """The first artifact that can answer here, and the runtime that runs it.

    Raises UsageError where none could anywhere, LocalProblem where what it needs is missing, InputRefused where only
    TorchScript files are left that bertx did not write here.
    """
    kind = ANSWERS.get(task)
    readable = [each for each in found if kind and (each.signature is None or kind.readable(_names(each.signature)))]
    if not readable:
        message = f"no artifact here gives what {escape(task)} is answered from"
        raise UsageError("E_USAGE", message, "name a bundle whose artifact has the task's own outputs")
    named = [runtime_named(options.runtime)] if options.runtime else list(registry().values())
    pairs = [(each, leaf.at(options.cache)) for each in readable for leaf in named if each.format in leaf.reads]
    if not pairs:
        message = f"runtime {escape(options.runtime)} reads none of {', '.join(escape(e.name) for e in readable)}"
        raise UsageError("E_USAGE", message, "leave --runtime out, or name another")
    first: BertxError | None = None
    for artifact, runtime in pairs:
        problem = _problem(artifact, runtime, task, where, options)
        if problem is None:
            return artifact, runtime
        first = first or problem
    assert first is not None
    raise first


def prepare(texts: Sequence[str], task: str, tokenizer: Tokenizer, config: Config, top: int) -> Question:
    """Texts as the model gets them, cut at its longest. Raises UsageError where they do not fit the task."""
    for k, text in enumerate(texts, 1):
        if not is_unicode(text):
            raise UsageError("E_USAGE", f"text {k} is not UTF-8", "give it in UTF-8")
    longest = _longest(tokenizer, config)
    if task in _PAIRS:
        return _pair(texts, tokenizer, config, top, longest)
    whole = replace(tokenizer, longest=None).encode([_with_mask(text, tokenizer) for text in texts])
    kept = [ids if len(ids) <= longest else ids[: longest - 1] + ids[-1:] for ids in whole]
    if task == "fill-mask":
        _check_masks(texts, whole, kept, tokenizer)
    rows = (Row(t, tuple(k), (0,) * len(k), len(w)) for t, k, w in zip(texts, kept, whole, strict=True))
    return Question(tuple(rows), tokenizer, config.values, top)


def _candidate(found: targets.Target, name: str, entry: ArtifactEntry | None) -> Candidate:
    path = found.folder / name
    leaf = format_of(path)
    assert leaf is not None  # `find` refuses other names
    if entry is not None and found.manifest is not None:
        same = path.stat().st_size == found.manifest.files[entry.path].bytes
        passed = same and entry.report is not None and entry.report.get("verdict") == "pass"
        return Candidate(path, entry.path, entry.format, entry.dtype, entry.signature, passed)
    contents = leaf.contents(path)
    return Candidate(path, name, leaf.name, contents.dtype or "float32", contents.signature, False)


def _names(signature: Signature) -> list[str]:
    return [spec.name for spec in signature.outputs]


def _problem(artifact: Candidate, runtime: Runtime, task: str, where: str, options: TryOptions) -> BertxError | None:
    """What keeps a runtime from running an artifact, None where nothing does."""
    lacking = runtime.missing()
    if lacking:
        return LocalProblem("E_RUNTIME", f"{runtime.name}, which reads {escape(artifact.name)}, is not ready", lacking)
    if where.partition(":")[0] not in runtime.devices:
        return LocalProblem("E_DEVICE", f"runtime {runtime.name} cannot use {where}", "use --device cpu")
    refused = runtime.refuses(artifact.path, task)
    if refused:
        message = f"{runtime.name} does not run {escape(artifact.name)}: {refused}"
        return LocalProblem("E_RUNTIME", message, "leave --runtime out, or name another")
    if where == "cpu" and artifact.dtype in runtime.not_on_cpu:
        message = f"{runtime.name} does not run {artifact.dtype} on the CPU"
        return LocalProblem("E_DEVICE", message, "use --device cuda, or another artifact")
    untrusted = artifact.format == "torchscript" and not options.trust
    if untrusted and not trust.known(options.cache, bundle.sha256(artifact.path)):
        message = f"{escape(artifact.name)} would run code, and bertx did not write it here"
        return InputRefused("E_UNTRUSTED", message, "add --trust if you trust its author")
    return None


def _longest(tokenizer: Tokenizer, config: Config) -> int:
    """How many tokens the model takes: what its positions allow, and what its tokenizer states."""
    positions = facts(config.values, (), ()).longest
    return min(positions, tokenizer.longest or positions)


def _with_mask(text: str, tokenizer: Tokenizer) -> str:
    """The text with the tokenizer's own mask token in the place of [MASK]."""
    return text if tokenizer.mask is None else text.replace("[MASK]", tokenizer.tokens([tokenizer.mask])[0])


def _check_masks(
    texts: Sequence[str], whole: Sequence[list[int]], kept: Sequence[list[int]], tokenizer: Tokenizer
) -> None:
    if tokenizer.mask is None:
        raise InputRefused("E_TOKENIZER", "the tokenizer has no mask token", "save the tokenizer again")
    for k, (text, before, after) in enumerate(zip(texts, whole, kept, strict=True), 1):
        if tokenizer.mask not in before:
            hint = "write [MASK] where a word is to be found"
            raise UsageError("E_USAGE", f"text {k} has no mask: {escape(text, 80)}", hint)
        if before.count(tokenizer.mask) != after.count(tokenizer.mask):
            message = f"text {k} has a mask beyond the {len(after)} tokens that the model takes"
            raise UsageError("E_USAGE", message, "shorten it")


def _pair(texts: Sequence[str], tokenizer: Tokenizer, config: Config, top: int, longest: int) -> Question:
    if len(texts) != 2:
        raise UsageError("E_USAGE", f"{len(texts)} texts were given", "give a question, then the text with its answer")
    ids, segments = tokenizer.pair(*texts)
    context = len(replace(tokenizer, longest=None).encode(texts[:1])[0])
    if context >= longest - 1:
        raise UsageError("E_USAGE", f"the question alone has {context} tokens of {longest}", "shorten it")
    cut = len(ids) > longest
    kept = [*ids[: longest - 1], ids[-1]] if cut else ids
    kept_segments = [*segments[: longest - 1], segments[-1]] if cut else segments
    if all(token in tokenizer.special for token in kept[context:]):
        raise UsageError("E_USAGE", "the second text is empty", "give a question, then the text with its answer")
    row = Row(" | ".join(texts), tuple(kept), tuple(kept_segments), len(ids))
    return Question((row,), tokenizer, config.values, top, context)


def _signature(artifact: Candidate, home: Path, task: str) -> Signature:
    """The artifact's own signature; of weights alone, that of the model they belong to."""
    if artifact.signature is not None:
        return artifact.signature
    names = input_names(open_folder(home))
    need = sorted(ANSWERS[task].needs[0])
    return Signature(
        tuple(TensorSpec(name, "int64", (BATCH, SEQUENCE)) for name in names),
        tuple(TensorSpec(name, artifact.dtype, (BATCH,)) for name in need),
    )


def _batch(question: Question, signature: Signature, config: Config) -> dict[str, Array]:
    """The rows as one batch, padded on the right as tokenizers do."""
    import numpy as np

    width = max(len(row.ids) for row in question.rows)
    padding = config.values.get("pad_token_id")
    padding = padding if isinstance(padding, int) else 0
    ids = [[*row.ids, *[padding] * (width - len(row.ids))] for row in question.rows]
    segments = [[*row.segments, *[0] * (width - len(row.ids))] for row in question.rows]
    known = {"input_ids": ids, "attention_mask": question.mask(width).tolist(), "token_type_ids": segments}
    unknown = [spec.name for spec in signature.inputs if spec.name not in known]
    if unknown:
        raise InputRefused("E_BUNDLE", f"the artifact has an unknown input {escape(unknown[0])}", "export it again")
    return {spec.name: np.array(known[spec.name], dtype=spec.dtype) for spec in signature.inputs}


def _run(
    artifact: Candidate,
    runtime: Runtime,
    where: str,
    signature: Signature,
    batch: Mapping[str, Array],
    task: str,
    options: TryOptions,
) -> tuple[Tensors, float]:
    """The runner's outputs on one batch, and the seconds that its program took."""
    with tempfile.TemporaryDirectory(prefix="bertx-") as folder:
        job = Job(artifact.path, Path(folder) / "cases.safetensors", Path(folder) / "outputs.safetensors", where)
        write_cases(job.inputs, {_CASE: batch}, signature, task, artifact.dtype)
        ended = process.run(runtime.command(job), process.Limits(options.timeout))
        if ended.exit_code == LocalProblem.exit_code:
            raise LocalProblem("E_DEVICE", f"{runtime.name}: {ended.reason}", "use --device cpu")
        lacks = process.unsupported(ended)
        if lacks is not None:
            message = f"{runtime.name} does not run {escape(artifact.name)}: {lacks}"
            raise LocalProblem("E_RUNTIME", message, "leave --runtime out, or name another")
        if ended.reason is not None:
            message = f"{escape(artifact.name)} does not run in {runtime.name}: {ended.reason}"
            raise InputRefused("E_FORMAT", message, "see what `bertx verify` says of it")
        made = read_tensors(job.outputs)
    _check(made, artifact, task)
    return made, ended.seconds


def _check(made: Tensors, artifact: Candidate, task: str) -> None:
    import numpy as np

    outputs = made.arrays.get(_CASE, {})
    if not ANSWERS[task].readable(list(outputs)):
        message = f"{escape(artifact.name)} gave {escape(', '.join(outputs) or 'nothing')}"
        raise InputRefused("E_FORMAT", message, "see what `bertx verify` says of it")
    for need in ANSWERS[task].needs:
        for name in need & set(outputs):
            if not np.isfinite(outputs[name]).all():
                message = f"{escape(artifact.name)} answers {escape(name)} with NaN or infinity"
                raise InputRefused("E_FORMAT", message, "see what `bertx verify` says of it")
