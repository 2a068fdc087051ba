"""How long a runtime takes: the same batches again and again, one runtime at a time, the median of what it reports.

A runner needs nothing for it: the repetitions are cases like any other, and it states the seconds of each.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bertx.parity.cases import Case

#: (batch, sequence) of the batches that are measured: a query, a passage, and passages in a batch
SHAPES = ((1, 16), (1, 128), (8, 128))
#: how often each is run; the first run is not counted
ROUNDS = 8


@dataclass(frozen=True)
class Latency:
    """Median seconds by shape ("8x128"), and the threads that the runner says it computes with."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    threads: int | None = None

    def to_json(self) -> dict[str, Any]:
        milliseconds = {shape: float(f"{1000 * value:.4g}") for shape, value in self.seconds.items()}
        return {"milliseconds": milliseconds, "threads": self.threads, "rounds": ROUNDS - 1}


def batches(cases: Sequence[Case]) -> tuple[Case, ...]:
    """What is run to measure: full rows of the tokens of the longest case, which bounds the lengths.

    Nothing where the inputs are no tokens.
    """
    import numpy as np

    longest = max(cases, key=lambda case: case.inputs.get("input_ids", np.zeros((0, 0))).shape[-1])
    if "input_ids" not in longest.inputs:
        return ()
    made = []
    for batch, sequence in SHAPES:
        if sequence > longest.inputs["input_ids"].shape[1]:
            continue
        inputs = {name: np.tile(array[:1, :sequence], (batch, 1)) for name, array in longest.inputs.items()}
        if "attention_mask" in inputs:
            inputs["attention_mask"] = np.ones_like(inputs["attention_mask"])
        made += [Case(f"{batch}x{sequence}.{k}", inputs) for k in range(ROUNDS)]
    return tuple(made)


def measured(metadata: Mapping[str, str]) -> Latency | None:
    """What a runner's answer to the batches tells; None where it does not tell its seconds."""
    try:
        seconds = json.loads(metadata.get("seconds", ""))
        threads = metadata.get("threads")
        told = Latency(_medians(seconds), int(threads) if threads else None)
    except (ValueError, TypeError, AttributeError):
        return None
    return told if told.seconds else None


def _medians(seconds: Mapping[str, Any]) -> dict[str, float]:
    import statistics

    found: dict[str, list[float]] = {}
    for name, value in seconds.items():
        shape = re.fullmatch(r"(\d+x\d+)\.([1-9]\d*)", name)
        if shape and math.isfinite(float(value)) and float(value) >= 0:
            found.setdefault(shape[1], []).append(float(value))
    order = [f"{batch}x{sequence}" for batch, sequence in SHAPES]
    return {shape: statistics.median(found[shape]) for shape in order if shape in found}
