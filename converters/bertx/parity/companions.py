"""What lies in a bundle beside its artifacts, and decides what readers of it compute: the configuration, how tokens are
pooled, where texts are cut, the tokenizer's files, the golden cases.

What was taken over from the checkpoint is compared with it by what it says; what bertx made, by the hash that
bertx.json lists. A file of words for people may be edited at will, and what no bundle lists is not known here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bertx.bundle as bundle
import bertx.manifest as manifests
from bertx.checkpoint import Checkpoint
from bertx.checkpoint.config import MAX_CONFIG_BYTES, read_bounded, read_config
from bertx.errors import BertxError, escape
from bertx.manifest import Manifest
from bertx.parity.compare import Compared, Row, failed, pool
from bertx.parity.golden import FOLDER

NAME = "files"
#: for people, not for programs
_WORDS = re.compile(r"README\.md|LICENSE[\w.-]*")
#: always the checkpoint's own, as they are
_TAKEN = re.compile(
    r"(modules|sentence_bert_config|config_sentence_transformers|(data|preprocessor)_config)\.json|\d+_.*"
)
#: keys of config.json that have a row of their own, where they matter
_LABELS = ("id2label", "label2id", "num_labels")


def compare_companions(home: Path | None, checkpoint: Checkpoint, factor: float) -> Row | None:
    """A row of the report: how many files of a bundle are as they were made, or which is not; None outside a bundle."""
    if home is None or not bundle.is_bundle(home):
        return None
    try:
        manifest = manifests.read(home)
        artifacts = {name for entry in manifest.artifacts for name in manifest.parts(entry.path)}
        listed = [name for name in manifest.files if name not in artifacts and not _WORDS.fullmatch(name)]
        names = [name for name in listed if (home / name).is_file() or not name.startswith(f"{FOLDER}/")]
        problem = next(filter(None, (_problem(home, name, checkpoint, manifest) for name in names)), None)
    except (BertxError, OSError, ValueError) as error:
        problem = f"cannot be read: {escape(error)}"
    if problem is not None:
        return failed(NAME, problem, factor)
    same = Compared("bundle", len(names), 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, ())
    return pool(NAME, [same], "float32", factor) if names else None


def _problem(home: Path, name: str, checkpoint: Checkpoint, manifest: Manifest) -> str | None:
    """How one file is not as it was made, in words; None where it is."""
    theirs, ours = checkpoint.folder / name, home / name
    if not ours.is_file():
        return f"{escape(name)} is missing"
    taken, listed = manifest.source.files.get(name), manifest.files[name]
    own = checkpoint.folder == home.resolve() or taken is None or not bundle.holds(theirs, taken)
    if name == "config.json" and not own:
        return _difference(name, read_config(home).values, checkpoint.config.values)
    if own or not (taken == listed or _TAKEN.fullmatch(name)):
        return None if bundle.holds(ours, listed) else f"{escape(name)} is not the file that bertx.json lists"
    if taken is not None and bundle.holds(ours, taken):
        return None
    if not name.endswith(".json"):
        return f"{escape(name)} is not the checkpoint's"
    return _difference(name, _read(ours), _read(theirs))


def _read(path: Path) -> Any:
    return json.loads(read_bounded(path, MAX_CONFIG_BYTES, "E_CONFIG"))


def _difference(name: str, made: Any, wanted: Any) -> str | None:
    if not isinstance(made, Mapping) or not isinstance(wanted, Mapping):
        return None if made == wanted else f"{escape(name)} does not say what the checkpoint's says"
    keys = [key for key in {**wanted, **made} if key not in _LABELS]
    other = next((key for key in keys if made.get(key) != wanted.get(key)), None)
    if other is None:
        return None
    ours, theirs = (escape(str(each.get(other, "nothing")), 60) for each in (made, wanted))
    return f"{escape(name)}: {escape(other, 60)} is {ours}, in the checkpoint {theirs}"
