"""A runner that takes texts, and reads them in one way wrongly, named by its first argument; "none" is right.

python text_runner.py FAULT --artifact A --inputs I --outputs O --device D --tokenizer T
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tokenizers
from safetensors import safe_open
from safetensors.numpy import save_file

PARTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def tokenizer_of(fault: str, path: str, longest: int) -> Any:
    document = json.loads(Path(path).read_text("utf-8"))
    if fault == "accents-kept":
        document["normalizer"]["strip_accents"] = False
    if fault == "case-kept":
        document["normalizer"]["lowercase"] = False
    if fault == "one-letter":
        replaced = {"type": "Replace", "pattern": {"String": "Ł"}, "content": "L"}
        document["normalizer"] = {"type": "Sequence", "normalizers": [replaced, document["normalizer"]]}
    made = tokenizers.Tokenizer.from_str(json.dumps(document))
    made.enable_padding(direction="left" if fault == "padded-left" else "right")
    made.enable_truncation(longest - 1 if fault == "cut-short" else longest)
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("fault")
    for name in ("artifact", "inputs", "outputs", "device", "tokenizer"):
        parser.add_argument(f"--{name}")
    chosen = parser.parse_args()
    session = onnxruntime.InferenceSession(chosen.artifact, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    cases: dict[str, dict[str, np.ndarray]] = {}
    with safe_open(chosen.inputs, "numpy") as stored:
        metadata = stored.metadata()
        for key in stored.keys():  # noqa: SIM118
            case, _, name = key.partition("/")
            cases.setdefault(case, {})[name] = stored.get_tensor(key)
    made: dict[str, np.ndarray] = {}
    texts = json.loads(metadata["texts"]) if chosen.tokenizer and chosen.fault != "texts-ignored" else {}
    for case, rows in texts.items():
        encoded = tokenizer_of(chosen.fault, chosen.tokenizer, int(metadata["longest"])).encode_batch(rows)
        cases[case] = {
            name: np.array([getattr(row, part) for row in encoded], dtype=np.int64) for name, part in PARTS.items()
        }
        made |= {f"{case}/{name}": array for name, array in cases[case].items()}
    for case, inputs in cases.items():
        swapped = {name: array[::-1] for name, array in inputs.items()}
        answers = session.run(None, swapped if chosen.fault == "rows-swapped" and case in texts else inputs)
        made |= {f"{case}/{name}": np.ascontiguousarray(a) for name, a in zip(names, answers, strict=True)}
    facts = {"runtime": "text", "version": "1", "provider": "CPU", "device": "cpu", "dtype": "float32", "seconds": "{}"}
    save_file(made, chosen.outputs, metadata=facts)


if __name__ == "__main__":
    main()
