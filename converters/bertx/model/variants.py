"""Families whose tensors depend on the configuration beyond sizes: a layout for each form that they take.

    layout_of("deberta-v2", {"relative_attention": True, ...})

Like the table of layouts, which it looks in first, it knows the usual forms only: None is a doubt, no refusal. The
types of the keys that are read here are checked before, in `completeness`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bertx.model.layouts import (
    ANSWERS,
    CLASSIFIER,
    LAYOUTS,
    MASKED,
    PREDICTIONS,
    QA,
    SEQUENCE,
    TOKENS,
    Head,
    Layout,
    class_names,
    feed_forward,
    linear,
    norm,
    tied,
)

Config = Mapping[str, Any]


def layout_of(model_type: str, config: Config) -> Layout | None:
    """The layout of a family for a configuration; None where one of them is not known."""
    if model_type in LAYOUTS:
        return LAYOUTS[model_type]
    return VARIANTS[model_type](config) if model_type in VARIANTS else None


def _deberta_v2(config: Config) -> Layout | None:
    """DeBERTa-v2 and v3: positions may be in the embeddings, in the attention, or both."""
    positions, kinds = _relative_positions(config), _kinds(config.get("pos_att_type"))
    segments, kernel = config.get("type_vocab_size", 0), config.get("conv_kernel_size", 0)
    hidden = config.get("hidden_size", 1536)
    if positions is None or kinds is None or config.get("pooler_hidden_size", hidden) != hidden:
        return None
    base = {"embeddings.word_embeddings.weight": "vocab_size hidden_size"} | norm("embeddings.LayerNorm")
    place = {"embeddings.position_embeddings.weight": "max_position_embeddings hidden_size"}
    absolute = config.get("position_biased_input", True)
    base |= place if absolute else {}
    base |= {"embeddings.token_type_embeddings.weight": f"{segments} hidden_size"} if segments > 0 else {}
    base |= {"encoder.rel_embeddings.weight": f"{positions} hidden_size"} if positions else {}
    base |= norm("encoder.LayerNorm") if config.get("norm_rel_ebd", "none") == "layer_norm" else {}
    if kernel > 0:
        base |= {
            "encoder.conv.conv.weight": f"hidden_size hidden_size {kernel}",
            "encoder.conv.conv.bias": "hidden_size",
        }
        base |= norm("encoder.conv.LayerNorm")
    layer = "encoder.layer.{i}"
    projections = ["query", "key", "value"]
    if positions and not config.get("share_att_key", False):
        projections += [name for kind, name in (("c2p", "pos_key"), ("p2c", "pos_query")) if kind in kinds]
    tensors = linear(f"{layer}.attention.output.dense") | norm(f"{layer}.attention.output.LayerNorm")
    for name in projections:
        tensors |= linear(f"{layer}.attention.self.{name}_proj")
    return Layout(
        "deberta",
        "num_hidden_layers",
        base,
        tensors | feed_forward(layer),
        {
            "AutoModel": Head(),
            MASKED: Head(PREDICTIONS, tied("cls.predictions.decoder")),
            SEQUENCE: Head(linear("pooler.dense") | CLASSIFIER),
            TOKENS: Head(CLASSIFIER),
            ANSWERS: QA,
        },
        class_names("DebertaV2"),
        {"vocab_size": 128100, "hidden_size": 1536, "num_hidden_layers": 24, "num_attention_heads": 24}
        | {"intermediate_size": 6144, "max_position_embeddings": 512},
        others=_PRETRAINED | ({} if absolute else {f"deberta.{name}": shape for name, shape in place.items()}),
    )


#: what Microsoft's own program trained DeBERTa-v3 with, and left in its files; no class of transformers builds it so.
#: The heads: DeBERTa/apps/models/{masked_language_model,replaced_token_detection_model}.py of
#: github.com/microsoft/DeBERTa, as transformers lists them for deberta-base (huggingface/transformers#15216), -v3-base
#: and -v3-small. `_weight`: DeBERTa/apps/tasks/rtd_task.py there, which trains with "gdes" what it adds to the
#: generator's embeddings; `weight`, which transformers reads, is the sum. mdeberta-v3-base and -v3-xsmall hold both
#: (HySonLab/ViDeBERTa#5 is about files that hold `_weight` alone: there the embeddings are missing, and refused).
_MASKED_WORDS = (
    linear("lm_predictions.lm_head.dense")
    | norm("lm_predictions.lm_head.LayerNorm")
    | {"lm_predictions.lm_head.bias": "vocab_size"}
)
_PRETRAINED = (
    _MASKED_WORDS
    | linear("mask_predictions.dense")
    | norm("mask_predictions.LayerNorm")
    | linear("mask_predictions.classifier", "1")
    | {"deberta.embeddings.word_embeddings._weight": "vocab_size hidden_size"}
    | {"deberta.embeddings.position_embeddings._weight": "max_position_embeddings hidden_size"}
)


#: the same of families that have no layout here, names alone: microsoft/deberta-base holds these
LEFT_ASIDE: Mapping[str, frozenset[str]] = {
    "deberta": frozenset({*_MASKED_WORDS, "deberta.embeddings.position_embeddings.weight"})
}


def _relative_positions(config: Config) -> int | None:
    """Rows of the table of relative positions, 0 where there is none; None where that is not known."""
    if not config.get("relative_attention", False):
        return 0
    given = (("position_buckets", -1), ("max_relative_positions", -1), ("max_position_embeddings", 512))
    sizes = [config.get(key, default) for key, default in given]
    if not all(type(size) is int for size in sizes):
        return None
    return 2 * next((size for size in sizes if size > 0), 0) or None


def _kinds(stated: Any) -> frozenset[str] | None:
    """Which positions the attention weighs: a list, or "p2c|c2p" in older files; None where they are not known."""
    listed = stated.lower().split("|") if isinstance(stated, str) else [] if stated is None else stated
    known = isinstance(listed, list) and all(each in ("c2p", "p2c") for each in listed)
    return frozenset(listed) if known else None


def _modernbert(config: Config) -> Layout | None:
    """ModernBERT: which linear layers and norms have a bias is told one by one."""
    biases, attention, feed = (config.get(key, False) for key in ("norm_bias", "attention_bias", "mlp_bias"))
    layers = config.get("num_hidden_layers", 22)
    if "layer_types" in config and len(config["layer_types"] or ()) != layers:
        return None

    def normed(name: str) -> dict[str, str]:
        return _biased(norm(name), biases)

    layer = "layers.{i}"
    tensors = normed(f"{layer}.attn_norm") | normed(f"{layer}.mlp_norm")
    tensors |= _biased(linear(f"{layer}.attn.Wqkv", "3*hidden_size"), attention)
    tensors |= _biased(linear(f"{layer}.attn.Wo"), attention)
    tensors |= _biased(linear(f"{layer}.mlp.Wi", "2*intermediate_size"), feed)
    tensors |= _biased(linear(f"{layer}.mlp.Wo", "hidden_size", "intermediate_size"), feed)
    head = _biased(linear("head.dense"), config.get("classifier_bias", False)) | normed("head.norm")
    bias = {"decoder.bias": "vocab_size"} if config.get("decoder_bias", True) else {}
    classifier = Head(head | CLASSIFIER)
    return Layout(
        "model",
        "num_hidden_layers",
        {"embeddings.tok_embeddings.weight": "vocab_size hidden_size"}
        | normed("embeddings.norm")
        | normed("final_norm"),
        tensors,
        {
            "AutoModel": Head(),
            MASKED: Head(head | bias, {"decoder.weight": "vocab_size hidden_size"}),
            SEQUENCE: classifier,
            TOKENS: classifier,
            ANSWERS: classifier,
        },
        class_names("ModernBert"),
        {"vocab_size": 50368, "hidden_size": 768, "num_hidden_layers": 22, "num_attention_heads": 12}
        | {"intermediate_size": 1152, "max_position_embeddings": 8192},
        # The embeddings are normalised already.
        lacking=frozenset({"layers.0.attn_norm.weight", "layers.0.attn_norm.bias"}),
        padding=50283,
        padded=("vocab_size",),
    )


def _biased(tensors: Mapping[str, str], bias: bool) -> dict[str, str]:
    return {name: shape for name, shape in tensors.items() if bias or not name.endswith(".bias")}


#: model type -> the layout of its configuration
VARIANTS: Mapping[str, Callable[[Config], Layout | None]] = {"deberta-v2": _deberta_v2, "modernbert": _modernbert}
