"""Which of several names of one tensor is written, and LayerNorm's two spellings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bertx.checkpoint.naming import SPELLINGS, distinct, respelled, spelled
from bertx.checkpoint.tensors import TensorInfo
from bertx.checkpoint.torchfile import read_torch_file
from bertx.errors import InputRefused
from families import FAMILIES

WORDS = "bert.embeddings.word_embeddings.weight"
DECODER = "cls.predictions.decoder.weight"
#: those whose masked LM decodes with its input embeddings
TIED_FAMILIES = (
    "albert",
    "bert",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
TIED: dict[str, Any] = {"tie_word_embeddings": True}


def infos(tensors: dict[str, torch.Tensor], folder: Path) -> dict[str, TensorInfo]:
    torch.save(tensors, folder / "x.bin")
    return read_torch_file(folder / "x.bin")


@pytest.mark.parametrize(
    "order", [(WORDS, "cls.predictions.decoder.weight"), ("cls.predictions.decoder.weight", WORDS)]
)
def test_of_a_tied_pair_the_embeddings_are_kept_whichever_comes_first(tmp_path: Path, order: tuple[str, str]) -> None:
    tensor = torch.randn(5, 2)
    kept, aliases = distinct(infos(dict.fromkeys(order, tensor), tmp_path), TIED)
    assert (list(kept), aliases) == ([WORDS], {"cls.predictions.decoder.weight": WORDS})


def test_what_transformers_would_not_tie_again_is_written_under_both_names(tmp_path: Path) -> None:
    tensor = torch.randn(5, 2)
    tied = infos({WORDS: tensor, "cls.predictions.decoder.weight": tensor}, tmp_path)
    assert distinct(tied, {"tie_word_embeddings": False}) == (tied, {})
    shared = infos({"encoder.layer.0.weight": tensor, "encoder.layer.1.weight": tensor}, tmp_path)
    assert distinct(shared, TIED) == (shared, {})


def test_two_views_of_one_storage_are_two_tensors(tmp_path: Path) -> None:
    tensor = torch.randn(4, 4)
    views = infos({WORDS: tensor, "cls.predictions.decoder.weight": tensor.t(), "lm_head.weight": tensor[1:]}, tmp_path)
    assert distinct(views, TIED) == (views, {})


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_is_left_out_of_a_masked_lm_is_what_transformers_ties(tmp_path: Path, family: str) -> None:
    import transformers

    config = transformers.CONFIG_MAPPING[family](**FAMILIES[family])
    classes = transformers.AutoModelForMaskedLM._model_mapping
    if type(config) not in classes:
        pytest.skip(f"{family} has no masked LM")
    model = classes[type(config)](config)
    state = model.state_dict()
    _, aliases = distinct(infos(state, tmp_path), config.to_dict())
    assert aliases.keys() <= model.all_tied_weights_keys.keys()
    if family in TIED_FAMILIES:
        assert len(aliases) == 1


def test_layer_norms_are_respelled_and_nothing_else() -> None:
    names = {
        "bert.embeddings.LayerNorm.gamma": "bert.embeddings.LayerNorm.weight",
        "LayerNorm.beta": "LayerNorm.bias",
    }
    for legacy, modern in names.items():
        assert respelled(legacy, "torch") == respelled(modern, "torch") == modern
        assert respelled(legacy, "legacy") == respelled(modern, "legacy") == respelled(legacy, None) == legacy
    for name in ("layer_scale.gamma", "MyLayerNorm.gamma", "attention.output.dense.weight", "norm.weight"):
        assert {respelled(name, spelling) for spelling in SPELLINGS} == {name}


def test_two_tensors_never_get_one_name(tmp_path: Path) -> None:
    both = infos({"LayerNorm.gamma": torch.ones(2), "LayerNorm.weight": torch.ones(2)}, tmp_path)
    with pytest.raises(InputRefused, match=r"two tensors would be named LayerNorm\.weight"):
        spelled(both, "torch")
