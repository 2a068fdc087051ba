"""Rows in batches of another size, and what shows that a row's answer is its own."""

from __future__ import annotations

import numpy as np

from bertx.parity.cases import Case
from bertx.parity.rows import independent, resized, row_axis
from bertx.signature import TensorSpec

IMAGE = TensorSpec("image", "float32", ("batch", 2))
TABLE = TensorSpec("table", "float32", (3,))
MEANS = (TensorSpec("means", "float32", ("batch", 2)),)
ROWS = np.arange(6.0).reshape(3, 2)


def test_a_batch_is_repeated_from_its_beginning_or_goes_over_several() -> None:
    case = Case("some", {"image": ROWS, "table": np.ones(3)})
    two, five = (resized([case], (IMAGE, TABLE), size) for size in (2, 5))
    assert {each.name: each.inputs["image"][:, 0].tolist() for each in two} == {"some-0": [0, 2], "some-1": [4, 0]}
    assert {each.name: each.inputs["image"][:, 0].tolist() for each in five} == {"some": [0, 2, 4, 0, 2]}
    assert all(each.inputs["table"].shape == (3,) for each in (*two, *five))


def test_inputs_without_a_batch_have_no_rows() -> None:
    assert row_axis((TABLE,)) is None
    assert row_axis((TensorSpec("square", "float32", ("n", "n")),)) is None
    assert row_axis((IMAGE, TABLE)) == "batch"


def answers(together: np.ndarray, permuted: np.ndarray, alone: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    found = {"rows-together": together, "rows-permuted": permuted, "row-alone": alone}
    return {case: {"means": array} for case, array in found.items()}


def test_rows_are_independent_where_each_is_the_same_alone_together_and_in_another_order() -> None:
    right = answers(ROWS, ROWS[[2, 0, 1]], ROWS[1:2])
    room = {"means": 1e-6}
    assert independent(right, MEANS, "batch", room)
    assert not independent(answers(ROWS, ROWS[[2, 0, 1]], ROWS[1:2] + 1e-3), MEANS, "batch", room)
    assert not independent(answers(ROWS, ROWS, ROWS[1:2]), MEANS, "batch", room)
    assert not independent({"rows-together": right["rows-together"]}, MEANS, "batch", room)
    assert not independent(right, (TensorSpec("means", "float32", (2,)),), "batch", room)
