"""TorchScript: a trace with one Tensor out, that can be moved to any device and dtype.

Two methods share the weights: `forward` gives the task's output, `hidden_states` all layer boundaries stacked, by
which a difference is located. The signature lies inside the file as an extra file.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import bertx
from bertx.checkpoint import Checkpoint
from bertx.errors import InputRefused, escape
from bertx.formats import Contents, ExportOptions, Format, Written, artifact_name
from bertx.model.tasks import HIDDEN_STATES, Task
from bertx.model.wrapper import Source, wrap
from bertx.signature import Signature

#: the extra file inside a TorchScript archive that holds what bertx wrote about it
EXTRA = "bertx.json"
_MOST_EXTRA = 1 << 20


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
            return Contents(None, None, None, {})
        return Contents(
            about.get("dtype"), Signature.from_json(about), about.get("task"), {"bertx": about.get("bertx")}
        )


def _extra(path: Path) -> dict[str, Any] | None:
    """What bertx wrote into the archive, None for a file from elsewhere. Reads the zip only: no code runs."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = next((m for m in archive.infolist() if m.filename.endswith(f"/extra/{EXTRA}")), None)
            if member is None:
                return None
            if member.file_size > _MOST_EXTRA:
                raise InputRefused("E_FORMAT", f"{escape(path.name)}: {EXTRA} is too large", "export it again")
            document = json.loads(archive.read(member))
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputRefused(
            "E_FORMAT", f"{escape(path.name)} is no TorchScript file: {escape(error)}", "export it again"
        ) from error
    if not isinstance(document, dict):
        raise InputRefused("E_FORMAT", f"{escape(path.name)}: {EXTRA} is malformed", "export it again")
    return document


FORMAT = TorchScript()
