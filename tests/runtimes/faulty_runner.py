"""A runner that is wrong in one way, named by its first argument. Speaks the protocol with numpy and ONNX Runtime.

python faulty_runner.py FAULT --artifact A --inputs I --outputs O --device D
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file, save_file


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("fault")
    for name in ("artifact", "inputs", "outputs", "device"):
        parser.add_argument(f"--{name}")
    return parser.parse_args()


def feed(fault: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a serving program that is wrong in this way would give the model."""
    changed = dict(inputs)
    mask, ids = inputs["attention_mask"], inputs["input_ids"]
    if fault == "mask-ignored":
        changed["attention_mask"] = np.ones_like(mask)
    if fault == "mask-as-length":
        lengths = mask.sum(axis=1, keepdims=True)
        changed["attention_mask"] = (np.arange(mask.shape[1])[None, :] < lengths).astype(np.int64)
    if fault == "segments-zero":
        changed["token_type_ids"] = np.zeros_like(ids)
    if fault == "inputs-swapped":
        changed["attention_mask"], changed["token_type_ids"] = inputs["token_type_ids"], mask
    return changed


def alter(fault: str, name: str, value: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """What the program makes of an answer; None leaves it out."""
    if fault == "missing-output" and name == "pooler_output":
        return None
    if fault == "float64":
        return value.astype(np.float64)
    if fault == "cut-short" and value.ndim == 3:
        return value[:, :-1]
    if fault == "constant":
        return np.full_like(value, 0.5)
    if fault == "nan-at-padding" and value.ndim == 3:
        return np.where(mask[:, :, None] == 1, value, np.nan).astype(value.dtype)
    if fault == "zero-at-padding" and value.ndim == 3:
        return value * mask[:, :, None].astype(value.dtype)
    if fault == "one-element" and value.ndim == 3 and value.shape[:2] == (7, 5):
        value = value.copy()
        value[4, 2, 7] += 1e-3
    if fault == "half" and value.ndim == 3:
        return value.astype(np.float16).astype(np.float32)
    return value


def main() -> None:
    chosen = parse()
    if chosen.fault == "crash":
        os.abort()
    if chosen.fault == "hang":
        time.sleep(600)
    if chosen.fault == "memory":
        kept = []
        while True:
            kept.append(np.ones(16 * 2**20))
    if chosen.fault == "refuse":
        sys.stderr.write("noise before\nthe model \x1b[31mis\x07 refused\n")
        sys.exit(9)
    if chosen.fault.startswith("unsupported"):
        if chosen.fault == "unsupported-after-answers":
            save_file({"one/last_hidden_state": np.zeros(3, dtype=np.float32)}, chosen.outputs)
        before = "this is " if chosen.fault == "unsupported-in-other-words" else ""
        sys.stderr.write(f"{before}E_UNSUPPORTED: faulty: it has no Frobnicate\n")
        sys.exit(1 if chosen.fault == "unsupported-by-another-code" else 6)
    if chosen.fault == "garbage":
        Path(chosen.outputs).write_bytes(b"\xff" * 100)
        return
    if chosen.fault == "nothing":
        return
    session = onnxruntime.InferenceSession(chosen.artifact, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    cases: dict[str, dict[str, np.ndarray]] = {}
    for key, array in load_file(chosen.inputs).items():
        case, _, name = key.partition("/")
        cases.setdefault(case, {})[name] = array
    if chosen.fault == "case-dropped":
        cases.pop("holes")
    made: dict[str, np.ndarray] = {}
    for case, inputs in cases.items():
        answers = session.run(None, feed(chosen.fault, inputs))
        for name, value in zip(names, answers, strict=True):
            altered = alter(chosen.fault, name, value, inputs["attention_mask"])
            if altered is not None:
                made[f"{case}/{name}"] = np.ascontiguousarray(altered)
    if chosen.fault == "unasked-case":
        made["nobody-asked/last_hidden_state"] = np.full((4, 9, 32), np.nan, dtype=np.float32)
    device = "cuda" if chosen.fault == "other-device" else "cpu"
    facts = {
        "runtime": "faulty",
        "version": "1",
        "provider": "CPU",
        "device": device,
        "dtype": "float32",
        "seconds": "{}",
    }
    save_file(made, chosen.outputs, metadata=facts)


if __name__ == "__main__":
    main()
