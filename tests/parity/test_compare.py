"""The rule on arrays: what is counted, what is compared with what, where the limits lie."""

from __future__ import annotations

import numpy as np
import pytest

from bertx.parity.compare import FEWEST, Row, compare, failed, judged_positions, pool
from bertx.signature import TensorSpec

RNG = np.random.default_rng(7)
EXACT = RNG.standard_normal((2, 40, 8))
ROUNDED = EXACT.astype(np.float32)
EVERYWHERE = np.ones(EXACT.shape, dtype=bool)
NOISE = ROUNDED - EXACT


def judged(made: np.ndarray, exact: np.ndarray = EXACT, rounded: np.ndarray = ROUNDED, factor: float = 1.0) -> Row:
    everywhere = np.ones(exact.shape, dtype=bool)
    return pool("y", [compare("case", made, exact, rounded, everywhere)], "float32", factor)


def test_another_rounding_of_the_same_numbers_passes() -> None:
    assert judged(np.nextafter(ROUNDED, np.float32(0))).passed


def test_the_rounded_reference_itself_has_ratio_one_where_noise_exceeds_the_last_place() -> None:
    noisy = EXACT + 1e-5 * RNG.standard_normal(EXACT.shape)
    row = judged(noisy, rounded=noisy)
    assert row.rms_ratio == pytest.approx(1)
    assert row.max_ratio == pytest.approx(1)


def test_an_error_of_four_times_the_noise_fails_by_rms_alone() -> None:
    noisy = EXACT + 1e-5 * RNG.standard_normal(EXACT.shape)
    row = judged(EXACT + 4 * (noisy - EXACT), rounded=noisy)
    assert not row.passed
    assert row.max_ratio < row.max_limit


def test_a_runtime_with_an_allowance_has_more_room_for_rms_and_none_for_one_wrong_element() -> None:
    noisy = EXACT + 1e-5 * RNG.standard_normal(EXACT.shape)
    rounder = compare("case", EXACT + 4 * (noisy - EXACT), EXACT, noisy, EVERYWHERE)
    assert not pool("y", [rounder], "float32", 1.0).passed
    allowed = pool("y", [rounder], "float32", 1.0, 2.0)
    assert (allowed.passed, allowed.rms_limit, allowed.max_limit) == (True, 6.0, 12.0)


def test_one_wrong_element_fails_by_max_alone() -> None:
    noisy = EXACT + 1e-5 * RNG.standard_normal(EXACT.shape)
    wrong = noisy.copy()
    wrong[1, 3, 4] = EXACT[1, 3, 4] + 15 * np.abs(noisy - EXACT).max()
    row = judged(wrong, rounded=noisy)
    assert not row.passed
    assert row.rms_ratio < row.rms_limit
    assert row.cases[0].worst == (1, 3, 4)


def test_not_a_number_never_passes() -> None:
    wrong = ROUNDED.copy()
    wrong[0, 0, 0] = np.nan
    assert not judged(wrong).passed


def test_a_row_without_cases_never_passes() -> None:
    assert not failed("y", "missing", 1.0).passed


def test_exact_references_are_floored_at_one_unit_in_the_last_place() -> None:
    whole = np.round(EXACT * 4)
    assert judged(whole.copy(), whole, whole).passed
    assert not judged(whole * (1 + 1e-5), whole, whole).passed


def test_the_factor_scales_both_limits() -> None:
    noisy = EXACT + 1e-5 * RNG.standard_normal(EXACT.shape)
    made = EXACT + 4 * (noisy - EXACT)
    assert not judged(made, rounded=noisy).passed
    assert judged(made, rounded=noisy, factor=2.0).passed


def test_a_small_case_is_judged_by_rms_only_with_the_others() -> None:
    small = EXACT[:1, :1]
    assert small.size < FEWEST
    noise = 1e-5 * RNG.standard_normal(EXACT.shape)
    few = 1e-5 * RNG.standard_normal(small.shape)
    everywhere = np.ones(small.shape, dtype=bool)
    cases = [
        compare("large", EXACT + noise, EXACT, EXACT + noise, EVERYWHERE),
        compare("small", small + 3.5e-5 * np.sign(few), small, small + few / 10, everywhere),
    ]
    row = pool("y", cases, "float32", 1.0)
    assert row.case_rms["small"] > row.rms_limit
    assert row.passed


def test_only_valid_positions_of_a_per_token_output_are_judged() -> None:
    mask = np.array([[1, 0, 1]])
    spec = TensorSpec("y", "float32", ("batch", "sequence", 2))
    assert judged_positions(spec, mask, (1, 3, 2)).tolist() == [[[True] * 2, [False] * 2, [True] * 2]]


def test_of_a_pooled_output_every_row_that_holds_a_token_is_judged() -> None:
    spec = TensorSpec("y", "float32", ("batch", 2))
    mask = np.array([[0, 1, 0], [0, 0, 0]])
    assert judged_positions(spec, mask, (2, 2)).tolist() == [[True, True], [False, False]]


def test_positions_follow_the_axes_wherever_they_are() -> None:
    mask = np.array([[1, 0], [1, 1]])
    spec = TensorSpec("y", "float32", (3, "batch", "sequence", 1))
    found = judged_positions(spec, mask, (3, 2, 2, 1))
    assert found[:, 0, 1].any() == np.False_
    assert found.sum() == 9
