"""Reads a file back while it is still being written, compares it with what it should hold, and hashes it.

In a thread of its own: copying, hashing the source and this take about as long as each other, and hashlib works
without the interpreter's lock.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from bertx.checkpoint.tensors import CHUNK, Buffer
from bertx.errors import Bug, escape


class ReadBack:
    """`expected` are the file's bytes in pieces, each with the words for what they are, as ("tensor x", b"...").

    The writer says with `written` how far it came, and asks for the hash in the end. Without `sha256` the thread
    stops where the writer did, when the block is left.
    """

    def __init__(self, file: Path, expected: Iterable[tuple[str, Buffer]]) -> None:
        self._file = file
        self._expected = expected
        self._digest = hashlib.sha256()
        self._steps: SimpleQueue[int | None] = SimpleQueue()
        self._error: BaseException | None = None
        # A daemon: an interrupt does not wait for it.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ReadBack:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.put(None)
        self._thread.join()

    def written(self, size: int) -> None:
        """So many more bytes are in the file."""
        self._steps.put(size)

    def sha256(self) -> str:
        """The hash of the whole file, in hex. Raises Bug where it holds anything else than what was expected."""
        self.__exit__()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def _run(self) -> None:
        try:
            self._compare()
        except BaseException as error:  # noqa: BLE001 - raised where the hash is wanted
            self._error = error

    def _compare(self) -> None:
        there = place = 0
        buffer = bytearray(CHUNK)
        with self._file.open("rb", buffering=0) as handle:
            for what, piece in self._pieces():
                place += len(piece)
                while there < place:
                    step = self._steps.get()
                    if step is None:
                        raise self._differs("its end")
                    there += step
                count = handle.readinto(memoryview(buffer)[: len(piece)])
                # A bytearray compares with a view at the speed of memory, a view with a view byte by byte.
                held: Any = buffer if count == CHUNK else buffer[:count]
                if held != piece:
                    raise self._differs(what)
                self._digest.update(held)
            while self._steps.get() is not None:
                pass
            if handle.read(1):
                raise self._differs("its end")

    def _pieces(self) -> Iterator[tuple[str, Buffer]]:
        """What is expected, in pieces that fit the buffer."""
        for what, data in self._expected:
            if len(data) <= CHUNK:
                yield what, data
                continue
            for at in range(0, len(data), CHUNK):
                yield what, data[at : at + CHUNK]

    def _differs(self, what: str) -> Bug:
        return Bug(
            "E_BUG",
            f"{escape(self._file)} does not hold what was written to it: {what}",
            "check that the source did not change meanwhile and that the disk is sound, then report this",
        )
