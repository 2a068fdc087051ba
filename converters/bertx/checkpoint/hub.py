"""Checkpoints from the Hugging Face Hub: one commit, only what is needed, every hash that the Hub states checked.

They lie in the cache that huggingface_hub shares between programs. `listing` says what is needed, `transfer` asks
for it, `hub_cache` knows where it lies.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from bertx.checkpoint.config import locate
from bertx.checkpoint.hub_cache import RepoCache
from bertx.checkpoint.listing import Listing, RepoFile, complete, holds, is_commit, names, needed, weights
from bertx.checkpoint.transfer import Asked, HubOptions, body, broken, disk_errors, receive, resolve
from bertx.checkpoint.unlisted import Unlisted
from bertx.errors import BertxError, InputRefused, LocalProblem, SourceUnavailable, UsageError, escape

__all__ = ["HubOptions", "Snapshot", "cached_folder", "snapshot"]

#: Another process's download is waited for so many times the silence that is allowed.
_PATIENCE = 6
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit, in `folder` of the cache. `origin` is "hub" where a file was downloaded."""

    repo: str
    commit: str
    folder: Path
    origin: Literal["cache", "hub"]


def check_id(repo: str) -> None:
    """Raises UsageError where `repo` is no Hub id."""
    if not _is_id(repo):
        message = f"{escape(repo)} is no folder on this machine and no Hub id"
        raise UsageError("E_USAGE", message, 'name a folder that exists, or a Hub id such as "org/name"')


def snapshot(repo: str, revision: str | None, options: HubOptions) -> Snapshot:
    """The files of a repository that bertx needs, at the commit to which a branch or tag resolves now.

    The Hub is asked once for the commit, and once for each file that is not in the cache. Raises UsageError where
    `repo` is no Hub id, SourceUnavailable where the checkpoint cannot be had, InputRefused where it is an adapter,
    LocalProblem where the cache cannot be written.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled

    check_id(repo)
    if revision == "":
        raise UsageError("E_USAGE", "the revision is empty", "name a branch, tag or commit, or leave it out for main")
    if not options.offline:
        with contextlib.suppress(OfflineModeIsEnabled):  # HF_HUB_OFFLINE=1 forbids asking too
            return _from_hub(repo, revision, options)
    return _from_cache(repo, revision or "main", options)


def cached_folder(repo: str, commit: str, options: HubOptions) -> Path | None:
    """Where the cache keeps files of a commit, which of them it has is not looked at; None where it has none."""
    folder = _cache(repo, options).snapshot(commit) if is_commit(commit) and _is_id(repo) else None
    return folder if folder is not None and folder.is_dir() else None


def _from_hub(repo: str, revision: str | None, options: HubOptions) -> Snapshot:
    asked = Asked(repo, revision, options)
    commit, listing = resolve(asked)
    if revision is not None and is_commit(revision) and revision != commit:
        raise asked.failed("answers with another commit than it was asked for")
    names, cache = _chosen(repo, commit, listing), _cache(repo, options)
    folder = cache.snapshot(commit)
    with disk_errors(cache.root):
        absent = [name for name in names if not (folder / name).is_file()]
        if options.recheck:
            _check(cache, commit, {name: listing[name] for name in names if name not in absent})
        _download(cache, commit, {name: listing[name] for name in absent}, asked)
        cache.note_listing(commit, listing)
        cache.note_commit(revision or "main", commit)
    return Snapshot(repo, commit, folder, "hub" if absent else "cache")


def _from_cache(repo: str, revision: str, options: HubOptions) -> Snapshot:
    cache = _cache(repo, options)
    commit, about = cache.commit_of(revision), f"{escape(repo)} at {escape(revision)}"
    hint = "run once without --offline (or HF_HUB_OFFLINE)"
    if commit is None or not cache.snapshot(commit).is_dir():
        raise SourceUnavailable("E_OFFLINE", f"{about} is not in the cache", hint)
    folder, listing = cache.snapshot(commit), cache.listing(commit)
    hint += f", or name {escape(folder, 4096)} to take what is there"
    with disk_errors(cache.root):
        if listing is None:
            _take_unlisted(cache, commit, about, hint, options)
            return Snapshot(repo, commit, folder, "cache")
        names = _chosen(repo, commit, listing)
        _refuse_lacking([name for name in names if not (folder / name).is_file()], about, hint)
        _check(cache, commit, {name: listing[name] for name in names} if options.recheck else {})
    return Snapshot(repo, commit, folder, "cache")


def _take_unlisted(cache: RepoCache, commit: str, about: str, hint: str, options: HubOptions) -> None:
    """Raises where what another program put into the cache is not whole, or not what it says.

    The name of a blob is its hash, so that the bytes are checked as those of a listing are.
    """
    folder = cache.snapshot(commit)
    there = names(folder)
    files = {name: cache.linked(commit, name) for name in needed(there) if locate(folder, name, "E_FORMAT")}
    loose = [name for name, file in files.items() if file is None]
    if loose:
        message = f"{about}: {escape(loose[0])} is no link to a blob that its hash names, so that it cannot be checked"
        raise SourceUnavailable("E_OFFLINE", message, hint)
    stated = {name: file for name, file in files.items() if file is not None and options.recheck}
    last = set(weights(there))
    _check(cache, commit, {name: file for name, file in stated.items() if name not in last})
    unlisted = Unlisted(folder, cache.vain(commit))
    _refuse_lacking(unlisted.lacking(), about, hint)
    _check(cache, commit, {name: file for name, file in stated.items() if name in last})
    unknown = unlisted.unknown()
    if unknown:
        what = f"{about} was put into the cache by another program"
        options.tell(f"{what}; what it did not ask for is taken as not being there: {', '.join(unknown)}")


def _refuse_lacking(lacking: list[str], about: str, hint: str) -> None:
    if lacking:
        message = f"{about} is not completely in the cache: it lacks {', '.join(map(escape, lacking))}"
        raise SourceUnavailable("E_OFFLINE", message, hint)


def _chosen(repo: str, commit: str, listing: Listing) -> list[str]:
    """The needed files of a repository. Raises where it holds no model that could be read."""
    names, where = needed(listing), f"{escape(repo)} at {commit[:12]}"
    if "adapter_config.json" in listing:
        message = f"{where} is an adapter, which is not a whole checkpoint"
        raise InputRefused("E_CONFIG", message, "merge it into its base model first (peft: merge_and_unload)")
    if not complete(names):
        lacking = "no complete PyTorch weights" if "config.json" in names else "no config.json"
        message = f"{where} holds {lacking}"
        raise SourceUnavailable("E_NOT_FOUND", message, "choose a repository of a transformers model")
    return names


def _check(cache: RepoCache, commit: str, stated: Listing) -> None:
    """Raises SourceUnavailable("E_HASH") where a cached file is not as stated, and removes it from the cache."""
    for name, file in stated.items():
        if not holds(cache.snapshot(commit) / name, file):
            cache.discard(commit, name)
            raise _wrong(cache.repo, name)


def _has(blob: Path, file: RepoFile) -> bool:
    """Whether the cache has a blob, under another name or from another commit; one that is not as stated is removed."""
    if not blob.is_file():
        return False
    right = holds(blob, file)
    if not right:
        blob.unlink()
    return right


def _wrong(repo: str, name: str) -> BertxError:
    message = f"{name} of {escape(repo)} does not have the hash that the Hub states"
    return SourceUnavailable("E_HASH", message, "it was removed from the cache: run again, online")


def _download(cache: RepoCache, commit: str, files: Listing, asked: Asked) -> None:
    """Downloads files into the cache, weights last as `needed` has them."""
    if not files:
        return
    cache.folder.mkdir(parents=True, exist_ok=True)
    sizes, free = sum(file.size or 0 for file in files.values()), shutil.disk_usage(cache.folder).free
    begun = sum(path.stat().st_size for path in (cache.folder / "blobs").glob("*.incomplete"))
    if sizes - begun > free:
        message = f"{escape(cache.repo)} needs {sizes:,} bytes in {escape(cache.root)}, where {free:,} are free"
        raise LocalProblem("E_DISK", message, "free some space, or set HF_HUB_CACHE to another folder")
    with _progress(cache.repo, sizes, asked.options.progress) as advance:
        for name, file in files.items():
            digest = file.digest or f"{commit}-{name.replace('/', '-')}"
            with cache.part(digest, _PATIENCE * asked.options.timeout) as part:
                if not _has(cache.blob(digest), file):
                    path = f"/{cache.repo}/resolve/{commit}/{quote(name)}"
                    _Download(part, name, file, asked, advance).run(path, commit)
                    part.replace(cache.blob(digest))
                cache.link(commit, name, digest)


class _Download:
    """One file that grows in `part`, from where an earlier run left it, and is hashed as it grows."""

    def __init__(self, part: Path, name: str, file: RepoFile, asked: Asked, advance: Callable[[int], object]) -> None:
        self.part, self.name, self.file, self.asked, self.advance = part, name, file, asked, advance
        self.received = 0

    def run(self, path: str, commit: str) -> None:
        """Receives the file. Raises SourceUnavailable where it cannot be had, or is not as stated."""
        try:
            with self.part.open("a+b") as self.handle:
                self._go_on()
                if self.received != self.file.size:
                    receive(path, self.asked, lambda response: self._take(response, commit), lambda: self.received)
            if self.file.digest is not None and self.hasher.hexdigest() != self.file.digest:
                raise _wrong(self.asked.repo, self.name)
        except (OSError, SourceUnavailable) as error:
            # A full disk is not kept full, and wrong bytes are not gone on with.
            if isinstance(error, OSError) or error.code == "E_HASH":
                self.part.unlink(missing_ok=True)
            raise

    def _go_on(self) -> None:
        """Takes what an earlier run received, where that can be the beginning of the file."""
        self._start()
        if self.file.digest is None or self.file.size is None or self.part.stat().st_size > self.file.size:
            self.handle.truncate(0)
        self.handle.seek(0)
        while chunk := self.handle.read(_CHUNK):
            self._count(chunk)

    def _start(self) -> None:
        self.hasher = self.file.hasher(self.file.size or 0)
        self.advance(-self.received)
        self.received = 0

    def _count(self, chunk: bytes) -> None:
        self.hasher.update(chunk)
        self.received += len(chunk)
        self.advance(len(chunk))

    def _take(self, response: Any, commit: str) -> None:
        stated = [each.headers.get("x-repo-commit") for each in (*response.history, response)]
        if any(each not in (None, commit) for each in stated) or (self.file.digest is None and commit not in stated):
            raise self.asked.failed("answers with another commit than it was asked for")
        if self.received and response.status_code != 206:  # it sends the whole file again
            self.handle.truncate(0)
            self._start()
        for chunk in body(response, self.asked):
            if self.file.size is not None and self.received + len(chunk) > self.file.size:
                raise self.asked.failed(f"sends more of {self.name} than the {self.file.size:,} bytes that it lists")
            self.handle.write(chunk)
            self._count(chunk)
        self.handle.flush()
        if self.file.size is not None and self.received < self.file.size:
            raise broken(self.asked, f"sends {self.received:,} of the {self.file.size:,} bytes of {self.name}")


@contextlib.contextmanager
def _progress(repo: str, total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """One bar for all files of a download; nothing where it is not wanted."""
    if not shown:
        yield lambda count: None
        return
    from huggingface_hub.utils import tqdm

    with tqdm(total=total, unit="B", unit_scale=True, desc=escape(repo, 40), leave=False) as bar:
        yield bar.update


def _cache(repo: str, options: HubOptions) -> RepoCache:
    from huggingface_hub import constants

    return RepoCache((options.cache or Path(constants.HF_HUB_CACHE)).expanduser().resolve(), repo)


def _is_id(repo: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    with contextlib.suppress(HFValidationError):
        validate_repo_id(repo)
        return True
    return False
