"""Checkpoints whose tokenizer is a SentencePiece model alone, trained here in a second, and lines that hurt them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lines import SENTENCES, lines

from bertx.tokenizer.golden import TEXTS
from program import ROOT

#: model type -> its file, the tokenizer's class, and the trainer's options for the pieces that the class wants
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "xlm-roberta": (
        "sentencepiece.bpe.model",
        "XLMRobertaTokenizer",
        {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1},
    ),
    "camembert": (
        "sentencepiece.bpe.model",
        "CamembertTokenizer",
        {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1},
    ),
    "albert": (
        "spiece.model",
        "AlbertTokenizer",
        {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": "[CLS],[SEP],[MASK]"},
    ),
    "deberta-v2": (
        "spm.model",
        "DebertaV2Tokenizer",
        {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
        | {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"},
    ),
}
SIZE = 1000


def prose() -> list[str]:
    """Real lines: this project's own pages."""
    pages = sorted((ROOT / "docs").glob("*.md"))
    return [line.strip() for page in pages for line in page.read_text("utf-8").splitlines() if line.strip()]


def train(path: Path, **options: Any) -> Path:
    """Trains a unigram model that normalises as those of all these families do."""
    import sentencepiece

    corpus = [*prose(), *SENTENCES * 20, *[text for text in TEXTS if text.strip()] * 5]
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus),
            model_writer=file,
            vocab_size=SIZE,
            hard_vocab_limit=False,
            normalization_rule_name="nmt_nfkc",
            num_threads=1,
            minloglevel=2,
            **options,
        )
    return path


def checkpoint(kind: str, folder: Path) -> Path:
    """A folder with the model, and the two configurations as they are published beside one."""
    name, class_name, options = KINDS[kind]
    folder.mkdir()
    train(folder / name, **options)
    sizes = {"vocab_size": SIZE + 8, "max_position_embeddings": 514, "pad_token_id": 1}
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **sizes}), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": class_name}), "utf-8")
    return folder


def texts(pieces: list[str], count: int = 1500) -> list[str]:
    """Real lines and `count` generated ones of pieces and of what is odd."""
    return [*prose(), *lines(count, [piece.replace("▁", " ") for piece in pieces])]
