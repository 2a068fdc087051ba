"""Golden cases: inputs and expected outputs, by which anyone can check an artifact without PyTorch.

A bundle has them in its folder parity/, `bertx record` writes them alone, `verify --against FOLDER` reads both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.parity.compare import MAX_LIMIT, RMS_LIMIT
from bertx.parity.judge import Bench
from bertx.runtimes.protocol import write_cases, write_outputs
from bertx.signature import Signature

if TYPE_CHECKING:
    import numpy as np

CASES, EXPECTED = "cases.safetensors", "expected.safetensors"
#: where a bundle has the two files
FOLDER = "parity"

#: bytes that both files of a bundle may have together
MOST = 16 * 2**20


def write(
    bench: Bench,
    outputs: Sequence[str],
    place: Callable[[str], Path],
    *,
    dtype: str = "float32",
    source: Mapping[str, Any] | None = None,
    most: int | None = MOST,
) -> None:
    """Writes the two files: as many cases as fit, the smallest first, expected values from float64 as float32 (as they
    are where `dtype` is float64, or they are no floating numbers).

    Cases with a row of padding only are left out: what such a row gives is not defined.

    The metadata of `expected` holds the noise of each output (`rms` and `max` of eager PyTorch at `dtype` against
    float64), the same for each case, and the two limits, so that a checker can apply the same rule; and the `facts`
    of the reference, `source` (the checkpoint and its commit) among them.
    """
    chosen = fitting(bench, outputs, most)
    inputs = {case.name: case.inputs for case in bench.cases if case.name in chosen}
    specs = tuple(bench.specs[name] for name in outputs)
    write_cases(place(CASES), inputs, Signature(bench.inputs.inputs, specs), bench.task, dtype)
    kinds = {name: bench.claimed(name, "float64" if dtype == "float64" else "float32") for name in outputs}
    expected = {
        f"{case}/{name}": _expected(bench, case, name).astype(kinds[name]) for case in chosen for name in outputs
    }
    told = {
        "noise": {name: _noise(bench, chosen, name) for name in outputs},
        "case_noise": {name: {case: _noise(bench, [case], name) for case in chosen} for name in outputs},
        "limits": {"rms": RMS_LIMIT, "max": MAX_LIMIT},
        "facts": {**bench.reference.facts, **(source or {})},
    }
    write_outputs(place(EXPECTED), expected, {key: json.dumps(value) for key, value in told.items()})


def _expected(bench: Bench, case: str, name: str) -> np.ndarray[Any, Any]:
    return bench.reference.exact.arrays[case][name]


def fitting(bench: Bench, outputs: Sequence[str], most: int | None = MOST) -> list[str]:
    """The names of the cases that fit into `most` bytes, the smallest first."""

    def size(case: str) -> int:
        inputs = next(each.inputs for each in bench.cases if each.name == case)
        return sum(a.nbytes for a in inputs.values()) + sum(4 * _expected(bench, case, n).size for n in outputs)

    defined = [case.name for case in bench.cases if "empty" not in case.traits]
    if most is None:
        return defined
    left, chosen = most - 2**16, []
    for case in sorted(defined, key=size):
        if size(case) > left:
            break
        left -= size(case)
        chosen.append(case)
    return chosen


def _noise(bench: Bench, cases: Sequence[str], name: str) -> dict[str, float]:
    import numpy as np

    found = []
    for case in bench.cases:
        if case.name in cases:
            exact = _expected(bench, case.name, name)
            judged = bench.judged(case, name)
            found.append((bench.reference.rounded.arrays[case.name][name].astype(np.float64) - exact)[judged])
    noise = np.concatenate(found)
    return {"rms": float(np.sqrt(np.mean(noise**2))), "max": float(np.abs(noise).max())}
