"""Image models go the way of text models: one input, pixel_values, whose batch moves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import transformers
from onnx import numpy_helper

import bertx
from bertx.checkpoint import open_folder
from bertx.errors import InputRefused
from bertx.model.pictures import picture_spec, takes_pictures
from bertx.model.tasks import TASKS, resolve_task
from bertx.model.wrapper import wrap
from bertx.parity.options import VerifyOptions

_ATTENTION = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "vit": _ATTENTION,
    "deit": _ATTENTION,
    "beit": _ATTENTION,
    "dinov2": _ATTENTION,
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 32},
}
CLASSES = TASKS["image-classification"]


def make(family: str, folder: Path) -> Path:
    """A tiny classifier of five classes, its weights of unit scale, its batch statistics not those of a new model."""
    config = transformers.CONFIG_MAPPING[family](**FAMILIES[family], num_labels=5)
    found = transformers.AutoModelForImageClassification._model_mapping[type(config)]
    model = (found[0] if isinstance(found, tuple) else found)(config)
    generator = torch.Generator().manual_seed(0)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=generator)
            scale = value[0].numel() ** -0.5 if value.ndim > 1 else 0.1
            value.data = drawn.abs() + 0.5 if name.endswith("running_var") else value.data + scale * drawn
    model.save_pretrained(folder)
    if family == "resnet":
        (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 32}}), "utf-8")
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trace_is_what_the_stock_model_computes_at_another_batch(family: str, tmp_path: Path) -> None:
    checkpoint = open_folder(make(family, tmp_path / family))
    assert resolve_task(None, checkpoint.config.architectures, checkpoint.folder) == CLASSES
    source = wrap(checkpoint, CLASSES, "float32", ("logits",), fused=True)
    (spec,) = source.signature.inputs
    assert (spec.name, spec.dtype, spec.shape[:2]) == ("pixel_values", "float32", ("batch", 3))
    assert source.signature.outputs[0].shape == ("batch", 5)
    with torch.no_grad():
        traced = torch.jit.trace(source.module, tuple(source.samples.values()), check_trace=False)
        pictures = torch.randn(5, *source.samples["pixel_values"].shape[1:])
        stock = source.module.model(pixel_values=pictures).logits
        assert torch.equal(traced(pictures), stock)


@pytest.mark.parametrize(
    ("values", "taken"),
    [
        ({"num_channels": 3, "image_size": 8}, True),
        ({"num_channels": 3, "vocab_size": 8192, "model_type": "beit"}, True),
        ({"num_channels": 3, "vocab_size": 30522, "model_type": "layoutlmv3"}, False),
        ({"num_channels": 3, "text_config": {}}, False),
        ({"vocab_size": 30522}, False),
    ],
)
def test_a_model_of_pictures_is_known_by_its_configuration(values: dict[str, Any], taken: bool) -> None:
    assert takes_pictures(values) is taken


def test_the_size_is_the_processors_where_the_configuration_has_none(tmp_path: Path) -> None:
    folder = make("resnet", tmp_path / "resnet")
    assert picture_spec(open_folder(folder)).shape == ("batch", 3, 32, 32)
    (folder / "preprocessor_config.json").unlink()
    assert picture_spec(open_folder(folder)).shape == ("batch", 3, 224, 224)


def test_a_size_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = make("vit", tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "image_size": 10**9}), "utf-8")
    with pytest.raises(InputRefused, match="states pictures of"):
        picture_spec(open_folder(folder))


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> VerifyOptions:
    cache = tmp_path_factory.mktemp("cache")
    return VerifyOptions(device="cpu", cache=cache, runtimes=("onnxruntime",))


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_its_onnx_file_passes_and_one_with_another_weight_fails(
    family: str, options: VerifyOptions, tmp_path: Path
) -> None:
    made = bertx.export(str(make(family, tmp_path / family)), ["onnx"], tmp_path / "out", verify=options)
    (result,) = made.report.results
    assert (result.verdict, result.outputs[0].name) == ("pass", "logits")
    assert [row.name for row in result.taps] == ([f"hidden_states.{k}" for k in range(3)] if family == "vit" else [])
    path = made.folder / "onnx" / "model.onnx"
    model = onnx.load(str(path))
    tensor = next(each for each in model.graph.initializer if len(each.dims) == 4)
    array = numpy_helper.to_array(tensor).copy()
    array[1, 1, 1, 1] += 1e-2
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, str(path))
    assert bertx.verify(path, str(tmp_path / family), options=options).report.verdict == "fail"


@pytest.mark.parametrize("batch", [1, 5])
def test_a_file_that_fixes_its_batch_is_judged_at_that_batch(
    batch: int, options: VerifyOptions, tmp_path: Path
) -> None:
    source = make("vit", tmp_path / "vit")
    made = bertx.export(str(source), ["onnx"], tmp_path / "out", verify=None)
    model = onnx.load(str(made.folder / "onnx" / "model.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(model, str(tmp_path / "right.onnx"))
    norm = [node for node in model.graph.node if node.op_type == "LayerNormalization"][1]
    next(each for each in norm.attribute if each.name == "epsilon").f = 1e-2
    onnx.save(model, str(tmp_path / "wrong.onnx"))
    right = bertx.verify(tmp_path / "right.onnx", str(source), options=options).report
    (result,) = right.results
    assert (right.verdict, result.verdict, result.static) == ("incomplete", "pass", {"batch": batch})
    assert all(case.count == 5 * batch for case in result.outputs[0].cases)
    allowed = replace(options, allow_static=True)
    assert bertx.verify(tmp_path / "right.onnx", str(source), options=allowed).report.verdict == "pass"
    wrong = bertx.verify(tmp_path / "wrong.onnx", str(source), options=allowed).report
    assert wrong.verdict == "fail"
    assert wrong.results[0].first_bad_part is not None


@pytest.mark.parametrize(("family", "verdict"), [("convnext", "pass"), ("vit", "not-run")])
def test_a_file_that_fixes_another_size_is_judged_at_that_size_where_the_model_takes_it(
    family: str, verdict: str, tmp_path: Path
) -> None:
    folder, path = make(family, tmp_path / family), tmp_path / "model.onnx"
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: Any) -> Any:
            more = {"interpolate_pos_encoding": True} if family == "vit" else {}
            return self.model(pixel_values, **more).logits

    names, moving = {"input_names": ["pixel_values"], "output_names": ["logits"]}, {"pixel_values": {0: "batch"}}
    picture = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    torch.onnx.export(Logits(), (picture,), str(path), dynamo=False, opset_version=17, dynamic_axes=moving, **names)
    options = VerifyOptions(runtimes=("onnxruntime",))
    (result,) = bertx.verify(path, str(folder), options=options).report.results
    assert result.verdict == verdict, result
