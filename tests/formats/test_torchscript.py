"""A TorchScript file: one Tensor out, its signature inside, and nothing of this machine."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from bertx.checkpoint import open_folder
from bertx.errors import InputRefused
from bertx.formats import ExportOptions, Written, format_named
from bertx.model.tasks import TASKS
from bertx.signature import Signature, TensorSpec
from families import make
from program import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

FEATURES = TASKS["feature-extraction"]


def write(folder: Path, path: Path, options: ExportOptions | None = None) -> Written:
    return format_named("torchscript").write(open_folder(folder), FEATURES, options or ExportOptions(), path)


@pytest.fixture(scope="module")
def plain(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Written]:
    path = tmp_path_factory.mktemp("torchscript") / "model.pt"
    return path, write(bert, path)


def records(path: Path) -> dict[str, bytes]:
    """Every file of the archive, decompressed."""
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_it_gives_one_tensor(plain: tuple[Path, Written]) -> None:
    ones = torch.ones(2, 3, dtype=torch.int64)
    found = torch.jit.load(plain[0])(ones, ones, ones)
    assert isinstance(found, torch.Tensor)
    assert found.shape == (2, 3, 32)


def test_inputs_are_positional_in_the_order_of_the_signature(plain: tuple[Path, Written]) -> None:
    _, written = plain
    assert written.signature is not None
    arguments = [a.name for a in torch.jit.load(plain[0]).forward.schema.arguments]
    assert arguments[1:] == [spec.name for spec in written.signature.inputs]
    assert arguments[1:] == ["input_ids", "attention_mask", "token_type_ids"]


def test_the_signature_lies_inside(plain: tuple[Path, Written]) -> None:
    path, written = plain
    extra = next(data for name, data in records(path).items() if name.endswith("/extra/bertx.json"))
    assert Signature.from_json(json.loads(extra)) == written.signature


def test_its_headers_say_what_it_is_without_running_it(plain: tuple[Path, Written]) -> None:
    contents = format_named("torchscript").contents(plain[0])
    assert (contents.dtype, contents.task, contents.signature) == (
        "float32",
        "feature-extraction",
        plain[1].signature,
    )


def test_a_file_from_elsewhere_says_what_it_takes_and_no_more(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "model.pt")
    contents = format_named("torchscript").contents(tmp_path / "model.pt")
    assert contents.signature == Signature((TensorSpec("input", "unknown", ()),), ())
    assert (contents.dtype, contents.task) == (None, None)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(InputRefused) as caught:
        format_named("torchscript").contents(tmp_path / "model.pt")
    assert caught.value.code == "E_FORMAT"


def test_the_sample_that_it_was_traced_with_is_not_inside(plain: tuple[Path, Written]) -> None:
    assert not [name for name in records(plain[0]) if "inputs" in name]


def test_no_folder_of_this_machine_lies_in_it(plain: tuple[Path, Written], bert: Path) -> None:
    for name, data in records(plain[0]).items():
        for place in (ROOT, sys.prefix, bert, bert.parent, "site-packages"):
            assert str(place).encode() not in data, name


def test_it_holds_no_device(tmp_path: Path) -> None:
    """MPNet counts its relative positions on the device that it runs on."""
    write(make("mpnet", tmp_path / "mpnet"), tmp_path / "model.pt")
    programs = [data for name, data in records(tmp_path / "model.pt").items() if name.endswith(".py")]
    assert not [data for data in programs if b"torch.device(" in data]


def test_a_model_that_cannot_be_traced_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputRefused) as caught:
        write(make("yoso", tmp_path / "yoso"), tmp_path / "model.pt")
    assert caught.value.code == "E_EXPORT"
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (ExportOptions(), "torchscript/model.pt"),
        (ExportOptions(dtype="float16"), "torchscript/model_fp16.pt"),
        (ExportOptions(dtype="bfloat16"), "torchscript/model_bf16.pt"),
        (ExportOptions(output_names=("hidden_states",)), "torchscript/model.hidden_states.pt"),
    ],
)
def test_its_name_says_dtype_and_output(options: ExportOptions, name: str) -> None:
    assert format_named("torchscript").file_name(options) == name


def test_a_damaged_member_is_a_refusal(plain: tuple[Path, Written], tmp_path: Path) -> None:
    """A deflated one is no zip to zlib, which has an exception of its own."""
    path = tmp_path / "damaged.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in records(plain[0]).items():
            file.writestr(name, data)
        member = next(m for m in file.infolist() if m.filename.endswith("/extra/bertx.json"))
    content = bytearray(path.read_bytes())
    begin = member.header_offset + 30 + len(member.filename)
    content[begin : begin + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(InputRefused, match="is no TorchScript file") as caught:
        format_named("torchscript").contents(path)
    assert caught.value.code == "E_FORMAT"
