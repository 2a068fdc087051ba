"""Latency: measured on batches of its own, told by the runners, never a verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertx.parity.cases import Case
from bertx.parity.latency import ROUNDS, batches, measured
from cli.documents import checked
from program import Ran


def tokens(length: int) -> Case:
    ids = np.arange(2 * length).reshape(2, length)
    return Case("some", {"input_ids": ids, "attention_mask": ids % 2, "token_type_ids": ids * 0})


def test_full_rows_of_the_models_own_tokens_are_run_again_and_again() -> None:
    made = batches((tokens(3), tokens(200)))
    assert [case.name for case in made[::ROUNDS]] == ["1x16.0", "1x128.0", "8x128.0"]
    assert made[-1].inputs["input_ids"].shape == (8, 128)
    assert made[-1].inputs["attention_mask"].all()
    assert (made[-1].inputs["input_ids"] == np.arange(128)).all()


def test_no_batch_is_longer_than_the_model_takes() -> None:
    assert {case.name.partition(".")[0] for case in batches((tokens(40),))} == {"1x16"}


def test_a_model_that_takes_no_tokens_is_not_measured() -> None:
    assert batches((Case("image", {"pixels": np.zeros((1, 3, 8, 8))}),)) == ()


def test_the_median_of_all_but_the_first_counts() -> None:
    seconds = {f"1x16.{k}": value for k, value in enumerate([9.0, 3.0, 1.0, 2.0])} | {"another": 5.0}
    found = measured({"seconds": json.dumps(seconds), "threads": "2"})
    assert found is not None
    assert (found.seconds, found.threads) == ({"1x16": 2.0}, 2)


@pytest.mark.parametrize("told", ["", "[]", "{}", '{"1x16.1": "fast"}', '{"1x16.1": NaN}', '{"1x16.0": 1}'])
def test_a_runner_that_does_not_tell_is_not_measured(told: str) -> None:
    assert measured({"seconds": told}) is None


def test_verify_measures_where_it_is_asked_to(bertx: Callable[..., Ran], tiny: Path) -> None:
    ran = bertx("verify", tiny, "--against", tiny, "--latency", "--json")
    assert ran.code == 0, ran.err
    found = checked(ran.json)
    latency = next(result["latency"] for result in found["results"] if result["runtime"] == "eager")
    assert latency["milliseconds"]["1x16"] > 0
    table = bertx("verify", tiny, "--against", tiny, "--latency")
    assert "ms 1x16" in table.out
    plain = bertx("verify", tiny, "--against", tiny, "--json")
    assert all(result["latency"] is None for result in plain.json["results"])
