"""The weights of a checkpoint folder, in whichever of four ways they lie there: where each tensor is, without the data.

safetensors wins over torch.save files, one file over shards, as in transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from bertx.checkpoint.config import locate, parse_json, read_bounded
from bertx.checkpoint.tensors import MAX_TENSORS, TensorInfo, listed, read_header
from bertx.checkpoint.torchfile import read_torch_file
from bertx.errors import InputRefused, escape

#: The largest index of shards, in bytes: room for `MAX_TENSORS` long names.
MAX_INDEX_BYTES = 32 * 2**20

#: how the name of an index ends; what stands before it names the file that the shards make up
INDEX = ".index.json"

_Read = Callable[[Path], dict[str, TensorInfo]]
#: name of the one file -> how it or a shard of it is read, in the order in which they are looked for
READERS: Mapping[str, _Read] = {"model.safetensors": read_header, "pytorch_model.bin": read_torch_file}


def read_weights(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a checkpoint folder.

    Raises InputRefused: "E_WEIGHTS" where there are none, where shards are missing or do not hold what the index
    says, or where a torch.save file holds no plain tensors; "E_FORMAT" where a file is malformed.
    """
    for single in READERS:
        for name in (single, f"{single}{INDEX}"):
            file = locate(folder, name, "E_WEIGHTS")
            if file is not None:
                return _some(folder, read_file(file))
    raise InputRefused(
        "E_WEIGHTS",
        f"no weights in {escape(folder)}: none of {', '.join(READERS)}, nor an index of shards",
        "name a folder that save_pretrained wrote",
    )


def read_file(file: Path) -> dict[str, TensorInfo]:
    """Every tensor of one file of weights, or of the shards that an index names. Raises as `read_weights`."""
    suffix = Path(file.name.removesuffix(INDEX)).suffix
    read = next(each for name, each in READERS.items() if Path(name).suffix == suffix)
    return _read_shards(file.parent, file, read) if file.name.endswith(INDEX) else read(file)


def _read_shards(folder: Path, index: Path, read: _Read) -> dict[str, TensorInfo]:
    shards = weight_map(index)
    found: dict[str, TensorInfo] = {}
    paths = {shard: locate(folder, shard, "E_WEIGHTS") for shard in shards}
    missing = sorted(shard for shard, path in paths.items() if path is None)
    if missing:
        _refuse_weights(index, f"names {len(missing)} of {len(shards)} shards that are not there", missing)
    for shard, path in paths.items():
        assert path is not None
        infos = read(path)
        if absent := sorted(shards[shard] - infos.keys()):
            _refuse_weights(index, f"names tensors that are not in {escape(shard)}", absent)
        if surplus := sorted(infos.keys() - shards[shard]):
            _refuse_weights(index, f"does not name tensors that are in {escape(shard)}", surplus)
        found.update(infos)
    return found


def weight_map(index: Path) -> Mapping[str, set[str]]:
    """Shard -> the tensors that an index expects in it. Raises InputRefused(E_FORMAT) where it is malformed."""
    suffix = Path(index.name.removesuffix(INDEX)).suffix
    document = parse_json(read_bounded(index, MAX_INDEX_BYTES, "E_FORMAT"), index, "E_FORMAT")
    stated = document.get("weight_map")
    if not isinstance(stated, dict) or len(stated) > MAX_TENSORS:
        _refuse(index, f"has no weight_map of at most {MAX_TENSORS:,} tensors", "download it again")
    shards: dict[str, set[str]] = {}
    for name, shard in stated.items():
        if not isinstance(shard, str) or not _plain_name(shard, suffix):
            shown = escape(name[:200], 200)
            _refuse(index, f"places tensor {shown} in what is no file name", "correct its weight_map")
        shards.setdefault(shard, set()).add(name)
    return shards


def _plain_name(name: str, suffix: str) -> bool:
    """Whether this is the name of a file of weights beside the index: no path, no drive, nothing hidden."""
    short = len(name.encode()) <= 255
    return short and name.endswith(suffix) and not name.startswith(".") and not set(name) & set("/\\:\0")


def _some(folder: Path, infos: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    if not infos:
        raise InputRefused("E_WEIGHTS", f"the weights in {escape(folder)} hold no tensor", "save the model again")
    return infos


def _refuse(index: Path, what: str, hint: str) -> NoReturn:
    raise InputRefused("E_FORMAT", f"{escape(index)} {what}", hint)


def _refuse_weights(index: Path, what: str, names: list[str]) -> NoReturn:
    raise InputRefused("E_WEIGHTS", f"{escape(index)} {what}: {listed(names)}", "download the checkpoint again")
