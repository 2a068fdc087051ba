"""Work in a thread beside what follows: what waits for a disk, or hashes, which hashlib does without the interpreter's
lock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Work that is done beside what follows."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._done: list[T] = []
        self._error: BaseException | None = None
        # A daemon: an interrupt does not wait for it.
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], T]) -> None:
        try:
            self._done.append(work())
        except BaseException as error:  # noqa: BLE001 - raised where the result is wanted
            self._error = error

    def wait(self) -> None:
        """Until the work is done, however it ended."""
        self._thread.join()

    def result(self) -> T:
        """What the work gave. Raises what it raised."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._done[0]
