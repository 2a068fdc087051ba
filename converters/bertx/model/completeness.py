"""Whether weights are complete, told from headers alone: without PyTorch, by the table of layouts.

It says yes only where it knows: the family is in the table, every key of the configuration is one whose meaning is
known and has a usual value, every tensor is there in its shape, and every other one belongs to a head of the family.
Anything else is a doubt, for `bertx.model.loading` to settle; only that names what is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from bertx.checkpoint import Checkpoint
from bertx.checkpoint.naming import respelled
from bertx.model.layouts import Layout, Shapes
from bertx.model.tasks import Task
from bertx.model.variants import layout_of

#: dtypes of weights; float64 could exceed float32, which only a load tells
_DTYPES = frozenset({"F32", "F16", "BF16"})
_INTEGERS = frozenset({"I64", "I32", "I16", "I8", "U8"})
_BUFFER = re.compile(r"(^|\.)(position_ids|token_type_ids)$")
_ACTIVATIONS = frozenset({"gelu", "gelu_new", "relu", "silu", "swish", "tanh", "gelu_fast", "gelu_pytorch_tanh"})
_TYPES = frozenset({"float32", "float16", "bfloat16"})
#: auto class -> the only number of labels that every family takes
_LABELS = {"AutoModelForQuestionAnswering": 2}
_PROBLEMS = frozenset({"regression", "single_label_classification", "multi_label_classification"})

_Check = Callable[[Any], bool]


def _whole(value: Any) -> bool:
    return type(value) is int


def _share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _small(value: Any) -> bool:
    return type(value) is float and math.isfinite(value) and 0 <= value < 100


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


def _one_of(*allowed: Any) -> _Check:
    return lambda value: any(type(value) is type(each) and value == each for each in allowed)


def _or_null(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _list_of(*allowed: str) -> _Check:
    return lambda value: isinstance(value, list) and all(each in allowed for each in value)


def _count(value: Any) -> bool:
    return type(value) is int and value > 0


def _angle(value: Any) -> bool:
    return type(value) in (int, float) and 1 <= value < 1e12


def _rotary(value: Any) -> bool:
    """Whether the angles of both kinds of attention are the plain ones."""
    if not isinstance(value, dict) or value.keys() != set(_ATTENTIONS):
        return False
    plain = {"rope_theta", "rope_type"}
    return all(
        isinstance(each, dict)
        and each.keys() == plain
        and each["rope_type"] == "default"
        and _angle(each["rope_theta"])
        for each in value.values()
    )


_ATTENTIONS = ("full_attention", "sliding_attention")
#: key -> whether a value is a usual one; a key that is not here is a doubt. Sizes and labels are checked apart.
_KNOWN: Mapping[str, _Check] = {
    **dict.fromkeys(("model_type", "transformers_version", "_name_or_path", "tokenizer_class", "summary_type"), _text),
    **dict.fromkeys(("torch_dtype", "dtype"), _or_null(_one_of(*_TYPES))),
    **dict.fromkeys(("hidden_act", "activation", "summary_activation"), _one_of(*_ACTIVATIONS)),
    **dict.fromkeys(("attention_probs_dropout_prob", "hidden_dropout_prob", "dropout", "attention_dropout"), _share),
    **dict.fromkeys(("qa_dropout", "seq_classif_dropout", "classifier_dropout_prob", "summary_last_dropout"), _share),
    "classifier_dropout": _or_null(_share),
    **dict.fromkeys(("initializer_range", "layer_norm_eps"), _small),
    **dict.fromkeys(
        ("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id"), _or_null(_whole)
    ),
    **dict.fromkeys(("use_cache", "sinusoidal_pos_embds", "summary_use_proj", "output_past", "tie_weights_"), _truth),
    **dict.fromkeys(("gradient_checkpointing", "is_decoder", "add_cross_attention"), _one_of(False)),
    **dict.fromkeys(("is_encoder_decoder", "output_attentions", "output_hidden_states"), _one_of(False)),
    **dict.fromkeys(("tie_word_embeddings", "return_dict"), _one_of(True)),
    "position_embedding_type": _one_of("absolute"),
    "chunk_size_feed_forward": _one_of(0),
    "pruned_heads": _one_of({}),
    "problem_type": _or_null(_one_of(*_PROBLEMS)),
    "finetuning_task": _or_null(_text),
    "directionality": _one_of("bidi"),
    # written by the first multilingual BERTs and ALBERTs, read by no class here
    **dict.fromkeys(("pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"), _whole),
    **dict.fromkeys(("pooler_size_per_head", "down_scale_factor", "gap_size", "net_structure_type"), _whole),
    **dict.fromkeys(("num_memory_blocks", "type_vocab_size"), _whole),
    "pooler_type": _text,
}
#: family -> the keys that only it has, or that decide there which tensors it has
_OWN: Mapping[str, Mapping[str, _Check]] = {
    "deberta-v2": {
        **dict.fromkeys(("relative_attention", "position_biased_input", "share_att_key"), _truth),
        **dict.fromkeys(("max_relative_positions", "position_buckets"), _whole),
        "pos_att_type": _or_null(lambda value: _text(value) or _list_of("c2p", "p2c")(value)),
        "norm_rel_ebd": _one_of("none", "layer_norm"),
        "type_vocab_size": lambda value: _whole(value) and value >= 0,
        "conv_kernel_size": lambda value: _whole(value) and value >= 0,
        "conv_act": _one_of(*_ACTIVATIONS),
        "conv_groups": _one_of(1),
        "pooler_dropout": _share,
        "cls_dropout": _or_null(_share),
        "pooler_hidden_act": _one_of(*_ACTIVATIONS),
        "pooler_hidden_size": _count,
        "legacy": _one_of(True),
    },
    "modernbert": {
        **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "decoder_bias", "classifier_bias"), _truth),
        **dict.fromkeys(("attention_dropout", "embedding_dropout", "mlp_dropout", "classifier_dropout"), _share),
        **dict.fromkeys(("hidden_activation", "classifier_activation"), _one_of(*_ACTIVATIONS)),
        **dict.fromkeys(("norm_eps", "initializer_cutoff_factor"), _small),
        **dict.fromkeys(("local_attention", "global_attn_every_n_layers"), _count),
        **dict.fromkeys(("global_rope_theta", "local_rope_theta"), _angle),
        **dict.fromkeys(("deterministic_flash_attn", "repad_logits_with_grad"), _truth),
        "reference_compile": _or_null(_truth),
        "layer_types": _list_of(*_ATTENTIONS),
        "rope_parameters": _rotary,
        "classifier_pooling": _one_of("cls", "mean"),
        "sparse_prediction": _one_of(False),
        "sparse_pred_ignore_index": _whole,
    },
}


def is_complete(checkpoint: Checkpoint, task: Task) -> bool:
    """Whether a strict load for this task would succeed, but for numbers that are not finite. False is a doubt."""
    config, family = checkpoint.config.values, checkpoint.config.model_type
    own = _OWN.get(family, {})
    if not all(check(config[key]) for key, check in own.items() if key in config):
        return False
    layout = layout_of(family, config)
    if layout is None or task.auto_class not in layout.heads:
        return False
    if not set(checkpoint.config.architectures) <= layout.classes:
        return False
    sizes = _sizes(config, layout)
    if (
        sizes is None
        or not _usual(config, layout, sizes, own)
        or sizes["labels"] != _LABELS.get(task.auto_class, sizes["labels"])
    ):
        return False
    shapes = _shapes(checkpoint)
    return shapes is not None and _matches(shapes, layout, task, sizes)


def needed(layout: Layout, auto_class: str, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a class, its pooler where it needs one, without what may be left out as tied.

    Names of AutoModel have no prefix, as in a file of the base model alone.
    """
    head = layout.heads[auto_class]
    prefix = "" if auto_class == "AutoModel" else f"{layout.prefix}."
    base = _base(layout, sizes) | (_sized(layout.pooler, sizes) if head.pooler else {})
    return {f"{prefix}{name}": shape for name, shape in base.items()} | _sized(head.tensors, sizes)


def _matches(shapes: Mapping[str, tuple[int, ...]], layout: Layout, task: Task, sizes: Mapping[str, int]) -> bool:
    head = layout.heads[task.auto_class]
    start = f"{layout.prefix}."
    prefix = start if any(name.startswith(start) for name in shapes) else ""
    if not prefix and task.auto_class != "AutoModel":
        return False  # a head beside a base model without its prefix
    pooler = {f"{prefix}{name}": shape for name, shape in _sized(layout.pooler, sizes).items()}
    required = {f"{prefix}{name}": shape for name, shape in _base(layout, sizes).items()} | _sized(head.tensors, sizes)
    if head.pooler or (task.auto_class == "AutoModel" and pooler.keys() & shapes.keys()):
        required |= pooler
    if any(shapes.get(name) != shape for name, shape in required.items()):
        return False
    optional = _sized(head.tied, sizes)
    if any(name in shapes and shapes[name] != shape for name, shape in optional.items()):
        return False
    others = set(pooler)
    for each in layout.heads.values() if prefix else ():
        others |= each.tensors.keys() | each.tied.keys() | layout.others.keys()
    return shapes.keys() <= required.keys() | optional.keys() | others


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]] | None:
    """Name in today's spelling -> shape, without known buffers; None where a dtype or a name is in doubt."""
    found: dict[str, tuple[int, ...]] = {}
    for name, info in checkpoint.weights.items():
        if _BUFFER.search(name) and info.dtype in _INTEGERS:
            continue
        modern = respelled(name, "torch")
        if info.dtype not in _DTYPES or modern in found:
            return None
        found[modern] = info.shape
    return found


def _sizes(config: Mapping[str, Any], layout: Layout) -> dict[str, int] | None:
    """Every size by its key, "labels" among them; None where one is no positive number."""
    sizes = {key: config.get(key, default) for key, default in layout.defaults.items()}
    labels = _labels(config)
    if labels is None or not all(type(size) is int and size > 0 for size in sizes.values()):
        return None
    if sizes[layout.heads_of[1]] % sizes[layout.heads_of[0]] or sizes.get("inner_group_num", 1) != 1:
        return None
    if sizes.get("num_hidden_groups", 1) > sizes.get("num_hidden_layers", 1):
        return None
    return {**sizes, "labels": labels}


def _labels(config: Mapping[str, Any]) -> int | None:
    """How many labels there are; None where the configuration contradicts itself."""
    stated, names, ids = config.get("num_labels", 2), config.get("id2label"), config.get("label2id")
    if not {"id2label", "label2id"} & config.keys():
        return stated if type(stated) is int and stated > 0 else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        return None
    if (
        list(names) != [str(k) for k in range(len(names))]
        or not names
        or ("num_labels" in config and stated != len(names))
    ):
        return None
    if ids is not None and (not isinstance(ids, dict) or not all(type(each) is int for each in ids.values())):
        return None
    return len(names)


def _usual(config: Mapping[str, Any], layout: Layout, sizes: Mapping[str, int], own: Mapping[str, _Check]) -> bool:
    most = min(sizes[key] for key in layout.padded)
    if most < 2 or ("pad_token_id" not in config and most <= layout.padding):
        return False
    for key, value in config.items():
        if key in sizes or key in own or key in ("architectures", "id2label", "label2id", "num_labels"):
            continue
        if key == "pad_token_id":
            if not (type(value) is int and 0 <= value < most):
                return False
        elif key not in _KNOWN or not _KNOWN[key](value):
            return False
    return True


def _base(layout: Layout, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    found = _sized(layout.base, sizes)
    if sizes.get("embedding_size") == sizes.get("hidden_size"):  # ELECTRA then has nothing to project
        found = {name: shape for name, shape in found.items() if not name.startswith("embeddings_project.")}
    for i in range(sizes[layout.layers]):
        found |= {name.replace("{i}", str(i)): shape for name, shape in _sized(layout.layer, sizes).items()}
    return {name: shape for name, shape in found.items() if name not in layout.lacking}


def _sized(shapes: Shapes, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Shapes in words as numbers."""
    return {name: tuple(_size(word, sizes) for word in words.split()) for name, words in shapes.items()}


def _size(word: str, sizes: Mapping[str, int]) -> int:
    """A number, a key of the configuration, or a product of them."""
    return math.prod(int(factor) if factor.isdecimal() else sizes[factor] for factor in word.split("*"))
