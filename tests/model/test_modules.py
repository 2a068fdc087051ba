"""What is not understood of a sentence-transformers folder is refused: skipping it would be another embedding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bertx.errors import InputRefused
from bertx.model.embedding import embedder
from bertx.model.modules import build_pooling, read_pooling

TANH = "torch.nn.modules.activation.Tanh"
KINDS = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}


def write(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), "utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Mean pooling, one Dense layer from 4 to 2, normalised; written by hand."""
    names = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in KINDS.items()]
    write(tmp_path / "modules.json", names)
    write(tmp_path / "1_Pooling" / "config.json", {"embedding_dimension": 4, "pooling_mode": "mean"})
    write(
        tmp_path / "2_Dense" / "config.json",
        {"in_features": 4, "out_features": 2, "bias": True, "activation_function": TANH},
    )
    weights = {"linear.weight": torch.ones(2, 4), "linear.bias": torch.ones(2)}
    save_file(weights, tmp_path / "2_Dense" / "model.safetensors")
    return tmp_path


def edit(path: Path, **values: object) -> None:
    write(path, {**json.loads(path.read_text("utf-8")), **values})


def types(folder: Path, *kinds: str) -> None:
    paths = [*KINDS, "4_More"]
    write(folder / "modules.json", [{"path": paths[k], "type": kind} for k, kind in enumerate(kinds)])


def refused(folder: Path) -> str:
    with pytest.raises(InputRefused) as caught:
        build_pooling(read_pooling(folder))
    assert caught.value.code == "E_MODULES"
    assert len(str(caught.value).splitlines()) == 1
    return caught.value.message


def test_the_folder_as_it_stands_is_read(folder: Path) -> None:
    found = read_pooling(folder)
    assert (found.modes, [layer.activation for layer in found.dense], found.normalize) == (("mean",), ["Tanh"], True)


def test_an_unknown_module_is_named(folder: Path) -> None:
    names = [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "LayerNorm")]
    types(folder, *names)
    assert "module LayerNorm" in refused(folder)


def test_a_module_of_the_checkpoints_own_code_is_refused_whatever_it_is_called(folder: Path) -> None:
    types(folder, "custom_st.Transformer", "sentence_transformers.models.Pooling")
    assert refused(folder) == "module custom_st.Transformer is code of the checkpoint's own"


def test_a_chain_without_pooling_is_refused(folder: Path) -> None:
    types(folder, "sentence_transformers.models.Transformer", "sentence_transformers.models.Normalize")
    assert "do not begin with Transformer and Pooling" in refused(folder)


def test_a_layer_after_normalisation_is_refused(folder: Path) -> None:
    names = [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Normalize", "Dense")]
    types(folder, *names)
    assert "module Dense" in refused(folder)


def test_dropout_computes_nothing_here(folder: Path) -> None:
    names = [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Dropout")]
    types(folder, *names)
    assert read_pooling(folder).dense == ()


@pytest.mark.parametrize("path", ["../1_Pooling", "/etc", ""])
def test_a_module_outside_the_folder_is_refused(folder: Path, path: str) -> None:
    names = json.loads((folder / "modules.json").read_text("utf-8"))
    names[1]["path"] = path
    write(folder / "modules.json", names)
    assert "names the path" in refused(folder)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"pooling_mode": "median"}, "pooling modes ['median'] are unknown"),
        ({"pooling_mode": None}, "are unknown"),
        ({"include_prompt": False}, "leaves the prompt out"),
    ],
)
def test_pooling_that_an_artifact_cannot_do_is_refused(folder: Path, values: dict[str, Any], told: str) -> None:
    edit(folder / "1_Pooling" / "config.json", **values)
    assert told in refused(folder)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"activation_function": "torch.nn.modules.activation.Mish"}, "activation torch.nn.modules.activation.Mish"),
        ({"activation_function": "own.code.Tanh"}, "activation own.code.Tanh is unknown"),
        ({"use_residual": True}, "2_Dense has use_residual"),
        ({"module_input_name": "token_embeddings"}, "2_Dense has module_input_name = token_embeddings"),
        ({"bias": False}, "2_Dense holds linear.bias, linear.weight"),
    ],
)
def test_a_dense_layer_that_computes_otherwise_is_refused(folder: Path, values: dict[str, Any], told: str) -> None:
    edit(folder / "2_Dense" / "config.json", **values)
    assert told in refused(folder)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"linear.weight": torch.ones(2, 4)}, "2_Dense holds linear.weight"),
        ({"linear.weight": torch.ones(2, 4), "linear.bias": torch.ones(3)}, "2_Dense is misshapen"),
        ({"linear.weight": torch.ones(8), "linear.bias": torch.ones(2)}, "2_Dense holds misshapen tensors"),
        ({"linear.weight": torch.full((2, 4), torch.nan), "linear.bias": torch.ones(2)}, "linear.weight is not finite"),
        ({"linear.weight": torch.ones(2, 4).int(), "linear.bias": torch.ones(2)}, "linear.weight is not finite"),
    ],
)
def test_weights_of_a_dense_layer_are_strict(folder: Path, weights: dict[str, torch.Tensor], told: str) -> None:
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    assert told in refused(folder)


def test_a_dense_layer_without_weights_is_refused(folder: Path) -> None:
    (folder / "2_Dense" / "model.safetensors").unlink()
    assert "2_Dense has no weights that can be read" in refused(folder)


def test_a_dense_layer_in_a_bin_is_read_as_data(folder: Path) -> None:
    (before,) = read_pooling(folder).dense
    weights = before.weights()
    (folder / "2_Dense" / "model.safetensors").unlink()
    torch.save(weights, folder / "2_Dense" / "pytorch_model.bin")
    (after,) = read_pooling(folder).dense
    assert {name: tensor.tolist() for name, tensor in after.weights().items()} == {
        name: tensor.tolist() for name, tensor in weights.items()
    }


def test_a_dense_layer_in_half_precision_is_read(folder: Path) -> None:
    weights = {"linear.weight": torch.ones(2, 4).bfloat16(), "linear.bias": torch.ones(2).bfloat16()}
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    tokens, mask = torch.rand(1, 3, 4), torch.ones(1, 3, dtype=torch.int64)
    with torch.inference_mode():
        assert torch.allclose(build_pooling(read_pooling(folder))(tokens, mask), embedder(folder)(tokens, mask))


@pytest.mark.parametrize(
    "stated",
    [
        {"transformer_task": "fill-mask"},
        {"module_output_name": "sentence_embedding"},
        {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}},
        {"modality_config": {"image": {"method": "forward", "method_output_name": "last_hidden_state"}}},
    ],
)
def test_an_encoder_that_is_called_for_something_else_is_refused(folder: Path, stated: dict[str, Any]) -> None:
    write(folder / "sentence_bert_config.json", {"max_seq_length": 64, **stated})
    assert "sentence_bert_config.json" in refused(folder)


def test_an_encoder_that_is_called_for_its_tokens_is_read(folder: Path) -> None:
    text = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    stated = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
    write(folder / "sentence_bert_config.json", {**stated, "modality_config": text})
    assert read_pooling(folder).normalize


@pytest.mark.parametrize("text", ["{}", "[1]", "[", ""])
def test_a_malformed_list_of_modules_is_refused(folder: Path, text: str) -> None:
    (folder / "modules.json").write_text(text, "utf-8")
    assert "modules.json" in refused(folder)
