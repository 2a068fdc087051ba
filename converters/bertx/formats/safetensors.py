"""safetensors: the checkpoint's own tensors in one file or in shards, streamed, names and bytes unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertx.checkpoint import Checkpoint
from bertx.checkpoint.naming import distinct, spelled
from bertx.checkpoint.weights import INDEX, read_file
from bertx.checkpoint.writer import PYTORCH, write_safetensors, write_shards
from bertx.errors import InputRefused, LocalProblem, escape
from bertx.formats import Contents, ExportOptions, Format, Written
from bertx.manifest import FileEntry
from bertx.model.tasks import Task
from bertx.model.wrapper import Source

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Safetensors(Format):
    name = "safetensors"
    suffixes = (".safetensors", f".safetensors{INDEX}")

    def file_name(self, options: ExportOptions) -> str:
        return "model.safetensors" if options.shard_bytes is None else f"model.safetensors{INDEX}"

    def replaces(self, path: str) -> tuple[str, ...]:
        return "model.safetensors", f"model.safetensors{INDEX}", "model-?????-of-?????.safetensors"

    def write(self, checkpoint: Checkpoint, task: Task, options: ExportOptions, path: Path) -> Written:
        kept, aliases = distinct(checkpoint.weights, checkpoint.config.values)
        tensors = spelled(kept, options.spelling)
        metadata = {**PYTORCH, **aliases}  # as safetensors.torch.save_model notes what it left out
        if options.shard_bytes is None:
            files = {path.name: write_safetensors(tensors, path, dtype=options.dtype, metadata=metadata)}
        else:
            most = options.shard_bytes
            files = write_shards(tensors, path, most, dtype=options.dtype, metadata=metadata)
        recorded = {
            "bytes": "unchanged" if options.dtype is None else "converted",
            "tensors": len(tensors),
            **({"names": options.spelling} if options.spelling else {}),
            **({"aliases": aliases} if aliases else {}),
            **({"initialised": dict(checkpoint.initialised)} if checkpoint.initialised else {}),
        }
        digests = {name: FileEntry(file.sha256, file.bytes) for name, file in files.items()}
        return Written(options.dtype or _widest(path), None, {}, recorded, {}, None, digests)

    def write_module(self, source: Source, options: ExportOptions, path: Path) -> Written:
        """The module's state_dict. Of tensors that are one, the first is kept; the metadata says which the others are.

        Buffers that the module itself leaves out of its state_dict are recorded.
        """
        import torch

        kept, aliases = _distinct(source.state)
        if not any(value.numel() for value in kept.values()):
            raise InputRefused("E_MODULE", f"{escape(source.head)} has no weights", "leave safetensors out of formats")
        _save(kept, aliases, path)
        problem = difference(path, kept)
        if problem is not None:
            raise LocalProblem("E_DISK", f"{problem} was not written as it is", "check the disk")
        recorded = {
            "bytes": "unchanged",
            "tensors": len(kept),
            "aliases": aliases,
            "left_out": list(source.unused),
        }
        return Written(source.dtype, None, {}, recorded, {"torch": torch.__version__}, source.head)

    def contents(self, path: Path) -> Contents:
        header = read_file(path)
        facts = {"tensors": len(header), "parameters": sum(info.elements for info in header.values())}
        return Contents(_widest(path), None, None, facts)


def _distinct(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """(tensors that are each another's, {alias: the name that is kept})."""
    import torch

    kept: dict[str, Any] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            what = f"{escape(name)} of the state_dict is a {type(value).__name__}, which safetensors cannot hold"
            raise InputRefused("E_MODULE", what, "keep the state of the module in buffers")
        place = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride(), value.dtype)
        if value.numel() and place in seen:
            aliases[name] = seen[place]
            continue
        seen[place] = name
        kept[name] = value.detach().cpu().contiguous().clone()
    return kept, aliases


def _save(tensors: Mapping[str, Any], aliases: Mapping[str, str], path: Path) -> None:
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path, metadata={"format": "pt", **aliases})
    except (ValueError, KeyError, TypeError) as error:
        what = f"safetensors cannot hold this state_dict: {escape(error)}"
        raise InputRefused("E_MODULE", what, "keep the state of the module in usual dtypes") from error


def difference(path: Path, tensors: Mapping[str, Any]) -> str | None:
    """The first tensor that a file does not hold bit for bit, None where it holds all of them and no other."""
    import torch
    from safetensors.torch import load_file

    held = load_file(path)
    lacking = sorted(set(held) ^ set(tensors))
    if lacking:
        return escape(lacking[0])
    for name, value in tensors.items():
        same = held[name].dtype == value.dtype and held[name].shape == value.shape
        if not same or not torch.equal(held[name].reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8)):
            return escape(name)
    return None


def _widest(path: Path) -> str:
    """The widest floating dtype in a file: what its numbers claim to be."""
    found = {info.dtype for info in read_file(path).values()}
    return next((name for code, name in _DTYPES.items() if code in found), "float32")


FORMAT = Safetensors()
