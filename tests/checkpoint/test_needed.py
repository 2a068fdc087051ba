"""Which files of a repository are downloaded, on listings as the Hub has them."""

from __future__ import annotations

import pytest

from bertx.checkpoint.listing import needed

WEIGHTS = "model.safetensors"
SHARDS = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
BIN_SHARDS = ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
BERT = "LICENSE README.md config.json tokenizer.json tokenizer_config.json vocab.txt model.safetensors"
BERT_ELSE = ".gitattributes coreml/model.mlpackage/Manifest.json flax_model.msgpack model.onnx pytorch_model.bin"
SENTENCE = "1_Pooling/config.json 2_Dense/config.json 2_Dense/model.safetensors 3_Normalize/config.json README.md"
SENTENCE += " config.json config_sentence_transformers.json data_config.json modules.json sentence_bert_config.json"
SENTENCE += " special_tokens_map.json tokenizer.json tokenizer_config.json vocab.txt model.safetensors"
SENTENCE_ELSE = "2_Dense/pytorch_model.bin onnx/model.onnx onnx/model_qint8_avx512.onnx openvino/openvino_model.bin"
XLMR = ["config.json", "sentencepiece.bpe.model", "tokenizer.json", "pytorch_model.bin"]


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        (BERT.split(), [*BERT_ELSE.split(), "rust_model.ot", "tf_model.h5"]),
        (SENTENCE.split(), [*SENTENCE_ELSE.split(), "openvino/openvino_model.xml", "rust_model.ot", "train_script.py"]),
        (XLMR, ["tf_model.h5", "training_args.bin", "optimizer.bin", "checkpoint-500/model.safetensors"]),
        (["config.json", WEIGHTS], [*SHARDS, "pytorch_model.bin"]),
        (["config.json", *SHARDS], ["pytorch_model.bin", *BIN_SHARDS]),
        (["config.json", *BIN_SHARDS], ["tf_model.h5"]),
        (["config.json"], ["model.fp16.safetensors", "adapter_model.safetensors", "onnx/model.safetensors"]),
    ],
    ids=["all frameworks", "sentence-transformers", "bin only", "one file", "shards", "shards of bin", "variants"],
)
def test_needed_keeps_one_format_and_puts_weights_last(kept: list[str], left: list[str]) -> None:
    assert needed([*left, *reversed(kept)]) == kept


def test_needed_keeps_a_modules_weights_in_one_format() -> None:
    kept = ["2_Dense/config.json", "2_Dense/model.safetensors", "3_Dense/pytorch_model.bin", "config.json", WEIGHTS]
    assert needed([*kept, "2_Dense/pytorch_model.bin", "2_Dense/tf_model.h5"]) == kept


@pytest.mark.parametrize("files", ["spiece.model", "spm.model added_tokens.json", "merges.txt vocab.json", "bpe.codes"])
def test_needed_keeps_tokenizers_of_every_kind(files: str) -> None:
    assert set(files.split()) <= set(needed(["config.json", WEIGHTS, *files.split()]))


OUTSIDE = ["../config.json", "/etc/config.json", "../1_Pooling/config.json", "1_Pooling/../config.json", "..\\x.model"]


@pytest.mark.parametrize(
    "name", [*OUTSIDE, "sub/vocab.txt", "a b.model", "x.model\n", "modeling.py", "1_Custom/custom.py"]
)
def test_needed_takes_neither_code_nor_a_path_that_leads_elsewhere(name: str) -> None:
    assert needed([name]) == []
