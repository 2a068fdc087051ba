"""Golden cases: inputs and expected outputs beside the artifacts, by which anyone can check without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.parity.compare import MAX_LIMIT, RMS_LIMIT
from bertx.parity.judge import Bench
from bertx.runtimes.protocol import write_cases, write_outputs
from bertx.signature import Signature

if TYPE_CHECKING:
    import numpy as np

CASES, EXPECTED = "parity/cases.safetensors", "parity/expected.safetensors"

#: bytes that both files may have together
MOST = 16 * 2**20


def write(bench: Bench, outputs: Sequence[str], place: Callable[[str], Path]) -> None:
    """Writes the two files: as many cases as fit, the smallest first, expected values from float64 as float32.

    The metadata of `expected` holds the noise of each output (`rms` and `max` of eager float32 against float64) and
    the two limits, so that a checker can apply the same rule.
    """
    chosen = _fitting(bench, outputs)
    inputs = {case.name: case.inputs for case in bench.cases if case.name in chosen}
    specs = tuple(bench.specs[name] for name in outputs)
    write_cases(place(CASES), inputs, Signature(bench.inputs.inputs, specs), bench.task, "float32")
    expected = {f"{case}/{name}": _expected(bench, case, name).astype("float32") for case in chosen for name in outputs}
    noise = {name: _noise(bench, chosen, name) for name in outputs}
    limits = {"rms": RMS_LIMIT, "max": MAX_LIMIT}
    write_outputs(place(EXPECTED), expected, {"noise": json.dumps(noise), "limits": json.dumps(limits)})


def _expected(bench: Bench, case: str, name: str) -> np.ndarray[Any, Any]:
    return bench.reference.exact.arrays[case][name]


def _fitting(bench: Bench, outputs: Sequence[str]) -> list[str]:
    def size(case: str) -> int:
        inputs = next(each.inputs for each in bench.cases if each.name == case)
        return sum(a.nbytes for a in inputs.values()) + sum(4 * _expected(bench, case, n).size for n in outputs)

    left, chosen = MOST - 2**16, []
    for case in sorted((case.name for case in bench.cases), key=size):
        if size(case) > left:
            break
        left -= size(case)
        chosen.append(case)
    return chosen


def _noise(bench: Bench, cases: Sequence[str], name: str) -> dict[str, float]:
    import numpy as np

    from bertx.parity.compare import judged_positions

    found = []
    for case in bench.cases:
        if case.name in cases:
            exact = _expected(bench, case.name, name)
            judged = judged_positions(bench.specs[name], case.inputs.get("attention_mask"), exact.shape)
            found.append((bench.reference.rounded.arrays[case.name][name].astype(np.float64) - exact)[judged])
    noise = np.concatenate(found)
    return {"rms": float(np.sqrt(np.mean(noise**2))), "max": float(np.abs(noise).max())}
