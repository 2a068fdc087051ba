"""What a trace of the wrapper may rely on: no sizes, no dtypes, no branches of the sample that it was made with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bertx.checkpoint import open_folder
from bertx.errors import InputRefused
from bertx.formats import ExportOptions, format_named
from bertx.model.loading import load
from bertx.model.probe import explicit_arguments
from bertx.model.stock import run_stock
from bertx.model.tasks import HIDDEN_STATES, TASKS
from bertx.model.wrapper import input_names, wrap
from families import make

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

FEATURES = TASKS["feature-extraction"]

#: families whose every operator follows the dtype of the weights; the others are exported at each dtype anew
MOVABLE = ("albert", "bert", "distilbert", "electra", "megatron-bert", "rembert", "roberta", "xlm-roberta")

#: rows: full, padded right, without a valid token, padded left
MASK = torch.tensor([[1] * 8, [1] * 5 + [0] * 3, [0] * 8, [0] * 2 + [1] * 6])


def inputs(names: tuple[str, ...], mask: torch.Tensor) -> dict[str, torch.Tensor]:
    ids = torch.arange(mask.numel()).reshape(mask.shape) % 150 + 5
    segments = (torch.arange(mask.shape[1]) > mask.shape[1] // 2).long().expand_as(ids)
    return {name: {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}[name] for name in names}


@pytest.fixture(scope="module")
def program(made: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """program(family) -> its TorchScript file at float32."""
    folder = tmp_path_factory.mktemp("programs")

    def once(family: str) -> Path:
        path = folder / f"{family}.pt"
        if not path.is_file():
            format_named("torchscript").write(open_folder(made(family)), FEATURES, ExportOptions(), path)
        return path

    return once


def answer(path: Path, given: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = torch.jit.load(path).to(dtype)(*given.values())
    return found


@pytest.mark.parametrize("family", MOVABLE)
def test_a_trace_moved_to_float64_is_eager_float64(made: Any, program: Any, family: str) -> None:
    checkpoint = open_folder(made(family))
    given = inputs(input_names(checkpoint), MASK)
    stock = load(checkpoint, FEATURES)
    stock.model.double()
    expected = run_stock(stock, given)[0]["last_hidden_state"]
    found = answer(program(family), given, torch.float64)
    assert found.dtype == torch.float64
    assert torch.allclose(found[MASK.bool()], expected[MASK.bool()], atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("family", MOVABLE)
def test_a_moved_trace_is_finite_even_for_a_row_without_a_valid_token(
    made: Any, program: Any, family: str, dtype: str
) -> None:
    kind = getattr(torch, dtype)
    found = answer(program(family), inputs(input_names(open_folder(made(family))), MASK), kind)
    assert found.dtype == kind
    assert found.isfinite().all()


@pytest.mark.parametrize("family", ["bert", "modernbert", "mpnet"])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 64), (5, 2)])
def test_a_trace_runs_at_every_size_that_the_model_has(
    made: Any, program: Any, family: str, batch: int, length: int
) -> None:
    checkpoint = open_folder(made(family))
    given = inputs(input_names(checkpoint), torch.ones(batch, length, dtype=torch.int64))
    expected, states = run_stock(load(checkpoint, FEATURES), given)
    assert torch.allclose(answer(program(family), given), expected["last_hidden_state"], atol=1e-5)
    with torch.inference_mode():
        stacked = torch.jit.load(program(family)).hidden_states(*given.values())
    assert stacked.shape == (len(states), batch, length, 32)
    assert torch.allclose(stacked, torch.stack(states), atol=1e-5)


def test_a_valid_row_does_not_depend_on_the_rows_beside_it(made: Any, program: Any) -> None:
    given = inputs(input_names(open_folder(made("bert"))), MASK)
    together = answer(program("bert"), given)
    for row in (0, 1, 3):
        alone = answer(program("bert"), {name: value[row : row + 1] for name, value in given.items()})
        keep = MASK[row].bool()
        assert torch.allclose(alone[0, keep], together[row, keep], atol=1e-5)


def test_inputs_and_outputs_are_signed_by_symbol(made: Any) -> None:
    checkpoint = open_folder(made("bert"))
    source = wrap(checkpoint, FEATURES, "float32", ("last_hidden_state", "pooler_output", HIDDEN_STATES), fused=False)
    assert {spec.name: spec.shape for spec in source.signature.inputs} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), ("batch", "sequence")
    )
    assert {spec.name: spec.shape for spec in source.signature.outputs} == {
        "last_hidden_state": ("batch", "sequence", 32),
        "pooler_output": ("batch", 32),
        "hidden_states": (3, "batch", "sequence", 32),
    }
    assert source.layers == 3


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("bert", {}, True),
        ("bert", {"type_vocab_size": 1}, False),
        ("roberta", {}, False),
        ("distilbert", {}, False),
        ("nomic_bert", {}, True),
    ],
)
def test_segments_are_an_input_where_there_is_more_than_one(
    made: Any, family: str, changes: dict[str, Any], expected: bool
) -> None:
    assert ("token_type_ids" in input_names(open_folder(made(family, **changes)))) is expected


@pytest.mark.parametrize(("family", "expected"), [("electra", True), ("xlm-roberta", True), ("distilbert", False)])
def test_segments_that_the_configuration_leaves_out_are_those_of_the_family(
    tmp_path: Path, family: str, expected: bool
) -> None:
    folder = make(family, tmp_path / family)
    values = json.loads((folder / "config.json").read_text("utf-8"))
    values.pop("type_vocab_size", None)
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    assert ("token_type_ids" in input_names(open_folder(folder))) is expected


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("bert", ("attention_mask", "position_ids")),
        ("roberta", ("attention_mask", "token_type_ids")),  # positions count from behind the padding id
        ("modernbert", ("position_ids",)),  # two masks, one of them a window
        ("xlm", ("position_ids",)),  # takes a two-dimensional mask only
        ("esm", ("position_ids",)),  # multiplies by its mask, too
    ],
)
def test_what_the_wrapper_builds_is_asked_of_the_model(made: Any, family: str, expected: tuple[str, ...]) -> None:
    checkpoint = open_folder(made(family))
    assert explicit_arguments(load(checkpoint, FEATURES), input_names(checkpoint)) == expected


def test_a_model_that_leaves_the_range_of_float16_is_refused_before_it_is_written(tmp_path: Path) -> None:
    folder = make("bert", tmp_path / "bert")
    tensors = load_file(folder / "model.safetensors")
    for name in ("encoder.layer.0.intermediate.dense.weight", "encoder.layer.0.output.dense.weight"):
        tensors[name] *= 2000
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert wrap(open_folder(folder), FEATURES, "float32", ("last_hidden_state",), fused=False)
    with pytest.raises(InputRefused, match="gives no finite last_hidden_state in float16; choose a --dtype of more"):
        wrap(open_folder(folder), FEATURES, "float16", ("last_hidden_state",), fused=False)
