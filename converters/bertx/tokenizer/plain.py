"""Which tokenizer.json files transformers takes as they are.

transformers 5 takes only vocabulary and template from the file where a class builds the rest itself (BERT's: from
do_lower_case and the like), and adds special tokens that only the configuration names. Where nothing of that changes
anything, the file alone gives transformers' ids, and transformers need not be asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertx.tokenizer.japanese import template
from bertx.tokenizer.settings import Settings, content

#: classes that take the file whole
_WHOLE = frozenset({"PreTrainedTokenizer", "TokenizersBackend"})
#: classes that build BERT's normalizer and pre-tokenizer from the configuration
_BERT = frozenset({"BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"})
#: families whose class is BERT's where nothing names one
_FAMILIES = frozenset({"bert", "distilbert", "electra"})
_FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")


def is_plain(document: Mapping[str, Any], settings: Settings) -> bool:
    """Whether transformers' tokenizer is this tokenizer.json and nothing else. False where that is not known."""
    if settings.config.get("split_special_tokens") or not document.get("post_processor"):
        return False
    if not _same_tokens(document, settings):
        return False
    name = settings.class_name or ("BertTokenizer" if settings.model.get("model_type") in _FAMILIES else None)
    return name in _WHOLE or (name in _BERT and _as_bert_builds(document, settings))


def _same_tokens(document: Mapping[str, Any], settings: Settings) -> bool:
    """Whether every special token of the configuration is one in the file, and no other attribute is stated."""
    added = {each["content"]: each for each in document.get("added_tokens", ())}
    stated = settings.config.get("added_tokens_decoder") or {}
    if stated and len(stated) != len(added):
        return False
    for number, token in stated.items():
        known = added.get(content(token) or "")
        if known is None or not isinstance(token, dict) or str(known["id"]) != number:
            return False
        if any(token.get(flag, False) != known[flag] for flag in _FLAGS):
            return False
    named = [text for key, each in settings.config.items() if key.endswith("_token") and (text := content(each))]
    wanted = {*named, *settings.named.values(), *settings.others}
    return all(token in added and added[token]["special"] for token in wanted)


def _as_bert_builds(document: Mapping[str, Any], settings: Settings) -> bool:
    """Whether the file is what BertTokenizer builds of the configuration."""
    config = settings.config
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
        "strip_accents": config.get("strip_accents"),
        "lowercase": config.get("do_lower_case", True),
    }
    named = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", **settings.named}
    model = {
        "type": "WordPiece",
        "unk_token": named["unk_token"],
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    own = {key: value for key, value in document["model"].items() if key != "vocab"}
    return (
        document.get("normalizer") == normalizer
        and document.get("pre_tokenizer") == {"type": "BertPreTokenizer"}
        and {"type": "WordPiece", **own} == model
        and _is_template(document, named["cls_token"], named["sep_token"])
    )


def _is_template(document: Mapping[str, Any], start: str, end: str) -> bool:
    """Whether the file puts [CLS] and [SEP] where BERT does, with BERT's type ids."""
    processor, vocabulary = document["post_processor"], document["model"]["vocab"]
    ids = {token: vocabulary.get(token, -1) for token in (start, end)}
    if processor.get("type") == "BertProcessing":
        return bool((processor["cls"], processor["sep"]) == ([start, ids[start]], [end, ids[end]]))
    return bool(processor == template(start, end, ids))
