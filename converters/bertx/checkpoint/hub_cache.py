"""A repository's part of the Hub cache, which every program that uses huggingface_hub shares.

    models--<org>--<name>/
      blobs/<sha256, or git's id>   the bytes, once
      snapshots/<commit>/<path>     links to them
      refs/<branch or tag>          its commit
      trees/<commit>.json           what the repository holds at a commit
      .no_exist/<commit>/<path>     what was asked for and is not there

The layout is documented at https://huggingface.co/docs/huggingface_hub/guides/manage-cache, the listing in
huggingface_hub's own `_tree_cache`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bertx import exchange
from bertx.checkpoint.config import parse_json
from bertx.checkpoint.listing import Listing, RepoFile, from_record, is_commit, named_by_hash, names, to_record
from bertx.errors import InputRefused, LocalProblem, escape

#: The largest listing that is read, in bytes.
_MAX_RECORD = 32 * 2**20
_INTERVAL = 0.2  # seconds between looks at another process's download


@dataclass(frozen=True)
class RepoCache:
    """The cached files of one repository. `root` is the whole cache, whose files alone are ever removed."""

    root: Path
    repo: str

    @property
    def folder(self) -> Path:
        return self.root / "--".join(("models", *self.repo.split("/")))

    def snapshot(self, commit: str) -> Path:
        """The folder in which the files of a commit have their names."""
        return self.folder / "snapshots" / commit

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch or tag had when it was last asked for; a commit is its own."""
        if is_commit(revision):
            return revision
        with contextlib.suppress(OSError, ValueError):
            text = (self.folder / "refs" / revision).read_text("ascii").strip() if _is_ref(revision) else ""
            return text if is_commit(text) else None
        return None

    def note_commit(self, revision: str, commit: str) -> None:
        """Notes which commit a branch or tag has, so that it can be named offline."""
        if _is_ref(revision) and self.commit_of(revision) != commit:
            _note(self.folder / "refs" / revision, commit)

    def listing(self, commit: str) -> Listing | None:
        """What the repository holds at a commit, None where nobody noted it."""
        path = self.folder / "trees" / f"{commit}.json"
        with contextlib.suppress(OSError, ValueError, InputRefused):
            if path.stat().st_size <= _MAX_RECORD:
                return from_record(parse_json(path.read_bytes(), path, "E_FORMAT"))
        return None

    def vain(self, commit: str) -> list[str]:
        """Names that some program asked the Hub for in vain."""
        return names(self.folder / ".no_exist" / commit)

    def linked(self, commit: str, name: str) -> RepoFile | None:
        """A file as the name of the blob that it is a link to states it; None where it is no such link."""
        path = self.snapshot(commit) / name
        if not path.is_symlink():
            return None
        blob = Path(os.path.normpath(path.parent / path.readlink()))
        if blob.parent != self.folder / "blobs":
            return None
        return named_by_hash(blob.name, path.stat().st_size)

    def note_listing(self, commit: str, listing: Listing) -> None:
        """Notes what the repository holds, so that offline it can be told whether the cache has all of it."""
        record = to_record(listing)
        if record is not None and self.listing(commit) is None:
            _note(self.folder / "trees" / f"{commit}.json", json.dumps(record, indent=1))

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs" / digest

    @contextlib.contextmanager
    def part(self, digest: str, patience: float) -> Iterator[Path]:
        """The file in which a blob grows, for this process alone; what an earlier one left there may be gone on with.

        Another process's download of it is waited for while it grows. Raises LocalProblem("E_LOCKED") where that
        did not in `patience` seconds.
        """
        part = self.blob(f"{digest}.incomplete")
        with contextlib.ExitStack() as stack:
            seen, since = -1, time.monotonic()
            while True:
                try:
                    stack.enter_context(exchange.locked(part))
                    break
                except LocalProblem as error:
                    if error.code != "E_LOCKED":
                        raise
                    size = part.stat().st_size if part.exists() else 0
                    if size != seen:
                        seen, since = size, time.monotonic()
                    if time.monotonic() - since > patience:
                        message = f"another process is downloading {escape(self.repo)}, and does not get on"
                        raise LocalProblem("E_LOCKED", message, "end it, or wait for it") from error
                    time.sleep(_INTERVAL)
            yield part

    def link(self, commit: str, name: str, digest: str) -> None:
        """Gives a blob the name that it has in a commit; a copy of it where there are no links."""
        path, blob = self.snapshot(commit) / name, self.blob(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = _beside(path)
        try:
            staged.symlink_to(os.path.relpath(blob, path.parent))
        except OSError:  # Windows allows it to few
            shutil.copyfile(blob, staged)
        staged.replace(path)

    def discard(self, commit: str, name: str) -> None:
        """Removes a cached file, each link on the way to its bytes, and the bytes; nothing outside the cache."""
        file = self.snapshot(commit) / name
        while Path(os.path.normpath(file)).is_relative_to(self.root):
            target = file.parent / file.readlink() if file.is_symlink() else None
            with contextlib.suppress(OSError):
                file.unlink()
            if target is None:
                return
            file = target


def _note(path: Path, text: str) -> None:
    staged = _beside(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written can still be read
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)


def _beside(path: Path) -> Path:
    """A new name in the same folder, this thread's own."""
    return path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")


def _is_ref(revision: str) -> bool:
    """Whether a revision is a relative path without a way up; the Hub's pull requests are `refs/pr/1`."""
    return all(re.fullmatch(r"(?!\.+$)[^\\:\0]+", part) for part in revision.split("/"))
