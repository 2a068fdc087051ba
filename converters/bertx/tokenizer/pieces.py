"""SentencePiece models: whether one is whole, and what its library makes of texts, beside what transformers makes.

transformers builds its tokenizers anew of the pieces, and divides some texts otherwise than the library that they were
trained with. So what a model was trained on depends on who trained it, and with which version. docs/tokenizers.md says
where the two differ, and why.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertx.errors import InputRefused, escape
from bertx.protobuf import opened

#: fields of sentencepiece.ModelProto, in the order in which a model has them: after its pieces, how it was trained and
#: how it normalises texts (https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto)
_PARTS = {1: "pieces", 2: "trainer's settings", 3: "rules of how texts are normalised"}


@dataclass(frozen=True)
class Beside:
    """How many texts were read by both, and which of them the sentencepiece library divides otherwise."""

    texts: int
    otherwise: tuple[str, ...]


def check_whole(model: Path) -> None:
    """Raises InputRefused(E_TOKENIZER) where a model was cut short.

    A file that ends between two pieces is protobuf still, and its library and transformers read it without a word;
    then the pieces that are lost are unknown tokens. What follows the pieces tells.
    """
    try:
        with opened(model) as (reader, whole):
            found = {field.number for field in reader.fields(whole)}
        lost = [name for number, name in _PARTS.items() if number not in found]
        problem = f"it has no {' and no '.join(lost)}" if lost else None
    except (OSError, ValueError) as error:
        problem = str(error)
    if problem is not None:
        what = f"{escape(model.name)} is no SentencePiece model, or was cut short: {escape(problem)}"
        raise InputRefused("E_TOKENIZER", what, "download it again")


def beside(model: Path, loaded: Any, texts: Sequence[str]) -> Beside:
    """Compares the pieces of texts. `loaded` is transformers' tokenizer, made of the file `model`.

    A text that holds an added token is left out: the library knows none. Raises ImportError where it is not here.
    """
    from sentencepiece import SentencePieceProcessor

    library = SentencePieceProcessor(model_file=str(model))
    numbers = range(library.get_piece_size())
    known = {library.id_to_piece(k) for k in numbers if not (library.is_control(k) or library.is_unknown(k))}
    prepare = _prepared(json.loads(loaded.backend_tokenizer.to_str())["normalizer"])
    added = tuple(loaded.get_added_vocab())
    read = [text for text in texts if not any(token in text for token in added)]

    def named(pieces: Sequence[str]) -> list[str | None]:
        return [piece if piece in known else None for piece in pieces]

    differ = (
        text for text in read if named(library.encode(prepare(text), out_type=str)) != named(loaded.tokenize(text))
    )
    return Beside(len(read), tuple(differ))


def _prepared(normalizer: Mapping[str, Any] | None) -> Callable[[str], str]:
    """What a class does to a text before it is the model's: lower case, say. The model's own table comes after that."""
    from tokenizers import Tokenizer

    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    kinds = [step["type"] for step in steps]
    own = steps[: kinds.index("Precompiled")] if "Precompiled" in kinds else steps
    model = {"type": "WordLevel", "vocab": {"": 0}, "unk_token": ""}
    first = Tokenizer.from_str(json.dumps({"normalizer": {"type": "Sequence", "normalizers": own}, "model": model}))
    return lambda text: str(first.normalizer.normalize_str(text))
