"""Files of other exporters: their names, orders and kinds of inputs and outputs, found out without running them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto

from bertx import api
from bertx.cli.tables import report_table
from bertx.formats.torchscript import arguments
from bertx.parity.binding import bind, filled
from bertx.parity.options import VerifyOptions
from bertx.parity.report import Report, Result
from bertx.signature import Signature, TensorSpec
from parity.drawn import MATRIX, SEGMENTS, TABLE, draw, record

IDS, MASK, SEGMENT = NAMES = ("input_ids", "attention_mask", "token_type_ids")
STATE, POOLED = "last_hidden_state", "pooler_output"
OURS = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in NAMES)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("foreign") / "golden")


def report(artifact: Path, recording: Path) -> Report:
    options = VerifyOptions(("onnxruntime", "torchscript"), device="cpu", trust=True)
    return api.verify(artifact, recording, options=options).report


def judged(artifact: Path, recording: Path) -> Result:
    return next(result for result in report(artifact, recording).results if result.runtime != "none")


@pytest.mark.parametrize(
    "inputs",
    [
        {IDS: "ids", MASK: "mask", SEGMENT: "segments"},
        {IDS: "input.1", MASK: "input.2", SEGMENT: "input.3"},
        {IDS: IDS, SEGMENT: SEGMENT, MASK: MASK},
        {IDS: "x", SEGMENT: "segment_ids", MASK: "input_mask"},
        {MASK: "mask", SEGMENT: "type_ids", IDS: "tokens"},
    ],
    ids=lambda names: "-".join(names.values()),
)
def test_inputs_are_fed_whatever_they_are_called_and_in_whatever_order(
    inputs: Mapping[str, str], recording: Path, tmp_path: Path
) -> None:
    result = judged(draw(tmp_path / "model.onnx", inputs=inputs), recording)
    assert (result.verdict, dict(result.inputs)) == ("pass", {theirs: ours for ours, theirs in inputs.items()})


@pytest.mark.parametrize(
    "kinds",
    [
        dict.fromkeys(NAMES, TensorProto.INT32),
        {MASK: TensorProto.FLOAT},
        {MASK: TensorProto.BOOL},
    ],
    ids=["int32", "float-mask", "boolean-mask"],
)
def test_inputs_of_another_type_are_fed_in_it(kinds: Mapping[str, int], recording: Path, tmp_path: Path) -> None:
    assert judged(draw(tmp_path / "model.onnx", kinds=kinds), recording).verdict == "pass"


@pytest.mark.parametrize(
    ("outputs", "matched"),
    [
        ({STATE: "1234", POOLED: "1235"}, {STATE: "1234", POOLED: "1235"}),
        ({POOLED: "embedding"}, {POOLED: "embedding"}),
        ({"extra": "a", STATE: "b"}, {STATE: "b"}),
        ({POOLED: POOLED, "extra": "a", STATE: "b"}, {STATE: "b"}),
        ({STATE: STATE, "extra": "a"}, {}),
    ],
    ids=lambda value: "-".join(value.values()) or "none",
)
def test_outputs_are_recognised_by_name_or_by_what_they_equal(
    outputs: Mapping[str, str], matched: Mapping[str, str], recording: Path, tmp_path: Path
) -> None:
    result = judged(draw(tmp_path / "model.onnx", outputs=outputs), recording)
    assert (result.verdict, dict(result.matched)) == ("pass", matched)
    assert {row.name for row in result.outputs} == set(outputs) - {"extra"}
    extra = [outputs["extra"]] if "extra" in outputs else []
    assert (list(result.unjudged), result.to_json()["unjudged"]) == (extra, extra)


def test_a_wrong_output_under_another_name_fails(recording: Path, tmp_path: Path) -> None:
    artifact = draw(tmp_path / "model.onnx", outputs={STATE: "y"}, nudge=1e-2)
    assert judged(artifact, recording).verdict == "fail"


def test_an_extra_output_in_the_place_of_the_tasks_own_is_not_passed_over(recording: Path, tmp_path: Path) -> None:
    result = judged(draw(tmp_path / "model.onnx", outputs={POOLED: POOLED, "extra": "embeddings"}), recording)
    assert result.verdict == "not-run"
    assert result.reason == f"{STATE} is missing, and embeddings, which has its shape, is not it"
    pooled = judged(draw(tmp_path / "pooled.onnx", outputs={POOLED: POOLED}), recording)
    assert pooled.verdict == "pass"


def test_the_table_says_what_was_fed_and_read(recording: Path, tmp_path: Path) -> None:
    artifact = draw(tmp_path / "model.onnx", inputs={IDS: "x", MASK: MASK, SEGMENT: SEGMENT}, outputs={STATE: "y"})
    text = report_table(report(artifact, recording))
    assert f"model.onnx in onnxruntime: x is fed {IDS}, y is read as {STATE}" in text
    assert "nothing was compared" not in text
    artifact = draw(tmp_path / "model.onnx", outputs={STATE: STATE, "extra": "more"})
    text = report_table(report(artifact, recording))
    assert "model.onnx in onnxruntime: nothing was compared with more" in text


@pytest.mark.parametrize(
    "names", [("input_ids", "attention_mask", "token_type_ids", "pixels"), ("input_ids", "position_ids"), ()], ids=str
)
def test_an_input_that_nothing_fits_is_no_verdict(names: tuple[str, ...]) -> None:
    stated = Signature(tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in names), ())
    assert "cannot be matched" in str(bind(stated, OURS).problem)


def test_segments_that_the_reference_does_not_take_are_zeros() -> None:
    stated = Signature(OURS, ())
    binding = bind(stated, OURS[:2])
    assert binding.problem is None
    specs = binding.fed(stated, OURS[:2])
    assert [spec.name for spec in specs] == list(NAMES)
    ids = np.arange(1, 7).reshape(2, 3)
    fed = filled({IDS: ids, MASK: ids}, binding, specs)
    assert (fed[SEGMENT].shape, fed[SEGMENT].any()) == ((2, 3), False)


class Drawn(torch.nn.Module):
    """The drawn model; `gives` says in what."""

    def __init__(self, gives: str) -> None:
        super().__init__()
        self.gives = gives
        for name, array in (("table", TABLE), ("segments", SEGMENTS), ("matrix", MATRIX)):
            self.register_buffer(name, torch.from_numpy(array.copy()))

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        states = torch.tanh((self.table[input_ids] + self.segments[token_type_ids]) @ self.matrix)  # type: ignore[index]
        mask = attention_mask[:, :, None].to(states)
        pooled = (states * mask).sum(1) / mask.sum(1)
        kinds = {"tuple": (pooled, states), "dict": {STATE: states, POOLED: pooled}, "one": states}
        return kinds[self.gives]


class Swapped(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Drawn("one")

    def forward(self, input_ids: Any, token_type_ids: Any, attention_mask: Any) -> Any:
        return self.inner(input_ids, attention_mask, token_type_ids)


def traced(module: torch.nn.Module, path: Path) -> Path:
    sample = (
        torch.ones(2, 7, dtype=torch.long),
        torch.ones(2, 7, dtype=torch.long),
        torch.ones(2, 7, dtype=torch.long),
    )
    torch.jit.save(torch.jit.trace(module, sample, check_trace=False, strict=False), str(path))
    return path


def test_the_arguments_of_a_torchscript_file_are_read_and_not_run(tmp_path: Path) -> None:
    assert arguments(traced(Drawn("one"), tmp_path / "one.pt")) == NAMES
    assert arguments(traced(Swapped(), tmp_path / "two.pt")) == (IDS, SEGMENT, MASK)
    (tmp_path / "none.pt").write_bytes(b"PK\x05\x06" + bytes(18))
    assert arguments(tmp_path / "none.pt") is None


@pytest.mark.parametrize(
    ("gives", "matched"),
    [("one", {STATE: "output"}), ("tuple", {STATE: "output_1", POOLED: "output_0"}), ("dict", {})],
)
def test_torchscript_may_give_a_tensor_a_tuple_or_a_dict(
    gives: str, matched: Mapping[str, str], recording: Path, tmp_path: Path
) -> None:
    result = judged(traced(Drawn(gives), tmp_path / "model.pt"), recording)
    assert (result.verdict, dict(result.matched)) == ("pass", matched)


def test_torchscript_is_fed_in_its_own_order(recording: Path, tmp_path: Path) -> None:
    result = judged(traced(Swapped(), tmp_path / "model.pt"), recording)
    assert (result.verdict, list(result.inputs)) == ("pass", [IDS, SEGMENT, MASK])


class Training(torch.nn.Module):
    """The drawn model, and dropout where it is in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.jit.trace(Drawn("one"), (torch.ones(2, 7, dtype=torch.long),) * 3, check_trace=False)
        self.dropout = torch.nn.Dropout(0.1)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        return self.dropout(self.inner(input_ids, attention_mask, token_type_ids))


@pytest.mark.parametrize(("training", "verdict"), [(False, "pass"), (True, "fail")])
def test_torchscript_is_judged_in_the_mode_in_which_it_was_saved(
    training: bool, verdict: str, recording: Path, tmp_path: Path
) -> None:
    torch.jit.save(torch.jit.script(Training().train(training)), str(tmp_path / "model.pt"))
    assert judged(tmp_path / "model.pt", recording).verdict == verdict


def halved(self: Any, given: tuple[torch.Tensor, torch.Tensor, torch.Tensor], made: torch.Tensor) -> torch.Tensor:
    return made / 2


def test_torchscript_with_hooks_which_not_every_program_runs_fails(recording: Path, tmp_path: Path) -> None:
    module = Training().eval()
    module.register_forward_hook(halved)
    torch.jit.save(torch.jit.script(module), str(tmp_path / "model.pt"))
    result = judged(tmp_path / "model.pt", recording)
    assert result.verdict == "fail"
    assert "hooks stand around forward" in str(result.reason)
