"""The reference of an export is computed while its artifacts are written, and is the one that they are judged by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import bertx
from bertx.checkpoint import open_folder
from bertx.errors import BertxError
from bertx.formats import ExportOptions
from bertx.model.tasks import TASKS
from bertx.parity import ahead
from bertx.parity.ahead import reference_ahead
from bertx.parity.options import VerifyOptions

TASK = TASKS["feature-extraction"]


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "references").glob("*")) if (cache / "references").exists() else []


def test_an_export_asks_for_one_reference_and_finds_it_made(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(asked: object) -> None:
        wait(asked)  # type: ignore[arg-type]
        made.append(len(entries(tmp_path / "cache")))

    wait = ahead._wait
    monkeypatch.setattr(ahead, "_wait", counted)
    done = bertx.export(
        open_folder(tiny), ["torchscript"], tmp_path / "out", verify=VerifyOptions(cache=tmp_path / "cache")
    )
    assert done.report.verdict == "pass"
    assert made == [1]  # before anything was judged
    assert len(entries(tmp_path / "cache")) == 1  # and the judge asked the same


@pytest.mark.parametrize("verify", [False, True])
def test_without_anything_to_run_nothing_is_asked(tiny: Path, tmp_path: Path, verify: bool) -> None:
    options = VerifyOptions(cache=tmp_path / "cache") if verify else None
    chosen = "safetensors" if verify else "torchscript"
    bertx.export(open_folder(tiny), [chosen], tmp_path / "out", verify=options)
    assert entries(tmp_path / "cache") == []


def test_converted_weights_have_a_reference_at_their_dtype(tiny: Path, tmp_path: Path) -> None:
    options = VerifyOptions(cache=tmp_path / "cache")
    half = ExportOptions("bfloat16")
    bertx.export(open_folder(tiny), ["safetensors"], tmp_path / "out", options=half, verify=options)
    assert len(entries(tmp_path / "cache")) == 1


def test_what_goes_wrong_with_it_is_told_by_the_verification(tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    config = json.loads((broken / "config.json").read_text("utf-8"))
    (broken / "config.json").write_text(json.dumps(config | {"hidden_act": "none such"}), "utf-8")
    options = VerifyOptions(cache=tmp_path / "cache")
    with reference_ahead(open_folder(broken), TASK, ["float32"], options) as wait:
        wait()
    with pytest.raises(BertxError):
        bertx.export(open_folder(broken), ["torchscript"], tmp_path / "out", verify=options)
    assert not (tmp_path / "out").exists()


def test_an_export_that_fails_ends_the_reference(tiny: Path, tmp_path: Path) -> None:
    options = VerifyOptions(cache=tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt), reference_ahead(open_folder(tiny), TASK, ["float32"], options):
        raise KeyboardInterrupt
    assert entries(tmp_path / "cache") == []
