"""safetensors: the checkpoint's own tensors in one file, streamed, names and bytes unchanged."""

from __future__ import annotations

from pathlib import Path

from bertx.checkpoint import Checkpoint
from bertx.checkpoint.tensors import read_header
from bertx.checkpoint.writer import write_safetensors
from bertx.formats import Contents, ExportOptions, Format, Written
from bertx.model.tasks import Task

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Safetensors(Format):
    name = "safetensors"
    suffixes = (".safetensors",)

    def file_name(self, options: ExportOptions) -> str:
        return "model.safetensors"

    def write(self, checkpoint: Checkpoint, task: Task, options: ExportOptions, path: Path) -> Written:
        written = write_safetensors(checkpoint.weights, path, dtype=options.dtype)
        dtype = options.dtype or _widest(path)
        kept = "unchanged" if options.dtype is None else "converted"
        return Written(dtype, None, {}, {"bytes": kept, "tensors": written.tensors}, {}, None)

    def contents(self, path: Path) -> Contents:
        header = read_header(path)
        facts = {"tensors": len(header), "parameters": sum(info.elements for info in header.values())}
        return Contents(_widest(path), None, None, facts)


def _widest(path: Path) -> str:
    """The widest floating dtype in a file: what its numbers claim to be."""
    found = {info.dtype for info in read_header(path).values()}
    return next((name for code, name in _DTYPES.items() if code in found), "float32")


FORMAT = Safetensors()
