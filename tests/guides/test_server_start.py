"""docs/guides/server: what would answer wrongly is refused at the start, before it listens."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def manifested(change: Callable[[dict[str, Any]], None], name: str) -> Callable[[Path], None]:
    """Changes the TorchScript file's entry in bertx.json."""

    def spoil(bundle: Path) -> None:
        manifest = json.loads((bundle / "bertx.json").read_text("utf-8"))
        change(next(each for each in manifest["artifacts"] if each["format"] == "torchscript"))
        rewrite(bundle / "bertx.json", manifest)

    spoil.__name__ = name
    return spoil


def swap(entry: dict[str, Any]) -> None:
    ids, mask, segments = entry["signature"]["inputs"]
    entry["signature"]["inputs"] = [ids, segments, mask]


def another_schema(bundle: Path) -> None:
    manifest = json.loads((bundle / "bertx.json").read_text("utf-8"))
    rewrite(bundle / "bertx.json", {**manifest, "schema": "bertx.bundle/2"})


def another_weight(bundle: Path) -> None:
    """One weight of the last layer is moved by 0.01, in a copy of the file."""
    import torch

    module = torch.jit.load(str(bundle / "torchscript" / "model.pt"))
    with torch.no_grad():
        next(p for name, p in module.named_parameters() if name.endswith("layer.5.output.dense.weight"))[0, 0] += 0.01
    (bundle / "torchscript").unlink()
    (bundle / "torchscript").mkdir()
    module.save(str(bundle / "torchscript" / "model.pt"))


def half(bundle: Path) -> None:
    import torch

    module = torch.jit.load(str(bundle / "torchscript" / "model.pt")).half()
    (bundle / "torchscript").unlink()
    (bundle / "torchscript").mkdir()
    module.save(str(bundle / "torchscript" / "model.pt"))


def uncut(bundle: Path) -> None:
    document = json.loads((bundle / "tokenizer.json").read_text("utf-8"))
    rewrite(bundle / "tokenizer.json", {**document, "truncation": None})


def cased(bundle: Path) -> None:
    document = json.loads((bundle / "tokenizer.json").read_text("utf-8"))
    document["normalizer"]["lowercase"] = False
    rewrite(bundle / "tokenizer.json", document)


def unchecked(bundle: Path) -> None:
    (bundle / "parity").unlink()


def japanese(bundle: Path) -> None:
    (bundle / "mecab_contract.json").write_text("{}")


def rewrite(path: Path, document: Any) -> None:
    path.unlink()
    path.write_text(json.dumps(document), "utf-8")


WRONG: dict[Callable[[Path], None], str] = {
    manifested(swap, "swapped"): r"the model is wrong here: its error is [\d.e]+ times what rounding may do",
    manifested(lambda e: e["signature"]["inputs"][2].update(name="position_ids"), "unknown"): (
        r"torchscript/model\.pt: it takes position_ids, which is not made of text"
    ),
    manifested(lambda e: e["signature"]["inputs"][1].update(dtype="float32"), "float-mask"): (
        r"torchscript/model\.pt: attention_mask is float32, not int64"
    ),
    manifested(lambda e: e["signature"]["outputs"][0].update(name="logits"), "other-output"): (
        r"torchscript/model\.pt gives logits, not sentence_embedding"
    ),
    manifested(lambda e: e["signature"]["outputs"].append(e["signature"]["outputs"][0]), "two-outputs"): (
        r"torchscript/model\.pt gives more than one output"
    ),
    manifested(lambda e: e.update(signature=None), "unsaid"): (
        r"bertx\.json does not say what torchscript/model\.pt takes"
    ),
    manifested(lambda e: e.update(dtype="float16"), "no-float32"): r"it has no TorchScript file in float32: make .*",
    another_schema: r"bertx\.json is of schema bertx\.bundle/2, not bertx\.bundle/1",
    another_weight: r"the model is wrong here: its error is [\d.e]+ times what rounding may do",
    half: r".* is Half where bertx\.json says float32",
    uncut: r"tokenizer\.json does not say where texts are cut",
    cased: r"other tokens for .*",
    unchecked: r".*parity/cases\.safetensors: No such file.*",
    japanese: r"its texts go through MeCab first .*",
}


@pytest.mark.parametrize(("spoil", "message"), WRONG.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_a_bundle_that_would_answer_wrongly_is_not_served(
    program: Path, minilm_bundle: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    for entry in minilm_bundle.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    spoil(tmp_path)
    command = [str(program), str(tmp_path), "--listen", "127.0.0.1:0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(rf"embed-server: {message}\n", ended.stderr), ended.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "which bundle?"),
        (("b", "--port", "1"), "unknown option --port"),
        (("b", "--listen", "nowhere"), "--listen takes ADDRESS:PORT"),
        (("b", "--most", "0"), "--most must be 1 or more"),
        (("b", "--most", "9", "--queue", "8"), "no more than --queue"),
        (("b", "--threads"), "--threads needs a value"),
    ],
)
def test_a_wrong_command_line_is_usage(program: Path, words: tuple[str, ...], message: str) -> None:
    ended = subprocess.run([str(program), *words], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
