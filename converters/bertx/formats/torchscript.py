"""TorchScript: a trace with one Tensor out, that can be moved to any device and dtype.

Two methods share the weights: `forward` gives the task's output, `hidden_states` all layer boundaries stacked, by
which a difference is located. The signature lies inside the file as an extra file.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import bertx
from bertx.checkpoint import Checkpoint
from bertx.errors import InputRefused, escape
from bertx.formats import Contents, ExportOptions, Format, Written, artifact_name
from bertx.model.tasks import HIDDEN_STATES, Task
from bertx.model.wrapper import Source, wrap
from bertx.signature import Signature, TensorSpec

#: the extra file inside a TorchScript archive that holds what bertx wrote about it
EXTRA = "bertx.json"
_MOST_EXTRA = 1 << 20
#: bytes in which a pickle names its first class
_MOST_NAME = 4096


class TorchScript(Format):
    name = "torchscript"
    suffixes = (".pt", ".ts", ".torchscript")

    def file_name(self, options: ExportOptions) -> str:
        return artifact_name("torchscript", ".pt", options)

    def write(self, checkpoint: Checkpoint, task: Task, options: ExportOptions, path: Path) -> Written:
        import transformers

        outputs = options.output_names or (task.torchscript,)
        source = wrap(checkpoint, task, options.dtype or "float32", outputs[:1], fused=True)
        written = self.write_module(source, options, path)
        return replace(written, versions={**written.versions, "transformers": transformers.__version__})

    def write_module(self, source: Source, options: ExportOptions, path: Path) -> Written:
        import torch

        from bertx.model.portable import archive

        samples = tuple(source.samples.values())
        methods = ("forward", HIDDEN_STATES) if source.layers else ("forward",)
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
            warnings.filterwarnings("ignore", module=r"torch|transformers|bertx")
            try:
                traced = torch.jit.trace_module(
                    source.module,
                    dict.fromkeys(methods, samples),
                    check_trace=False,
                    _store_inputs=False,
                )
            except Exception as error:
                raise InputRefused("E_EXPORT", f"PyTorch cannot trace it: {escape(error)}", "try to-onnx") from error
            about = {
                "bertx": bertx.__version__,
                "task": source.task.name,
                "dtype": source.dtype,
                **source.signature.to_json(),
            }
            # torch.jit.save to a path aborts the process on a full disk; memory first, then a write that can fail.
            buffer = archive(traced, {EXTRA: json.dumps(about).encode()})
        path.write_bytes(buffer.getbuffer())
        versions = {"torch": torch.__version__}
        taps = {f"{HIDDEN_STATES}.{k}": f"{HIDDEN_STATES}()[{k}]" for k in range(source.layers)}
        return Written(
            source.dtype, source.signature, taps, {"tensor": source.signature.outputs[0].name}, versions, source.head
        )

    def contents(self, path: Path) -> Contents:
        about = _extra(path)
        if about is None:
            taken = arguments(path)
            # Neither dtypes nor shapes stand in the code, nor what comes out by which name.
            inputs = tuple(TensorSpec(name, "unknown", ()) for name in taken or ())
            return Contents(None, Signature(inputs, ()) if taken else None, None, {})
        return Contents(
            about.get("dtype"), Signature.from_json(about), about.get("task"), {"bertx": about.get("bertx")}
        )


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive that a file is. Whatever reading it raises is an InputRefused("E_FORMAT")."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        what = f"{escape(path.name)} is no TorchScript file: {escape(error)}"
        raise InputRefused("E_FORMAT", what, "export it again") from error


def arguments(path: Path) -> tuple[str, ...] | None:
    """The tensors that a file's forward takes, read off the archive's code as text; None where it does not tell.

    The first class that data.pkl names is the module's own, and its code lies under that name
    (torch/csrc/jit/serialization). Nothing is unpickled.
    """
    try:
        with opened(path) as archive:
            found = [m for m in archive.infolist() if m.filename.count("/") == 1 and m.filename.endswith("/data.pkl")]
            if not found:
                return None
            with archive.open(found[0]) as stream:
                first = re.match(rb"\x80.c([\w.]+)\n(\w+)\n", stream.read(_MOST_NAME), re.DOTALL)
            if first is None:
                return None
            folder, module, name = found[0].filename.partition("/")[0], first[1].decode(), first[2].decode()
            code = archive.getinfo(f"{folder}/code/{module.replace('.', '/')}.py")
            if code.file_size > _MOST_EXTRA:
                return None
            text = archive.read(code).decode("utf-8", "replace")
    except InputRefused:
        return None
    body = text.partition(f"class {name}(Module):")[2].partition("\nclass ")[0]
    forward = re.search(r"def forward\(self[^,()]*,([^()]*)\)", body)
    parts = [part.partition(":") for part in forward[1].split(",")] if forward else []
    if not parts or any(kind.strip() != "Tensor" for _, _, kind in parts):
        return None
    return tuple(argument.strip() for argument, _, _ in parts)


def _extra(path: Path) -> dict[str, Any] | None:
    """What bertx wrote into the archive, None for a file from elsewhere. Reads the zip only: no code runs."""
    with opened(path) as archive:
        member = next((m for m in archive.infolist() if m.filename.endswith(f"/extra/{EXTRA}")), None)
        if member is None:
            return None
        if member.file_size > _MOST_EXTRA:
            raise InputRefused("E_FORMAT", f"{escape(path.name)}: {EXTRA} is too large", "export it again")
        document = json.loads(archive.read(member))
    if not isinstance(document, dict):
        raise InputRefused("E_FORMAT", f"{escape(path.name)}: {EXTRA} is malformed", "export it again")
    return document


FORMAT = TorchScript()
