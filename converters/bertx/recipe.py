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
from typing import Any

from bertx import api
from bertx.checkpoint import FetchOptions, fetch
from bertx.errors import SourceUnavailable, UsageError, escape
from bertx.formats import ExportOptions
from bertx.formats import registry as formats
from bertx.parity.budget import Budget, checked
from bertx.parity.options import VerifyOptions
from bertx.runtimes import Foreign, foreign

_KEYS = {
    "checkpoint": (str, dict),
    "revision": str,
    "task": str,
    "output": str,
    "artifacts": list,
    "runtimes": list,
    "device": str,
    "cases": str,
    "limit": (int, float),
    "budget": dict,
    "timeout": (int, float),
    "runner": list,
}
_ARTIFACT = {"format": str, "dtype": str, "opset": int, "external_data": bool, "output_name": list}
_RUNNER = {"name": str, "command": str, "formats": list}


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
    output = document.get("output")
    return Recipe(
        path,
        _checkpoint(document["checkpoint"], path.name),
        tuple(_artifact(each, path.name) for each in document["artifacts"]) or _refuse(path.name, "artifacts is empty"),
        document.get("revision"),
        document.get("task"),
        Path(output) if output is not None else None,
        _verify(document, path.name),
    )


def run(
    recipe: Recipe,
    *,
    fetching: FetchOptions,
    force: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> api.Export:
    """Fetches, exports and verifies what a recipe asks for; publishes only if all of it passed."""
    api.check(recipe.checkpoint, recipe.output, recipe.task, recipe.verify)
    progress(f"fetching {recipe.checkpoint}")
    source = fetch(recipe.checkpoint, replace(fetching, revision=recipe.revision))
    return api.export(
        source,
        recipe.artifacts,
        recipe.output,
        task=recipe.task,
        verify=recipe.verify,
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
    return table["format"], ExportOptions(
        table.get("dtype"),
        _texts(table.get("output_name", []), where, "output_name"),
        table.get("opset", ExportOptions.opset),
        table.get("external_data"),
    )


def _verify(document: Mapping[str, Any], where: str) -> VerifyOptions:
    default = VerifyOptions()
    return VerifyOptions(
        runtimes=_texts(document.get("runtimes", []), where, "runtimes"),
        runners=tuple(_runner(each, where) for each in document.get("runner", [])),
        cases=document.get("cases", default.cases),
        limit=float(document.get("limit", default.limit)),
        budget=_budget(document["budget"], where) if "budget" in document else None,
        device=document.get("device", default.device),
        timeout=float(document.get("timeout", default.timeout)),
    )


def _budget(table: Mapping[str, Any], where: str) -> Budget:
    try:
        return checked(table)
    except UsageError as error:
        return _refuse(where, error.message)  # type: ignore[no-any-return]


def _runner(table: Any, where: str) -> Foreign:
    if not isinstance(table, dict) or "command" not in table:
        _refuse(where, "a runner is a table with a command")
    _check(table, _RUNNER, where)
    known = frozenset(formats())
    reads = frozenset(_texts(table.get("formats", sorted(known)), where, "runner.formats"))
    if not reads <= known:
        _refuse(where, f"runner.formats must be of {', '.join(sorted(known))}")
    made = foreign(table["command"], reads)
    return replace(made, name=table.get("name", made.name), reads=reads)
