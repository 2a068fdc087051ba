"""What transformers' own tokenizer of a checkpoint answers, asked in a process of its own.

    python -m bertx.tokenizer.stock FOLDER REQUEST ANSWER

The folder is a copy of the tokenizer's files without anything that would run code; transformers imports PyTorch, so
that whoever asks pays for it only here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bertx.bundle as bundle
from bertx.checkpoint.config import locate
from bertx.errors import InputRefused
from bertx.runtimes import process
from bertx.runtimes.protocol import guarded
from bertx.tokenizer.pieces import Beside, beside
from bertx.tokenizer.settings import CONFIG, SPECIAL, TOKENIZER, VOCABULARIES, Settings, lowered

#: files that transformers reads of a tokenizer, beside tokenizer_config.json and *.model
_FILES = (TOKENIZER, SPECIAL, *VOCABULARIES, "merges.txt", "added_tokens.json", "entity_vocab.json")
#: answers that are kept in the cache
_KEPT = 200

#: one text, or a pair of texts
Texts = tuple[str, ...]


@dataclass(frozen=True)
class Encoded:
    """What a tokenizer makes of a text or pair."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """Encodings of the texts in order, the tokenizer's class, its special tokens by name, and its tokenizer.json.

    `beside` is what the sentencepiece library reads otherwise; None where it was not asked.
    """

    encodings: tuple[Encoded, ...]
    class_name: str
    named: Mapping[str, str]
    document: Mapping[str, Any] | None
    transformers: str
    beside: Beside | None = None


def ask(
    settings: Settings,
    texts: Sequence[Texts],
    limits: process.Limits,
    *,
    build: bool = False,
    cache: Path | None = None,
) -> Answer:
    """Encodes texts, cut at the settings' limit, and with `build` makes a tokenizer.json of a vocabulary.

    Raises InputRefused(E_TOKENIZER) where transformers cannot load the tokenizer or has no such form of it.
    """
    with tempfile.TemporaryDirectory(prefix="bertx-") as temporary:
        folder, request, answer = (Path(temporary) / name for name in ("tokenizer", "request.json", "answer.json"))
        _copy(settings, folder)
        asked = {"texts": list(map(list, texts)), "limit": settings.limit, "lower": settings.lower, "build": build}
        known = None if cache is None else cache / "tokens" / f"{_key(folder, asked)}.json"
        if known is not None and known.is_file() and not build:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                return _read(json.loads(known.read_text("utf-8")))
        request.write_text(json.dumps(asked), "utf-8")
        ended = process.run([sys.executable, "-P", "-m", __name__, str(folder), str(request), str(answer)], limits)
        if ended.reason is not None:
            why = f"transformers cannot use the tokenizer: {ended.reason}"
            raise process.refusal(ended) or InputRefused("E_TOKENIZER", why, "check its files")
        made = json.loads(answer.read_text("utf-8"))
    if known is not None:
        _keep({**made, "document": None}, known)
    return _read(made)


def _copy(settings: Settings, folder: Path) -> None:
    """The tokenizer's files without code: the two configurations as they were read, the others as they are."""
    folder.mkdir()
    names = [*_FILES, *(path.name for path in sorted(settings.folder.glob("*.model")))]
    for name in names:
        path = locate(settings.folder, name, "E_TOKENIZER")
        if path is not None:
            shutil.copyfile(path, folder / name)
    for name, values in ((CONFIG, settings.config), ("config.json", settings.model)):
        (folder / name).write_text(json.dumps(dict(values)), "utf-8")


def _key(folder: Path, asked: Mapping[str, Any]) -> str:
    from importlib.metadata import version

    decided = {path.name: bundle.sha256(path) for path in sorted(folder.iterdir())}
    question = {key: value for key, value in asked.items() if key != "build"}
    versions = [version(name) for name in ("transformers", "tokenizers")]
    return hashlib.sha256(json.dumps([decided, versions, question]).encode()).hexdigest()


def _read(found: Mapping[str, Any]) -> Answer:
    encodings = tuple(Encoded(tuple(ids), tuple(kinds)) for ids, kinds in found["encodings"])
    beside = Beside(found["beside"][0], tuple(found["beside"][1])) if found["beside"] else None
    return Answer(encodings, found["class"], found["named"], found["document"], found["transformers"], beside)


def _keep(found: Mapping[str, Any], known: Path) -> None:
    """Puts an answer into the cache, whole or not at all; a cache that cannot be written is no error."""
    with contextlib.suppress(OSError):
        known.parent.mkdir(parents=True, exist_ok=True)
        temporary = known.with_name(f".{os.getpid()}-{known.name}")
        temporary.write_text(json.dumps(found), "utf-8")
        temporary.replace(known)
        entries = sorted(known.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for old in entries[:-_KEPT]:
            old.unlink(missing_ok=True)


def _program() -> None:
    import transformers

    folder, request, answer = map(Path, sys.argv[1:])
    transformers.logging.set_verbosity_error()
    asked = json.loads(request.read_text("utf-8"))
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InputRefused("E_TOKENIZER", f"transformers cannot load it ({error})", "check its files") from error
    if asked["lower"]:
        _lower(loaded)
    found = {
        "encodings": [_encoded(loaded, texts, asked["limit"]) for texts in asked["texts"]],
        "class": type(loaded).__name__,
        "named": {name: str(token) for name, token in loaded.special_tokens_map.items() if isinstance(token, str)},
        "document": _document(loaded) if asked["build"] else None,
        "transformers": transformers.__version__,
        "beside": _beside(loaded, folder, asked["texts"]) if asked["build"] else None,
    }
    answer.write_text(json.dumps(found, ensure_ascii=False), "utf-8")


def _beside(loaded: Any, folder: Path, texts: Sequence[Sequence[str]]) -> tuple[int, tuple[str, ...]] | None:
    """What the sentencepiece library reads otherwise of single texts, where its model is all that there was."""
    models = sorted(folder.glob("*.model"))
    if len(models) != 1 or any((folder / name).is_file() for name in (TOKENIZER, *VOCABULARIES)):
        return None
    found = beside(models[0], loaded, [each[0] for each in texts if len(each) == 1])
    return found.texts, found.otherwise


def _lower(loaded: Any) -> None:
    """What sentence-transformers does to a tokenizer where its settings say do_lower_case."""
    from tokenizers import Tokenizer

    if not loaded.is_fast:
        what = f"sentence_bert_config.json lower-cases before {type(loaded).__name__}, which it cannot"
        raise InputRefused("E_TOKENIZER", what, "remove do_lower_case from it")
    made = Tokenizer.from_str(json.dumps(lowered(json.loads(loaded.backend_tokenizer.to_str()))))
    loaded.backend_tokenizer.normalizer = made.normalizer


def _encoded(loaded: Any, texts: Sequence[str], limit: int | None) -> tuple[list[int], list[int]]:
    cut = {"truncation": "longest_first", "max_length": limit} if limit is not None else {"truncation": False}
    found = loaded(*texts, padding=False, return_token_type_ids=True, **cut)
    return list(found["input_ids"]), list(found["token_type_ids"])


def _document(loaded: Any) -> Any:
    """The tokenizer as the `tokenizers` library has it, without the settings of the last call."""
    from tokenizers import Tokenizer
    from transformers.convert_slow_tokenizer import convert_slow_tokenizer

    try:
        backend = loaded.backend_tokenizer if loaded.is_fast else convert_slow_tokenizer(loaded)
    except Exception as error:
        what = f"{type(loaded).__name__} has no form that the tokenizers library reads ({error})"
        raise InputRefused("E_TOKENIZER", what, "see docs/tokenizers.md for what is supported") from error
    plain = Tokenizer.from_str(backend.to_str())
    plain.no_truncation()
    plain.no_padding()
    return json.loads(plain.to_str())


if __name__ == "__main__":
    guarded(_program, "tokenizer")
