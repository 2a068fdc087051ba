"""The bundle's folder: staged beside the old one, published whole or not at all.

    with stage(Path("out")) as staged:
        write_somehow(staged.path("onnx/model.onnx"))
        staged.publish(manifest)

Until `publish` is done, `out` is the old bundle; from then on it is the new one. Whoever is killed on the way
leaves one of the two, and a staging folder that the next writer removes.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bertx import exchange
from bertx.errors import Bug, InputRefused, LocalProblem, UsageError, escape
from bertx.manifest import NAME, ArtifactEntry, FileEntry, Manifest, check_path, decode, encode, read

#: Folders in which git and huggingface_hub keep their own books: kept, never listed in the manifest.
FOREIGN = frozenset({".git", ".cache"})
#: Bytes read at once when a file is hashed.
CHUNK = 256 * 1024
#: What the system says of a disk without room, and of a folder that cannot be written or locked.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOLCK, errno.ENOTSUP, errno.ELOOP),
    *(errno.EBUSY, errno.EXDEV),  # a folder mounted in a way that does not show
}


def is_bundle(folder: Path) -> bool:
    """Whether `folder` has a bertx.json; whether that can be read, `manifest.read` says."""
    return (folder / NAME).is_file()


@contextmanager
def stage(output: Path, *, replace: bool = False) -> Iterator[Stage]:
    """A staging folder for the bundle at `output`: a copy of it to start with, or empty on `replace`.

    Raises UsageError where `output` is no place for a bundle, InputRefused where the old bundle is malformed,
    LocalProblem where another process writes it or the disk refuses. Without `publish` nothing changes.
    """
    with disk_errors():
        target = exchange.locate(output)
    with disk_errors(), exchange.parents(target.parent), exchange.locked(target):
        _refuse_foreign(target)
        exchange.recover(target)
        old = read(target) if is_bundle(target) else None
        folder = exchange.sibling(target, "stage")
        folder.mkdir(mode=0o700)
        try:
            carried = _carry(target, folder, FOREIGN if replace else None)
            yield Stage(target, folder, old, carried)
        finally:
            exchange.discard(folder)


@contextmanager
def new_folder(output: Path, *, replaceable: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """A folder for files that appear at `output` all at once when the block ends well, else not at all.

    `output` is new or empty, or `replaceable`. Raises UsageError where it is neither, LocalProblem where the disk
    refuses.
    """
    with disk_errors():
        target = exchange.locate(output)

    def check() -> None:
        if target.exists() and not (target.is_dir() and (not any(target.iterdir()) or replaceable(target))):
            message = f"the output {escape(target)} exists and is not empty"
            raise UsageError("E_OUTPUT", message, "name a new or empty folder")

    with disk_errors(), exchange.parents(target.parent), exchange.locked(target):
        check()
        exchange.recover(target)
        check()  # a bundle that a killed writer had set aside may be back
        stage = exchange.sibling(target, "stage")
        stage.mkdir()
        try:
            yield stage
            for folder in (*(path for path in stage.rglob("*") if path.is_dir()), stage):
                exchange.sync_folder(folder)
            exchange.swap(stage, target)
        finally:
            exchange.discard(stage)


class Stage:
    """A bundle nobody sees yet: `folder` is where it is made, `old` the manifest of the one it replaces."""

    def __init__(self, output: Path, folder: Path, old: Manifest | None, carried: set[str]) -> None:
        self.folder = folder
        self.old = old
        self._output = output
        self._carried = carried
        self._vouched: dict[str, tuple[FileEntry, os.stat_result]] = {}
        self._published = False

    def path(self, relative: str) -> Path:
        """Where the bundle's file `relative` is to be written; its folder exists, the file itself does not.

        A file of the old bundle is one on the disk with the staged one until it is asked for here: writing to
        `folder` past this method would change the old bundle.
        """
        path = self._inside(relative)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            message = f"{escape(relative)} cannot be written, a file or folder of the bundle is in its place"
            raise InputRefused("E_BUNDLE", message, "remove it, or name another output") from error
        self._carried.discard(relative)
        return path

    def vouch(self, relative: str, entry: FileEntry) -> None:
        """Tells the hash of a staged file that was just read back, so that `publish` need not read it once more."""
        self._vouched[relative] = entry, self._inside(relative).stat()

    def matching(self, pattern: str) -> list[str]:
        """The relative paths of staged files that fit a glob pattern."""
        return [path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern) if path.is_file()]

    def remove(self, relative: str) -> None:
        """Removes the bundle's file `relative` if it has one, and the folders that this leaves empty."""
        path = self._inside(relative)
        path.unlink(missing_ok=True)
        self._carried.discard(relative)
        for folder in path.parents:
            if folder == self.folder or not folder.is_dir() or any(folder.iterdir()):
                return
            folder.rmdir()

    def publish(self, manifest: Manifest) -> Manifest:
        """Puts the staged bundle in the place of the old one; returns `manifest` as it was written.

        `files` is filled with the hash of every file. An artifact that somebody changed in the old bundle
        loses its report. Raises Bug where an artifact was not written or `manifest` is malformed.
        """
        if self._published:
            raise Bug("E_BUG", "a bundle was published twice", "please report it")
        for artifact in manifest.artifacts:
            if not (self.folder / artifact.path).is_file():
                raise Bug("E_BUG", f"{escape(artifact.path)} was not written", "please report it")
        files = self._seal()
        artifacts = tuple(self._judged(entry, files) for entry in manifest.artifacts)
        complete = dataclasses.replace(manifest, artifacts=artifacts, files=files)
        content = encode(complete)
        _write(self.folder / NAME, content)
        for folder in (*(path for _, path in _walk(self.folder) if path.is_dir()), self.folder):
            exchange.sync_folder(folder)
        exchange.swap(self.folder, self._output)
        self._published = True
        return decode(content)

    def _inside(self, relative: str) -> Path:
        if check_path(relative, "the path") == NAME:
            raise Bug("E_BUG", f"{NAME} is written by publish alone", "please report it")
        return self.folder / relative

    def _seal(self) -> dict[str, FileEntry]:
        """Gives all files their usual mode, brings them to the disk and hashes those the manifest lists."""
        file_mode, folder_mode = _usual_modes(self.folder)
        self.folder.chmod(folder_mode)
        files: dict[str, FileEntry] = {}
        for relative, path in _walk(self.folder):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise Bug("E_BUG", f"{escape(relative)} was staged as no regular file", "please report it")
            if path.is_dir():
                path.chmod(folder_mode)
                continue
            if relative not in self._carried:  # those share their mode with the old bundle
                path.chmod(file_mode)
            if relative != NAME and not _is_foreign(relative):
                files[relative] = self._known(relative, path) or _digest(path, sync=True)
        return files

    def _known(self, relative: str, path: Path) -> FileEntry | None:
        """The hash that was told of a file which nobody has touched since."""
        entry, before = self._vouched.get(relative, (None, None))
        now = path.stat()
        if before is None or (now.st_ino, now.st_size, now.st_mtime_ns) != (
            before.st_ino,
            before.st_size,
            before.st_mtime_ns,
        ):
            return None
        return entry

    def _judged(self, entry: ArtifactEntry, files: dict[str, FileEntry]) -> ArtifactEntry:
        """`entry`, without a report that speaks of other bytes: somebody changed the published file."""
        if self.old is None or not any(
            (known.path, known.report) == (entry.path, entry.report) for known in self.old.artifacts
        ):
            return entry
        carried = self._carried & self.old.parts(entry.path)
        same = all(files[path] == self.old.files.get(path) for path in carried)
        return entry if same else dataclasses.replace(entry, report=None)


def verify_files(folder: Path, manifest: Manifest) -> list[str]:
    """The paths in `manifest.files` that `folder` lacks or has with other bytes, in the manifest's order."""
    with disk_errors():
        return [path for path, entry in manifest.files.items() if not holds(folder / path, entry)]


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes as 64 lower-case hex digits."""
    return _digest(path).sha256


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns an error with which a disk refuses (full, read-only, not ours) into LocalProblem E_DISK."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL | _CLOSED:
            raise
        where = f" {escape(error.filename)}" if error.filename else ""
        hint = "free some space" if error.errno in _FULL else "check who may write there"
        message = f"the disk refused{where} ({error.strerror})"
        raise LocalProblem("E_DISK", message, f"{hint}, or name an output elsewhere") from error
    except Exception as error:
        # That of the safetensors library hides the system's number.
        if type(error).__name__ != "SafetensorError" or "I/O error" not in str(error):
            raise
        hint = "free some space, in the temp folder too, or name an output elsewhere"
        raise LocalProblem("E_DISK", f"the disk refused ({escape(error)})", hint) from error


def check_place(output: Path) -> None:
    """Raises UsageError where `output` is no place for a bundle, LocalProblem where the disk refuses to say."""
    with disk_errors():
        _refuse_foreign(exchange.locate(output))


def _refuse_foreign(target: Path) -> None:
    """What bertx did not make, it does not replace."""
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError("E_OUTPUT", f"the output {escape(target)} is a file", "name a folder")
    if not is_bundle(target) and any(target.iterdir()):
        message = f"the output {escape(target)} holds files but no {NAME}"
        raise UsageError("E_OUTPUT", message, "name a new or empty folder")


def _carry(output: Path, folder: Path, only: frozenset[str] | None) -> set[str]:
    """Links the files of `output` into `folder`, all but bertx.json or those in the folders `only` names.

    Returns their relative paths. Raises InputRefused where one is no regular file or links to the outside.
    """
    carried: set[str] = set()
    for relative, path in _walk(output) if output.exists() else ():
        if relative == NAME or (only is not None and relative.split("/")[0] not in only):
            continue
        if not _is_foreign(relative):
            check_path(relative, "the file")
        if path.is_dir() and not path.is_symlink():
            (folder / relative).mkdir()
            continue
        _link(_content(path, output), folder / relative)
        carried.add(relative)
    return carried


def _content(path: Path, output: Path) -> Path:
    """The regular file that has the bytes of `path`: itself, or what it links to inside `output`."""
    try:
        content = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise InputRefused("E_BUNDLE", f"{escape(path)} links to nothing", "remove it") from error
    if not content.is_relative_to(output):
        hint = "put the file itself there, or name another output"
        raise InputRefused("E_BUNDLE", f"{escape(path)} links to a file outside the bundle", hint)
    if not content.is_file():
        raise InputRefused("E_BUNDLE", f"{escape(path)} is no regular file", "remove it")
    return content


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # no links on this file system, too many of them, or not to somebody else's file
        shutil.copy2(source, target)


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Everything below `folder` in a fixed order, a folder before what it holds; links are not followed."""
    pending = sorted(folder.iterdir(), reverse=True)
    while pending:
        path = pending.pop()
        yield path.relative_to(folder).as_posix(), path
        if path.is_dir() and not path.is_symlink():
            pending.extend(sorted(path.iterdir(), reverse=True))


def _is_foreign(relative: str) -> bool:
    return relative.split("/")[0] in FOREIGN


def _usual_modes(folder: Path) -> tuple[int, int]:
    """The modes of a new file and a new folder here; to read umask itself is to change it for all threads."""
    probe = folder / f".{secrets.token_hex(8)}"
    probe.mkdir()
    file = probe / "file"
    file.touch()
    modes = stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(probe.stat().st_mode)
    shutil.rmtree(probe)
    return modes


def _digest(path: Path, *, sync: bool = False) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        if sync and os.name == "posix":  # elsewhere only a file open for writing can be brought to the disk
            os.fsync(file.fileno())
        buffer = memoryview(bytearray(CHUNK))
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            size += count
    return FileEntry(digest.hexdigest(), size)


def holds(path: Path, entry: FileEntry) -> bool:
    """Whether the file at `path` has the size and the hash that `entry` states."""
    return path.is_file() and path.stat().st_size == entry.bytes and _digest(path) == entry


def _write(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
