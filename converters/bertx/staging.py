"""How every writer of a bundle begins: where it goes, what is there, and what it brings from the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import bertx.bundle as bundle
import bertx.manifest as manifests
from bertx import __version__, exchange
from bertx.background import Background
from bertx.checkpoint import Checkpoint
from bertx.checkpoint.config import dumps
from bertx.errors import InputRefused, UsageError, escape, is_unicode
from bertx.manifest import ArtifactEntry, FileEntry, Manifest, Source, TokenizerEntry
from bertx.model.tasks import Task
from bertx.runtimes.process import Limits
from bertx.tokenizer import writer as tokenizers
from bertx.tokenizer.mecab import ASKED, asked_dictionary


def default_output(checkpoint: Checkpoint) -> Path:
    """./<model name>; ./<folder name>-bertx for a local folder; a bundle itself."""
    if checkpoint.home is not None:
        return checkpoint.home
    return Path(checkpoint.name if checkpoint.commit else f"{checkpoint.folder.name}-bertx")


@dataclass(frozen=True)
class Begun:
    """A bundle that is being written: its source, the artifacts that it has, and what its tokenizer is to be.

    `noted` is what a bundle that is its own source knows of its tokenizer.
    """

    staged: bundle.Stage
    origin: Background[Source]
    kept: tuple[ArtifactEntry, ...]
    tokens: tokenizers.Plan | None
    noted: TokenizerEntry | None = None

    def bring(self, checkpoint: Checkpoint) -> None:
        """Stages what a bundle takes over from its checkpoint beside the weights."""
        for name in checkpoint.companions():
            data = (checkpoint.folder / name).read_bytes()
            if name == "config.json" and checkpoint.config.changed:
                data = dumps(checkpoint.config).encode()
            with bundle.disk_errors():
                self.staged.path(name).write_bytes(data)

    def make_tokens(self, limits: Limits, cache: Path | None) -> tokenizers.Made | None:
        """The tokenizer's files, None where the checkpoint has no tokenizer. Touches nothing that is staged."""
        return None if self.tokens is None else tokenizers.make(self.tokens, limits, cache)

    def stage_tokens(self, made: tokenizers.Made | None) -> tuple[str, ...]:
        """Stages the tokenizer's files; what they changed, and what else is to be known, in words."""
        for name, data in made.files.items() if made else ():
            with bundle.disk_errors():
                self.staged.path(name).write_bytes(data)
        return (*made.changes, *made.notes) if made else ()

    def manifest(self, task: Task, artifacts: tuple[ArtifactEntry, ...], made: tokenizers.Made | None) -> Manifest:
        """What the bundle's manifest says before it lists files."""
        source, entry = self.origin.result(), self._tokenizer(made)
        return Manifest(__version__, source, task.name, task.auto_class, artifacts, {}, entry)

    def _tokenizer(self, made: tokenizers.Made | None) -> TokenizerEntry | None:
        if made is None:
            return None
        if self.noted is not None:
            new = tuple(each for each in made.changes if each not in self.noted.changes)
            return replace(self.noted, changes=(*self.noted.changes, *new))
        return TokenizerEntry(made.kind, made.changes, made.notes, made.transformers)


@contextmanager
def begin(source: Checkpoint, task: Task, folder: Path, force: bool, dictionary: str | None = None) -> Iterator[Begun]:
    """Stages a bundle. Refuses before any work what cannot be done."""
    if not is_unicode(f"{source.source}{source.folder}"):
        what = f"the path {escape(source.source)} is not UTF-8, so that bertx.json could not name it"
        raise UsageError("E_USAGE", what, "rename the folder")
    origin = Background(lambda: _origin(source, folder))
    before = manifests.read(folder) if bundle.is_bundle(folder) else None
    replaced = before is not None and _differs(before, origin.result(), task, force)
    planned = tokenizers.plan(source.folder, dictionary or (None if replaced else asked_dictionary(folder)))
    if dictionary is not None and (planned is None or planned.contract is None):
        what = f"the tokenizer of {escape(source.source)} takes no MeCab dictionary"
        raise UsageError("E_USAGE", what, f"leave {ASKED} out")
    with bundle.stage(folder, replace=replaced) as staged:
        if staged.old is not None and staged.old != before:
            # Another writer was there, or a killed one was finished.
            _differs(staged.old, origin.result(), task, False)
        kept = staged.old.artifacts if staged.old is not None and not replaced else ()
        own = source.home if source.origin == "bundle" else None
        yield Begun(staged, origin, kept, planned, manifests.read(own).tokenizer if own is not None else None)


def refuse_overlap(source: Checkpoint, output: Path) -> None:
    """Raises UsageError where a bundle would be written over, into or around its source."""
    with bundle.disk_errors():
        folder = exchange.locate(output)
    if folder == source.home:
        return
    if folder == source.folder or folder in source.folder.parents or source.folder in folder.parents:
        raise UsageError(
            "E_OUTPUT", f"the output {escape(output)} and the source overlap", "name another folder with -o"
        )


def _origin(source: Checkpoint, folder: Path) -> Source:
    """What the manifest records of the source: every file that was used, by hash."""
    if source.origin == "bundle" and source.home == folder.resolve():  # it stands for its own source
        return manifests.read(source.home).source
    paths = [source.folder / name for name in source.companions()] + list(source.weight_files())
    files = {p.relative_to(source.folder).as_posix(): FileEntry(bundle.sha256(p), p.stat().st_size) for p in paths}
    local = str(source.folder) if source.commit is None and source.origin != "bundle" else None
    return Source(source.source, source.commit, local, files)


def _differs(old: Manifest, origin: Source, task: Task, force: bool) -> bool:
    """Whether a bundle is of another commit or task: it is replaced with --force, else InputRefused is raised."""
    same_source = old.source.commit == origin.commit and (origin.commit is not None or _same_files(old.source, origin))
    if same_source and (old.task, old.head) == (task.name, task.auto_class):
        return False
    if not force:
        state = "" if same_source else " at another state"
        holds = f"the output holds {escape(old.source.checkpoint)}{state} for {old.task}"
        raise InputRefused("E_BUNDLE_MISMATCH", holds, "name another -o, or replace it with --force")
    return True


def _same_files(old: Source, new: Source) -> bool:
    """Whether two local sources are the same; a bundle that stands for itself is compared by what both know."""
    shared = set(old.files) & set(new.files)
    return "config.json" in shared and all(old.files[name] == new.files[name] for name in shared)
