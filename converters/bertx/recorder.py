"""Recording golden cases: inputs, right answers and their noise, from a checkpoint or from the user's own code.

    made = record("my_models:build", "golden")
    verify("model.onnx", made.folder)

A model that only runs in the user's own environment is recorded there, and its artifacts are verified anywhere.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import bertx.bundle as bundle
from bertx import exchange
from bertx.checkpoint import Checkpoint, FetchOptions, fetch
from bertx.errors import InputRefused, UsageError, escape
from bertx.model.tasks import TASKS, resolve_task
from bertx.parity import golden
from bertx.parity.golden import CASES, EXPECTED
from bertx.parity.options import VerifyOptions
from bertx.parity.origin import Asked, Stock
from bertx.parity.recording import Recording, holds_recording
from bertx.parity.verify import bench_of
from bertx.runtimes import device, process
from bertx.signature import DTYPES

SCHEMA = "bertx.record/1"

#: module:callable, as Python names them
_CALLABLE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_INPUT = re.compile(r"([A-Za-z_][\w.]*)(?:=(\w+)\[([^\]]*)\](?:<(\d+))?)?", re.ASCII)


@dataclass(frozen=True)
class Described:
    """An input as the user describes it; `shape` is empty where only its name is given, integers lie below `below`."""

    name: str
    dtype: str = "int64"
    shape: tuple[str | int, ...] = ()
    below: int | None = None


@dataclass(frozen=True)
class RecordOptions:
    """How to record. `inputs` and `outputs` describe what the user's module takes and gives; `cases` is a set or a
    file; `dtype` None is the module's own, float32 for a checkpoint; `timeout` in seconds."""

    task: str | None = None
    dtype: str | None = None
    device: str = "auto"
    cases: str | Path = "quick"
    texts: tuple[str, ...] = ()
    seed: int = 0
    inputs: tuple[Described, ...] = ()
    outputs: tuple[str, ...] = ()
    timeout: float = 600.0
    cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "bertx")


@dataclass(frozen=True)
class Recorded:
    """A folder of golden cases, and what they are of."""

    folder: Path
    recording: Recording

    def to_json(self) -> dict[str, Any]:
        made = self.recording
        return {
            "schema": SCHEMA,
            "source": made.told()["checkpoint"],
            "commit": made.told()["commit"],
            "folder": str(self.folder),
            "task": made.task,
            "dtype": made.dtype,
            "cases": [case.name for case in made.recorded],
            "inputs": [spec.to_json() for spec in made.inputs],
            "outputs": [{**spec.to_json(), "noise": asdict(made.pooled[spec.name])} for spec in made.specs],
            "files": {name: bundle.sha256(self.folder / name) for name in (CASES, EXPECTED)},
        }


def described(text: str) -> Described:
    """An input from `NAME` or `NAME=DTYPE[AXIS,AXIS,…]`, integers with `<HIGHEST+1` behind. Raises UsageError."""
    found = _INPUT.fullmatch(text.strip())
    axes = re.split(r"\s*,\s*", found[3].strip()) if found and found[3] else []
    shape = tuple(int(axis) if axis.isdecimal() else axis for axis in axes)
    names = all(isinstance(size, int) or size.isidentifier() for size in shape)
    if found is None or not names or 0 in shape or (found[2] is not None and (found[2] not in DTYPES or not shape)):
        hint = "write NAME, or NAME=DTYPE[AXIS,…]: image=float32[batch,3,32,32], ids=int64[batch,sequence]<30522"
        raise UsageError("E_USAGE", f"--inputs {escape(text)} is not understood", hint)
    return Described(found[1], found[2] or "int64", shape, int(found[4]) if found[4] else None)


def record(
    source: Checkpoint | str,
    output: str | Path,
    *,
    options: RecordOptions | None = None,
    fetching: FetchOptions | None = None,
    force: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Recorded:
    """Writes golden cases of a checkpoint, or of what `module:callable` builds, into a new folder: whole or not at all.

    `force` replaces golden cases that are there. Raises BertxError.
    """
    options = options or RecordOptions()
    where = device.resolve(options.device)
    folder = exchange.meant(output)
    with bundle.new_folder(folder, replaceable=lambda folder: force and _only_cases(folder)) as stage:
        if isinstance(source, str) and _CALLABLE.fullmatch(source) and not Path(source).exists():
            progress(f"asking {source}")
            _custom(source, stage, where, options)
        else:
            _checkpoint(fetch(source, fetching) if isinstance(source, str) else source, stage, where, options, progress)
        Recording(stage)  # what cannot be read back is not published
    return Recorded(folder.resolve(), Recording(folder.resolve()))


def _only_cases(folder: Path) -> bool:
    return holds_recording(folder) and {path.name for path in folder.iterdir()} == {CASES, EXPECTED}


def _checkpoint(
    source: Checkpoint, folder: Path, where: str, options: RecordOptions, progress: Callable[[str], None]
) -> None:
    if options.inputs or options.outputs:
        raise UsageError("E_USAGE", "a checkpoint's inputs and outputs follow from its task", "leave --inputs out")
    task = resolve_task(options.task, source.config.architectures, source.folder)
    origin = Stock(source, task)
    dtype = options.dtype or "float32"
    asked = Asked(dtype, tuple(spec.name for spec in origin.inputs))
    asking = VerifyOptions(
        cases=options.cases, texts=options.texts, seed=options.seed, timeout=options.timeout, cache=options.cache
    )
    progress("asking eager PyTorch")
    bench = bench_of(origin, asked, where, asking)
    names = tuple(name for name in dict.fromkeys((*origin.outputs, task.torchscript)) if name in bench.specs)
    told = {"checkpoint": source.source, "commit": source.commit}
    golden.write(bench, names, lambda name: folder / name, dtype=dtype, source=told, most=None)


def _custom(target: str, folder: Path, where: str, options: RecordOptions) -> None:
    """Runs the user's code in a process of its own, with the current folder on Python's path."""
    if options.task is not None and options.task not in TASKS:
        raise UsageError("E_TASK", f"unknown task {escape(options.task)}", f"choose one of {', '.join(TASKS)}")
    file = options.cases if isinstance(options.cases, Path) else None
    job = {
        "target": target,
        "folder": str(folder),
        "task": options.task,
        "dtype": options.dtype,
        "device": where,
        "set": "quick" if file else options.cases,
        "cases": str(file.resolve()) if file else None,
        "texts": list(options.texts),
        "seed": options.seed,
        "inputs": [asdict(each) for each in options.inputs],
        "outputs": list(options.outputs),
    }
    with tempfile.TemporaryDirectory(prefix="bertx-") as temporary:
        path = Path(temporary) / "job.json"
        path.write_text(json.dumps(job), "utf-8")
        ended = process.run([sys.executable, "-m", "bertx.parity.custom", str(path)], process.Limits(options.timeout))
    if ended.reason is not None:
        why = f"{escape(target)} could not be recorded: {ended.reason}"
        raise process.refusal(ended) or InputRefused("E_MODULE", why, "correct it, and try it in Python first")
