"""Every token id, for an artifact whose word embeddings do not lie in it as they do in the checkpoint.

The quick cases read few rows of that table. Where it is recognised, the others are compared by their bytes; where it
is put together, scaled or reached by mapped ids, each row is looked up by running it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bertx.parity.compare import Compared, pool
from bertx.parity.judge import Bench
from bertx.parity.report import Result

#: bytes of the reference's answers that are held at once
ANSWERS = 512 * 2**20


def with_every_id(result: Result, ids: int, bench: Bench, judged: Callable[[tuple[int, int]], Result]) -> Result:
    """A result that passed, with a row for each output over all of `ids` ids; the failure where one of them is wrong.

    `judged` runs and judges the ids from one to another: as many at once as the answers to `bench` say that there is
    room for.
    """
    answers = [array for named in bench.reference.exact.arrays.values() for array in named.values()]
    tokens = sum(next(iter(case.inputs.values())).size for case in bench.cases)
    step = max(1, ANSWERS * tokens // sum(array.nbytes for array in answers))
    compared: dict[str, list[Compared]] = {}
    for start in range(0, ids, step):
        found = judged((start, min(start + step, ids)))
        if found.verdict != "pass":
            why = f"asked about every id: {found.cause or found.reason}"
            return replace(found, verdict="fail", cause=why, inputs=result.inputs, static=result.static)
        for row in found.outputs:
            compared.setdefault(row.name, []).extend(row.cases)
    factor, allowance = bench.factor, bench.allowance
    rows = [pool(f"{name} of every id", all_, result.dtype, factor, allowance) for name, all_ in compared.items()]
    return replace(result, outputs=(*result.outputs, *rows))
