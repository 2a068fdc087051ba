"""A checkpoint's files on this machine: downloaded at one commit, and copied into a folder of the user's own.

A copy, not a link: whoever edits a file of that folder would else change the cache, which other programs share.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import bertx.bundle as bundle
from bertx import exchange
from bertx.checkpoint import FetchOptions, local_folder, of_bundle
from bertx.checkpoint.config import locate, read_config
from bertx.checkpoint.hub import snapshot
from bertx.checkpoint.listing import names, needed
from bertx.errors import InputRefused, UsageError, escape
from bertx.manifest import FileEntry

#: Bytes copied and hashed at once.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Pulled:
    """A checkpoint in `folder`, and the relative paths of what bertx takes from it. `commit` is None off the Hub."""

    checkpoint: str
    commit: str | None
    folder: Path
    files: tuple[str, ...]

    def hashes(self) -> dict[str, FileEntry]:
        """The sha256 and size in bytes of each file. Raises InputRefused where one cannot be read."""
        return {name: _read(self.folder / name, None) for name in self.files}


def pull(source: str, options: FetchOptions | None = None) -> Pulled:
    """Finds or downloads the checkpoint that `source` names, as `bertx.fetch` does, whatever its weights are.

    Raises SourceUnavailable where it cannot be had, InputRefused where its configuration is refused.
    """
    options = options or FetchOptions()
    folder = local_folder(source, options)
    if folder is not None:
        if bundle.is_bundle(folder):
            found = of_bundle(folder, options)
            return _pulled(found.source, found.commit, found.folder)
        return _pulled(source, None, folder.resolve())
    had = snapshot(source, options.revision, options.hub)
    return _pulled(had.repo, had.commit, had.folder)


def copy(pulled: Pulled, output: Path) -> tuple[Pulled, dict[str, FileEntry]]:
    """Copies the files into `output`, which is new or empty: all of them, or nothing.

    Returns the copy, and the hash of each file as it was read and written. Raises UsageError where `output` is no
    place for it, LocalProblem where the disk refuses.
    """
    output = exchange.meant(output)
    with bundle.disk_errors():
        target = exchange.locate(output)
    if pulled.folder in (target, *target.parents) or target in pulled.folder.parents:
        message = f"the output {escape(output)} and the source overlap"
        raise UsageError("E_OUTPUT", message, "name another folder with -o")
    with bundle.new_folder(output) as stage:
        written = {name: _read(pulled.folder / name, stage / name) for name in pulled.files}
    return replace(pulled, folder=target), written


def _pulled(checkpoint: str, commit: str | None, folder: Path) -> Pulled:
    read_config(folder)
    wanted = needed(names(folder))
    for name in wanted:
        locate(folder, name, "E_FORMAT")  # refuses links that leave the folder
    if not any("/" not in name and name.endswith((".safetensors", ".bin")) for name in wanted):
        raise InputRefused(
            "E_WEIGHTS", f"{escape(folder)} holds no weights", "name a folder that save_pretrained wrote"
        )
    return Pulled(checkpoint, commit, folder, tuple(wanted))


def _read(source: Path, copy_to: Path | None) -> FileEntry:
    """Hashes a file and, where asked to, writes what was hashed and brings it to the disk."""
    if copy_to is None:
        return _hashed(source, lambda chunk: None)
    copy_to.parent.mkdir(parents=True, exist_ok=True)
    with copy_to.open("xb") as written:
        entry = _hashed(source, written.write)
        written.flush()
        os.fsync(written.fileno())
    return entry


def _hashed(source: Path, also: Callable[[bytes], object]) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    try:
        handle = source.open("rb")
    except OSError as error:
        hint = "check the file and its permissions"
        raise InputRefused("E_FORMAT", f"{escape(source)} cannot be read ({error.strerror})", hint) from error
    with handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
            also(chunk)
            size += len(chunk)
    return FileEntry(digest.hexdigest(), size)
