"""Outputs under other names: recognised by shape and by what they equal, never by shape alone."""

from __future__ import annotations

import numpy as np

from bertx.parity.match import match, renamed
from bertx.runtimes.protocol import Tensors

RNG = np.random.default_rng(3)
STATE, OTHER = RNG.standard_normal((2, 5, 4)), RNG.standard_normal((2, 5, 4))
POOLED = RNG.standard_normal((2, 4))
EXACT = Tensors({"one": {"last_hidden_state": STATE, "pooler_output": POOLED}}, {}, {})
WANTED = ("last_hidden_state", "pooler_output")


def file(**outputs: np.ndarray) -> Tensors:
    return Tensors({"one": outputs}, dict.fromkeys(outputs, "float32"), {})


def test_outputs_are_told_apart_by_shape() -> None:
    assert match(file(b=POOLED, a=STATE), EXACT, WANTED) == {"last_hidden_state": "a", "pooler_output": "b"}


def test_of_several_outputs_of_one_shape_the_nearest_is_meant() -> None:
    assert match(file(x=OTHER, y=STATE + 1e-6), EXACT, WANTED) == {"last_hidden_state": "y"}


def test_an_output_is_meant_before_a_tap_that_equals_it() -> None:
    made = file(**{"hidden_states.3": STATE, "output": STATE})
    assert match(made, EXACT, ("last_hidden_state",)) == {"last_hidden_state": "output"}


def test_a_wrong_output_of_the_right_shape_is_still_matched_so_that_it_can_fail() -> None:
    assert match(file(x=np.full_like(STATE, np.nan)), EXACT, WANTED) == {"last_hidden_state": "x"}


def test_an_output_of_another_shape_is_no_match() -> None:
    assert match(file(x=STATE[:, :-1]), EXACT, WANTED) == {}


def test_a_shape_must_fit_in_every_case() -> None:
    exact = Tensors({"one": {"y": STATE}, "two": {"y": STATE}}, {}, {})
    made = Tensors({"one": {"x": STATE}, "two": {"x": STATE[:1]}}, {}, {})
    assert match(made, exact, ("y",)) == {}


def test_matched_outputs_get_the_references_names_and_others_keep_theirs() -> None:
    found = renamed(file(a=STATE, extra=POOLED), {"last_hidden_state": "a"})
    assert set(found.arrays["one"]) == set(found.dtypes) == {"last_hidden_state", "extra"}
