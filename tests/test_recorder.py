"""bertx record: golden cases from a checkpoint and from code of the user's own, by which others verify."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from bertx import api
from bertx.errors import BertxError, InputRefused, SourceUnavailable, UsageError
from bertx.parity.custom import build
from bertx.parity.golden import CASES, EXPECTED
from bertx.parity.options import VerifyOptions
from bertx.parity.recording import Recording
from bertx.recorder import Described, RecordOptions, described, record
from bertx.runtimes.protocol import write_cases
from bertx.signature import Signature
from cli.documents import checked
from parity.drawn import batches, draw
from program import Ran

#: the drawn model as somebody's own module, and what goes wrong with such code
CODE = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
import torch
from parity.drawn import MATRIX, SEGMENTS, TABLE

class Drawn(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, array in (("table", TABLE), ("segments", SEGMENTS), ("matrix", MATRIX)):
            self.register_buffer(name, torch.from_numpy(array.copy()))

    def forward(self, input_ids, attention_mask, token_type_ids):
        states = torch.tanh((self.table[input_ids] + self.segments[token_type_ids]) @ self.matrix)
        mask = attention_mask[:, :, None].to(states)
        pooled = (states * mask).sum(1) / mask.sum(1)
        return {{"last_hidden_state": states, "pooler_output": pooled}}

class Config:
    vocab_size, max_position_embeddings, type_vocab_size = 30, 40, 2

def build():
    module = Drawn()
    module.config = Config()
    Config.to_dict = lambda self: dict(vocab_size=30, max_position_embeddings=40, type_vocab_size=2)
    return module

def silent(): return Drawn()
def broken(): raise ValueError("the licence server is down")
def number(): return 3
def image():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(2)), {{"image": torch.rand(2, 3, 8, 8)}}
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_code.py").write_text(CODE, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_model_of_the_users_own_code_is_recorded_and_others_verify_with_it(
    bertx: Callable[..., Ran], code: Path
) -> None:
    ran = bertx("record", "own_code:build", "-o", "golden", "--device", "cpu", "--json", cwd=code)
    assert ran.code == 0, ran.err
    document = checked(ran.json)
    assert document["source"] == "own_code:build"
    assert {"left-padded", "holes", "segments", "row-alone"} <= set(document["cases"])
    assert [spec["name"] for spec in document["inputs"]] == ["input_ids", "attention_mask", "token_type_ids"]
    for nudge, code_ in ((0.0, 0), (1e-4, 1)):
        artifact = draw(code / "model.onnx", nudge=nudge)
        again = bertx("verify", artifact, "--against", code / "golden", "--device", "cpu", "--json")
        assert (again.code, again.json["reference"]["origin"]) == (code_, "recorded"), again.err
        assert again.json["reference"]["checkpoint"] == "own_code:build"
    again = bertx("record", "own_code:build", "-o", "golden", cwd=code)
    assert (again.code, "error[E_OUTPUT]" in again.err) == (2, True)


def test_the_users_own_cases_are_recorded_as_they_are(code: Path) -> None:
    cases = {name: batch for name, batch in batches().items() if name != "alone"}
    write_cases(code / "own.safetensors", cases, Signature((), ()), "", "float32")
    made = record("own_code:silent", "golden", options=RecordOptions(device="cpu", cases=code / "own.safetensors"))
    assert {case.name for case in made.recording.recorded} == set(cases)
    for name, array in load_file(code / "golden" / CASES).items():
        assert np.array_equal(array, cases[name.split("/")[0]][name.split("/")[1]])
    found = api.verify(draw(code / "model.onnx"), "golden", options=VerifyOptions(device="cpu"))
    assert found.report.verdict == "pass"


def test_samples_of_the_users_own_tell_the_cases_of_any_module(code: Path) -> None:
    inputs = (Described("image", "float32", ("batch", 3, 8, 8)),)
    made = record("own_code:image", "golden", options=RecordOptions(device="cpu", inputs=inputs, outputs=("states",)))
    (spec,) = made.recording.specs
    assert (spec.name, spec.shape) == ("states", ("batch", 4, 36))
    assert {1, 7} <= {case.inputs["image"].shape[0] for case in made.recording.recorded}


@pytest.mark.parametrize(
    ("target", "code_", "message"),
    [
        ("own_code:silent", "E_MODULE", "does not tell what it takes"),
        ("own_code:broken", "E_MODULE", "the licence server is down"),
        ("own_code:nothing", "E_NOT_FOUND", "no attribute 'nothing'"),
    ],
)
def test_what_cannot_be_recorded_is_refused_and_nothing_is_written(
    target: str, code_: str, message: str, code: Path
) -> None:
    with pytest.raises(BertxError, match=message) as raised:
        record(target, "golden", options=RecordOptions(device="cpu"))
    assert raised.value.code == code_
    assert not (code / "golden").exists()


def test_what_is_no_module_or_not_there_is_refused(code: Path) -> None:
    with pytest.raises(InputRefused, match="gave a int, no nn"):
        build("own_code:number")
    with pytest.raises(SourceUnavailable, match="No module named 'no_such_code'"):
        build("no_such_code:build")


def test_a_checkpoint_is_recorded_with_the_cases_of_verify(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()
    made = record(str(tiny), tmp_path / "golden", options=RecordOptions(device="cpu"))
    assert "torch" not in vars(sys.modules["bertx.recorder"])
    found = Recording(tmp_path / "golden")
    assert (found.task, found.dtype, found.outputs) == (
        "feature-extraction",
        "float32",
        ("last_hidden_state", "pooler_output"),
    )
    assert found.facts["torch"]
    assert made.recording.told()["checkpoint"] == str(tiny)
    with pytest.raises(UsageError, match="is not empty"):
        record(str(tiny), tmp_path / "golden", options=RecordOptions(device="cpu"))
    before = (tmp_path / "golden" / EXPECTED).stat().st_ino
    record(str(tiny), tmp_path / "golden", options=RecordOptions(device="cpu"), force=True)
    assert (tmp_path / "golden" / EXPECTED).stat().st_ino != before


def test_force_replaces_golden_cases_alone(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        record(str(tiny), tmp_path, options=RecordOptions(device="cpu"), force=True)
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("input_ids", Described("input_ids")),
        ("image=float32[batch, 3,32,32]", Described("image", "float32", ("batch", 3, 32, 32))),
        ("ids=int64[batch,sequence]<30522", Described("ids", "int64", ("batch", "sequence"), 30522)),
    ],
)
def test_an_input_is_described_in_one_word(text: str, meant: Described) -> None:
    assert described(text) == meant


@pytest.mark.parametrize(
    "text", ["", "a b", "x=float32", "x=float99[batch]", "x=float32[]", "x=float32[a-b]", "x=int64[0]"]
)
def test_a_description_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not understood"):
        described(text)


def test_a_file_of_cases_with_other_inputs_in_each_case_is_refused(code: Path) -> None:
    cases = batches()
    del cases["alone"]["token_type_ids"]
    write_cases(code / "own.safetensors", cases, Signature((), ()), "", "float32")
    with pytest.raises(InputRefused, match="do not all have the same inputs") as raised:
        record("own_code:silent", "golden", options=RecordOptions(device="cpu", cases=code / "own.safetensors"))
    assert raised.value.code == "E_CASES"
