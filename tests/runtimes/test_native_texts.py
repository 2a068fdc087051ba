"""Runners that take texts make the ids that Python makes, and of them the embeddings that PyTorch computes.

Text that hurts: one tokenizer in another language was seen to be wrong by 5e-2 on "ü".
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertx.cli.options import cache_folder
from bertx.parity.compare import compare, pool
from bertx.runtimes import Job, Reading, registry
from bertx.runtimes.native import Native
from bertx.runtimes.protocol import read_tensors, write_cases
from bertx.signature import Signature, TensorSpec
from cli.documents import checked
from program import Ran, ready_or_skip

NATIVE = [each.at(cache_folder()) for each in registry().values() if isinstance(each, Native) and each.takes_texts]
SHIPPED = {"onnx": "onnx/model.onnx", "torchscript": "torchscript/model.pt", "safetensors": "model.safetensors"}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LONGEST = 32
#: a runner that is given another tokenizer.json than the bundle's
RETOLD = Path(__file__).with_name("retold_runner.py")
#: what is changed in its normalizer
CHANGES: Mapping[str, Any] = {
    "accents-kept": {"strip_accents": False},
    "case-kept": {"lowercase": False, "strip_accents": True},
}
#: texts whose ids are the same or nearly so, and with them their embeddings
NEAR = [form.format(letter) for letter in "aAá" for form in ("{}", " {}", "{} ", "{}.", "{} .", "{}!")]

#: each batch is a case
TEXTS = {
    "accents": [
        "Ein schöner Über-Fluß, naïve café, ÅNGSTRÖM",
        "ü",
        "İstanbul’da ılık çay",
        "Ünïcödé ŁÓDŹ þorn ẞ",
        "ΟΔΥΣΣΕΥΣ",
    ],
    "combining": ["u\u0308ber", "e\u0301 é", "Z\u0351\u036b\u0343a\u030al\u0347g\u0318o", "\u0301"],
    "cjk": ["東京タワーは赤い。", "我爱北京天安门", "서울의 봄", "ﾊﾝｶｸ ｶﾅ と 全角ＡＢＣ", "漢字kanjiまじり"],
    "emoji": ["👍🏽 great 👩‍👩‍👧‍👦", "🇯🇵🏴󠁧󠁢󠁥󠁮󠁧󠁿", "☕️ or ☕︎?", "a👍b"],
    "control": ["tab\there", "null\x00byte", "bell\x07 \x1b[0m", "zero\u200bwidth\u00ad\ufeff", "a\u2028b\u0085c"],
    "spaces": ["", "   ", "\u3000wide\u00a0hard\u2003em", " lead and trail "],
    "marks": ["don't (stop)—ever…", "$9.99 & 50% <b>#1</b> @x_y", "«Привет», שלום؟ ١٢٣", "snake_case C++ #!/bin/sh"],
    "special": ["[CLS] said [SEP] and [MASK] [PAD]", "[UNK] ##ing", "[mask]"],
    "long-words": ["x" * 99, "y" * 100, "z" * 101, "Donaudampfschifffahrtselektrizitätenhauptbetriebswerk"],
    "beyond-the-length": ["word " * 500, "ü" * 300, "The end is cut off. " * 40, "short"],
}


@pytest.fixture(params=NATIVE, ids=lambda runtime: runtime.name)
def native(request: pytest.FixtureRequest) -> Native:
    """Each such runtime that is built; the others are skipped with what they lack."""
    found: Native = ready_or_skip(request.param)
    return found


@cache
def encoded(folder: Path) -> dict[str, dict[str, Any]]:
    """The inputs of every case, by transformers' own tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    options = {"padding": True, "truncation": True, "max_length": LONGEST, "return_tensors": "np"}
    return {
        case: {name: tokenizer(texts, **options)[name].astype(np.int64) for name in INPUTS}
        for case, texts in TEXTS.items()
    }


@cache
def embedded(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the embeddings in float64, in float32) of every case by PyTorch: the mean of the valid tokens, normalised."""
    import torch
    from transformers import AutoModel

    found = []
    for dtype in (torch.float64, torch.float32):
        model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=dtype).eval()
        made = {}
        for case, inputs in encoded(folder).items():
            given = {name: torch.from_numpy(array) for name, array in inputs.items()}
            with torch.no_grad():
                states = model(**given).last_hidden_state
            mask = given["attention_mask"].unsqueeze(-1).to(dtype)
            mean = (states * mask).sum(1) / mask.sum(1)
            made[case] = torch.nn.functional.normalize(mean, dim=1).numpy()
        found.append(made)
    return found[0], found[1]


def test_texts_become_the_ids_and_embeddings_of_python(
    native: Native, minilm: Path, minilm_bundle: Path, tmp_path: Path
) -> None:
    (kind,) = native.reads
    reading = Reading(minilm_bundle / "tokenizer.json")
    job = Job(minilm_bundle / SHIPPED[kind], tmp_path / "cases", tmp_path / "out", "cpu", reading)
    specs = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in INPUTS)
    signature = Signature(specs, (TensorSpec("sentence_embedding", "float32", ("batch", 384)),))
    blank = {case: {name: np.zeros_like(a) for name, a in inputs.items()} for case, inputs in encoded(minilm).items()}
    more = {"texts": json.dumps(TEXTS), "longest": str(LONGEST)}
    write_cases(job.inputs, blank, signature, "sentence-similarity", "float32", more)
    ended = subprocess.run(native.command(job), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    assert (ended.returncode, ended.stderr) == (0, "")
    made = read_tensors(job.outputs).arrays
    for case, inputs in encoded(minilm).items():
        for name, array in inputs.items():
            assert made[case][name].tolist() == array.tolist(), f"{case}: {name} of {TEXTS[case]}"
    exact, rounded = embedded(minilm)
    rows = []
    for case in TEXTS:
        judged = np.ones_like(exact[case], dtype=bool)
        rows.append(compare(case, made[case]["sentence_embedding"], exact[case], rounded[case], judged))
    row = pool("sentence_embedding", rows, "float32", 1.0)
    assert row.passed, row.problem


def test_a_tokenizer_with_a_mecab_contract_is_refused_without_mecab(
    native: Native, minilm_bundle: Path, tmp_path: Path
) -> None:
    """Words that nobody divided would be other ids."""
    (kind,) = native.reads
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(minilm_bundle / name, tmp_path / name)
    (tmp_path / "mecab_contract.json").write_text("{}", "utf-8")
    reading = Reading(tmp_path / "tokenizer.json")
    job = Job(minilm_bundle / SHIPPED[kind], tmp_path / "cases", tmp_path / "out", "cpu", reading)
    specs = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in INPUTS)
    signature = Signature(specs, (TensorSpec("sentence_embedding", "float32", ("batch", 384)),))
    blank = {"one": {name: np.zeros((1, 3), np.int64) for name in INPUTS}}
    more = {"texts": json.dumps({"one": ["東京"]}), "longest": "16"}
    write_cases(job.inputs, blank, signature, "sentence-similarity", "float32", more)
    ended = subprocess.run(native.command(job), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "mecab_contract.json" in ended.stderr


@pytest.fixture(scope="module")
def retold(
    bertx: Callable[..., Ran], minilm_bundle: Path, built: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[tuple[str, str], Any]:
    """(language, change) -> the verdict of `bertx verify` on a runner whose tokenizer.json alone is changed so."""
    lines = {}
    for change, values in CHANGES.items():
        folder = tmp_path_factory.mktemp("retold") / change
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            document = json.loads((minilm_bundle / name).read_text("utf-8"))
            document.get("normalizer", {}).update(values)
            (folder / name).write_text(json.dumps(document), "utf-8")
        for language, runtime in _readers().items():
            command = [sys.executable, str(RETOLD), str(folder / "tokenizer.json"), *runtime.program(runtime.product)]
            lines[language, change] = f"onnx,texts={shlex.join(command)}"
    words = [word for line in lines.values() for word in ("--runner", line)]
    artifact = minilm_bundle / "onnx" / "model.onnx"
    ran = bertx("verify", artifact, "--runtime", "onnxruntime", *words, "--json", **built)
    return dict(zip(lines, checked(ran.json)["results"][1:], strict=True))


def _readers() -> dict[str, Native]:
    """One runtime that reads ONNX and texts of each language, where it is built."""
    return {each.language: each for each in NATIVE if "onnx" in each.reads and not each.missing()}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("language", ["rust", "java", "node"])
def test_another_tokenizer_than_the_bundles_fails(
    language: str, change: str, retold: Mapping[tuple[str, str], Any]
) -> None:
    if language not in _readers():
        lacking = [each for each in NATIVE if each.language == language and "onnx" in each.reads]
        ready_or_skip(lacking[0])
    result = retold[language, change]
    assert result["verdict"] == "fail"
    assert result["cause"].startswith("texts: the runner's tokenizer reads a text otherwise: “")
    assert [row["name"] for row in result["outputs"] if row["problem"]] == ["texts"]


def test_states_of_texts_that_are_near_each_other_are_no_false_alarm(
    bertx: Callable[..., Ran], minilm_bundle: Path, built: dict[str, str], tmp_path: Path
) -> None:
    """Before the first layer [CLS] is the same vector in each, and so is its rounding."""
    ready = _readers().values()
    if not ready:
        pytest.skip("no program that reads ONNX and texts is ready: bertx build ort")
    (tmp_path / "near.txt").write_text("\n".join(NEAR), "utf-8")
    options = ("--output-name", "hidden_states", "--no-verify")
    made = bertx("to-onnx", minilm_bundle, *options, "-o", tmp_path / "states")
    assert made.code == 0, made.err
    artifact = tmp_path / "states" / "onnx" / "model.hidden_states.onnx"
    named = [word for runtime in ready for word in ("--runtime", runtime.name)]
    ran = bertx("verify", artifact, *named, "--text", tmp_path / "near.txt", "--json", **built)
    assert ran.code == 0, ran.err
    for result in checked(ran.json)["results"]:
        rows = [row["name"] for row in result["outputs"] if row["name"].startswith("texts")]
        assert rows == ["texts", *(f"texts.hidden_states.{k}" for k in range(1, 7))]
