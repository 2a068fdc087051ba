"""A recipe: the pre-release parity job in one TOML file, as the same calls that the commands make.

    checkpoint = "cl-tohoku/bert-base-japanese-v3"    # or {package = "...", folder = "..."} inside a Python package
    artifacts = ["safetensors", "torchscript", {format = "onnx", opset = 20}]
    runtimes = ["torchscript", "onnxruntime"]
    device = "auto"

docs/schemas/recipe.schema.json lists every key. Unknown keys are refused: a misspelt one would be a check not made.
"""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from bertx import api
from bertx.checkpoint import FetchOptions, fetch
from bertx.checkpoint.naming import SPELLINGS
from bertx.errors import SourceUnavailable, UsageError, escape
from bertx.formats import ExportOptions, shard_size
from bertx.formats import registry as formats
from bertx.model.head import HeadOptions, head_options
from bertx.parity.budget import checked
from bertx.parity.cases import SETS
from bertx.parity.given import lines_of
from bertx.parity.options import VerifyOptions, positive
from bertx.runtimes import Foreign, foreign
from bertx.tokenizer.mecab import DICTIONARIES

T = TypeVar("T")

_KEYS = {
    "checkpoint": (str, dict),
    "revision": str,
    "task": str,
    "mecab_dictionary": str,
    "output": str,
    "artifacts": list,
    "runtimes": list,
    "device": str,
    "cases": str,
    "text": str,
    "latency": bool,
    "limit": (int, float),
    "budget": dict,
    "timeout": (int, float),
    "runner": list,
}
_ARTIFACT = {
    "format": str,
    "dtype": str,
    "opset": int,
    "external_data": bool,
    "output_name": list,
    "rename": str,
    "max_shard_size": str,
    "init_head": bool,
    "num_labels": int,
    "seed": int,
}
#: keys of an artifact that one kind of format alone has
_WEIGHTS = frozenset({"rename", "max_shard_size", "init_head", "num_labels", "seed"})
_GRAPH = frozenset({"opset", "external_data"})
_OTHERS = {"safetensors": _GRAPH | {"output_name"}, "torchscript": _GRAPH | _WEIGHTS, "onnx": _WEIGHTS}
_RUNNER = {"name": str, "command": str, "formats": list, "texts": bool}


@dataclass(frozen=True)
class Recipe:
    """What a recipe asks for. `artifacts` are formats with their options, in order."""

    path: Path
    checkpoint: str
    artifacts: tuple[tuple[str, ExportOptions], ...]
    revision: str | None = None
    task: str | None = None
    output: Path | None = None
    verify: VerifyOptions = field(default_factory=VerifyOptions)
    dictionary: str | None = None


def read(path: Path) -> Recipe:
    """Reads a recipe. Raises UsageError(E_RECIPE) with one line on anything not understood."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError("E_RECIPE", f"{escape(path)} cannot be read", "name a recipe file") from error
    except (ValueError, RecursionError) as error:
        raise UsageError("E_RECIPE", f"{escape(path.name)} is no TOML: {escape(error)}", "correct it") from error
    _check(document, _KEYS, path.name)
    for key in ("checkpoint", "artifacts"):
        if key not in document:
            raise UsageError("E_RECIPE", f"{escape(path.name)} has no {key}", "see docs/recipes.md")
    output, dictionary = document.get("output"), document.get("mecab_dictionary")
    if dictionary not in (None, *DICTIONARIES):
        _refuse(path.name, f"unknown mecab_dictionary {escape(dictionary)}, known are {', '.join(DICTIONARIES)}")
    return Recipe(
        path,
        _checkpoint(document["checkpoint"], path.name),
        tuple(_artifact(each, path.name) for each in document["artifacts"]) or _refuse(path.name, "artifacts is empty"),
        document.get("revision"),
        document.get("task"),
        Path(output) if output is not None else None,
        _verify(document, path.name),
        dictionary,
    )


def check(recipe: Recipe) -> None:
    """Refuses what can be refused of a recipe before any work. Raises what `run` would."""
    api.check(recipe.checkpoint, recipe.output, recipe.task, recipe.verify)


def run(
    recipe: Recipe,
    *,
    fetching: FetchOptions,
    force: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> api.Export:
    """Fetches, exports and verifies what a recipe asks for; publishes only if all of it passed."""
    check(recipe)
    progress(f"fetching {recipe.checkpoint}")
    source = fetch(recipe.checkpoint, replace(fetching, revision=recipe.revision))
    return api.export(
        source,
        recipe.artifacts,
        recipe.output,
        task=recipe.task,
        verify=recipe.verify,
        dictionary=recipe.dictionary,
        force=force,
        progress=progress,
    )


def _refuse(name: str, what: str) -> Any:
    raise UsageError("E_RECIPE", f"{escape(name)}: {what}", "see docs/recipes.md")


def _check(table: Mapping[str, Any], keys: Mapping[str, Any], where: str) -> None:
    for key, value in table.items():
        if key not in keys:
            _refuse(where, f"unknown key {escape(key)}, known are {', '.join(keys)}")
        if not isinstance(value, keys[key]) or (isinstance(value, bool) and keys[key] is not bool):
            _refuse(where, f"{escape(key)} has the wrong type")


def _texts(value: Any, where: str, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        _refuse(where, f"{key} must be a list of strings")
    return tuple(value)


def _checkpoint(value: str | dict[str, Any], where: str) -> str:
    """A Hub id or folder as it stands; a folder inside an installed Python package as its path."""
    if isinstance(value, str):
        return value
    _check(value, {"package": str, "folder": str}, where)
    package, folder = value.get("package", ""), value.get("folder", "")
    if not str(package).isidentifier() or ".." in Path(folder).parts or Path(folder).is_absolute():
        _refuse(where, "checkpoint needs a package and a folder inside it")
    # A top-level package is found without importing it: none of its code runs.
    found = importlib.util.find_spec(package)
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / folder).is_dir():
            return str(Path(place) / folder)
    raise SourceUnavailable(
        "E_NOT_FOUND",
        f"no installed package {escape(package)} has {escape(folder)}",
        "pip install 'bertx[demo]'",
    )


def _artifact(value: Any, where: str) -> tuple[str, ExportOptions]:
    table: Any = {"format": value} if isinstance(value, str) else value
    if not isinstance(table, dict) or "format" not in table:
        _refuse(where, "an artifact is a format, or a table with a format")
    _check(table, _ARTIFACT, where)
    if table["format"] not in formats():
        _refuse(where, f"unknown format {escape(table['format'])}, known are {', '.join(formats())}")
    if table.get("dtype") not in (None, "float32", "float16", "bfloat16"):
        _refuse(where, f"unknown dtype {escape(table['dtype'])}")
    idle = sorted(_OTHERS.get(table["format"], frozenset()) & table.keys())
    if idle:
        _refuse(where, f"{idle[0]} means nothing for {table['format']}")
    if table.get("rename") not in (None, *SPELLINGS):
        _refuse(where, f"unknown rename {escape(table['rename'])}, known are {', '.join(sorted(SPELLINGS))}")
    options = ExportOptions(
        table.get("dtype"),
        _texts(table.get("output_name", []), where, "output_name"),
        external_data=table.get("external_data"),
        spelling=table.get("rename"),
        shard_bytes=_told(where, shard_size, table["max_shard_size"]) if "max_shard_size" in table else None,
        head=_told(where, _head, table),
    )
    return table["format"], _told(where, lambda opset: replace(options, opset=opset), table.get("opset", options.opset))


def _head(table: Mapping[str, Any]) -> HeadOptions | None:
    if not 0 <= table.get("seed", 0) < 2**63:
        raise UsageError("E_USAGE", "seed is out of range", "write a number from 0 on")
    return head_options(table.get("init_head", False), table.get("num_labels"), table.get("seed"))


def _told(where: str, read: Callable[[Any], T], value: Any) -> T:
    """What `read` makes of a value; its refusal is the recipe's."""
    try:
        return read(value)
    except UsageError as error:
        return _refuse(where, error.message)  # type: ignore[no-any-return]


def _verify(document: Mapping[str, Any], where: str) -> VerifyOptions:
    default = VerifyOptions()
    return VerifyOptions(
        runtimes=_texts(document.get("runtimes", []), where, "runtimes"),
        runners=tuple(_runner(each, where) for each in document.get("runner", [])),
        cases=_cases(document["cases"], where) if "cases" in document else default.cases,
        limit=_positive(document, "limit", default.limit, where),
        texts=_told(where, lines_of, Path(document["text"])) if "text" in document else (),
        latency=document.get("latency", default.latency),
        budget=_told(where, checked, document["budget"]) if "budget" in document else None,
        device=document.get("device", default.device),
        timeout=_positive(document, "timeout", default.timeout, where),
    )


def _positive(document: Mapping[str, Any], key: str, default: float, where: str) -> float:
    return _told(where, lambda value: positive(key, float(value)), document.get(key, default))


def _cases(value: str, where: str) -> str | Path:
    """The name of a set, or the user's file."""
    if value not in SETS and not Path(value).is_file():
        _refuse(where, f"cases is {escape(value)}, neither {' nor '.join(SETS)} nor a file")
    return value if value in SETS else Path(value)


def _runner(table: Any, where: str) -> Foreign:
    if not isinstance(table, dict) or "command" not in table:
        _refuse(where, "a runner is a table with a command")
    _check(table, _RUNNER, where)
    known = frozenset(formats())
    reads = frozenset(_texts(table.get("formats", sorted(known)), where, "runner.formats"))
    if not reads <= known:
        _refuse(where, f"runner.formats must be of {', '.join(sorted(known))}")
    made = foreign(table["command"], reads)
    return replace(
        made, name=table.get("name", made.name), reads=reads, takes_texts=table.get("texts", made.takes_texts)
    )
