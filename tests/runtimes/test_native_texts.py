"""Runners that take texts make the ids that Python makes, and of them the embeddings that PyTorch computes.

Text that hurts: one tokenizer in another language was seen to be wrong by 5e-2 on "ü".
"""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertx.cli.options import cache_folder
from bertx.parity.compare import compare, pool
from bertx.runtimes import Job, registry
from bertx.runtimes.native import Native
from bertx.runtimes.protocol import read_tensors, write_cases
from bertx.signature import Signature, TensorSpec
from program import ready_or_skip

NATIVE = [each.at(cache_folder()) for each in registry().values() if isinstance(each, Native) and each.takes_texts]
SHIPPED = {"onnx": "onnx/model.onnx", "torchscript": "torchscript/model.pt", "safetensors": "model.safetensors"}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LONGEST = 32

#: each batch is a case
TEXTS = {
    "accents": ["Ein schöner Über-Fluß, naïve café, ÅNGSTRÖM", "ü", "İstanbul’da ılık çay", "Ünïcödé ŁÓDŹ þorn ẞ"],
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
    job = Job(minilm_bundle / SHIPPED[kind], tmp_path / "cases", tmp_path / "out", "cpu")
    specs = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in INPUTS)
    signature = Signature(specs, (TensorSpec("sentence_embedding", "float32", ("batch", 384)),))
    blank = {case: {name: np.zeros_like(a) for name, a in inputs.items()} for case, inputs in encoded(minilm).items()}
    more = {"texts": json.dumps(TEXTS), "longest": str(LONGEST)}
    write_cases(job.inputs, blank, signature, "sentence-similarity", "float32", more)
    command = [*native.command(job), "--tokenizer", str(minilm_bundle / "tokenizer.json")]
    ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
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
