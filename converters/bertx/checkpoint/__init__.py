"""Where weights come from: a Hub repository at one commit, a local folder, or the source of a bundle.

`fetch` turns what the user named into a `Checkpoint`: a folder on this machine whose configuration passed the
policy and whose weights' headers were read. Nothing from it is executed, and nothing of it is loaded yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import bertx.bundle as bundle
import bertx.manifest as manifests
from bertx import exchange
from bertx.checkpoint.config import Config, read_config
from bertx.checkpoint.hub import HubOptions, cached_folder, snapshot
from bertx.checkpoint.listing import companions, names
from bertx.checkpoint.tensors import TensorInfo
from bertx.checkpoint.weights import read_weights
from bertx.errors import InputRefused, SourceUnavailable, UsageError, escape


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine. `origin` says how it came: "hub", "cache", "local" or "bundle".

    `home` is the bundle that stood for it, where the user named one. `initialised` says which tensors are no trained
    ones, and from which seed they come.
    """

    source: str
    folder: Path
    commit: str | None
    origin: str
    config: Config
    weights: Mapping[str, TensorInfo] = field(repr=False)
    home: Path | None = None
    initialised: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The last part of what the user named."""
        return self.folder.name if self.commit is None else self.source.rstrip("/").rsplit("/", 1)[-1]

    def companions(self) -> tuple[str, ...]:
        """Relative paths of config, tokenizer and module files that a bundle takes over."""
        return tuple(companions(names(self.folder)))

    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold the weights, in order."""
        return tuple(sorted({info.file for info in self.weights.values()}))


@dataclass(frozen=True)
class FetchOptions:
    """How a checkpoint is looked for: which revision, and how the Hub is asked."""

    revision: str | None = None
    hub: HubOptions = field(default_factory=HubOptions)


def open_folder(
    folder: Path, *, source: str | None = None, commit: str | None = None, origin: str = "local"
) -> Checkpoint:
    """A checkpoint from a folder. Raises InputRefused where its configuration or weights' headers are refused."""
    resolved = folder.resolve()
    return Checkpoint(source or str(folder), resolved, commit, origin, read_config(resolved), read_weights(resolved))


def fetch(source: str, options: FetchOptions | None = None) -> Checkpoint:
    """The checkpoint that `source` names: a local folder that exists wins over a Hub id, as in transformers.

    A bundle stands for the checkpoint it was made from. Raises SourceUnavailable where there is none.
    """
    options = options or FetchOptions()
    folder = local_folder(source, options)
    if folder is not None:
        if bundle.is_bundle(folder):
            return replace(of_bundle(folder, options), home=folder.resolve())
        return open_folder(folder, source=source)
    found = snapshot(source, options.revision, options.hub)
    return open_folder(found.folder, source=found.repo, commit=found.commit, origin=found.origin)


def local_folder(source: str, options: FetchOptions) -> Path | None:
    """The folder on this machine that `source` names; None where it can only be a Hub id. Raises UsageError."""
    folder = exchange.named(source)
    if folder.is_dir():
        if options.revision is not None:
            message = f"--revision has no meaning for the local folder {escape(source)}"
            raise UsageError("E_USAGE", message, "leave it out")
        return folder
    if folder.exists():
        raise UsageError("E_USAGE", f"{escape(source)} is a file, not a checkpoint", "name its folder or a Hub id")
    return None


def of_bundle(folder: Path, options: FetchOptions) -> Checkpoint:
    """The checkpoint that a bundle was made from.

    Itself where its head was initialised. Else, in this order: its commit in the Hub cache, then from the Hub; the
    recorded local folder if its files are unchanged; the bundle's own model.safetensors if it is what the manifest says
    and holds the source's bytes.
    Raises SourceUnavailable(E_REFERENCE) where none of these can be had.
    """
    manifest = manifests.read(folder)
    source = manifest.source
    if manifest.task == manifests.MODULE:
        what = (
            f"{escape(folder.name)} is of a plain module, {escape(source.checkpoint)}, which only its own program has"
        )
        raise InputRefused("E_MODULE", what, "call bertx.export_module again")
    started = next(
        (each.options["initialised"] for each in manifest.artifacts if each.options.get("initialised")), None
    )
    if started is not None:  # no source has this head: the bundle is the checkpoint
        if _own_weights(folder, manifest):
            own = open_folder(folder, source=source.checkpoint, commit=source.commit, origin="bundle")
            return replace(own, initialised=started)
        raise SourceUnavailable(
            "E_REFERENCE",
            f"the weights of {escape(folder.name)}, whose head was initialised there, are not as they were published",
            "make the bundle again",
        )
    if source.commit is not None:
        path = cached_folder(source.checkpoint, source.commit, options.hub)
        if path is not None and _unchanged(path, source.files):
            return open_folder(path, source=source.checkpoint, commit=source.commit, origin="cache")
        if not options.hub.offline:
            try:
                found = snapshot(source.checkpoint, source.commit, options.hub)
            except SourceUnavailable:
                found = None
            if found is not None:
                return open_folder(found.folder, source=source.checkpoint, commit=source.commit, origin=found.origin)
    elif source.folder is not None and _unchanged(Path(source.folder), source.files):
        return open_folder(Path(source.folder), source=source.checkpoint, origin="local")
    if _own_weights(folder, manifest):
        return open_folder(folder, source=source.checkpoint, commit=source.commit, origin="bundle")
    raise SourceUnavailable(
        "E_REFERENCE",
        f"the checkpoint of {escape(folder.name)} ({escape(source.checkpoint)}) cannot be had unchanged",
        f"{'leave --offline out, or ' if source.commit and options.hub.offline else ''}name one (verify: --against)",
    )


def _unchanged(folder: Path, files: Mapping[str, manifests.FileEntry]) -> bool:
    return bool(files) and all(bundle.holds(folder / name, entry) for name, entry in files.items())


def _own_weights(folder: Path, manifest: manifests.Manifest) -> bool:
    """Whether the bundle's model.safetensors is as published and was written with the source's bytes unchanged."""
    entry = next((each for each in manifest.artifacts if each.format == "safetensors"), None)
    if entry is None or entry.options.get("bytes") != "unchanged":
        return False
    names = {*manifest.parts(entry.path), "config.json"}
    return names <= manifest.files.keys() and _unchanged(folder, {name: manifest.files[name] for name in names})
