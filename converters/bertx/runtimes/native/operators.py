"""What programs refuse that know the operators of ONNX and none of those that ONNX Runtime adds."""

from __future__ import annotations

from pathlib import Path

from bertx.errors import InputRefused, escape
from bertx.onnx_header import STANDARD, read_onnx_header


def refusal(artifact: Path) -> str | None:
    """Why such a program cannot run a file; None where it can, or where only running it tells."""
    try:
        others = sorted(read_onnx_header(artifact).domains - {STANDARD})
    except InputRefused:
        return None
    if not others:
        return None
    return f"it knows the operators of ONNX, and the file has some of {escape(', '.join(others), 100)}"
