"""Weights that are the checkpoint's own are told bit by bit, with every file that decides what they compute."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bertx.checkpoint import Checkpoint, open_folder
from bertx.parity.judge import Subject
from bertx.parity.unchanged import unchanged


@pytest.fixture
def source(tiny: Path, tmp_path: Path) -> Checkpoint:
    """The tiny BERT as a folder that averages its tokens."""
    shutil.copytree(tiny, tmp_path / "source")
    (tmp_path / "source" / "modules.json").write_text("[]", "utf-8")
    (tmp_path / "source" / "README.md").write_text("words", "utf-8")
    return open_folder(tmp_path / "source")


@pytest.fixture
def copy(source: Checkpoint, tmp_path: Path) -> Path:
    shutil.copytree(source.folder, tmp_path / "copy")
    return tmp_path / "copy"


def same(folder: Path, source: Checkpoint) -> bool:
    path = folder / "model.safetensors"
    return unchanged(Subject(path, path.name, "safetensors", "float32", None, ()), source)


def test_a_copy_and_the_folder_itself_are_the_same(copy: Path, source: Checkpoint) -> None:
    assert same(copy, source)
    assert same(source.folder, source)


def test_another_order_of_tensors_and_other_words_are_the_same(copy: Path, source: Checkpoint) -> None:
    tensors = load_file(copy / "model.safetensors")
    save_file(dict(reversed(tensors.items())), copy / "model.safetensors", metadata={"other": "words"})
    (copy / "README.md").write_text("other words", "utf-8")
    assert same(copy, source)


def _element(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][3, 5] = np.nextafter(tensors[name][3, 5], np.float32(9))
    save_file(tensors, folder / "model.safetensors")


def _without_pooler(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if not n.startswith("pooler")}, folder / "model.safetensors")


def _half(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.astype(np.float16) for name, tensor in tensors.items()}, folder / "model.safetensors")


def _config(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text("utf-8")) | {"layer_norm_eps": 1e-5}
    (folder / "config.json").write_text(json.dumps(values), "utf-8")


def _modules(folder: Path) -> None:
    (folder / "modules.json").write_text("[1]", "utf-8")


def _cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-4])


def _gone(folder: Path) -> None:
    (folder / "modules.json").unlink()


@pytest.mark.parametrize("change", [_element, _without_pooler, _half, _config, _modules, _cut, _gone])
def test_whatever_else_decides_what_is_computed_makes_it_another(
    change: Callable[[Path], None], copy: Path, source: Checkpoint
) -> None:
    change(copy)
    assert not same(copy, source)
