"""The reference of an export, computed beside it: by the time that artifacts are written, it is in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bertx.checkpoint import Checkpoint
from bertx.model.tasks import Task
from bertx.parity.options import VerifyOptions, check_options
from bertx.parity.origin import Asked, Stock
from bertx.parity.verify import stoppable, workers
from bertx.runtimes import process

if TYPE_CHECKING:
    from concurrent.futures import Future


@contextmanager
def reference_ahead(
    checkpoint: Checkpoint, task: Task, dtypes: Sequence[str], options: VerifyOptions
) -> Iterator[Callable[[], None]]:
    """Asks for the reference of artifacts at these dtypes while the block runs; gives what waits for it.

    What goes wrong with it says nothing here: the verification asks the same again, and tells. An exception in the
    block ends the reference program. Where one process at a time is all that fits, nothing is asked.
    """
    if not dtypes or workers(checkpoint.weights) < 2:
        yield lambda: None
        return
    with stoppable(options.limits(), 1) as (pool, limits):
        asked = [pool.submit(_compute, checkpoint, task, dtype, options, limits) for dtype in dtypes]
        yield lambda: _wait(asked)


def _wait(asked: Sequence[Future[None]]) -> None:
    for future in asked:
        future.exception()


def _compute(checkpoint: Checkpoint, task: Task, dtype: str, options: VerifyOptions, limits: process.Limits) -> None:
    origin = Stock(checkpoint, task)
    asked = Asked(dtype, tuple(spec.name for spec in origin.inputs))
    origin.reference(asked, origin.cases(asked, options), check_options(options), limits, options.cache)
