"""Reads a file back while it is still being written, compares it with what it should hold, and hashes it.

In two threads of their own, one that compares and one that hashes: hashing takes as long as all else together, and
hashlib works without the interpreter's lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from bertx.background import Background
from bertx.checkpoint.tensors import CHUNK, Buffer
from bertx.errors import Bug, escape

#: pieces that are compared and wait to be hashed, at most
_BUFFERS = 4


class ReadBack:
    """`expected` are the file's bytes in pieces, each with the words for what they are, as ("tensor x", b"...").

    The writer says with `written` how far it came, and asks for the hash in the end. Without `sha256` the thread
    stops where the writer did, when the block is left.
    """

    def __init__(self, file: Path, expected: Iterable[tuple[str, Buffer]]) -> None:
        self._file = file
        self._expected = expected
        #: bytes that were written, and 0 when no more of them come
        self._steps: SimpleQueue[int] = SimpleQueue()

    def __enter__(self) -> ReadBack:
        self._work = Background(self._compare)
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.put(0)
        self._work.wait()

    def written(self, size: int) -> None:
        """So many more bytes are in the file."""
        self._steps.put(size)

    def sha256(self) -> str:
        """The hash of the whole file, in hex. Raises Bug where it holds anything else than what was expected."""
        self._steps.put(0)
        return self._work.result()

    def _compare(self) -> str:
        free: SimpleQueue[bytearray] = SimpleQueue()
        compared: SimpleQueue[tuple[bytearray, int]] = SimpleQueue()
        for _ in range(_BUFFERS):
            free.put(bytearray(CHUNK))
        digest = Background(lambda: _digest(compared, free))
        try:
            self._follow(free, compared)
        finally:
            compared.put((bytearray(), 0))
        return digest.result()

    def _follow(self, free: SimpleQueue[bytearray], compared: SimpleQueue[tuple[bytearray, int]]) -> None:
        """Compares what is in the file so far, until all of it is there, and hands it on."""
        pieces = self._pieces()
        unread = 0
        with self._file.open("rb", buffering=0) as handle:
            while unread or (unread := self._steps.get()):
                # Asked for only when it is written, so that what changes while it is copied is seen.
                what, piece = next(pieces, ("its end", b""))
                while unread < len(piece):
                    step = self._steps.get()
                    if not step:
                        raise differs(self._file, "its end")
                    unread += step
                buffer = free.get()
                count = handle.readinto(memoryview(buffer)[: len(piece)])
                # A bytearray compares with a view at the speed of memory, a view with a view byte by byte.
                held: Any = buffer if count == CHUNK else buffer[:count]
                if not piece or held != piece:
                    raise differs(self._file, what)
                compared.put((buffer, count))
                unread -= len(piece)
            if next(pieces, None) is not None or handle.read(1):
                raise differs(self._file, "its end")

    def _pieces(self) -> Iterator[tuple[str, Buffer]]:
        """What is expected, in pieces that fit the buffer."""
        for what, data in self._expected:
            if len(data) <= CHUNK:
                yield what, data
                continue
            for at in range(0, len(data), CHUNK):
                yield what, data[at : at + CHUNK]


def _digest(compared: SimpleQueue[tuple[bytearray, int]], free: SimpleQueue[bytearray]) -> str:
    """The hash of what so many bytes of each buffer hold, up to one with none. Buffers are given back."""
    digest = hashlib.sha256()
    while (each := compared.get())[1]:
        buffer, count = each
        digest.update(memoryview(buffer)[:count])
        free.put(buffer)
    return digest.hexdigest()


def differs(file: Path, what: str) -> Bug:
    """The error for a file of ours that holds anything else than was meant; `what` says where."""
    return Bug(
        "E_BUG",
        f"{escape(file)} does not hold what was written to it: {what}",
        "check that the source did not change meanwhile and that the disk is sound, then report this",
    )
