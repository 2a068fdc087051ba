"""References kept in the cache: used when everything that decides them is the same, and only when they are whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from bertx.checkpoint import Checkpoint, open_folder
from bertx.model.tasks import TASKS
from bertx.parity import store
from bertx.parity.judge import Bench
from bertx.parity.verify import VerifyOptions, make_bench
from bertx.runtimes import process
from bertx.runtimes.protocol import write_cases
from bertx.signature import Signature, TensorSpec

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
SIGNATURE = Signature((TensorSpec("input_ids", "int64", ("batch", "sequence")),), ())


def cases(path: Path, *, first: int = 1, task: str = "fill-mask") -> Path:
    write_cases(path, {"one": {"input_ids": np.array([[first, 2]])}}, SIGNATURE, task, "float32")
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def computed(tiny: Path, cache: Path) -> Bench:
    return make_bench(
        open_folder(tiny), TASKS["feature-extraction"], "float32", INPUTS, "cpu", VerifyOptions(cache=cache)
    )


def entry(cache: Path) -> Path:
    (found,) = (cache / "references").iterdir()
    return found


def again(tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    def refuse(*_: object) -> None:
        pytest.fail("PyTorch was asked again")

    monkeypatch.setattr(process, "run", refuse)
    options = VerifyOptions(cache=cache)
    return make_bench(open_folder(tiny), TASKS["feature-extraction"], "float32", INPUTS, "cpu", options)


def test_the_same_question_is_answered_from_the_cache(
    tiny: Path, cache: Path, computed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = again(tiny, cache, monkeypatch)
    assert found.reference.facts == computed.reference.facts
    for case, outputs in computed.reference.exact.arrays.items():
        for name, array in outputs.items():
            assert np.array_equal(found.reference.exact.arrays[case][name], array)


def test_a_damaged_entry_is_not_used(tiny: Path, cache: Path, computed: Bench, tmp_path: Path) -> None:
    shutil.copytree(cache / "references", tmp_path / "references")
    name = entry(tmp_path).name
    assert store.load(tmp_path, name) is not None
    file = entry(tmp_path) / "exact.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert store.load(tmp_path, name) is None


def test_the_key_does_not_depend_on_the_order_in_a_file_of_cases(tiny: Path, tmp_path: Path) -> None:
    checkpoint = open_folder(tiny)
    names = {store.key(checkpoint, cases(tmp_path / f"{k}"), "float32", "cpu") for k in range(20)}
    assert len(names) == 1


@pytest.mark.parametrize("what", ["weights", "config", "cases", "task", "dtype", "device"])
def test_the_key_changes_with_everything_that_decides_the_answer(what: str, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    before = store.key(open_folder(folder), cases(tmp_path / "cases"), "float32", "cpu")
    if what == "weights":
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-3] ^= 1
        (folder / "model.safetensors").write_bytes(data)
    if what == "config":
        (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    changed: Checkpoint = open_folder(folder)
    path = cases(tmp_path / "cases", first=3 if what == "cases" else 1, task="ner" if what == "task" else "fill-mask")
    dtype, device = "float16" if what == "dtype" else "float32", "cuda" if what == "device" else "cpu"
    assert store.key(changed, path, dtype, device) != before


def test_the_entries_used_longest_ago_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST", 4000)
    for k in range(3):
        for name in ("exact", "rounded"):
            (tmp_path / name).write_bytes(b"x" * 500)
        store.save(tmp_path, f"entry-{k}", tmp_path / "exact", tmp_path / "rounded")
        os.utime(tmp_path / "references" / f"entry-{k}", (k, k))
    store.load(tmp_path, "entry-0")
    for name in ("exact", "rounded"):
        (tmp_path / name).write_bytes(b"x" * 500)
    store.save(tmp_path, "entry-3", tmp_path / "exact", tmp_path / "rounded")
    kept = {path.name for path in (tmp_path / "references").iterdir()}
    assert kept == {"entry-0", "entry-2", "entry-3"}


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "references").write_text("a file in the way")
    for name in ("exact", "rounded"):
        (tmp_path / name).write_bytes(b"x")
    store.save(tmp_path, "entry", tmp_path / "exact", tmp_path / "rounded")
    assert store.load(tmp_path, "entry") is None
