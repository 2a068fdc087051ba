"""Why tract has an allowance: it adds up a matrix product in one running float32, PyTorch in blocks of products.

The order of additions is imitated here, number by number: what is said of it rests on nobody's library.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bertx.cli.options import cache_folder
from bertx.parity.compare import RMS_LIMIT
from bertx.runtimes import Job, registry
from bertx.runtimes.process import Limits, run
from bertx.runtimes.protocol import read_tensors, write_cases
from bertx.signature import Signature, TensorSpec
from program import ready_or_skip

#: products that PyTorch's matrix product (oneDNN's, with AVX-512) adds up before it adds their sum to the others
BLOCK = 192
TRACT = registry()["tract"]


def factors(rows: int, products: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices, of numbers as in an image and of weights."""
    rng = np.random.default_rng(products)
    weights = rng.standard_normal((products, columns)) / math.sqrt(products)
    return rng.random((rows, products), dtype=np.float32), weights.astype(np.float32)


def one_by_one(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Each sum in one running float32, multiplied and added with one rounding. (A product of float32 is exact in
    float64.)"""
    total = np.zeros((len(left), right.shape[1]), np.float32)
    wide, high = left.astype(np.float64), right.astype(np.float64)
    for k in range(left.shape[1]):
        total = (total + wide[:, k : k + 1] * high[k]).astype(np.float32)
    return total


def in_blocks(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The same of each block of products, then the sum of the blocks."""
    total = np.zeros((len(left), right.shape[1]), np.float32)
    for k in range(0, left.shape[1], BLOCK):
        total = total + one_by_one(left[:, k : k + BLOCK], right[k : k + BLOCK])
    return total


def in_short_blocks(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Sixteen sums side by side, as in one register, and then their sum in halves: a product with few rows."""
    lanes = [one_by_one(left[:, k::16], right[k::16]) for k in range(16)]
    while len(lanes) > 1:
        lanes = [one + other for one, other in zip(lanes[::2], lanes[1::2], strict=True)]
    return lanes[0]


def ratio(products: int) -> float:
    """How many times the error of blocks the error of one running sum is."""
    left, right = factors(16, products, 64)
    exact = left.astype(np.float64) @ right.astype(np.float64)
    errors = [np.sqrt(np.mean((made(left, right) - exact) ** 2)) for made in (one_by_one, in_blocks)]
    return float(errors[0] / errors[1])


@pytest.mark.parametrize("products", [768, 1536, 3072])
def test_one_running_sum_rounds_more_by_the_root_of_the_number_of_blocks(products: int) -> None:
    assert ratio(products) == pytest.approx(math.sqrt(products / BLOCK), rel=0.2)


def test_sums_as_long_as_those_of_the_guides_need_the_allowance_and_have_enough_of_it() -> None:
    assert RMS_LIMIT < ratio(3072) < RMS_LIMIT * TRACT.allowance


@pytest.mark.parametrize("products", [1536, 2048])
def test_sums_of_one_sign_need_more_of_it(products: int) -> None:
    """The sum grows all the way, and what is added late loses most: behind a ReLU, say. Sums side by side do not."""
    left, right = (abs(each) for each in factors(64, products, 64))
    exact = left.astype(np.float64) @ right.astype(np.float64)
    unit = 2.0 ** (math.floor(math.log2(np.sqrt(np.mean(exact**2)))) - 23)
    apart = np.sqrt(np.mean((one_by_one(left, right) - exact) ** 2)) / unit
    assert 2 * RMS_LIMIT < apart < RMS_LIMIT * TRACT.allowance
    assert np.sqrt(np.mean((in_short_blocks(left, right) - exact) ** 2)) < unit


def test_no_other_runtime_has_an_allowance() -> None:
    assert [name for name, runtime in registry().items() if runtime.allowance != 1.0] == ["tract"]


@pytest.mark.parametrize("rows", [1, 2, 7, 33])
def test_tract_adds_up_one_by_one_bit_for_bit(rows: int, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tract = ready_or_skip(TRACT.at(cache_folder()))
    left, right = factors(rows, 3072, 128)
    specs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("left", left.shape[1]), ("product", right.shape[1]))
    ]
    node = helper.make_node("MatMul", ["left", "right"], ["product"])
    graph = helper.make_graph([node], "product", specs[:1], specs[1:], [numpy_helper.from_array(right, "right")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(made, tmp_path / "model.onnx")
    job = Job(tmp_path / "model.onnx", tmp_path / "cases", tmp_path / "out", "cpu")
    inputs, outputs = (
        (TensorSpec(n, "float32", ("batch", s)),) for n, s in (("left", left.shape[1]), ("product", right.shape[1]))
    )
    write_cases(job.inputs, {"one": {"left": left}}, Signature(inputs, outputs), "module", "float32")
    ended = run(tract.command(job), Limits(60))
    assert ended.reason is None
    np.testing.assert_array_equal(read_tensors(job.outputs).arrays["one"]["product"], one_by_one(left, right))
