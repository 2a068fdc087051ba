"""Golden cases of a model that only the user's own code can build.

    python -m bertx.parity.custom JOB.json

The job names `module:callable`, which is imported from the current folder or the environment and called without
arguments. It gives an nn.Module; or (module, inputs), (module, inputs, dynamic) as `bertx.export_module` takes them;
or (module, tokenizer). The code is the user's own, named by the user: nothing of a checkpoint is executed here. It
runs in a process of its own, so that whatever it does is an answer and never the tool's end.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertx.errors import InputRefused, SourceUnavailable, escape
from bertx.manifest import MODULE
from bertx.model.plain import Plain, dtype_name, take
from bertx.parity import cases as probes
from bertx.parity import golden, plain
from bertx.parity.cases import Case
from bertx.parity.judge import Bench
from bertx.runtimes.process import Limits
from bertx.runtimes.protocol import guarded, read_tensors
from bertx.signature import BATCH, SEQUENCE, Signature, TensorSpec

#: what a text encoder may take, in the order of its artifacts
TEXT = ("input_ids", "attention_mask", "token_type_ids")
#: sizes of the axes of a sample that is made from a signature: all differ, so that axes are told apart
_SIZES = (2, 7, 11, 13, 17, 19)


@dataclass(frozen=True)
class Built:
    """What the user's callable gave. `inputs` are samples by name, `dynamic` their moving axes."""

    module: Any
    inputs: Mapping[str, Any] | None = None
    dynamic: Mapping[str, Mapping[int, str]] | None = None
    tokenizer: Any = None


def build(target: str) -> Built:
    """Imports and calls what `module:callable` names. Raises SourceUnavailable where there is no such thing."""
    import torch

    place, _, name = target.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(place)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        hint = "name it as module:callable, from the folder in which Python finds the module"
        raise SourceUnavailable("E_NOT_FOUND", f"{escape(target)}: {escape(error)}", hint) from error
    made = found if isinstance(found, torch.nn.Module) else found()
    parts = tuple(made) if isinstance(made, tuple | list) else (made,)
    if not isinstance(parts[0], torch.nn.Module) or len(parts) > 3:
        what = f"{escape(target)} gave a {type(parts[0]).__name__}, no nn.Module"
        raise _unfit(what, "return the module, or (module, inputs)")
    if len(parts) == 2 and not isinstance(parts[1], Mapping):
        return Built(parts[0], tokenizer=parts[1])
    return Built(*parts)


def _unfit(what: str, hint: str) -> InputRefused:
    return InputRefused("E_MODULE", what, hint)


def text_inputs(module: Any, stated: Sequence[str]) -> tuple[str, ...]:
    """The inputs of a text encoder: those that were stated, else those that its forward takes.

    None where nothing is known of its vocabulary.
    """
    if getattr(module, "config", None) is None:
        return ()
    taken = inspect.signature(module.forward).parameters
    wide = any(p.kind == inspect.Parameter.VAR_KEYWORD for p in taken.values())
    names = tuple(stated) or tuple(name for name in TEXT if name in taken)
    if "input_ids" not in names or any(name not in TEXT or not (wide or name in taken) for name in names):
        return ()
    segments = getattr(module.config, "type_vocab_size", 2)
    return names if stated or segments != 1 else tuple(name for name in names if name != "token_type_ids")


def text_cases(built: Built, names: Sequence[str], chosen: str, texts: Sequence[str], seed: int) -> tuple[Case, ...]:
    """Cases for a text encoder, from its configuration and its tokenizer where it has them."""
    config = getattr(built.module, "config", None)
    values = {} if config is None else config.to_dict() if hasattr(config, "to_dict") else vars(config)
    encoded = [built.tokenizer(text)["input_ids"] for text in (*probes.TEXTS, *texts)] if built.tokenizer else []
    special = tuple(getattr(built.tokenizer, "all_special_ids", ()))
    made = probes.build(chosen, names, probes.facts(values, encoded, special), seed)
    # What a row without a token gives is nowhere defined, and not every model takes one.
    return tuple(case for case in made if "empty" not in case.traits)


def symbols(arrays: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, str]]:
    """{input: {axis: symbol}} of axes whose size differs between cases; those that move together share a name."""
    found: dict[tuple[int, ...], str] = {}
    moving: dict[str, dict[int, str]] = {}
    for name in arrays[0]:
        for axis, seen in enumerate(zip(*(each[name].shape for each in arrays), strict=True)):
            if len(set(seen)) > 1:
                usual = BATCH if axis == 0 else SEQUENCE if axis == 1 else f"size_{len(found)}"
                symbol = usual if usual not in found.values() else f"size_{len(found)}"
                moving.setdefault(name, {})[axis] = found.setdefault(seen, symbol)
    return moving


@dataclass(frozen=True)
class _Input:
    """An input that the user described. `shape` is empty where only its name was given."""

    spec: TensorSpec
    below: int | None


def _program() -> None:
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    built = build(job["target"])
    dtype = job["dtype"] or _own_dtype(built.module)
    taken, made, given = _questions(built, job, dtype)
    made = made or plain.cases(taken, {}, job["set"], job["seed"], dtype)
    answers = plain.answers(taken, made, job["device"], dtype, given=given)
    outputs = tuple(spec.name for spec in answers.outputs)
    signature = Signature(taken.inputs, answers.outputs)
    bench = Bench(answers.cases, answers.reference, signature, job["task"] or MODULE, 1.0, Limits(), (), outputs)
    source = {"checkpoint": job["target"], "commit": None}
    golden.write(bench, outputs, lambda name: Path(job["folder"]) / name, dtype=answers.dtype, source=source, most=None)


def _questions(built: Built, job: Mapping[str, Any], dtype: str) -> tuple[Plain, tuple[Case, ...] | None, bool]:
    """(how the module is fed, its cases where they do not come from samples, whether the user gave them)."""
    import torch

    described = tuple(
        _Input(TensorSpec(each["name"], each["dtype"], tuple(each["shape"])), each["below"]) for each in job["inputs"]
    )
    stated = [each.spec.name for each in described]
    shaped = [each for each in described if each.spec.shape]
    text = () if built.inputs or shaped else text_inputs(built.module, stated)
    dynamic: Mapping[str, Mapping[int, str]] = built.dynamic or {}
    made = None
    if job["cases"]:
        made = _given(Path(job["cases"]))
        dynamic = dynamic or symbols([case.inputs for case in made])
    elif text:
        made = text_cases(built, text, job["set"], job["texts"], job["seed"])
        dynamic = {name: {0: BATCH, 1: SEQUENCE} for name in text}
    if shaped:
        dynamic = {e.spec.name: {k: s for k, s in enumerate(e.spec.shape) if isinstance(s, str)} for e in shaped}
    if made is not None:
        samples = {name: torch.from_numpy(array.copy()) for name, array in made[0].inputs.items()}
    elif built.inputs:
        samples = dict(built.inputs)
    elif shaped:
        samples = _samples(shaped, job["seed"])
    else:
        what = f"{escape(job['target'])} does not tell what it takes"
        raise _unfit(what, "say it with --inputs or --cases, or return (module, inputs)")
    narrow = {n: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for n, v in samples.items()}
    return take(built.module, narrow, dynamic, job["outputs"] or None), made, bool(job["cases"])


def _samples(shaped: Sequence[_Input], seed: int) -> dict[str, Any]:
    """A sample of each input that was described: numbers from 0 to 1, or integers below a limit."""
    import torch

    names = dict.fromkeys(size for each in shaped for size in each.spec.shape if isinstance(size, str))
    sizes = dict(zip(names, _SIZES, strict=False))
    torch.manual_seed(seed)
    found = {}
    for each in shaped:
        kind = getattr(torch, each.spec.dtype)
        shape = [sizes.get(size, 2) if isinstance(size, str) else size for size in each.spec.shape]
        drawn = torch.rand(shape) if kind.is_floating_point else torch.randint(0, each.below or 2, shape)
        found[each.spec.name] = drawn.to(kind)
    return found


def _given(path: Path) -> tuple[Case, ...]:
    """The user's own cases. Raises InputRefused(E_CASES) where they do not all have the same inputs."""
    made = tuple(Case(name, inputs) for name, inputs in read_tensors(path).arrays.items())
    if len({tuple(sorted(case.inputs)) for case in made}) != 1:
        what = f"{escape(path.name)}: the cases do not all have the same inputs"
        raise InputRefused("E_CASES", what, "see docs/runners.md")
    return made


def _own_dtype(module: Any) -> str:
    return next((dtype_name(p) for p in module.parameters() if p.is_floating_point()), "float32")


if __name__ == "__main__":
    guarded(_program, "record")
