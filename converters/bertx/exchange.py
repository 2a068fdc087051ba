"""What happens beside a bundle's folder: the writer's lock, staging folders, the exchange, and recovery.

Beside the output `out` there may be, while a writer runs or after one was killed:

    .out.bertx.lock               held by the writer
    .out.bertx-stage-<random>     a bundle that is not complete yet, or an old one on its way out
    .out.bertx-old-<random>       the old bundle, where the system cannot exchange folders in one step

Only a whole bundle is ever called `old`, so that recovery may put it back without asking.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from bertx.errors import LocalProblem, UsageError, escape

#: Bytes of the longest file name that systems agree on, less what the names beside the output add to its own.
MAX_NAME = 255 - len("..bertx-stage-") - 16
#: renameat2(2) of Linux: AT_FDCWD from <fcntl.h>, RENAME_EXCHANGE from <linux/fs.h>.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
#: How a kernel, file system or sandbox says that it does not know the call.
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}
#: How often a lock that other writers make and unlink is opened anew.
_TRIES = 100


def meant(output: str | Path) -> Path:
    """The folder that a user means, where `~` is a home folder. Raises UsageError where there is no such user."""
    try:
        return Path(output).expanduser()
    except RuntimeError as error:
        raise UsageError("E_OUTPUT", f"the output {escape(output)} is of no user here", "name a folder") from error


def locate(output: Path) -> Path:
    """The folder that `output` means, which may not exist yet. Raises UsageError for no such folder."""
    try:
        target = output.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError("E_OUTPUT", f"the output {escape(output)} is no path", "name a folder") from error
    longest = max(len(os.fsencode(part)) for part in target.parts)
    if longest > 255:
        raise UsageError("E_OUTPUT", f"the output {escape(target)} has a name of {longest} bytes", "name it shorter")
    if not target.name or os.path.ismount(target):
        message = f"the output {escape(target)} is where a disk is mounted, and cannot be replaced"
        raise UsageError("E_OUTPUT", message, "name a folder inside it")
    if len(os.fsencode(target.name)) > MAX_NAME:
        message = f"the output's name is longer than {MAX_NAME} bytes: {escape(target.name)}"
        raise UsageError("E_OUTPUT", message, "name it shorter")
    above = next(path for path in target.parents if path.exists())
    if not above.is_dir():
        raise UsageError("E_OUTPUT", f"the output {escape(target)} is inside a file", "name another folder")
    if target.is_dir() and _current_folder().is_relative_to(target):
        message = f"the output {escape(target)} holds the current folder, which would be taken away"
        raise UsageError("E_OUTPUT", message, "run it from outside, and name the folder")
    return target


def sibling(output: Path, kind: Literal["stage", "old"]) -> Path:
    """A new name beside `output`, on its file system."""
    return output.parent / f".{output.name}.bertx-{kind}-{secrets.token_hex(8)}"


def named(text: str) -> Path:
    """The path of a folder or file that a user names. Raises UsageError where nothing can have that name."""
    try:
        path = Path(text)
        if text.startswith("~") and not path.exists():
            path = path.expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long; no such user; a null byte
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError("E_USAGE", f"{escape(text)} cannot be looked for ({escape(why)})", "correct it") from error
    if not text:
        raise UsageError("E_USAGE", "the name of the checkpoint or target is empty", "name one")
    return path


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keeps every other writer of `output` out. Raises LocalProblem at once where there is one.

    The lock belongs to the open file and ends with its process, however that dies. The file is unlinked while
    it is held: who had opened it meanwhile finds that it lost its name, and opens a new one.
    """
    path = output.parent / f".{output.name}.bertx.lock"
    handle = _acquire(path, output)
    try:
        yield
    finally:
        if os.name == "posix":
            path.unlink(missing_ok=True)
            os.close(handle)
        else:  # where a file that is open cannot be unlinked
            os.close(handle)
            with suppress(OSError):
                path.unlink()


@contextmanager
def parents(folder: Path) -> Iterator[None]:
    """Makes `folder` and those above it; in the end the ones that were made and stayed empty are removed."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"the folder {escape(folder)} cannot be made ({error.strerror})"
            raise LocalProblem("E_DISK", message, "name another output") from error
        yield
    finally:
        with suppress(OSError):
            for path in missing:
                path.rmdir()


def recover(output: Path) -> None:
    """Brings back the bundle that a killed writer had set aside and removes what it left.

    Needs the lock, and an `output` that is missing, empty or a bundle.
    """
    for old in sorted(_leftovers(output, "old"), key=lambda path: path.stat().st_ctime_ns, reverse=True):
        if _is_vacant(output):
            with suppress(FileNotFoundError):
                output.rmdir()
            old.rename(output)
        else:
            discard(old.rename(sibling(output, "stage")))
    for stage in _leftovers(output, "stage"):
        discard(stage)


def swap(stage: Path, output: Path) -> None:
    """Puts `stage` in the place of `output`, in one step where the system can, and removes the old folder.

    Raises OSError with `output` as it was before, or as it is to be where only its way to the disk failed.
    """
    if not output.exists():
        stage.rename(output)
    elif not exchange_folders(stage, output):
        _swap_by_pair(stage, output)
    sync_folder(output.parent)
    discard(stage)


def exchange_folders(first: Path, second: Path) -> bool:
    """Exchanges two folders in one step. False where the system cannot; raises OSError where it may not."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    call = getattr(library, "renameat2", None)
    if call is None:  # no Linux, or a C library without it (glibc has it from 2.28)
        return False
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    if call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(second))


def discard(folder: Path) -> None:
    """Removes a folder of ours as far as it can be; what stays, the next writer tries again."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        return
    for root, _, _ in os.walk(folder):
        with suppress(OSError):
            Path(root).chmod(stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Brings a folder's names to the disk, where the system has that."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _swap_by_pair(stage: Path, output: Path) -> None:
    """Two renames; a writer killed between them leaves the old bundle aside, for `recover` to put back."""
    aside = sibling(output, "old")
    try:
        output.rename(aside)
        sync_folder(output.parent)
        stage.rename(output)
    except BaseException:
        if aside.exists() and not output.exists():
            aside.rename(output)
        raise
    aside.rename(stage)  # about to be taken apart, it must not be called old any more


def _leftovers(output: Path, kind: Literal["stage", "old"]) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(output.name)}\.bertx-{kind}-[0-9a-f]{{16}}")
    with os.scandir(output.parent) as entries:
        return [
            Path(entry.path)
            for entry in entries
            if pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        ]


def _is_vacant(output: Path) -> bool:
    return not output.exists() or not any(output.iterdir())


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was removed while a shell stands in it
        return Path()


def _acquire(path: Path, output: Path) -> int:
    """The open and locked file at `path`. Another writer may unlink it between two steps: then once more."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    for _ in range(_TRIES):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, flags, 0o666)
        except FileNotFoundError:
            continue
        try:
            if not _lock(handle):
                message = f"another process is writing {escape(output)}"
                raise LocalProblem("E_LOCKED", message, "wait until it ends, or name another output")
            if _is_named(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    message = f"the lock {escape(path)} cannot be made"
    raise LocalProblem("E_DISK", message, "name an output in another folder")


def _is_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _lock(handle: int) -> bool:
    """Takes the lock on an open file without waiting; False where another has it."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
    else:
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
