"""Cases that the user gives: in a file of the runner protocol, instead of those that bertx makes, or as texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.errors import InputRefused, UsageError, escape
from bertx.parity.cases import Case, Facts
from bertx.runtimes.protocol import read_tensors

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: an input that a case may leave out, where the artifact does not take it; or hold, where this is all it says
_SILENT = {"attention_mask": 1, "token_type_ids": 0}


def given(path: Path, inputs: Sequence[str], known: Facts) -> tuple[Case, ...]:
    """The cases of a file for a text encoder that takes `inputs`, in its order.

    Raises InputRefused(E_CASES) where the file is malformed, or where a case does not fit the model.
    """
    try:
        arrays = read_tensors(path).arrays
    except (InputRefused, OSError) as error:
        raise _refused(path, f"is no file of cases: {escape(error)}") from error
    if not arrays:
        raise _refused(path, "holds no case")
    for name, held in arrays.items():
        problem = _problem(held, inputs, known)
        if problem is not None:
            raise _refused(path, f"case {escape(name)}: {problem}")
    return tuple(Case(name, {each: held[each] for each in inputs}) for name, held in arrays.items())


def lines_of(path: Path) -> tuple[str, ...]:
    """The lines of a file of texts that are not empty. Raises UsageError where there are none."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("E_USAGE", f"the texts {escape(path)} cannot be read", "give a UTF-8 file") from error
    texts = tuple(line for line in lines if line.strip())
    if not texts:
        raise UsageError("E_USAGE", f"the texts {escape(path)} hold no text", "write one text a line")
    return texts


def _refused(path: Path, what: str) -> InputRefused:
    return InputRefused("E_CASES", f"{escape(path.name)} {what}", "see docs/runners.md for what it must hold")


def _problem(held: Mapping[str, Array], inputs: Sequence[str], known: Facts) -> str | None:
    """Why a case cannot be asked, None where it can."""
    lacking = [name for name in inputs if name not in held]
    if lacking:
        return f"{lacking[0]} is missing"
    for name, array in held.items():
        if name not in ("input_ids", *_SILENT):
            return f"{escape(name)} is no input of this model ({', '.join(inputs)})"
        if str(array.dtype) != "int64" or array.ndim != 2 or array.size == 0:
            return f"{name} is {array.dtype} of shape {array.shape}, not int64 of (batch, sequence)"
        if array.shape != held["input_ids"].shape:
            return f"{name} has shape {array.shape}, input_ids {held['input_ids'].shape}"
        if name not in inputs and (array != _SILENT[name]).any():
            return f"{name} says something, and the artifact does not take it"
    return _range_problem(held, known)


def _range_problem(held: Mapping[str, Array], known: Facts) -> str | None:
    ids, mask, segments = (held.get(name) for name in ("input_ids", *_SILENT))
    if ids is not None and (ids.min() < 0 or ids.max() >= known.vocabulary):
        return f"input_ids lie in {ids.min()} to {ids.max()}, the vocabulary has {known.vocabulary}"
    if ids is not None and ids.shape[1] > known.longest:
        return f"it has {ids.shape[1]} tokens, the model takes {known.longest}"
    if mask is not None and not (((mask == 0) | (mask == 1)).all() and mask.any(axis=1).all()):
        return "attention_mask is not of 0 and 1 with a valid token in each row"
    if segments is not None and (segments.min() < 0 or segments.max() >= max(known.segments, 1)):
        return f"token_type_ids lie in {segments.min()} to {segments.max()}, the model has {known.segments} segments"
    return None
