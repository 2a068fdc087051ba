"""A file is read back while it is written: what differs from what was meant is found and named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertx.checkpoint.readback import ReadBack
from bertx.checkpoint.tensors import CHUNK
from bertx.errors import Bug

PIECES = [("its header", b"h" * (2 * CHUNK + 5)), ("tensor a", bytes(CHUNK)), ("tensor b", b"end")]


def read(file: Path, content: bytes) -> str:
    """The hash of a file that is written in three steps while it is read."""
    with file.open("xb", buffering=0) as handle, ReadBack(file, iter(PIECES)) as back:
        third = len(content) // 3
        for part in (content[:third], content[third:-1], content[-1:]):
            handle.write(part)
            back.written(len(part))
        return back.sha256()


MEANT = b"".join(data for _, data in PIECES)


def test_the_hash_is_that_of_the_whole_file(tmp_path: Path) -> None:
    assert read(tmp_path / "file", MEANT) == hashlib.sha256(MEANT).hexdigest()


@pytest.mark.parametrize(
    ("place", "what"),
    [(0, "its header"), (2 * CHUNK + 4, "its header"), (2 * CHUNK + 6, "tensor a"), (len(MEANT) - 1, "tensor b")],
)
def test_a_byte_that_differs_is_found_and_named(tmp_path: Path, place: int, what: str) -> None:
    content = bytearray(MEANT)
    content[place] ^= 1
    with pytest.raises(Bug, match=what):
        read(tmp_path / "file", bytes(content))


@pytest.mark.parametrize("content", [MEANT + b"x", MEANT[:-1], b"xyz"])
def test_another_length_is_found(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(Bug, match="does not hold what was written"):
        read(tmp_path / "file", content)


def test_bytes_that_were_announced_and_are_not_there_are_found(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(MEANT[:-3])
    with ReadBack(file, iter(PIECES)) as back, pytest.raises(Bug, match="tensor b"):
        back.written(len(MEANT))
        back.sha256()


def test_a_writer_that_fails_is_not_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(KeyboardInterrupt), ReadBack(file, iter(PIECES)):
        raise KeyboardInterrupt


def test_what_cannot_be_expected_any_more_is_raised(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(MEANT)

    def vanishing() -> Iterator[tuple[str, bytes]]:
        yield PIECES[0]
        raise OSError("the source is gone")

    with ReadBack(file, vanishing()) as back, pytest.raises(OSError, match="the source is gone"):
        back.written(len(MEANT))
        back.sha256()
