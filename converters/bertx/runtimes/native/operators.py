"""What programs refuse that know the operators of ONNX, or most of them, and none of those that ONNX Runtime adds."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from bertx.errors import InputRefused, escape
from bertx.onnx_header import STANDARD, read_onnx_header


def refusal(artifact: Path, lacking: Collection[str] = ()) -> str | None:
    """Why a program that lacks these of ONNX's operators cannot run a file; None where only running it tells."""
    try:
        found = read_onnx_header(artifact).operators
    except InputRefused:
        return None
    others = sorted({domain for domain, _ in found if domain != STANDARD})
    if others:
        return f"it knows the operators of ONNX, and the file has some of {escape(', '.join(others), 100)}"
    unknown = sorted(name for domain, name in found if name in lacking)
    return f"it does not run {', '.join(unknown)}, which the file has" if unknown else None
