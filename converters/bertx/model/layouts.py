"""The tensors of the common encoder families, as data: names, and shapes in words of the configuration.

So that a checkpoint can be found complete from its headers alone, without PyTorch. A test compares every row with what
transformers itself builds. A family that is not here, or a configuration beyond what is described, is not refused: it
is loaded in PyTorch to find out.

A shape is words: keys of the configuration, "labels", numbers, products such as "3*hidden_size". "{i}" in a name stands
for each layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Shapes = Mapping[str, str]


@dataclass(frozen=True)
class Head:
    """What a transformers class adds to its base model: `tensors` it needs, `tied` ones that may be left out."""

    tensors: Shapes = field(default_factory=dict)
    tied: Shapes = field(default_factory=dict)
    pooler: bool = False


@dataclass(frozen=True)
class Layout:
    """A family. Names of `base`, `layer` and `pooler` follow `prefix` and a dot where the checkpoint has a head.

    `heads` are by auto class, `others` the tensors of heads that no task here uses, `classes` the architectures that
    config.json may name. `defaults` are those of the sizes that a configuration may leave out.
    """

    prefix: str
    layers: str
    base: Shapes
    layer: Shapes
    heads: Mapping[str, Head]
    classes: frozenset[str]
    defaults: Mapping[str, int]
    pooler: Shapes = field(default_factory=dict)
    others: Shapes = field(default_factory=dict)
    #: key of the number of heads, and that which it must divide
    heads_of: tuple[str, str] = ("num_attention_heads", "hidden_size")
    #: names of `layer` that single layers do not have
    lacking: frozenset[str] = frozenset()
    #: the largest padding id of a configuration that states none, and the sizes that a padding id lies below
    padding: int = 1
    padded: tuple[str, ...] = ("vocab_size", "max_position_embeddings")


def norm(name: str, size: str = "hidden_size") -> dict[str, str]:
    return {f"{name}.weight": size, f"{name}.bias": size}


def linear(name: str, rows: str = "hidden_size", columns: str = "hidden_size") -> dict[str, str]:
    return {f"{name}.weight": f"{rows} {columns}", f"{name}.bias": rows}


def _embeddings(size: str, segments: bool = True) -> dict[str, str]:
    tables = {"word": "vocab_size", "position": "max_position_embeddings"}
    tables |= {"token_type": "type_vocab_size"} if segments else {}
    named = {f"embeddings.{name}_embeddings.weight": f"{rows} {size}" for name, rows in tables.items()}
    return named | norm("embeddings.LayerNorm", size)


def _bert_layer() -> dict[str, str]:
    layer = "encoder.layer.{i}"
    found: dict[str, str] = {}
    for name in ("query", "key", "value"):
        found |= linear(f"{layer}.attention.self.{name}")
    found |= linear(f"{layer}.attention.output.dense") | norm(f"{layer}.attention.output.LayerNorm")
    return found | feed_forward(layer)


def feed_forward(layer: str) -> dict[str, str]:
    found = linear(f"{layer}.intermediate.dense", "intermediate_size", "hidden_size")
    return (
        found | linear(f"{layer}.output.dense", "hidden_size", "intermediate_size") | norm(f"{layer}.output.LayerNorm")
    )


def tied(decoder: str, width: str = "hidden_size") -> dict[str, str]:
    return {f"{decoder}.weight": f"vocab_size {width}", f"{decoder}.bias": "vocab_size"}


def class_names(stem: str, *more: str) -> frozenset[str]:
    tasks = ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")
    return frozenset({f"{stem}Model", *(f"{stem}For{task}" for task in tasks), *more})


MASKED, SEQUENCE = "AutoModelForMaskedLM", "AutoModelForSequenceClassification"
TOKENS, ANSWERS = "AutoModelForTokenClassification", "AutoModelForQuestionAnswering"
QA = Head(linear("qa_outputs", "labels"))
CLASSIFIER = linear("classifier", "labels")
#: the classifier of RoBERTa and those who follow it
_DEEP = linear("classifier.dense") | linear("classifier.out_proj", "labels")
_BERT_SIZES = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}

PREDICTIONS = (
    {"cls.predictions.bias": "vocab_size"}
    | linear("cls.predictions.transform.dense")
    | norm("cls.predictions.transform.LayerNorm")
)
_BERT = Layout(
    "bert",
    "num_hidden_layers",
    _embeddings("hidden_size"),
    _bert_layer(),
    {
        "AutoModel": Head(),
        MASKED: Head(PREDICTIONS, tied("cls.predictions.decoder")),
        SEQUENCE: Head(CLASSIFIER, pooler=True),
        TOKENS: Head(CLASSIFIER),
        ANSWERS: QA,
    },
    class_names("Bert", "BertForPreTraining", "BertForNextSentencePrediction"),
    {"vocab_size": 30522, **_BERT_SIZES},
    linear("pooler.dense"),
    linear("cls.seq_relationship", "2"),
)


def _roberta(stem: str, vocabulary: int) -> Layout:
    head = {"lm_head.bias": "vocab_size"} | linear("lm_head.dense") | norm("lm_head.layer_norm")
    return Layout(
        "roberta",
        "num_hidden_layers",
        _BERT.base,
        _BERT.layer,
        {
            "AutoModel": Head(),
            MASKED: Head(head, tied("lm_head.decoder")),
            SEQUENCE: Head(_DEEP),
            TOKENS: Head(CLASSIFIER),
            ANSWERS: QA,
        },
        class_names(stem),
        {"vocab_size": vocabulary, **_BERT_SIZES},
        _BERT.pooler,
    )


def _electra() -> Layout:
    head = norm("generator_predictions.LayerNorm", "embedding_size")
    head |= linear("generator_predictions.dense", "embedding_size", "hidden_size")
    head |= {"generator_lm_head.bias": "vocab_size"}
    discriminator = linear("discriminator_predictions.dense")
    discriminator |= linear("discriminator_predictions.dense_prediction", "1", "hidden_size")
    return Layout(
        "electra",
        "num_hidden_layers",
        _embeddings("embedding_size") | linear("embeddings_project", "hidden_size", "embedding_size"),
        _BERT.layer,
        {
            "AutoModel": Head(),
            MASKED: Head(head, {"generator_lm_head.weight": "vocab_size embedding_size"}),
            SEQUENCE: Head(_DEEP),
            TOKENS: Head(CLASSIFIER),
            ANSWERS: QA,
        },
        class_names("Electra", "ElectraForPreTraining"),
        {"vocab_size": 30522, "embedding_size": 128, **_BERT_SIZES, "hidden_size": 256, "num_attention_heads": 4}
        | {"intermediate_size": 1024},
        others=discriminator,
    )


def _distilbert() -> Layout:
    layer = "transformer.layer.{i}"
    found: dict[str, str] = {}
    for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
        found |= linear(f"{layer}.attention.{name}", "dim", "dim")
    found |= norm(f"{layer}.sa_layer_norm", "dim") | norm(f"{layer}.output_layer_norm", "dim")
    found |= linear(f"{layer}.ffn.lin1", "hidden_dim", "dim") | linear(f"{layer}.ffn.lin2", "dim", "hidden_dim")
    head = linear("vocab_transform", "dim", "dim") | norm("vocab_layer_norm", "dim")
    classifier = linear("classifier", "labels", "dim")
    return Layout(
        "distilbert",
        "n_layers",
        _embeddings("dim", segments=False),
        found,
        {
            "AutoModel": Head(),
            MASKED: Head(head | {"vocab_projector.bias": "vocab_size"}, {"vocab_projector.weight": "vocab_size dim"}),
            SEQUENCE: Head(linear("pre_classifier", "dim", "dim") | classifier),
            TOKENS: Head(classifier),
            ANSWERS: Head(linear("qa_outputs", "labels", "dim")),
        },
        class_names("DistilBert"),
        {"vocab_size": 30522, "max_position_embeddings": 512, "n_layers": 6, "n_heads": 12, "dim": 768}
        | {"hidden_dim": 3072},
        heads_of=("n_heads", "dim"),
    )


def _albert() -> Layout:
    layer = "encoder.albert_layer_groups.{i}.albert_layers.0"
    found = norm(f"{layer}.full_layer_layer_norm") | norm(f"{layer}.attention.LayerNorm")
    for name in ("query", "key", "value", "dense"):
        found |= linear(f"{layer}.attention.{name}")
    found |= linear(f"{layer}.ffn", "intermediate_size", "hidden_size")
    found |= linear(f"{layer}.ffn_output", "hidden_size", "intermediate_size")
    head = {"predictions.bias": "vocab_size"} | norm("predictions.LayerNorm", "embedding_size")
    head |= linear("predictions.dense", "embedding_size", "hidden_size")
    return Layout(
        "albert",
        "num_hidden_groups",
        _embeddings("embedding_size") | linear("encoder.embedding_hidden_mapping_in", "hidden_size", "embedding_size"),
        found,
        {
            "AutoModel": Head(),
            MASKED: Head(head, tied("predictions.decoder", "embedding_size")),
            SEQUENCE: Head(CLASSIFIER, pooler=True),
            TOKENS: Head(CLASSIFIER),
            ANSWERS: QA,
        },
        class_names("Albert", "AlbertForPreTraining"),
        {"vocab_size": 30000, "embedding_size": 128, **_BERT_SIZES, "hidden_size": 4096, "num_attention_heads": 64}
        | {"intermediate_size": 16384, "num_hidden_groups": 1, "inner_group_num": 1},
        linear("pooler"),
        linear("sop_classifier.classifier", "2"),
    )


def _mpnet() -> Layout:
    layer = "encoder.layer.{i}"
    found: dict[str, str] = {}
    for name in ("q", "k", "v", "o"):
        found |= linear(f"{layer}.attention.attn.{name}")
    found |= norm(f"{layer}.attention.LayerNorm") | feed_forward(layer)
    head = {"lm_head.bias": "vocab_size"} | linear("lm_head.dense") | norm("lm_head.layer_norm")
    bias = {"encoder.relative_attention_bias.weight": "relative_attention_num_buckets num_attention_heads"}
    return Layout(
        "mpnet",
        "num_hidden_layers",
        _embeddings("hidden_size", segments=False) | bias,
        found,
        {
            "AutoModel": Head(),
            MASKED: Head(head, tied("lm_head.decoder")),
            SEQUENCE: Head(_DEEP),
            TOKENS: Head(CLASSIFIER),
            ANSWERS: QA,
        },
        class_names("MPNet"),
        {"vocab_size": 30527, "relative_attention_num_buckets": 32}
        | {key: size for key, size in _BERT_SIZES.items() if key != "type_vocab_size"},
        linear("pooler.dense"),
    )


#: model type -> its layout
LAYOUTS: Mapping[str, Layout] = {
    "albert": _albert(),
    "bert": _BERT,
    "camembert": _roberta("Camembert", 30522),
    "distilbert": _distilbert(),
    "electra": _electra(),
    "mpnet": _mpnet(),
    "roberta": _roberta("Roberta", 50265),
    "xlm-roberta": _roberta("XLMRoberta", 30522),
}

#: model type -> what transformers takes for a type_vocab_size that config.json leaves out, 0 where a family has no
#: segments; of the families above, the layout says it
SEGMENTS: Mapping[str, int] = {
    **dict.fromkeys(("bart", "deberta", "deberta-v2", "esm", "esmc", "eurobert", "flaubert", "funnel", "mbart"), 0),
    **dict.fromkeys(("modernbert", "mt5", "reformer", "t5", "tapas", "umt5", "xlm", "xlnet"), 0),
    **dict.fromkeys(("gte", "jina_embeddings_v3", "mra", "xlm-roberta-xl", "yoso"), 1),
    **dict.fromkeys(("big_bird", "bros", "convbert", "data2vec-text", "dpr", "ernie", "ibert", "layoutlm", "lilt"), 2),
    **dict.fromkeys(
        ("longformer", "luke", "markuplm", "megatron-bert", "mobilebert", "nomic_bert", "nystromformer"), 2
    ),
    **dict.fromkeys(("rembert", "roberta-prelayernorm", "roc_bert", "roformer", "splinter", "squeezebert", "xmod"), 2),
    "fnet": 4,
    "canine": 16,
}
