"""Tensors inside TorchScript archives are found by their paths, and nothing in the archive runs."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertx.checkpoint.tensors import read_header
from bertx.errors import InputRefused
from bertx.parity.archive import stored
from bertx.parity.judge import Subject
from bertx.parity.weights import compare_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


class Small(torch.nn.Module):
    """Words, a linear layer in a list, a buffer that is a transposed view, and a shared parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(50, 8)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)])
        self.register_buffer("turned", torch.rand(8, 3).T)
        self.register_buffer("ids", torch.arange(8))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids)
        for layer in self.layers:
            x = layer(x)
        return x + self.turned.sum() + self.ids.sum()


def save(module: torch.nn.Module, path: Path, *, frozen: bool = False) -> Path:
    traced = torch.jit.trace(module.eval(), torch.arange(6)[None], _store_inputs=False)
    torch.jit.save(torch.jit.freeze(traced) if frozen else traced, str(path))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(Small(), tmp_path_factory.mktemp("archive") / "small.pt")


def test_every_contiguous_floating_tensor_is_there_by_its_path(small: Path) -> None:
    found = {each.path: each for each in stored(small)}
    wanted = {name: tensor for name, tensor in Small().state_dict().items() if name not in ("turned", "ids")}
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        array = np.frombuffer(found[name].read(), np.float32).reshape(found[name].shape)
        assert np.array_equal(array, tensor.numpy())


@pytest.mark.parametrize(("dtype", "code"), [(torch.float16, "F16"), (torch.bfloat16, "BF16"), (torch.float64, "F64")])
def test_other_floating_dtypes_are_read(dtype: torch.dtype, code: str, tmp_path: Path) -> None:
    found = {each.path: each for each in stored(save(Small().to(dtype), tmp_path / "other.pt"))}
    words = found["words.weight"]
    assert words.code == code
    assert words.read() == Small().to(dtype).words.weight.detach().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("frozen", [False, True], ids=["by its path", "frozen, by what it holds"])
def test_a_row_that_no_case_touches_is_found(frozen: bool, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({f"bert.{k}": v.contiguous() for k, v in Small().state_dict().items()}, tmp_path / "source.safetensors")
    weights = read_header(tmp_path / "source.safetensors")

    def look(module: Small, name: str) -> Any:
        path = save(module, tmp_path / name, frozen=frozen)
        return compare_weights(Subject(path, name, "torchscript", "float32", None, ()), weights, 1.0).row

    row = look(Small(), "right.pt")
    assert row.passed
    wrong = Small()
    wrong.words.weight.data[41, 5] += 1
    row = look(wrong, "wrong.pt")
    assert row.problem.startswith("bert.words.weight")
    assert row.problem.endswith("differs in 1 of 400 elements, first at [41, 5]")


# what somebody else may have put into an archive


def with_pickle(path: Path, small: Path, data: bytes) -> Path:
    """The small archive with other bytes as its data.pkl."""
    with zipfile.ZipFile(small) as whole, zipfile.ZipFile(path, "w") as changed:
        for member in whole.infolist():
            changed.writestr(member.filename, data if member.filename.endswith("/data.pkl") else whole.read(member))
    return path


class Runs:
    """Unpickles to a call."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, (str(self.place),)


def test_a_call_in_a_pickle_is_not_made(small: Path, tmp_path: Path) -> None:
    data = pickle.dumps(Runs(tmp_path / "made"), protocol=2)
    assert [each.path for each in stored(with_pickle(tmp_path / "x.pt", small, data)) if each.path] == []
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02N" + b"r" + (2**31).to_bytes(4, "little") + b".",
        b"\x80\x02(i os\nsystem\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02]q\x00h\x00a.",
        b"junk",
        b"",
    ],
    ids=["memo beyond the end", "inst", "extension", "list in itself", "no pickle", "empty"],
)
def test_a_hostile_pickle_is_refused_or_gives_nothing(data: bytes, small: Path, tmp_path: Path) -> None:
    path = with_pickle(tmp_path / "x.pt", small, data)
    try:
        found = [each for each in stored(path) if each.path]
    except InputRefused as error:
        assert error.code == "E_FORMAT"
    else:
        assert found == []


def test_a_tensor_that_needs_more_than_its_storage_is_refused(small: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(small) as whole:
        data = next(whole.read(name) for name in whole.namelist() if name.endswith("/data.pkl"))
    larger = data.replace(b"K2K\x08\x86", b"K3K\x08\x86").replace(b"(K2K\x08t", b"(K3K\x08t")
    assert larger != data
    words = next(each for each in stored(with_pickle(tmp_path / "x.pt", small, larger)) if each.path == "words.weight")
    with pytest.raises(InputRefused, match="bytes, a tensor needs"):
        words.read()


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"PK nothing")
    with pytest.raises(InputRefused, match="no TorchScript file"):
        list(stored(tmp_path / "x.pt"))
