"""Checkpoints from the Hugging Face Hub: one commit, only what is needed, every stated hash checked.

huggingface_hub downloads into its own cache; this file decides what, and refuses what is not as stated. The
layout of that cache, `models--<org>--<name>/{blobs,refs,snapshots/<commit>}`, is documented at
https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bertx import __version__
from bertx.bundle import sha256
from bertx.errors import BertxError, LocalProblem, SourceUnavailable, UsageError, escape

#: How often one request is made before the Hub is given up; at 10 s of silence each, well below a minute.
TRIES = 3
#: Stated whole, because huggingface_hub would otherwise report what is installed here.
_HEADERS = {"user-agent": f"bertx/{__version__}"}
_SILENT = "is silent for more than {:g} s"
_COMMIT = re.compile(r"[0-9a-f]{40}")

#: what is kept beside the weights: config, licence, tokenizers, and what sentence-transformers adds
_COMPANIONS = re.compile(
    r"config\.json|README\.md|LICENSE[\w.-]*"
    r"|vocab\.(txt|json)|merges\.txt|bpe\.codes|entity_vocab\.json|[\w.-]+\.model"
    r"|tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json"
    r"|modules\.json|sentence_bert_config\.json|config_sentence_transformers\.json|data_config\.json"
    r"|[0-9]+_\w+/(config\.json|model\.safetensors)",
    re.ASCII,
)
_NO_REPOSITORY = "{repo} is no folder here, and on the Hub it is missing or private"
#: error of huggingface_hub, or status -> code, what happened, what to do; the first that fits
_MEANINGS = (
    ("GatedRepoError", "E_GATED", "{repo} is gated", "accept its terms on the Hub and set HF_TOKEN"),
    ("RepositoryNotFoundError", "E_NOT_FOUND", _NO_REPOSITORY, "check the name, or set HF_TOKEN"),
    ("RevisionNotFoundError", "E_NOT_FOUND", "{repo} has no revision {revision}", "choose another one"),
    ("EntryNotFoundError", "E_NOT_FOUND", "the Hub lacks a file that {repo} lists", "try again later"),
    ("HTTP 401", "E_GATED", "the Hub refuses the token sent for {repo}", "correct or unset HF_TOKEN"),
    ("HTTP 403", "E_GATED", "the Hub refuses access to {repo}", "set HF_TOKEN to one that may read it"),
    ("HTTP 404", "E_NOT_FOUND", "the Hub has no {repo} at {revision}", "check the name and --revision"),
)


@dataclass(frozen=True)
class HubOptions:
    """How the Hub is asked. None stands for huggingface_hub's own default.

    `cache` is a Hub cache folder, `endpoint` a URL, `timeout` the seconds of silence that are allowed.
    `offline` forbids every socket, `progress` shows huggingface_hub's own bars where stderr is a terminal.
    """

    cache: Path | None = None
    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    offline: bool = False
    progress: bool = False
    timeout: float = 10.0


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit, in `folder` of the cache. `origin` is "hub" where a file was downloaded."""

    repo: str
    commit: str
    folder: Path
    origin: Literal["cache", "hub"]


def snapshot(repo: str, revision: str | None, options: HubOptions) -> Snapshot:
    """The files of a repository that bertx needs, at the commit to which a branch or tag resolves now.

    The Hub is asked once for the commit, and for each file that is not in the cache. Raises UsageError where
    `repo` is no Hub id, SourceUnavailable where the checkpoint cannot be had, LocalProblem where the cache
    cannot be written.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled

    if not _is_id(repo):
        message = f"{escape(repo)} is no folder on this machine and no Hub id"
        raise UsageError("E_USAGE", message, 'name a folder that exists, or a Hub id such as "org/name"')
    if not options.offline:
        with contextlib.suppress(OfflineModeIsEnabled):  # HF_HUB_OFFLINE=1 forbids asking too
            return _from_hub(repo, revision or None, options)
    return _from_cache(repo, revision or "main", options)


def cached(repo: str, commit: str, options: HubOptions) -> Path | None:
    """The folder of a commit in the cache if config.json and the weights are there; opens no socket.

    Weights come last in a download, so where they are, the rest of what bertx downloaded is too. Raises
    SourceUnavailable("E_HASH") where a file does not have the hash under which the cache keeps it.
    """
    if not _COMMIT.fullmatch(commit) or not _is_id(repo):
        return None
    with _translated(repo, commit, options):
        folder = _storage(repo, options) / "snapshots" / commit
        files = [path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file()]
        names = needed([path.relative_to(folder).as_posix() for path in files])
        if not _complete(names):
            return None
        _check_hashes(repo, folder, {name: _kept_hash(folder / name) for name in names}, options)
    return folder


def needed(names: Sequence[str]) -> list[str]:
    """Which files of a repository to download: config, tokenizer, modules, licence, weights in one format.

    The weights come last. Nothing of another framework is among them, and no code.
    """
    weights = _weights(names)
    return [*sorted(name for name in set(names) - set(weights) if _COMPANIONS.fullmatch(name)), *weights]


def _weights(names: Collection[str]) -> list[str]:
    """One file of weights, or an index followed by its shards; safetensors where there is a choice."""
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        if f"{stem}.{suffix}" in names:
            return [f"{stem}.{suffix}"]
        index = f"{stem}.{suffix}.index.json"
        if index in names:
            shard = re.compile(rf"{stem}-[0-9]+-of-[0-9]+\.{suffix}")
            return [index, *sorted({name for name in names if shard.fullmatch(name)})]
    return []


def _complete(names: Collection[str]) -> bool:
    """Whether config.json and all weights are there; the names of shards tell how many of them there are."""
    weights = _weights(names)
    if "config.json" not in names or not weights:
        return False
    total = re.search(r"-of-([0-9]+)\.", weights[-1])
    return not weights[0].endswith(".json") or (total is not None and int(total[1]) == len(weights) - 1)


def _from_hub(repo: str, revision: str | None, options: HubOptions) -> Snapshot:
    with _translated(repo, revision or "main", options):
        commit, hashes = _resolve(repo, revision, options)
        names = needed(list(hashes))
        if not _complete(names):
            lacking = "no complete PyTorch weights" if "config.json" in names else "no config.json"
            message = f"{escape(repo)} at {commit[:12]} holds {lacking}"
            raise SourceUnavailable("E_NOT_FOUND", message, "choose a repository of a transformers model")
        storage = _storage(repo, options)
        folder = storage / "snapshots" / commit
        absent = [name for name in names if not (folder / name).is_file()]
        for name in absent:
            _download(repo, commit, name, options)
            if not (folder / name).is_file():
                raise _network("answers with another commit than it was asked for", options)
        _check_hashes(repo, folder, {name: hashes[name] for name in names}, options)
        _record(storage, revision or "main", commit)
    return Snapshot(repo, commit, folder, "hub" if absent else "cache")


def _from_cache(repo: str, revision: str, options: HubOptions) -> Snapshot:
    storage = _storage(repo, options)
    commit = revision if _COMMIT.fullmatch(revision) else _recorded(storage, revision)
    folder = None if commit is None else cached(repo, commit, options)
    if commit is None or folder is None:
        message = f"{escape(repo)} at {escape(revision)} is not, or not completely, in the cache"
        raise SourceUnavailable("E_OFFLINE", message, "run once without --offline (or HF_HUB_OFFLINE)")
    return Snapshot(repo, commit, folder, "cache")


def _resolve(repo: str, revision: str | None, options: HubOptions) -> tuple[str, dict[str, str | None]]:
    """The commit of a revision, and the sha256 of each of its files, None for those that are not in LFS."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=_endpoint(options), token=options.token or None, headers=_HEADERS)
    try:
        with _bounded(options):
            info = api.model_info(repo, revision=revision, timeout=options.timeout, files_metadata=True)
        commit = str(info.sha)
        hashes = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in info.siblings or ()}
    except HfHubHTTPError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # a login page, say
        raise _network("does not answer as a Hub does", options) from error
    if not _COMMIT.fullmatch(commit):
        raise _network("names no commit", options)
    if revision is not None and _COMMIT.fullmatch(revision) and revision != commit:
        raise _network("answers with another commit than it was asked for", options)
    return commit, hashes


def _download(repo: str, commit: str, name: str, options: HubOptions) -> None:
    """One file into the cache. A download that breaks is resumed where it broke."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import tqdm

    def hide(bar: Any, *args: Any, **kwargs: Any) -> None:
        tqdm.__init__(bar, *args, **{**kwargs, "disable": True})

    with _bounded(options):
        hf_hub_download(
            repo,
            name,
            revision=commit,
            cache_dir=_cache(options),
            endpoint=_endpoint(options),
            token=options.token or None,
            headers=_HEADERS,
            etag_timeout=options.timeout,
            tqdm_class=None if options.progress else type("Hidden", (tqdm,), {"__init__": hide}),
        )


class _Patience:
    """Watches the requests of one thread: none waits longer than allowed, none is made more than TRIES times.

    huggingface_hub asks six times for a file's metadata with a minute for each, and sleeps as long as the Hub
    says; neither can be set per call, but the event hooks of its HTTP client see each request. A request that
    resumes a download further on counts as another.
    """

    def __init__(self, options: HubOptions) -> None:
        self.options = options
        self.thread = threading.get_ident()
        self.tries: Counter[tuple[str, str, str | None]] = Counter()
        self.last = ""

    def before(self, request: Any) -> None:
        if threading.get_ident() != self.thread:
            return
        attempt = (request.method, str(request.url), request.headers.get("range"))
        if self.tries[attempt] == TRIES:
            raise _network(self.last, self.options)
        self.tries[attempt] += 1
        self.last = _SILENT.format(self.options.timeout)
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), self.options.timeout)

    def after(self, response: Any) -> None:
        status, wait = response.status_code, _stated_wait(response.headers)
        if threading.get_ident() != self.thread or status < 300:
            return
        self.last = f"answers HTTP {status}"
        if (status == 429 or status >= 500) and wait > self.options.timeout:
            raise _network(f"{self.last} and asks to wait {wait} s", self.options)

    def quiet(self, record: logging.LogRecord) -> bool:
        """Whether a record is another thread's; what matters in ours is in the error that follows."""
        return record.thread != self.thread


@contextlib.contextmanager
def _bounded(options: HubOptions) -> Iterator[None]:
    """Within, huggingface_hub waits no longer than `options` allow and logs nothing.

    A refused connection makes it take another client: until the next file, its own bounds hold.
    """
    from huggingface_hub import get_session

    patience, hooks = _Patience(options), get_session().event_hooks
    with contextlib.ExitStack() as undo:
        for kind, hook in (("request", patience.before), ("response", patience.after)):
            hooks[kind].append(hook)
            undo.callback(hooks[kind].remove, hook)
        for handler in logging.getLogger("huggingface_hub").handlers:
            handler.addFilter(patience.quiet)
            undo.callback(handler.removeFilter, patience.quiet)
        yield


def _stated_wait(headers: Mapping[str, str]) -> int:
    """The seconds after which the Hub may be asked again, from the two headers that it states them in."""
    stated = f"{headers.get('ratelimit', '')}; t={headers.get('retry-after', '')}"
    return max(map(int, re.findall(r"\bt\s*=\s*([0-9]{1,9})\b", stated)), default=0)


def _check_hashes(repo: str, folder: Path, stated: Mapping[str, str | None], options: HubOptions) -> None:
    """Raises SourceUnavailable("E_HASH") where a file has another sha256, and removes it from the cache."""
    for name, digest in stated.items():
        if digest is not None and sha256(folder / name) != digest:
            _discard(folder / name, _cache(options))
            message = f"{name} of {escape(repo)} does not have the sha256 that the Hub states"
            raise SourceUnavailable("E_HASH", message, "it was removed from the cache: run again")


def _kept_hash(file: Path) -> str | None:
    """The sha256 that a cached file was stored under: the cache names the blob of an LFS file by it."""
    name = file.readlink().name if file.is_symlink() else ""
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else None


def _discard(file: Path, cache: Path) -> None:
    """Removes a cached file, each link on the way to its bytes, and the bytes; nothing outside the cache."""
    while Path(os.path.normpath(file)).is_relative_to(cache):
        target = file.parent / file.readlink() if file.is_symlink() else None
        with contextlib.suppress(OSError):
            file.unlink()
        if target is None:
            return
        file = target


def _record(storage: Path, revision: str, commit: str) -> None:
    """Notes in the cache which commit a branch or tag has, so that it can be named offline."""
    if revision == commit or not _is_ref(revision) or _recorded(storage, revision) == commit:
        return
    ref = storage / "refs" / revision
    staged = ref.with_name(f"{ref.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with contextlib.suppress(OSError):  # a cache that cannot be written can still be read
        ref.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(commit, encoding="ascii")
        staged.replace(ref)


def _recorded(storage: Path, revision: str) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        text = (storage / "refs" / revision).read_text(encoding="ascii").strip() if _is_ref(revision) else ""
        return text if _COMMIT.fullmatch(text) else None
    return None


def _is_ref(revision: str) -> bool:
    """Whether a revision is a relative path without a way up; the Hub's pull requests are `refs/pr/1`."""
    return all(re.fullmatch(r"(?!\.+$)[^\\:\0]+", part) for part in revision.split("/"))


def _cache(options: HubOptions) -> Path:
    from huggingface_hub import constants

    return (options.cache or Path(constants.HF_HUB_CACHE)).expanduser().resolve()


def _storage(repo: str, options: HubOptions) -> Path:
    return _cache(options) / "--".join(("models", *repo.split("/")))


def _endpoint(options: HubOptions) -> str | None:
    return options.endpoint.rstrip("/") if options.endpoint else None


def _is_id(repo: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    with contextlib.suppress(HFValidationError):
        validate_repo_id(repo)
        return True
    return False


@contextlib.contextmanager
def _translated(repo: str, revision: str, options: HubOptions) -> Iterator[None]:
    """Turns what huggingface_hub, its HTTP client and the disk raise into a BertxError."""
    try:
        yield
    except Exception as error:
        known = None if isinstance(error, BertxError) else _explained(error, escape(repo), escape(revision), options)
        if known is None:
            raise
        raise known from error


def _explained(error: BaseException, repo: str, revision: str, options: HubOptions) -> BertxError | None:
    """Errors are known by their names: huggingface_hub's releases differ in the HTTP client beneath them."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if "OfflineModeIsEnabled" in names:
        return None
    if "LocalEntryNotFoundError" in names and error.__cause__ is not None:
        return _explained(error.__cause__, repo, revision, options)  # nor is it cached: the cause tells
    status = getattr(getattr(error, "response", None), "status_code", None)
    for kind, code, message, hint in _MEANINGS:
        if kind in names or kind == f"HTTP {status}":
            return SourceUnavailable(code, message.format(repo=repo, revision=revision), hint)
    if status is not None:
        return _network(f"answers HTTP {status}", options)
    if isinstance(error, OSError) and error.errno is not None:
        message = f"the Hub cache {escape(_cache(options))} cannot be used ({error.strerror})"
        return LocalProblem("E_DISK", message, "free some space, or set HF_HUB_CACHE to another folder")
    if "TimeoutException" in names:
        return _network(_SILENT.format(options.timeout), options)
    if "ConnectError" in names:  # the text of other errors may quote a header, and with it a token
        return _network(f"cannot be reached ({escape(error)})", options)
    if names & {"RequestError", "InvalidURL", "OSError", "RuntimeError"}:  # the last from hf_xet
        return _network(f"cannot be read from ({type(error).__name__})", options)
    return None


def _network(what: str, options: HubOptions) -> BertxError:
    """`what` completes "the Hub at <address> …"; user names and tokens in the address are left out."""
    from huggingface_hub import constants

    address = (_endpoint(options) or constants.ENDPOINT).rpartition("@")[2].partition("?")[0]
    hint = "try again later, check the connection and HF_ENDPOINT, or use --offline with what is in the cache"
    return SourceUnavailable("E_NETWORK", f"the Hub at {escape(address)} {what}", hint)
