"""Runs another runner on inputs that a wrong program would give it: python fed_runner.py FAULT PROGRAM… ARGUMENTS."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


def changed(fault: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of all cases, as a program that is wrong in this way feeds them."""
    made = dict(arrays)
    for name, array in arrays.items():
        case, _, tensor = name.partition("/")
        if tensor == "attention_mask" and fault == "mask-ignored":
            made[name] = np.ones_like(array)
        if tensor == "attention_mask" and fault == "inputs-swapped":
            made[name], made[f"{case}/token_type_ids"] = arrays[f"{case}/token_type_ids"], array
    return made


def main() -> int:
    fault, *command = sys.argv[1:]
    place = command.index("--inputs") + 1
    with safe_open(command[place], "numpy") as cases:
        arrays = {name: cases.get_tensor(name) for name in cases.keys()}  # noqa: SIM118
        metadata = cases.metadata()
    assert json.loads(metadata["inputs"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cases.safetensors"
        save_file(changed(fault, arrays), path, metadata=metadata)
        command[place] = str(path)
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
