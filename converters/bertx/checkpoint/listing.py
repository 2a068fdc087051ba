"""What a Hub repository holds at one commit, and which of its files bertx needs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The version of the listings that huggingface_hub keeps, and bertx too, in `trees/<commit>.json` of its cache.
_RECORD_VERSION = 1
_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20

#: what is kept beside the weights: config, licence, tokenizers, and what sentence-transformers adds
_COMPANIONS = re.compile(
    r"config\.json|README\.md|LICENSE[\w.-]*"
    r"|vocab\.(txt|json)|merges\.txt|bpe\.codes|entity_vocab\.json|[\w.-]+\.model"
    r"|tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json"
    r"|modules\.json|sentence_bert_config\.json|config_sentence_transformers\.json"
    r"|data_config\.json|preprocessor_config\.json"
    r"|[0-9]+_\w+/(config\.json|model\.safetensors|pytorch_model\.bin)",
    re.ASCII,
)
#: the weights of a module, which win over the same in a .bin
_MODULE = re.compile(r"[0-9]+_\w+/model\.safetensors", re.ASCII)


@dataclass(frozen=True)
class RepoFile:
    """A file as the Hub lists it: `blob` is git's id of what git keeps, `sha256` that of a file in LFS.

    `size` in bytes. Each is None where the Hub does not tell.
    """

    size: int | None = None
    blob: str | None = None
    sha256: str | None = None

    @property
    def digest(self) -> str | None:
        """What the bytes are checked against, which is also the name under which the cache keeps them."""
        return self.sha256 or (None if self.size is None else self.blob)  # git hashes the size too

    def hasher(self, size: int) -> Any:
        """A hash object for `size` bytes, whose hexdigest is `digest` for the right ones."""
        if self.sha256 is not None or self.digest is None:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)  # as git computes it


Listing = Mapping[str, RepoFile]


def is_commit(text: str) -> bool:
    """Whether a revision is a whole commit id, which always means the same files."""
    return _SHA1.fullmatch(text) is not None


def named_by_hash(blob: str, size: int) -> RepoFile | None:
    """A file of `size` bytes as the name of its blob in a cache states it; None where that is no hash."""
    if _SHA256.fullmatch(blob):
        return RepoFile(size, sha256=blob)
    return RepoFile(size, blob) if _SHA1.fullmatch(blob) else None


def from_api(document: Any) -> tuple[str, Listing]:
    """(commit, listing) of what `/api/models/…?blobs=true` answers. Raises ValueError where it is no such answer."""
    try:
        commit, siblings = document["sha"], document["siblings"]
        listing = {
            each["rfilename"]: _listed(each, "blobId", (each.get("lfs") or {}).get("sha256")) for each in siblings
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError("no listing of a repository") from error
    if not isinstance(commit, str) or not is_commit(commit):
        raise ValueError("no commit")
    return commit, listing


def from_record(document: Any) -> Listing:
    """The listing that a cache keeps. Raises ValueError where it is none, or of another version."""
    try:
        if document["format_version"] != _RECORD_VERSION:
            raise ValueError("another version")
        return {name: _listed(each, "blob_id", each.get("lfs_sha256")) for name, each in document["files"].items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError("no listing of a repository") from error


def to_record(listing: Listing) -> dict[str, Any] | None:
    """A listing as caches keep it; None where the Hub did not tell all that belongs there."""
    files: dict[str, Any] = {}
    for name, file in sorted(listing.items()):
        if file.size is None or file.blob is None:
            return None
        lfs = {} if file.sha256 is None else {"lfs_sha256": file.sha256, "lfs_size": file.size}
        files[name] = {"size": file.size, "blob_id": file.blob, **lfs}
    return {"format_version": _RECORD_VERSION, "files": files}


def holds(path: Path, file: RepoFile) -> bool:
    """Whether a file has the size and the hash that the Hub states. Raises OSError where it cannot be read."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return False
    if file.digest is None:
        return True
    hasher = file.hasher(size)
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            hasher.update(chunk)
    return bool(hasher.hexdigest() == file.digest)


def needed(names: Collection[str]) -> list[str]:
    """Which files of a repository to download: config, tokenizer, modules, licence, weights in one format.

    The weights come last. Nothing of another framework is among them, and no code.
    """
    return [*companions(names), *weights(names)]


def companions(names: Collection[str]) -> list[str]:
    """What is kept beside the weights, in order of name: each once, a module's own weights in one format."""
    found = {name for name in names if _COMPANIONS.fullmatch(name)} - set(weights(names))
    return sorted(found - {f"{name.rpartition('/')[0]}/pytorch_model.bin" for name in found if _MODULE.fullmatch(name)})


def names(folder: Path) -> list[str]:
    """The relative paths of the files of a folder, and of the folders in it, that may be of a checkpoint."""
    found = (path for pattern in ("*", "*/*") for path in folder.glob(pattern))
    return [path.relative_to(folder).as_posix() for path in found if path.is_file()]


def complete(names: Collection[str]) -> bool:
    """Whether config.json and all weights are there; the names of shards tell how many of them there are."""
    found = weights(names)
    if "config.json" not in names or not found:
        return False
    total = re.search(r"-of-([0-9]+)\.", found[-1])
    return not found[0].endswith(".json") or (total is not None and int(total[1]) == len(found) - 1)


def weights(names: Collection[str]) -> Sequence[str]:
    """One file of weights, or an index followed by its shards; safetensors where there is a choice."""
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        if f"{stem}.{suffix}" in names:
            return [f"{stem}.{suffix}"]
        index = f"{stem}.{suffix}.index.json"
        if index in names:
            shard = re.compile(rf"{stem}-[0-9]+-of-[0-9]+\.{suffix}")
            return [index, *sorted({name for name in names if shard.fullmatch(name)})]
    return []


def _listed(entry: Mapping[str, Any], blob: str, sha256: str | None) -> RepoFile:
    """One file of a listing. Hashes become names of files in the cache, so that they are checked to the letter."""
    size = entry.get("size")
    found = RepoFile(size, entry.get(blob), sha256)
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise ValueError("no size")
    for text, pattern in ((found.blob, _SHA1), (found.sha256, _SHA256)):
        if text is not None and not (isinstance(text, str) and pattern.fullmatch(text)):
            raise ValueError("no hash")
    return found
