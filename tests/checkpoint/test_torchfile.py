"""torch.save files: what torch.load(weights_only=True) reads is read equally, without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_files import reference, state_dict, tensor, torch_legacy, torch_zip

from bertx.checkpoint.tensors import TensorInfo, chunks, parameters
from bertx.checkpoint.torchfile import read_torch_file
from bertx.checkpoint.weights import read_weights
from bertx.errors import InputRefused
from families import FAMILIES, make

FORMATS = pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
#: those that torch.save writes into both containers and torch.load reads with weights_only
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
DTYPES += [torch.int8, torch.uint8, torch.bool, torch.complex64]
#: those that have no storage class of their own
NEW_DTYPES = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu, torch.uint16, torch.uint32, torch.uint64]
CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3", torch.bool: "BOOL"}


def save(tensors: Any, path: Path, *, zip_format: bool = True, protocol: int = 2) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(tensors, path, _use_new_zipfile_serialization=zip_format, pickle_protocol=protocol)
    return path


def content(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def assert_equal(infos: dict[str, TensorInfo], expected: dict[str, torch.Tensor]) -> None:
    assert list(infos) == list(expected)
    for name, info in infos.items():
        assert info.shape == tuple(expected[name].shape)
        assert b"".join(chunks(info)) == content(expected[name]), name
        assert info.nbytes == expected[name].numel() * expected[name].element_size()


def load(path: Path) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return loaded


@FORMATS
def test_views_of_every_kind_are_read_as_pytorch_reads_them(tmp_path: Path, zip_format: bool) -> None:
    weight = torch.randn(5, 7)
    tensors = OrderedDict(
        weight=weight,
        tied=weight,
        turned=weight.t(),
        part=weight[1:3, 2:5],
        column=weight[:, 3],
        expanded=torch.randn(3).expand(4, 3),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        permuted=torch.randn(2, 3, 4, 5).permute(3, 1, 0, 2)[::2],
        parameter=torch.nn.Parameter(torch.randn(3)),
        **{f"of.{dtype}": (torch.arange(6) % 2).reshape(2, 3).to(dtype) for dtype in DTYPES},
    )
    path = save(tensors, tmp_path / "x.bin", zip_format=zip_format)
    infos = read_torch_file(path)
    assert_equal(infos, load(path))
    assert infos["weight"].place == infos["tied"].place != infos["turned"].place
    assert infos["weight"].strides is None


def test_dtypes_without_a_storage_class_are_read(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.arange(6).to(torch.uint8).view(torch.uint8) for dtype in NEW_DTYPES}
    tensors = {name: t.repeat(8)[:48].view(getattr(torch, name.removeprefix("torch."))) for name, t in tensors.items()}
    path = save(tensors, tmp_path / "x.bin")
    infos = read_torch_file(path)
    assert_equal(infos, load(path))
    assert {infos[str(dtype)].dtype for dtype in NEW_DTYPES} == {"F8_E4M3", "F8_E5M2", "F8_E8M0", "U16", "U32", "U64"}


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@FORMATS
def test_every_protocol_that_torch_save_can_write_is_read(tmp_path: Path, protocol: int, zip_format: bool) -> None:
    tensors = OrderedDict(a=torch.randn(300, 2), b=torch.arange(4))
    tensors._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    path = save(tensors, tmp_path / "x.bin", zip_format=zip_format, protocol=protocol)
    assert_equal(read_torch_file(path), tensors)


def test_a_large_view_is_put_in_order_in_flat_memory(tmp_path: Path) -> None:
    """A transposed matrix of 96 MiB: each of its rows spans the whole storage."""
    path = save({"x": torch.arange(6000 * 4096, dtype=torch.int32).reshape(6000, 4096).t()}, tmp_path / "x.bin")
    program = """
import hashlib, pathlib, sys
import numpy
from bertx.checkpoint.tensors import chunks
from bertx.checkpoint.torchfile import read_torch_file

def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

empty = peak()
digest = hashlib.sha256()
for piece in chunks(read_torch_file(pathlib.Path(sys.argv[1]))["x"]):
    digest.update(piece)
print(digest.hexdigest(), peak() - empty)
"""
    ended = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    digest, kib = ended.stdout.split()
    import hashlib

    assert digest == hashlib.sha256(content(load(path)["x"])).hexdigest()
    assert int(kib) < 40 * 1024


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_read_as_pytorch_reads_it(made_bin: Any, family: str) -> None:
    folder = made_bin(family)
    assert_equal(read_weights(folder), load(folder / "pytorch_model.bin"))


@pytest.fixture(scope="module")
def made_bin(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """family -> a checkpoint of it with pytorch_model.bin only, zip and legacy in turns."""

    def made(family: str) -> Path:
        folder = make(family, tmp_path_factory.mktemp("bins") / family)
        from safetensors.torch import load_file

        tensors = load_file(folder / "model.safetensors")
        save(tensors, folder / "pytorch_model.bin", zip_format=len(family) % 2 == 0)
        (folder / "model.safetensors").unlink()
        return folder

    return made


# Generated files.


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Tensors that are views of a few storages: sliced, permuted, expanded, tied, of any dtype."""
    bases = []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.lists(st.integers(0, 5), max_size=4))
        raw = torch.randint(0, 2, shape) if draw(st.booleans()) else torch.randn(shape) * 100
        bases.append(raw.to(draw(st.sampled_from(DTYPES))))
    found: dict[str, torch.Tensor] = {}
    for name in draw(st.lists(st.text(max_size=6), unique=True, min_size=1, max_size=5)):
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            continue
        view = draw(st.sampled_from(bases))
        for _ in range(draw(st.integers(0, 3))):
            view = draw(st.sampled_from(_CHANGES))(view, draw(st.integers(0, 3)), draw(st.integers(1, 3)))
        found[name] = torch.nn.Parameter(view, False) if draw(st.booleans()) else view
    return found or {"x": bases[0]}


def _slice(view: torch.Tensor, start: int, step: int) -> torch.Tensor:
    return view[start::step] if view.ndim else view


def _permute(view: torch.Tensor, first: int, _: int) -> torch.Tensor:
    order = sorted(range(view.ndim), key=lambda axis: (axis + first) % max(view.ndim, 1))
    return view.permute(order)


def _expand(view: torch.Tensor, times: int, _: int) -> torch.Tensor:
    return view.unsqueeze(0).expand(times, *view.shape)


def _pick(view: torch.Tensor, at: int, _: int) -> torch.Tensor:
    return view.select(0, at) if view.ndim and at < view.shape[0] else view


def _last(view: torch.Tensor, start: int, step: int) -> torch.Tensor:
    return view[..., start::step] if view.ndim else view


_CHANGES = [_slice, _permute, _expand, _pick, _last]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors=state_dicts(), zip_format=st.booleans(), protocol=st.integers(2, 5), plain=st.booleans())
def test_generated_files_are_read_as_pytorch_reads_them(
    tmp_path: Path, tensors: dict[str, torch.Tensor], zip_format: bool, protocol: int, plain: bool
) -> None:
    path = save(
        tensors if plain else OrderedDict(tensors), tmp_path / "x.bin", zip_format=zip_format, protocol=protocol
    )
    # PyTorch's own data-only reader knows protocols 2 and 3; of the others what was saved is the authority.
    assert_equal(read_torch_file(path), load(path) if protocol < 4 else tensors)


# Other ways to write the same.


def test_files_put_together_by_hand_are_read(tmp_path: Path) -> None:
    """The maker of malformed files in test_malicious makes sound ones, too."""
    for path in (
        torch_zip(tmp_path / "zip", state_dict(x=tensor())),
        torch_legacy(tmp_path / "legacy", state_dict(x=tensor(reference(more=b"N")))),
    ):
        assert_equal(read_torch_file(path), load(path))


def test_sharded_files_are_read_as_one_checkpoint(tmp_path: Path) -> None:
    shards = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    for number, (name, shard) in enumerate(shards.items()):
        save({name: torch.full((3,), number)}, tmp_path / shard, zip_format=bool(number))
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shards}))
    infos = read_weights(tmp_path)
    assert {name: info.file.name for name, info in infos.items()} == shards
    (tmp_path / shards["b"]).unlink()
    with pytest.raises(InputRefused, match="1 of 2 shards that are not there"):
        read_weights(tmp_path)


def test_safetensors_win_over_torch_save(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save({"a": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    assert parameters(read_weights(tmp_path).values()) == 3
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    assert parameters(read_weights(tmp_path).values()) == 2


def test_a_link_to_the_blobs_of_the_hub_cache_is_followed_and_any_other_refused(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    save({"a": torch.ones(3)}, repository / "blobs" / "f00d")
    (snapshot / "pytorch_model.bin").symlink_to("../../blobs/f00d")
    assert set(read_weights(snapshot)) == {"a"}
    outside = save({"a": torch.ones(3)}, tmp_path / "outside.bin")
    (snapshot / "pytorch_model.bin").unlink()
    (snapshot / "pytorch_model.bin").symlink_to(outside)
    with pytest.raises(InputRefused, match="leaves its folder"):
        read_weights(snapshot)


def test_the_checksum_of_the_data_is_checked_where_it_is_read(tmp_path: Path) -> None:
    base = torch.arange(12, dtype=torch.float32)
    path = save({"whole": base, "part": base[3:5], "turned": base.reshape(3, 4).t()}, tmp_path / "x.bin")
    at = path.read_bytes().index(base.numpy().tobytes())
    damaged = bytearray(path.read_bytes())
    damaged[at + 40] ^= 1
    path.write_bytes(damaged)
    for name, info in read_torch_file(path).items():
        with pytest.raises(InputRefused, match=f"tensor {name} does not have its checksum"):
            list(chunks(info))


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = save({"x": torch.arange(12.0), "turned": torch.arange(12.0).reshape(3, 4).t()}, tmp_path / "x.bin")
    infos = read_torch_file(path)
    path.write_bytes(path.read_bytes()[:200])
    for info in infos.values():
        with pytest.raises(InputRefused, match="changed while it was read"):
            list(chunks(info))


def test_reading_needs_no_heavy_import(tmp_path: Path) -> None:
    path = save({"a": torch.ones(3), "b": torch.ones(2)}, tmp_path / "x.bin")
    program = """
import pathlib, sys
from bertx.checkpoint.tensors import chunks
from bertx.checkpoint.torchfile import read_torch_file
for info in read_torch_file(pathlib.Path(sys.argv[1])).values():
    list(chunks(info))
heavy = {"torch", "numpy", "pickle", "zipfile", "safetensors"} & set(sys.modules)
assert not heavy, heavy
"""
    ended = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
