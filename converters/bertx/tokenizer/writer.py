"""A bundle's tokenizer files: tokenizer.json that reads the same everywhere, what older readers need, golden tokens.

    made = make(plan(folder))
    made.files  # name -> bytes

What is made is read again and compared with the checkpoint's own tokenizer; anything else is refused.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from bertx.errors import InputRefused, LocalProblem, escape
from bertx.runtimes.process import Limits
from bertx.tokenizer import Tokenizer, contract_in, golden, opened, stock, text_of
from bertx.tokenizer.golden import Golden
from bertx.tokenizer.mecab import Contract
from bertx.tokenizer.pieces import check_whole
from bertx.tokenizer.plain import is_plain
from bertx.tokenizer.settings import (
    CONFIG,
    CONTRACT,
    GOLDEN,
    NAMES,
    SPECIAL,
    TOKENIZER,
    VOCABULARIES,
    Settings,
    content,
    has_tokenizer,
    lowered,
    read,
)
from bertx.tokenizer.stock import Answer, Encoded, Texts

#: classes of transformers 5 that transformers 4 does not know -> the one that it does
_GENERAL = {"TokenizersBackend": "PreTrainedTokenizerFast"}


@dataclass(frozen=True)
class Plan:
    """A tokenizer that files are to be made of. `contract` is that of a Japanese one."""

    settings: Settings
    contract: Contract | None


@dataclass(frozen=True)
class Made:
    """The files by name, and what is to be told of them.

    `kind` says what tokenizer.json is: "taken" over, "built" from a vocabulary, or the "japanese" subword half.
    `changes` are what differs from the checkpoint's files, `notes` what else its user should know; `compared` counts
    the ids that were compared.
    """

    kind: str
    class_name: str
    files: Mapping[str, bytes] = field(repr=False)
    changes: tuple[str, ...]
    notes: tuple[str, ...]
    limit: int | None
    texts: int
    compared: int
    contract: Contract | None
    transformers: str | None


def plan(folder: Path, dictionary: str | None = None) -> Plan | None:
    """What there is to do for a checkpoint's folder; None where it has no tokenizer. Quick: refuses before any work.

    Raises InputRefused(E_TOKENIZER) or LocalProblem(E_DICTIONARY, E_PACKAGE).
    """
    if not has_tokenizer(folder):
        return None
    _check_sentencepiece(folder)
    settings = read(folder)
    contract = contract_in(settings, dictionary)
    if contract is not None:
        options = {**(settings.config.get("mecab_kwargs") or {}), "mecab_dic": contract.dictionary.name}
        settings = replace(settings, config={**settings.config, "mecab_kwargs": options})
    return Plan(settings, contract)


def _check_sentencepiece(folder: Path) -> None:
    """Checks that a SentencePiece model is whole, and that its package is here, where it is all that there is."""
    model = next(iter(sorted(folder.glob("*.model"))), None)
    if model is None or any((folder / name).is_file() for name in (TOKENIZER, *VOCABULARIES)):
        return
    if importlib.util.find_spec("sentencepiece") is None:
        what = f"the tokenizer is {escape(model.name)} alone, which needs the package sentencepiece"
        raise LocalProblem("E_PACKAGE", what, "pip install 'bertx[sentencepiece]', or put tokenizer.json beside it")
    check_whole(model)


def make(planned: Plan, limits: Limits, cache: Path | None = None) -> Made:
    """Makes a bundle's tokenizer files, asking transformers only where it could say anything else than the file does.

    Raises InputRefused(E_TOKENIZER) where the ids differ from those of the checkpoint's own tokenizer.
    """
    settings, contract = planned.settings, planned.contract
    texts = golden.texts(settings)
    base = _base(planned, texts, partial(stock.ask, settings, texts, limits, cache=cache))
    safe = _safe(lowered(base.document) if settings.lower else base.document, settings.limit, base.side)
    text = base.text.encode() if safe == base.document and base.text else _packed(safe)
    tokenizer = opened(text.decode(), settings, contract)
    problem = _difference(tokenizer, texts, base.wanted, base.side)
    if problem is not None:
        raise InputRefused("E_TOKENIZER", f"{TOKENIZER} would not give the checkpoint's ids: {problem}", "report this")
    files, changes = {TOKENIZER: text}, [*base.changes, *_told(base.document, safe)]
    changes += [f"{key} was dropped, it would run code" for key in settings.dropped]
    config = _configuration(settings, base, safe, changes)
    if config != read(settings.folder).config or settings.dropped:
        files[CONFIG] = _dumps(config)
    special = _special(settings, config, changes)
    if special is not None:
        files[SPECIAL] = special
    if contract is not None:
        files[CONTRACT] = _dumps(contract.to_json())
    files[GOLDEN] = golden.dumps([_golden(*each, tokenizer) for each in zip(texts, base.wanted, strict=True)])
    return Made(
        kind=base.kind,
        class_name=str(config["tokenizer_class"]),
        files=files,
        changes=tuple(changes),
        notes=_notes(base.answer),
        limit=settings.limit,
        texts=len(texts),
        compared=sum(len(each.ids) for each in base.wanted),
        contract=contract,
        transformers=base.answer.transformers if base.answer else None,
    )


def _notes(answer: Answer | None) -> tuple[str, ...]:
    """That the library of a SentencePiece model reads some of the texts otherwise than transformers."""
    if answer is None or answer.beside is None or not answer.beside.otherwise:
        return ()
    texts, otherwise = answer.beside.texts, answer.beside.otherwise
    what = f"the sentencepiece library reads {len(otherwise)} of {texts} texts otherwise than transformers"
    return (f"{what} {answer.transformers} does, “{escape(otherwise[0], 60)}” first: see docs/tokenizers.md",)


def expected(planned: Plan, texts: Sequence[Texts], limits: Limits, cache: Path | None) -> tuple[Encoded, ...]:
    """What the checkpoint's own tokenizer makes of texts, cut at its limit: transformers' answer, or the same.

    Raises InputRefused(E_TOKENIZER) where the tokenizer cannot be used.
    """
    settings = planned.settings
    if planned.contract is None and (settings.folder / TOKENIZER).is_file():
        text = text_of(settings, None)
        tokenizer = opened(text, settings, None)
        document = json.loads(text)
        if is_plain(document, settings):
            return tuple(tokenizer.encoded(texts, settings.side or _side(document)))
    return stock.ask(settings, texts, limits, cache=cache).encodings


def _difference(tokenizer: Tokenizer, texts: Sequence[Texts], wanted: Sequence[Encoded], side: str) -> str | None:
    return golden.difference(texts, tokenizer.encoded(texts, side), wanted, tokenizer.token)


@dataclass(frozen=True)
class _Base:
    """What a tokenizer.json is made from, and the encodings that it must give. `text` is "" for what was built."""

    kind: str
    text: str
    document: Mapping[str, Any]
    side: str
    wanted: Sequence[Encoded]
    answer: Answer | None = None
    changes: tuple[str, ...] = ()


def _base(planned: Plan, texts: Sequence[Texts], ask: Callable[..., Answer]) -> _Base:
    settings, contract = planned.settings, planned.contract
    if contract is not None:
        document = json.loads(text_of(settings, contract))
        answer = ask()
        told = f"{TOKENIZER}: the subword half; {CONTRACT} says what comes before it"
        return _Base("japanese", "", document, settings.side or "right", answer.encodings, answer, (told,))
    if not (settings.folder / TOKENIZER).is_file():
        answer = ask(build=True)
        return _built(settings, answer, f"made of the vocabulary by transformers {answer.transformers}")
    text = text_of(settings, None)
    tokenizer = opened(text, settings, None)
    document = json.loads(text)
    side = settings.side or _side(document)
    if is_plain(document, settings):
        return _Base("taken", text, document, side, tokenizer.encoded(texts, side))
    answer = ask()
    problem = _difference(tokenizer, texts, answer.encodings, side)
    if problem is None:
        return _Base("taken", text, document, side, answer.encodings, answer)
    answer = ask(build=True)
    return _built(settings, answer, f"made anew, for transformers does not take it as it is: {problem}")


def _built(settings: Settings, answer: Answer, how: str) -> _Base:
    document = answer.document or {}
    side = settings.side or "right"
    return _Base("built", "", document, side, answer.encodings, answer, (f"{TOKENIZER}: {how}",))


def _side(document: Mapping[str, Any]) -> str:
    return str((document.get("truncation") or {}).get("direction", "right")).lower()


def _safe(document: Mapping[str, Any], limit: int | None, side: str) -> dict[str, Any]:
    """The same tokenizer without padding, cutting texts at the limit."""
    cut = {"direction": side.capitalize(), "max_length": limit, "strategy": "LongestFirst", "stride": 0}
    return {**document, "truncation": None if limit is None else cut, "padding": None}


def _told(document: Mapping[str, Any], safe: Mapping[str, Any]) -> list[str]:
    """What was changed in a tokenizer.json, in words."""
    before, after = (each.get("truncation") or {} for each in (document, safe))
    lines = [f"{TOKENIZER}: padding was removed"] if document.get("padding") else []
    if document.get("normalizer") != safe.get("normalizer"):
        lines.append(f"{TOKENIZER}: texts are lower-cased, as sentence_bert_config.json says")
    if before.get("max_length") != after.get("max_length"):
        was = f", not at {before['max_length']}" if before else ""
        lines.append(f"{TOKENIZER}: texts are cut at {after.get('max_length', 'no length')} tokens{was}")
    return lines


def _configuration(settings: Settings, base: _Base, safe: Mapping[str, Any], changes: list[str]) -> dict[str, Any]:
    """tokenizer_config.json with what older readers need; says in `changes` what was added."""
    config = dict(settings.config)
    added: dict[str, Any] = {}
    stated = config.get("tokenizer_class")
    named = stated or settings.class_name or (base.answer.class_name if base.answer else "BertTokenizer")
    if stated is None or stated in _GENERAL:
        added["tokenizer_class"] = _GENERAL.get(str(named), named)
    known = {**(base.answer.named if base.answer else {}), **settings.named}
    if "pad_token" not in known:
        known |= _padding(settings, safe)
    added |= {name: token for name, token in known.items() if name in NAMES and config.get(name) is None}
    if settings.stated_limit is None and settings.limit is not None:
        added["model_max_length"] = settings.limit
    if isinstance(config.get("extra_special_tokens"), list):  # transformers 4 knows them by another name
        added["additional_special_tokens"] = config.pop("extra_special_tokens")
    if settings.config.get("mecab_kwargs") != read(settings.folder).config.get("mecab_kwargs"):
        added["mecab_kwargs"] = settings.config["mecab_kwargs"]
    changes += [f"{CONFIG}: {key} is {json.dumps(value, ensure_ascii=False)}" for key, value in added.items()]
    return config | added


def _padding(settings: Settings, safe: Mapping[str, Any]) -> dict[str, str]:
    """The padding token as config.json numbers it, where the file has a special token of that number."""
    number = settings.model.get("pad_token_id")
    found = [str(each["content"]) for each in safe.get("added_tokens", ()) if each["id"] == number]
    return {"pad_token": found[0]} if found else {}


def _special(settings: Settings, config: Mapping[str, Any], changes: list[str]) -> bytes | None:
    """special_tokens_map.json where there is none yet."""
    if (settings.folder / SPECIAL).is_file():
        return None
    named = {name: text for name in NAMES if (text := content(config.get(name))) is not None}
    others = {"additional_special_tokens": list(settings.others)} if settings.others else {}
    changes.append(f"{SPECIAL}: made of {CONFIG}")
    return _dumps({**named, **others})


def _golden(texts: Texts, encoded: Encoded, tokenizer: Tokenizer) -> Golden:
    words = tuple(map(tokenizer.words, texts)) if tokenizer.words is not None else None
    return Golden(texts, encoded, words)


def _dumps(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode()


def _packed(document: Mapping[str, Any]) -> bytes:
    """Without spaces: a vocabulary has a line for each token, and Python indents them slowly."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
