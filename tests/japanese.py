"""cl-tohoku/bert-base-japanese-v3 as it is on the Hub, but small.

It has the keys of its configuration, its pre-training heads, `.bin` weights only, BertJapaneseTokenizer over
unidic-lite, and random weights of unit scale.

The vocabulary is the real one where BERTX_TEST_DATA has it, else one of the words below.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from program import Ran

#: what the repository is called today, and what everybody calls it
REPO, OLD_REPO = "tohoku-nlp/bert-base-japanese-v3", "cl-tohoku/bert-base-japanese-v3"
#: what the README has a user type, in this order
COMMANDS = (
    ("to-safetensors", OLD_REPO),
    ("trace", OLD_REPO),
    ("to-onnx", OLD_REPO),
    ("tokenizer", OLD_REPO),
    ("verify", "bert-base-japanese-v3"),
    ("inspect", "bert-base-japanese-v3"),
)
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
CONFIG: dict[str, Any] = {
    "architectures": ["BertForPreTraining"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 32768,
}
TOKENIZER: dict[str, Any] = {
    "tokenizer_class": "BertJapaneseTokenizer",
    "model_max_length": 512,
    "do_lower_case": False,
    "word_tokenizer_type": "mecab",
    "subword_tokenizer_type": "wordpiece",
    "mecab_kwargs": {"mecab_dic": "unidic_lite"},
}
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = "機械 学習 の コア 部分 ロジック を 、 。 定型 的 な 実装 から 切り離す 日本 東京 大学 研究 する ##語 です"


@dataclass(frozen=True)
class FromHub:
    """How `COMMANDS` ended, by name, in a folder of their own against a local Hub that serves `served`.

    `requests` is what the Hub was asked, `environment` what turns another run to it and to the same cache.
    """

    served: Path
    bundle: Path
    ended: dict[str, Ran]
    requests: list[tuple[str, str]]
    environment: dict[str, str]

    @property
    def manifest(self) -> Any:
        return json.loads((self.bundle / "bertx.json").read_text("utf-8"))


def data() -> Path | None:
    """The folder with the real configuration and vocabulary, where this machine has it."""
    stated = os.environ.get("BERTX_TEST_DATA")
    folder = Path(stated) / "bert-base-japanese-v3" if stated else None
    return folder if folder is not None and folder.is_dir() else None


def make(folder: Path) -> Path:
    """Writes the repository into a new folder, with what bertx does not need beside it."""
    folder.mkdir(parents=True)
    real = data()
    config, tokenizer = (
        json.loads((real / name).read_text("utf-8")) if real else stated
        for name, stated in (("config.json", CONFIG), ("tokenizer_config.json", TOKENIZER))
    )
    if real:
        shutil.copyfile(real / "vocab.txt", folder / "vocab.txt")
    else:
        (folder / "vocab.txt").write_text("\n".join([*_SPECIAL, *_WORDS.split()]) + "\n", "utf-8")
        config = {**config, "vocab_size": len(_SPECIAL) + len(_WORDS.split())}
    for name, values in (("config.json", {**config, **SIZES}), ("tokenizer_config.json", tokenizer)):
        (folder / name).write_text(json.dumps(values, indent=4) + "\n", "utf-8")
    _weights(folder)
    for name in ("tf_model.h5", "flax_model.msgpack", "training_args.bin", ".gitattributes"):
        (folder / name).write_text("not for bertx", "utf-8")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: ja\n---\n", "utf-8")
    return folder


def _weights(folder: Path) -> None:
    """pytorch_model.bin as PyTorch 1 wrote it: tied decoder and position_ids in it, heads of the pre-training too."""
    import torch
    from transformers import BertConfig, BertForPreTraining

    torch.manual_seed(0)
    values = json.loads((folder / "config.json").read_text("utf-8"))
    model = BertForPreTraining(BertConfig(**{**values, "initializer_range": 0.2}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if name.endswith("LayerNorm.weight") else 0.0))
    state = dict(model.state_dict())
    state["bert.embeddings.position_ids"] = torch.arange(values["max_position_embeddings"])[None]
    torch.save(state, folder / "pytorch_model.bin")
