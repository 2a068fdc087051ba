"""A model small enough to draw: an embedding table times a matrix, as numpy computes it and as an ONNX file.

It stands for an artifact where what is tested is the judge, and costs nothing: no PyTorch on either side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WORDS, WIDTH = 30, 8
RNG = np.random.default_rng(5)
TABLE = RNG.standard_normal((WORDS, WIDTH)).astype(np.float32)
SEGMENTS = RNG.standard_normal((2, WIDTH)).astype(np.float32)
MATRIX = RNG.standard_normal((WIDTH, WIDTH)).astype(np.float32)
Arrays = Mapping[str, np.ndarray]


def answer(inputs: Arrays, dtype: type = np.float64) -> dict[str, np.ndarray]:
    """last_hidden_state (batch, sequence, 8) and pooler_output (batch, 8), the mean over valid tokens."""
    states = TABLE.astype(dtype)[inputs["input_ids"]]
    if "token_type_ids" in inputs:
        states = states + SEGMENTS.astype(dtype)[inputs["token_type_ids"]]
    states = np.tanh(states @ MATRIX.astype(dtype))
    mask = inputs["attention_mask"][:, :, None].astype(dtype)
    return {"last_hidden_state": states, "pooler_output": (states * mask).sum(axis=1) / mask.sum(axis=1)}


def draw(
    path: Path,
    *,
    inputs: Mapping[str, str] | None = None,
    outputs: Mapping[str, str] | None = None,
    shape: Sequence[str | int] = ("batch", "sequence"),
    kind: int = TensorProto.INT64,
    nudge: float = 0.0,
) -> Path:
    """Writes the model: `inputs` and `outputs` say how the file calls ours, in its order; `nudge` makes it wrong."""
    names = inputs or {name: name for name in ("input_ids", "attention_mask", "token_type_ids")}
    called = outputs or {name: name for name in ("last_hidden_state", "pooler_output")}
    matrix = MATRIX.copy()
    matrix[2, 3] += nudge
    nodes = [
        helper.make_node("Cast", [names["input_ids"]], ["ids"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("Cast", [names["attention_mask"]], ["flat"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["flat", "last"], ["mask"]),
    ]
    states = "words"
    if "token_type_ids" in names:
        nodes += [
            helper.make_node("Cast", [names["token_type_ids"]], ["kinds"], to=TensorProto.INT64),
            helper.make_node("Gather", ["segments", "kinds"], ["parts"]),
            helper.make_node("Add", ["words", "parts"], ["both"]),
        ]
        states = "both"
    state, pooled = (called.get(name, f"inner_{name}") for name in ("last_hidden_state", "pooler_output"))
    nodes += [
        helper.make_node("MatMul", [states, "matrix"], ["product"]),
        helper.make_node("Tanh", ["product"], [state]),
        helper.make_node("Mul", [state, "mask"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "one"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], [pooled]),
    ]
    shapes = {"last_hidden_state": [*shape, WIDTH], "pooler_output": [shape[0], WIDTH]}
    held = {"table": TABLE, "segments": SEGMENTS, "matrix": matrix, "last": np.array([2]), "one": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "drawn",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name in names.values()],
        [helper.make_tensor_value_info(theirs, TensorProto.FLOAT, shapes[ours]) for ours, theirs in called.items()],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def batches() -> dict[str, dict[str, np.ndarray]]:
    """Cases: whole, padded on the right, of two segments, one row of the length 5."""
    random = np.random.default_rng(7)

    def batch(rows: int, length: int) -> dict[str, np.ndarray]:
        ids = random.integers(0, WORDS, (rows, length))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}

    padded, split = batch(3, 7), batch(2, 9)
    padded["attention_mask"][1, 4:] = 0
    split["token_type_ids"][0, 3:] = 1
    return {"whole": batch(2, 6), "right-padded": padded, "segments": split, "alone": batch(1, 5)}
