"""Cases from a signature: of every size that a module takes, with values in range, each for a class of faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from bertx.errors import InputRefused, UsageError
from bertx.parity.sampled import FAULTS, Known, build, fault
from bertx.signature import TensorSpec
from program import ROOT

RANDOM = np.random.default_rng(3)
IMAGE = TensorSpec("image", "float32", ("batch", 3, "height", "width"))
IDS = TensorSpec("ids", "int64", ("batch", "length"))
MASK = TensorSpec("mask", "bool", ("batch", "length"))
SAMPLES = {
    "image": RANDOM.random((2, 3, 8, 8)).astype(np.float32),
    "ids": RANDOM.integers(3, 40, (2, 5)),
    "mask": np.ones((2, 5), bool),
}
KNOWN = Known((IMAGE, IDS, MASK), SAMPLES)


def anything(_inputs: Mapping[str, Any]) -> bool:
    return True


QUICK = {case.name: case.inputs for case in build("quick", KNOWN, anything)}


def shapes(name: str) -> set[tuple[int, ...]]:
    return {inputs[name].shape for inputs in QUICK.values()}


def test_batches_of_one_two_three_and_seven_are_there() -> None:
    assert {1, 2, 3, 7} <= {shape[0] for shape in shapes("image")}


def test_every_moving_axis_has_a_small_an_odd_and_a_larger_size() -> None:
    for axis in (2, 3):
        found = {shape[axis] for shape in shapes("image")}
        assert min(found) < 8 < max(found)
        assert any(size % 2 for size in found - {1})


def test_an_image_is_not_square_in_some_case() -> None:
    assert any(shape[2] != shape[3] for shape in shapes("image"))


def test_axes_of_one_name_have_one_size_in_every_case() -> None:
    assert all(i["image"].shape[0] == i["ids"].shape[0] == i["mask"].shape[0] for i in QUICK.values())
    assert all(i["ids"].shape == i["mask"].shape for i in QUICK.values())


def test_dtypes_are_those_of_the_signature() -> None:
    kinds = {tuple(str(array.dtype) for array in inputs.values()) for inputs in QUICK.values()}
    assert kinds == {("float32", "int64", "bool")}


def test_numbers_are_zero_one_normal_uniform_and_large() -> None:
    assert not QUICK["zeros"]["image"].any()
    assert (QUICK["ones"]["image"] == 1).all()
    assert QUICK["normal"]["image"].min() < 0
    assert SAMPLES["image"].min() <= QUICK["uniform"]["image"].min()
    assert abs(QUICK["large"]["image"]).max() > 2 * abs(QUICK["normal"]["image"]).max()
    assert 0 < QUICK["impulse"]["image"].sum() < 10


def test_integers_stay_in_the_range_of_the_sample_and_have_its_ends() -> None:
    low, high = SAMPLES["ids"].min(), SAMPLES["ids"].max()
    seen = np.concatenate([inputs["ids"].ravel() for inputs in QUICK.values()])
    assert (seen.min(), seen.max()) == (low, high)


def test_every_integer_of_a_stated_range_occurs() -> None:
    known = Known((IDS,), {"ids": SAMPLES["ids"]}, {"ids": (0, 999)})
    seen = np.concatenate([case.inputs["ids"].ravel() for case in build("quick", known, anything)])
    assert set(seen.tolist()) == set(range(1000))


def test_numbers_stay_in_a_stated_range() -> None:
    known = Known((IMAGE,), {"image": SAMPLES["image"]}, {"image": (0.25, 0.75)})
    for case in build("full", known, anything)[1:]:
        assert 0.25 <= case.inputs["image"].min() <= case.inputs["image"].max() <= 0.75


def test_masks_are_all_true_all_false_and_mixed() -> None:
    assert QUICK["ones"]["mask"].all()
    assert not QUICK["zeros"]["mask"].any()
    mixed = np.concatenate([inputs["mask"].ravel() for inputs in QUICK.values()])
    assert 0 < mixed.mean() < 1


def test_rows_stand_together_in_another_order_and_alone() -> None:
    together, permuted, alone = (QUICK[name] for name in ("rows-together", "rows-permuted", "row-alone"))
    for name in SAMPLES:
        assert np.array_equal(permuted[name], together[name][[2, 0, 1]])
        assert np.array_equal(alone[name], together[name][1:2])


def test_only_sizes_that_the_module_takes_are_used() -> None:
    def even(inputs: Mapping[str, Any]) -> bool:
        return inputs["image"].shape[2] % 4 == 0

    known = Known((IMAGE,), {"image": SAMPLES["image"]})
    assert {case.inputs["image"].shape[2] % 4 for case in build("quick", known, even)} == {0}


def test_an_axis_that_is_said_to_move_and_does_not_is_refused() -> None:
    known = Known((IMAGE,), {"image": SAMPLES["image"]})
    with pytest.raises(InputRefused, match="axis height is said to move, and the module runs only where it is 8"):
        build("quick", known, lambda inputs: inputs["image"].shape[2] == 8)


def test_a_signature_without_moving_axes_has_cases_of_its_one_size() -> None:
    spec = TensorSpec("x", "float32", (2, 3))
    known = Known((spec,), {"x": np.ones((2, 3), np.float32)})
    assert {case.inputs["x"].shape for case in build("full", known, anything)} == {(2, 3)}


def test_the_same_seed_makes_the_same_cases_and_another_one_others() -> None:
    one, again, other = (build("quick", KNOWN, anything, seed) for seed in (1, 1, 2))
    for a, b, c in zip(one, again, other, strict=True):
        assert all(np.array_equal(a.inputs[name], b.inputs[name]) for name in SAMPLES)
        assert a.name == c.name
    assert not np.array_equal(one[4].inputs["image"], other[4].inputs["image"])


def test_every_case_has_a_name_of_its_own_and_a_class_of_faults() -> None:
    made = build("full", KNOWN, anything)
    assert len({case.name for case in made}) == len(made)
    assert {fault(case.name) for case in made} <= set(FAULTS.values())


def test_the_page_on_parity_tells_of_every_kind_of_case() -> None:
    page = (ROOT / "docs" / "parity.md").read_text("utf-8")
    assert [start for start in FAULTS if f"`{start}" not in page] == ["seed"]  # of the full set


@pytest.mark.parametrize("ranges", [{"none": (0, 1)}, {"ids": (3, 1)}])
def test_ranges_of_nothing_are_refused(ranges: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(UsageError):
        build("quick", Known((IDS,), {"ids": SAMPLES["ids"]}, ranges), anything)
