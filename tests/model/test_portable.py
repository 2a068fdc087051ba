"""A TorchScript archive holds neither this machine's device nor its folders, and computes what the trace did."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_families import REFUSED, UNPUBLISHED

from bertx.checkpoint import open_folder
from bertx.errors import InputRefused
from bertx.model.portable import archive
from bertx.model.tasks import TASKS
from bertx.model.wrapper import Source, wrap
from families import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")

TRACED = sorted(set(FAMILIES) - set(REFUSED) - {family for family, form in UNPUBLISHED if form == "torchscript"})
SOURCE = Path(__file__).resolve().parent.parent.parent


def traced(folder: Path) -> tuple[Source, Any]:
    source = wrap(open_folder(folder), TASKS["feature-extraction"], "float32", ("last_hidden_state",), fused=True)
    samples = tuple(source.samples.values())
    with torch.no_grad():
        both = {"forward": samples, "hidden_states": samples}
        return source, torch.jit.trace_module(source.module, both, check_trace=False, _store_inputs=False)


def contents(stream: io.BytesIO) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(stream.getvalue())) as file:
        return {name: file.read(name) for name in file.namelist()}


def programs(stream: io.BytesIO) -> str:
    return "\n".join(data.decode() for name, data in contents(stream).items() if name.endswith(".py"))


@pytest.mark.parametrize("family", TRACED)
def test_no_device_is_left_in_the_program(made: Callable[..., Path], family: str) -> None:
    """A tensor that the program makes must lie where its inputs do."""
    source, program = traced(made(family))
    with torch.inference_mode():
        before = program(*source.samples.values())
    stream = archive(program, {})
    assert "torch.device(" not in programs(stream)
    with torch.inference_mode():
        after = torch.jit.load(stream)
        assert torch.equal(after(*source.samples.values()), before)


def test_a_device_stands_in_some_traces_before(made: Callable[..., Path]) -> None:
    """Else the test above would hold of itself."""
    stream = io.BytesIO()
    torch.jit.save(traced(made("mpnet"))[1], stream)
    assert "torch.device(" in programs(stream)


def test_no_folder_of_this_machine_is_left_in_the_file(made: Callable[..., Path]) -> None:
    """Records may be compressed: each is read."""
    folder = made("bert")
    places = [str(place).encode() for place in (SOURCE, sys.prefix, folder, folder.parent)]
    for name, data in contents(archive(traced(folder)[1], {})).items():
        for place in (*places, b"site-packages"):
            assert place not in data, name


def test_extra_files_are_kept(made: Callable[..., Path]) -> None:
    stream = archive(traced(made("bert"))[1], {"note.json": b"{}"})
    wanted = {"note.json": ""}
    torch.jit.load(stream, _extra_files=wanted)
    assert wanted == {"note.json": b"{}"}


def test_weights_begin_at_multiples_of_64_bytes(made: Callable[..., Path]) -> None:
    """Readers that map the file into memory rely on it."""
    reader = torch._C.PyTorchFileReader(archive(traced(made("bert"))[1], {}))
    weights = [name for name in reader.get_all_records() if name.startswith("data/")]
    assert len(weights) > 30
    assert all(reader.get_record_offset(name) % 64 == 0 for name in weights)


def test_a_python_function_in_the_trace_is_refused(made: Callable[..., Path]) -> None:
    with pytest.raises(InputRefused, match="Could not export Python function call 'YosoCumulation'") as caught:
        archive(traced(made("yoso"))[1], {})
    assert caught.value.code == "E_EXPORT"
