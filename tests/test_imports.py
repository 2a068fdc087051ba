"""Importing bertx, any module of it included, loads nothing heavy; whatever is needed is imported where it is used."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

from program import ROOT

PACKAGE = ROOT / "converters" / "bertx"
HEAVY = (
    *("torch", "transformers", "numpy", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "safetensors", "tokenizers"),
    *("huggingface_hub", "psutil", "rich", "jinja2", "sentence_transformers", "optimum", "sentencepiece"),
)


def loaded(program: str) -> set[str]:
    """The top-level packages in memory after a program in a process of its own."""
    ending = "; import sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    command = [sys.executable, "-P", "-c", program + ending]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(ended.stdout.splitlines()[-1]))


def modules() -> list[str]:
    """Every module of bertx by name, but for the one that is the program itself."""
    paths = [path.relative_to(PACKAGE.parent).with_suffix("") for path in sorted(PACKAGE.rglob("*.py"))]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    return [name for name in names if name != "bertx.__main__"]


def test_importing_bertx_loads_nothing_of_anybody_else() -> None:
    added = loaded("import bertx") - loaded("pass")
    assert {name for name in added if name not in sys.stdlib_module_names} == {"bertx"}


def test_importing_every_module_loads_nothing_heavy() -> None:
    assert len(modules()) > 40
    assert loaded(f"import {', '.join(modules())}") & set(HEAVY) == set()


def test_the_linter_knows_what_is_heavy() -> None:
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]
    assert set(settings["flake8-tidy-imports"]["banned-module-level-imports"]) == set(HEAVY)


def test_every_public_name_is_there() -> None:
    import bertx

    assert [name for name in bertx.__all__ if not hasattr(bertx, name)] == []


def test_the_environment_is_read_in_the_command_line_alone() -> None:
    """So that a call from Python does what its arguments say."""
    readers = {
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(Path(path).read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
    }
    handed_on = {"runtimes/process.py"}  # what a runner gets is bertx's own environment and more
    assert {name for name in readers if not name.startswith("cli/")} == handed_on
