"""Makes tiny checkpoints of every encoder family: random, but with activations of unit scale.

Weights as transformers initialises them (normal, 0.02) hide mistakes: attention is nearly uniform, biases are zero and
LayerNorm does nothing. Here a matrix keeps the size of what it multiplies, so that a wrong mask, position or segment
changes the answer at once. Everything is deterministic by seed. Nothing binary is kept in the repository.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: sizes that most configurations call by these names
_COMMON: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
#: the same for families that leave room behind the padding id
_OFFSET = {**_COMMON, "max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1, "eos_token_id": 2}
_XLM: dict[str, Any] = {
    "vocab_size": 160,
    "emb_dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": 64,
}

#: model type -> what its configuration is told; the class of the configuration is transformers' own for that type
FAMILIES: dict[str, Mapping[str, Any]] = {
    "albert": {**_COMMON, "embedding_size": 16, "num_hidden_groups": 1},
    "bert": _COMMON,
    "bart": {
        "vocab_size": 160,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 64,
    },
    "big_bird": {**_COMMON, "attention_type": "original_full"},
    "bros": _COMMON,
    "camembert": _OFFSET,
    "canine": {
        **_COMMON,
        "downsampling_rate": 4,
        "num_hash_buckets": 64,
        "local_transformer_stride": 8,
        "upsampling_kernel_size": 4,
    },
    "convbert": {**_COMMON, "embedding_size": 32, "head_ratio": 2, "num_groups": 1, "conv_kernel_size": 3},
    "data2vec-text": _OFFSET,
    "deberta": {
        **_COMMON,
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
        "type_vocab_size": 0,
        "max_relative_positions": -1,
    },
    "deberta-v2": {
        **_COMMON,
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
        "position_buckets": 8,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 0,
        "max_relative_positions": -1,
    },
    "distilbert": {
        "vocab_size": 160,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 64,
    },
    "electra": {**_COMMON, "embedding_size": 16},
    "ernie": _COMMON,
    "esm": {**_OFFSET, "mask_token_id": 4, "position_embedding_type": "rotary", "token_dropout": False},
    "esmc": _COMMON,
    "eurobert": {**_COMMON, "num_key_value_heads": 4, "head_dim": 8, "pad_token_id": 1},
    "flaubert": _XLM,
    "fnet": {**_COMMON, "use_tpu_fourier_optimizations": False},
    "funnel": {
        "vocab_size": 160,
        "d_model": 32,
        "n_head": 4,
        "d_head": 8,
        "d_inner": 48,
        "block_sizes": [1, 1],
        "num_decoder_layers": 1,
    },
    "gte": _COMMON,
    "ibert": _OFFSET,
    "jina_embeddings_v3": {**_COMMON, "pad_token_id": 1},
    "layoutlm": _COMMON,
    "lilt": {**_OFFSET, "hidden_size": 48, "channel_shrink_ratio": 4, "max_2d_position_embeddings": 64},
    "longformer": {**_OFFSET, "attention_window": [4, 4]},
    "luke": {**_OFFSET, "entity_vocab_size": 20, "entity_emb_size": 16},
    "megatron-bert": _COMMON,
    "mobilebert": {
        **_COMMON,
        "embedding_size": 16,
        "intra_bottleneck_size": 16,
        "num_feedforward_networks": 2,
    },
    "modernbert": {
        **_COMMON,
        "num_hidden_layers": 3,
        "local_attention": 96,
        "global_attn_every_n_layers": 3,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
    "mpnet": _OFFSET,
    "mra": {**_OFFSET, "block_per_row": 1},
    "nomic_bert": {**_COMMON, "head_dim": 8},
    "nystromformer": {**_COMMON, "segment_means_seq_len": 64, "num_landmarks": 64},
    "rembert": {**_COMMON, "input_embedding_size": 16, "output_embedding_size": 16},
    "roberta": _OFFSET,
    "roberta-prelayernorm": _OFFSET,
    "roc_bert": {
        **_COMMON,
        "enable_shape": True,
        "enable_pronunciation": True,
        "shape_vocab_size": 160,
        "pronunciation_vocab_size": 160,
        "shape_embed_dim": 16,
        "pronunciation_embed_dim": 16,
        "concat_input": True,
    },
    "roformer": {**_COMMON, "embedding_size": 16},
    "splinter": _COMMON,
    "squeezebert": {**_COMMON, "embedding_size": 32},
    "tapas": _COMMON,
    "xlm": _XLM,
    "xlm-roberta": _OFFSET,
    "xlm-roberta-xl": _OFFSET,
    "xmod": {**_OFFSET, "languages": ["en_XX"], "adapter_reduction_factor": 2},
    "yoso": {**_OFFSET, "max_position_embeddings": 66},
}

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,—:?é機械"


def make(model_type: str, folder: Path, task: str = "feature-extraction", *, seed: int = 0, **changes: Any) -> Path:
    """Writes a checkpoint of a family with the head of a task, and a tokenizer; gives the folder back.

    `changes` go into the configuration. Raises KeyError where transformers has no such head for the family.
    """
    import transformers

    from bertx.model.tasks import task_named

    config = transformers.CONFIG_MAPPING[model_type](**{**FAMILIES[model_type], **changes})
    heads = getattr(transformers, task_named(task).auto_class)._model_mapping[type(config)]
    return save((heads[0] if isinstance(heads, tuple) else heads)(config), folder, seed=seed)


def make_class(class_name: str, folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Writes a checkpoint of one transformers class by name, such as BertForPreTraining."""
    import transformers

    stock = getattr(transformers, class_name)
    model_type = stock.config_class.model_type
    return save(stock(stock.config_class(**{**FAMILIES[model_type], **changes})), folder, seed=seed)


def save(model: Any, folder: Path, *, seed: int = 0) -> Path:
    """Gives a model weights of unit scale and writes it, its configuration and a tokenizer."""
    import torch

    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_scaled(name, parameter))
    torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    padding = getattr(model.config, "pad_token_id", 0) or 0
    write_tokenizer(folder, padding=padding)
    return folder


def _scaled(name: str, parameter: Any) -> Any:
    """Random values of this parameter's shape: normalisation around one, the rest such that sizes are kept."""
    import torch

    values = torch.randn_like(parameter)
    if parameter.ndim < 2:
        scale = "norm" in name.lower() and name.endswith("weight")
        return 1 + 0.2 * values if scale else 0.3 * values
    embedding = "embedding" in name.lower() and "projection" not in name.lower()
    return values if embedding else 1.2 * values / math.sqrt(math.prod(parameter.shape[1:]))


def write_tokenizer(folder: Path, *, padding: int = 0) -> None:
    """A WordPiece tokenizer over single letters with BERT's special tokens: tokenizer.json and its configuration."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    special.insert(padding, "[PAD]")
    tokens = [*special, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {f"{name.strip('[]').lower()}_token": name for name in special}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 48, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), "utf-8")


def add_modules(folder: Path, modes: tuple[str, ...], *, dense: int | None = None, normalize: bool = False) -> Path:
    """Makes a sentence-transformers folder of a checkpoint: pooling modes, a Dense layer of `dense`, normalisation."""
    import torch
    from safetensors.torch import save_file

    values = json.loads((folder / "config.json").read_text("utf-8"))
    width = int(values.get("hidden_size", values.get("dim"))) * len(modes)
    chain = {"": "Transformer", "1_Pooling": "Pooling"}
    write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": width, "pooling_mode": list(modes)})
    if dense is not None:
        chain["2_Dense"] = "Dense"
        tanh = "torch.nn.modules.activation.Tanh"
        sizes = {"in_features": width, "out_features": dense, "bias": True, "activation_function": tanh}
        write_json(folder / "2_Dense" / "config.json", sizes)
        random = torch.Generator().manual_seed(3)
        weight = torch.randn(dense, width, generator=random) / math.sqrt(width)
        tensors = {"linear.weight": weight, "linear.bias": 0.3 * torch.randn(dense, generator=random)}
        save_file(tensors, folder / "2_Dense" / "model.safetensors")
    if normalize:
        chain["3_Normalize"] = "Normalize"
    types = {path: f"sentence_transformers.models.{kind}" for path, kind in chain.items()}
    listed = [{"idx": k, "name": str(k), "path": path, "type": types[path]} for k, path in enumerate(types)]
    write_json(folder / "modules.json", listed)
    return folder


def write_json(path: Path, document: object) -> None:
    """Writes a JSON file and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2), "utf-8")
