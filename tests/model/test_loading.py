"""Strict weights: every tensor present, used, of the right shape, floating point and finite, or the run is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bertx.checkpoint import open_folder
from bertx.errors import InputRefused
from bertx.model.loading import Loaded, load
from bertx.model.stock import run_stock
from bertx.model.tasks import TASKS
from bertx.model.wrapper import default_outputs
from families import make, make_class
from program import package_folder

Tensors = dict[str, torch.Tensor]

DENSE = "encoder.layer.1.output.dense.weight"
BIAS = "encoder.layer.0.attention.self.query.bias"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A bare BERT with a pooler, free to be damaged."""
    return make("bert", tmp_path / "bert")


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A BertForPreTraining: pooler, masked-LM head and next-sentence head."""
    return make_class("BertForPreTraining", tmp_path / "pretrained")


def change(folder: Path, edit: Callable[[Tensors], object]) -> Path:
    """Applies `edit` to the tensors of a checkpoint, in place."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def configure(folder: Path, **values: object) -> Path:
    path = folder / "config.json"
    stated = {**json.loads(path.read_text("utf-8")), **values}
    path.write_text(json.dumps({key: value for key, value in stated.items() if value is not None}), "utf-8")
    return folder


def loaded(folder: Path, task: str = "feature-extraction") -> Loaded:
    return load(open_folder(folder), TASKS[task])


def refused(folder: Path, task: str = "feature-extraction", code: str = "E_WEIGHTS") -> str:
    """The message of the refusal: one line."""
    with pytest.raises(InputRefused) as caught:
        loaded(folder, task)
    assert caught.value.code == code
    assert len(str(caught.value).splitlines()) == 1
    return caught.value.message


def answer(folder: Path, task: str, output: str) -> torch.Tensor:
    ids = torch.arange(12).reshape(2, 6) + 5
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    return run_stock(loaded(folder, task), inputs)[0][output]


# What is refused


def test_a_missing_tensor_is_named(bert: Path) -> None:
    assert f"1 tensor is missing: {DENSE}" in refused(change(bert, lambda tensors: tensors.pop(DENSE)))


def test_a_tensor_of_no_model_of_the_family_is_named(bert: Path) -> None:
    message = refused(change(bert, lambda tensors: tensors.update({"adapter.down.weight": torch.ones(2)})))
    assert message == "1 tensor is of no bert model: adapter.down.weight"


def test_a_layer_beyond_the_configuration_is_named(bert: Path) -> None:
    assert f"of no bert model: {DENSE.replace('.1.', '.2.')}" in refused(
        change(bert, lambda tensors: tensors.update({DENSE.replace(".1.", ".2."): tensors[DENSE].clone()}))
    )


def test_a_misshapen_tensor_is_named_with_both_shapes(bert: Path) -> None:
    message = refused(change(bert, lambda tensors: tensors.update({DENSE: torch.ones(32, 47)})))
    assert message == f"misshapen: {DENSE} is (32, 47), the model needs (32, 48)"


def test_a_tensor_that_would_broadcast_is_misshapen(bert: Path) -> None:
    message = refused(change(bert, lambda tensors: tensors.update({BIAS: torch.ones(1)})))
    assert message == f"misshapen: {BIAS} is (1,), the model needs (32,)"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_that_is_not_finite_is_named(bert: Path, value: float) -> None:
    assert f"not finite: {DENSE}" in refused(change(bert, lambda tensors: tensors[DENSE].view(-1)[7].fill_(value)))


def test_a_tensor_of_integers_is_named(bert: Path) -> None:
    message = refused(change(bert, lambda tensors: tensors.update({DENSE: tensors[DENSE].to(torch.int32)})))
    assert message == f"{DENSE}: of type I32"


def test_an_unknown_prefix_is_refused(bert: Path) -> None:
    def prefix(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[f"module.{name}"] = tensors.pop(name)

    assert "tensors are missing: embeddings.LayerNorm.bias" in refused(change(bert, prefix))


@pytest.mark.parametrize("task", ["fill-mask", "text-classification", "token-classification", "question-answering"])
def test_a_head_without_weights_is_never_invented(bert: Path, task: str) -> None:
    assert "tensors are missing" in refused(bert, task)


def test_a_classifier_is_not_given_an_invented_pooler(tmp_path: Path) -> None:
    folder = make("bert", tmp_path / "classifier", "text-classification")
    message = refused(change(folder, lambda tensors: tensors.pop("bert.pooler.dense.weight")), "text-classification")
    assert "missing: bert.pooler.dense.weight" in message

    message = refused(change(folder, lambda tensors: tensors.pop("bert.pooler.dense.bias")), "text-classification")
    assert "2 tensors are missing: bert.pooler.dense.bias, bert.pooler.dense.weight" in message


def test_half_a_pooler_is_refused(bert: Path) -> None:
    assert "missing: pooler.dense.bias" in refused(change(bert, lambda tensors: tensors.pop("pooler.dense.bias")))


def test_a_weight_beyond_float16_is_named_where_float16_is_asked_for(bert: Path) -> None:
    change(bert, lambda tensors: tensors[DENSE].mul_(1e6))
    with pytest.raises(InputRefused, match=f"not finite: {DENSE}; or float16 cannot hold them: try --dtype bfloat16"):
        load(open_folder(bert), TASKS["feature-extraction"], dtype="float16")


def test_a_model_type_that_disagrees_with_the_architecture_is_refused(bert: Path) -> None:
    message = refused(configure(bert, architectures=["RobertaModel"]), code="E_CONFIG")
    assert message == "config.json states model type bert but architecture RobertaModel"


def test_an_architecture_that_transformers_does_not_have_is_refused(bert: Path) -> None:
    message = refused(configure(bert, architectures=["BertForEverything"]), code="E_CONFIG")
    assert message == "transformers has no architecture BertForEverything"


def test_a_name_of_transformers_that_is_no_model_is_no_architecture(bert: Path) -> None:
    assert "has no architecture BertTokenizer" in refused(
        configure(bert, architectures=["BertTokenizer"]), code="E_CONFIG"
    )


def test_an_unknown_model_type_is_refused(bert: Path) -> None:
    message = refused(configure(bert, model_type="bertha"), code="E_CONFIG")
    assert message == "transformers does not know the model type bertha"


def test_an_adapter_is_refused(bert: Path) -> None:
    (bert / "adapter_config.json").write_text('{"peft_type": "LORA"}', "utf-8")
    assert "holds an adapter (adapter_config.json)" in refused(bert, code="E_CONFIG")


def test_a_quantized_checkpoint_is_refused(bert: Path) -> None:
    configure(bert, quantization_config={"quant_method": "bitsandbytes"})
    assert "quantization_config" in refused(bert, code="E_CONFIG")


def test_a_configuration_that_its_class_rejects_is_refused(bert: Path) -> None:
    assert "cannot load" in refused(configure(bert, num_attention_heads=5), code="E_WEIGHTS")


# What is accepted


def test_a_whole_checkpoint_leaves_nothing_unused(bert: Path) -> None:
    found = loaded(bert)
    assert (found.unused, found.pooler, found.head, found.model.training) == ((), True, "BertModel", False)


def test_without_pooler_weights_there_is_no_pooler_output_and_the_tokens_are_the_same(bert: Path) -> None:
    before = answer(bert, "feature-extraction", "last_hidden_state")
    change(bert, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("pooler.")])
    assert default_outputs(open_folder(bert), TASKS["feature-extraction"]) == ("last_hidden_state",)
    assert loaded(bert).pooler is False
    assert torch.equal(answer(bert, "feature-extraction", "last_hidden_state"), before)
    with pytest.raises(KeyError):
        answer(bert, "feature-extraction", "pooler_output")


def test_a_pooler_that_cannot_be_left_out_is_zeros_never_random(tmp_path: Path) -> None:
    folder = make("layoutlm", tmp_path / "layoutlm")
    change(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "pooler." in name])
    found = loaded(folder)
    assert found.pooler is False
    assert not found.model.pooler.dense.weight.any()


def test_the_pooler_of_a_head_is_not_the_pooler_of_the_model(tmp_path: Path) -> None:
    folder = make("deberta-v2", tmp_path / "classifier", "text-classification")
    assert "pooler.dense.weight" in open_folder(folder).weights
    assert default_outputs(open_folder(folder), TASKS["feature-extraction"]) == ("last_hidden_state",)
    assert loaded(folder).unused == ("classifier.bias", "classifier.weight", "pooler.dense.bias", "pooler.dense.weight")


def test_heads_of_pretraining_are_known_and_unused_by_features(pretrained: Path) -> None:
    found = loaded(pretrained)
    assert "cls.seq_relationship.weight" in found.unused
    assert "cls.predictions.transform.dense.weight" in found.unused
    assert found.pooler is True


def test_a_masked_lm_that_carries_its_pretraining_is_accepted(pretrained: Path) -> None:
    """As bert-base-uncased does: architectures says BertForMaskedLM, pooler and next-sentence head are there."""
    found = loaded(configure(pretrained, architectures=["BertForMaskedLM"]), "fill-mask")
    assert found.head == "BertForMaskedLM"
    assert set(found.unused) == {
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "cls.seq_relationship.bias",
        "cls.seq_relationship.weight",
    }


def test_a_bare_checkpoint_and_a_prefixed_one_are_the_same_model(pretrained: Path, tmp_path: Path) -> None:
    tensors = load_file(pretrained / "model.safetensors")
    bare = make("bert", tmp_path / "bare", seed=1)
    own = {name.removeprefix("bert."): tensor for name, tensor in tensors.items() if name.startswith("bert.")}
    save_file(own, bare / "model.safetensors", metadata={"format": "pt"})
    name = "last_hidden_state"
    assert torch.equal(answer(bare, "feature-extraction", name), answer(pretrained, "feature-extraction", name))


def test_gamma_and_beta_are_weight_and_bias(pretrained: Path) -> None:
    def old(tensors: Tensors) -> None:
        for name in [name for name in tensors if "LayerNorm" in name]:
            tensors[name.replace("weight", "gamma").replace("bias", "beta")] = tensors.pop(name)

    before = answer(pretrained, "fill-mask", "logits")
    assert torch.equal(answer(change(pretrained, old), "fill-mask", "logits"), before)


def test_a_tied_decoder_may_be_left_out_or_written_out(pretrained: Path) -> None:
    words = "bert.embeddings.word_embeddings.weight"
    assert "cls.predictions.decoder.weight" not in open_folder(pretrained).weights
    before = answer(pretrained, "fill-mask", "logits")
    change(pretrained, lambda t: t.update({"cls.predictions.decoder.weight": t[words].clone()}))
    change(pretrained, lambda t: t.update({"cls.predictions.decoder.bias": t["cls.predictions.bias"].clone()}))
    assert torch.equal(answer(pretrained, "fill-mask", "logits"), before)


def test_a_decoder_of_its_own_is_not_overwritten_by_the_embeddings(pretrained: Path) -> None:
    words = "bert.embeddings.word_embeddings.weight"
    before = answer(pretrained, "fill-mask", "logits")
    change(pretrained, lambda t: t.update({"cls.predictions.decoder.weight": t[words] * 2}))
    bias = load_file(pretrained / "model.safetensors")["cls.predictions.bias"]
    assert torch.allclose(answer(pretrained, "fill-mask", "logits") - bias, 2 * (before - bias), atol=1e-4)


def test_buffers_that_older_versions_wrote_are_kept_and_reported(bert: Path) -> None:
    positions = {"embeddings.position_ids": torch.arange(64)[None]}
    assert loaded(change(bert, lambda tensors: tensors.update(positions))).unused == ("embeddings.position_ids",)


@pytest.mark.parametrize("zip_format", [True, False])
def test_weights_of_torch_save_are_loaded_by_our_own_reader(
    pretrained: Path, zip_format: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = answer(pretrained, "fill-mask", "logits")
    tensors = load_file(pretrained / "model.safetensors")
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.transform.dense.weight"] = (
        tensors["cls.predictions.transform.dense.weight"].t().clone().t()
    )
    torch.save(tensors, pretrained / "pytorch_model.bin", _use_new_zipfile_serialization=zip_format)
    (pretrained / "model.safetensors").unlink()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load unpickles"))
    assert torch.equal(answer(pretrained, "fill-mask", "logits"), before)


def test_loading_does_not_touch_the_random_state(bert: Path) -> None:
    before = torch.random.get_rng_state()
    loaded(bert)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_weights_arrive_at_the_dtype_asked_for(bert: Path, dtype: str) -> None:
    model = load(open_folder(bert), TASKS["feature-extraction"], dtype=dtype).model
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_a_real_masked_lm_with_old_names_and_a_tied_decoder_loads() -> None:
    found = loaded(package_folder("cognition", "model"), "fill-mask")
    assert found.head == "BertForMaskedLM"
    assert any(name.endswith("gamma") for name in open_folder(package_folder("cognition", "model")).weights)
    decoder, words = found.model.get_output_embeddings(), found.model.get_input_embeddings()
    assert decoder.weight is words.weight
