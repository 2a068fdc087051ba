"""Cases of the user's own: what fits is taken as it is, what does not is refused with its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bertx.errors import InputRefused
from bertx.parity.cases import Facts
from bertx.parity.given import given
from bertx.runtimes.protocol import write_cases
from bertx.signature import Signature
from parity.drawn import batches
from program import Ran

KNOWN = Facts(vocabulary=30, longest=9, segments=2, padding=0, special=(), texts=())
ALL = ("input_ids", "attention_mask", "token_type_ids")


def written(path: Path, cases: dict[str, dict[str, np.ndarray]]) -> Path:
    write_cases(path, cases, Signature((), ()), "", "float32")
    return path


def test_cases_that_fit_are_asked_as_they_are(tmp_path: Path) -> None:
    found = given(written(tmp_path / "own.safetensors", batches()), ALL, KNOWN)
    assert {case.name for case in found} == set(batches())
    for case in found:
        assert list(case.inputs) == list(ALL)
        assert all(np.array_equal(array, batches()[case.name][name]) for name, array in case.inputs.items())


def test_segments_that_say_nothing_need_not_be_taken(tmp_path: Path) -> None:
    cases = {name: batch for name, batch in batches().items() if name != "segments"}
    found = given(written(tmp_path / "own.safetensors", cases), ALL[:2], KNOWN)
    assert all(list(case.inputs) == list(ALL[:2]) for case in found)


def change(name: str, value: Any) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda batch: batch.update({name: value(batch["input_ids"])})


@pytest.mark.parametrize(
    ("fault", "inputs", "message"),
    [
        (lambda batch: batch.pop("input_ids"), ALL, "input_ids is missing"),
        (lambda batch: batch.pop("attention_mask"), ALL, "attention_mask is missing"),
        (change("pixels", np.zeros_like), ALL, "pixels is no input of this model"),
        (change("input_ids", lambda ids: ids.astype(np.int32)), ALL, "input_ids is int32"),
        (lambda batch: batch.update({name: array[0] for name, array in batch.items()}), ALL, "not int64 of"),
        (change("attention_mask", lambda ids: np.ones_like(ids[:, :-1])), ALL, "attention_mask has shape"),
        (change("input_ids", lambda ids: ids + 30), ALL, "the vocabulary has 30"),
        (change("input_ids", lambda ids: ids - 30), ALL, "input_ids lie in -"),
        (change("attention_mask", np.zeros_like), ALL, "a valid token in each row"),
        (change("attention_mask", lambda ids: np.full_like(ids, 2)), ALL, "not of 0 and 1"),
        (change("token_type_ids", lambda ids: np.full_like(ids, 2)), ALL, "the model has 2 segments"),
        (change("token_type_ids", np.ones_like), ALL[:2], "token_type_ids says something"),
    ],
)
def test_a_case_that_does_not_fit_is_refused(fault: Any, inputs: tuple[str, ...], message: str, tmp_path: Path) -> None:
    cases = {"one": batches()["whole"]}
    fault(cases["one"])
    with pytest.raises(InputRefused, match=f"case one: .*{message}") as raised:
        given(written(tmp_path / "own.safetensors", cases), inputs, KNOWN)
    assert raised.value.code == "E_CASES"


def test_a_case_longer_than_the_model_is_refused(tmp_path: Path) -> None:
    ids = np.ones((1, 10), np.int64)
    cases = {"one": {"input_ids": ids, "attention_mask": ids, "token_type_ids": np.zeros_like(ids)}}
    with pytest.raises(InputRefused, match="it has 10 tokens, the model takes 9"):
        given(written(tmp_path / "own.safetensors", cases), ALL, KNOWN)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no tensors")
    save_file({}, tmp_path / "empty")
    save_file({"input_ids": np.ones((1, 2), np.int64)}, tmp_path / "unnamed")
    for name, message in (("text", "is no file of cases"), ("empty", "holds no case"), ("unnamed", "is no file of")):
        with pytest.raises(InputRefused, match=message) as raised:
            given(tmp_path / name, ALL, KNOWN)
        assert raised.value.code == "E_CASES"


def test_verify_takes_a_file_of_cases_and_the_report_names_it(
    bertx: Callable[..., Ran], tiny: Path, tmp_path: Path
) -> None:
    own = written(tmp_path / "own.safetensors", {name: batches()[name] for name in ("whole", "segments")})
    options = ("--against", tiny, "--cases", own, "--device", "cpu", "--json")
    ran = bertx("verify", tiny / "model.safetensors", *options)
    assert (ran.code, ran.json["cases"]) == (0, {"set": "own.safetensors", "seed": None, "count": 2}), ran.err
    own.write_text("no tensors")
    refused = bertx("verify", tiny / "model.safetensors", *options)
    assert (refused.code, refused.json["code"]) == (3, "E_CASES")
