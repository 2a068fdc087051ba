"""A model small enough to draw: an embedding table times a matrix, as numpy computes it and as an ONNX file.

It stands for an artifact where what is tested is the judge, and costs nothing: no PyTorch on either side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bertx.parity.golden import CASES, EXPECTED
from bertx.runtimes.protocol import write_cases, write_outputs
from bertx.signature import BATCH, SEQUENCE, Signature, TensorSpec

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
    kinds: Mapping[str, int] | None = None,
    nudge: float = 0.0,
) -> Path:
    """Writes the model: `inputs` and `outputs` say how the file calls ours, in its order; `kinds` are types other than
    int64 by our name; "extra" is an output of no meaning; `nudge` makes the model wrong."""
    names = inputs or {name: name for name in ("input_ids", "attention_mask", "token_type_ids")}
    called = outputs or {name: name for name in ("last_hidden_state", "pooler_output")}
    matrix = MATRIX.copy()
    matrix[2, 3] += nudge
    nodes = [
        helper.make_node("Cast", [names["input_ids"]], ["_ids"], to=TensorProto.INT64),
        helper.make_node("Gather", ["_table", "_ids"], ["_words"]),
        helper.make_node("Cast", [names["attention_mask"]], ["_flat"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["_flat", "_last"], ["_mask"]),
    ]
    states = "_words"
    if "token_type_ids" in names:
        nodes += [
            helper.make_node("Cast", [names["token_type_ids"]], ["_kinds"], to=TensorProto.INT64),
            helper.make_node("Gather", ["_segments", "_kinds"], ["_parts"]),
            helper.make_node("Add", ["_words", "_parts"], ["_both"]),
        ]
        states = "_both"
    state, pooled = (called.get(name, f"inner_{name}") for name in ("last_hidden_state", "pooler_output"))
    nodes += [
        helper.make_node("MatMul", [states, "_matrix"], ["_product"]),
        helper.make_node("Tanh", ["_product"], [state]),
        helper.make_node("Mul", [state, "_mask"], ["_kept"]),
        helper.make_node("ReduceSum", ["_kept", "_one"], ["_sum"], keepdims=0),
        helper.make_node("ReduceSum", ["_mask", "_one"], ["_count"], keepdims=0),
        helper.make_node("Div", ["_sum", "_count"], [pooled]),
    ]
    if "extra" in called:
        nodes.append(helper.make_node("Neg", [state], [called["extra"]]))
    shapes = {"extra": [*shape, WIDTH], "last_hidden_state": [*shape, WIDTH], "pooler_output": [shape[0], WIDTH]}
    held = {"table": TABLE, "segments": SEGMENTS, "matrix": matrix, "last": np.array([2]), "one": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "drawn",
        [
            helper.make_tensor_value_info(theirs, (kinds or {}).get(ours, TensorProto.INT64), list(shape))
            for ours, theirs in names.items()
        ],
        [helper.make_tensor_value_info(theirs, TensorProto.FLOAT, shapes[ours]) for ours, theirs in called.items()],
        [numpy_helper.from_array(array, f"_{name}") for name, array in held.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def record(folder: Path, **metadata: Any) -> Path:
    """A recording of the drawn model; `metadata` replaces what the answers' file says of itself."""
    folder.mkdir(exist_ok=True)
    cases = batches()
    axes = (BATCH, SEQUENCE)
    inputs = tuple(TensorSpec(name, "int64", axes) for name in cases["whole"])
    state, pooled = TensorSpec("last_hidden_state", "float32", (*axes, WIDTH)), (BATCH, WIDTH)
    signature = Signature(inputs, (state, TensorSpec("pooler_output", "float32", pooled)))
    write_cases(folder / CASES, cases, signature, "feature-extraction", "float32")
    answers = {f"{c}/{n}": a.astype(np.float32) for c, given in cases.items() for n, a in answer(given).items()}
    errors: dict[str, list[np.ndarray]] = {"last_hidden_state": [], "pooler_output": []}
    for given in cases.values():
        rounded, exact = answer(given, np.float32), answer(given)
        for name, found in errors.items():
            found.append((rounded[name] - exact[name]).ravel())
    flat = {name: np.concatenate(found) for name, found in errors.items()}
    noise = {n: {"rms": float(np.sqrt(np.mean(e**2))), "max": float(abs(e).max())} for n, e in flat.items()}
    held = {"noise": noise, **metadata}
    write_outputs(folder / EXPECTED, answers, {key: json.dumps(value) for key, value in held.items()})
    return folder


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
