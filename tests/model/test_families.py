"""Every encoder family of transformers: wrapped without a line of its own, or refused, and never published wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bertx.api import export
from bertx.checkpoint import Checkpoint, open_folder
from bertx.errors import BertxError, InputRefused
from bertx.formats import ExportOptions, format_named
from bertx.model.loading import load
from bertx.model.stock import run_stock
from bertx.model.tasks import TASKS
from bertx.model.wrapper import default_outputs, input_names, wrap
from bertx.parity.verify import VerifyOptions
from families import FAMILIES

FEATURES = TASKS["feature-extraction"]

#: families that no program of ids and a mask computes -> what the refusal says
REFUSED = {
    "bart": "has a decoder",
    "bros": "You have to specify bbox",
    "canine": "does not run on input_ids, attention_mask, token_type_ids of every size",
    "funnel": "does not run on input_ids, attention_mask of every size",
    "xmod": "Input language unknown",
}
#: what a format cannot hold or a runtime computes otherwise -> the code with which nothing is published
UNPUBLISHED = {
    ("fnet", "onnx"): "E_PARITY",  # ONNX Runtime's DFT is 20 times less accurate than PyTorch's
    ("longformer", "onnx"): "E_EXPORT",
    ("longformer", "torchscript"): "E_PARITY",  # chunks are counted in Python, so the trace fixes their number
    ("yoso", "torchscript"): "E_EXPORT",  # its attention is a Python function
}
WRAPPED = sorted(set(FAMILIES) - set(REFUSED))


def batches(checkpoint: Checkpoint, model: torch.nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Several sizes, the longest among them, each padded right, left, with holes, to one token, and with segments."""
    random = torch.Generator().manual_seed(0)
    padding = model.config.pad_token_id or 0  # type: ignore[union-attr]
    for batch, length in ((1, 1), (2, 2), (3, 17), (2, 9), (1, 64)):
        ids = torch.randint(0, 160, (batch, length), generator=random)
        full, zeros = torch.ones_like(ids), torch.zeros_like(ids)
        masks = {name: full.clone() for name in ("full", "right", "left", "holes", "lone")}
        masks["right"][0, length // 2 + 1 :] = 0
        masks["left"][0, : length // 2] = 0
        masks["holes"][-1, 1::3] = 0
        masks["lone"][-1, 1:] = 0
        for name, mask in masks.items():
            segments = (torch.arange(length) > length // 2).long().expand_as(ids) if name == "full" else zeros
            padded = torch.where(mask == 1, ids, padding) if name in ("right", "left") else ids
            named = {"input_ids": padded, "attention_mask": mask, "token_type_ids": segments}
            yield {key: named[key] for key in input_names(checkpoint)}


def furthest(folder: Path, *, fused: bool) -> float:
    """How far the wrapper is from the stock model at valid positions, as a part of the largest value."""
    checkpoint = open_folder(folder)
    outputs = default_outputs(checkpoint, FEATURES)
    stock = load(checkpoint, FEATURES)
    module = wrap(checkpoint, FEATURES, "float32", outputs, fused=fused).module
    worst = 0.0
    for batch in batches(checkpoint, stock.model):
        expected, states = run_stock(stock, batch)
        with torch.inference_mode():
            found = module.compute(**batch)
        expected |= {f"hidden_states.{k}": state for k, state in enumerate(states)}
        keep = batch["attention_mask"].bool()
        for name in (*outputs, *(f"hidden_states.{k}" for k in range(len(states)))):
            here, there = (x[keep] if x.shape[:2] == keep.shape else x for x in (found[name], expected[name]))
            assert here.shape == there.shape
            worst = max(worst, float((here - there).abs().max() / there.abs().max()))
    return worst


@pytest.mark.parametrize("family", WRAPPED)
def test_the_wrapper_computes_bit_for_bit_what_the_stock_model_does(made: Callable[..., Path], family: str) -> None:
    assert furthest(made(family), fused=False) == 0.0


@pytest.mark.parametrize("family", WRAPPED)
def test_the_fused_wrapper_differs_from_the_stock_model_by_rounding_only(
    made: Callable[..., Path], family: str
) -> None:
    # MobileBERT does not normalise: what enters its last layer is a hundred times larger than what it adds.
    assert furthest(made(family), fused=True) < (1e-3 if family == "mobilebert" else 1e-5)


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_a_family_that_needs_more_than_ids_and_a_mask_is_refused(made: Callable[..., Path], family: str) -> None:
    checkpoint = open_folder(made(family))
    with pytest.raises(InputRefused) as caught:
        wrap(checkpoint, FEATURES, "float32", ("last_hidden_state",), fused=False)
    assert caught.value.code in ("E_EXPORT", "E_TASK_UNSUPPORTED")
    assert REFUSED[family] in caught.value.message


def test_a_model_that_rewires_itself_by_the_size_of_its_input_is_refused(made: Callable[..., Path]) -> None:
    """BigBird computes full attention for good once it has seen a short text."""
    checkpoint = open_folder(made("big_bird", attention_type="block_sparse"))
    with pytest.raises(InputRefused, match=r"changes attention_type whenever it runs"):
        wrap(checkpoint, FEATURES, "float32", ("last_hidden_state",), fused=False)


@pytest.mark.parametrize("window", [8, 32])
def test_an_attention_window_longer_than_the_sample_is_kept(made: Callable[..., Path], window: int) -> None:
    assert furthest(made("modernbert", local_attention=window), fused=False) == 0.0


def test_a_family_exports_and_verifies_or_publishes_nothing(
    made: Callable[..., Path], tmp_path: Path, exported_family: str
) -> None:
    """The whole way: written, run in its runtime in a process of its own, judged, published."""
    checkpoint = open_folder(made(exported_family))
    options = VerifyOptions(cache=tmp_path / "cache")
    expected = {form: UNPUBLISHED.get((exported_family, form)) for form in ("torchscript", "onnx")}
    if exported_family in REFUSED:
        expected = dict.fromkeys(expected, "E_TASK_UNSUPPORTED" if exported_family == "bart" else "E_EXPORT")
    for form in (form for form, code in expected.items() if code):
        with pytest.raises(BertxError) as caught:
            export(checkpoint, [form], tmp_path / form, verify=options)
        assert caught.value.code == expected[form]
        assert not (tmp_path / form).exists()
    right = [form for form, code in expected.items() if code is None]
    if right:
        report = export(checkpoint, right, tmp_path / "bundle", verify=options).report
        assert report.verdict == "pass"
        assert [result.format for result in report.results if result.taps] == right


def test_a_trace_does_not_hold_the_size_of_its_sample(made: Callable[..., Path], tmp_path: Path) -> None:
    """The window reaches beyond the sample; the longest batch beyond the window."""
    path = tmp_path / "model.pt"
    checkpoint = open_folder(made("modernbert", local_attention=32))
    format_named("torchscript").write(checkpoint, FEATURES, ExportOptions(), path)
    stock, program = load(checkpoint, FEATURES), torch.jit.load(path)
    for batch in batches(checkpoint, stock.model):
        expected = run_stock(stock, batch)[0]["last_hidden_state"]
        with torch.inference_mode():
            found = program(*batch.values())
        keep = batch["attention_mask"].bool()
        assert torch.allclose(found[keep], expected[keep], atol=1e-5)
