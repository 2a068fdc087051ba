"""The runner protocol, for runners written in Python and for whoever reads and writes their files.

    RUNNER --artifact PATH --inputs CASES.safetensors --outputs OUT.safetensors --device cpu|cuda|cuda:N

CASES holds `<case>/<tensor>`, its metadata the `signature` as JSON, the order of `inputs`, the `task`, the
`dtype` judged and, as a hint, the number of `threads`. OUT holds
`<case>/<output>` (hidden states as `hidden_states.<k>`), its metadata runtime, version, provider, device, dtype and
`seconds` per case as JSON. Exit 0, or non-zero with one line on standard error.
"""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from bertx.bundle import disk_errors
from bertx.checkpoint.tensors import read_header
from bertx.ending import leave
from bertx.errors import BertxError, InputRefused, escape
from bertx.signature import Signature

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_NUMPY = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I8": "int8",
    "U8": "uint8",
}


@dataclass(frozen=True)
class Tensors:
    """A file of `<case>/<tensor>` arrays. bfloat16 is widened to float32; `dtypes` says what the file holds."""

    arrays: Mapping[str, Mapping[str, Array]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]


def read_tensors(path: Path) -> Tensors:
    """Reads a file of cases or outputs. Raises InputRefused where it is malformed."""
    import numpy as np

    arrays: dict[str, dict[str, Array]] = {}
    dtypes: dict[str, str] = {}
    with path.open("rb") as stream:
        for name, info in read_header(path).items():
            case, slash, tensor = name.partition("/")
            if not slash or info.dtype not in _NUMPY:
                raise InputRefused(
                    "E_CASES",
                    f"{escape(path.name)}: {escape(name)} of type {info.dtype}",
                    "see docs/runners.md",
                )
            stream.seek(info.begin)
            array = np.frombuffer(stream.read(info.nbytes), dtype=_NUMPY[info.dtype]).reshape(info.shape)
            if info.dtype == "BF16":
                array = (array.astype(np.uint32) << 16).view(np.float32)
            arrays.setdefault(case, {})[tensor] = array
            dtypes[tensor] = _NAMES.get(info.dtype, info.dtype.lower())
    return Tensors(arrays, dtypes, _metadata(path))


def _metadata(path: Path) -> dict[str, str]:
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return dict(header.get("__metadata__") or {})


def write_cases(
    path: Path,
    cases: Mapping[str, Mapping[str, Array]],
    signature: Signature,
    task: str,
    dtype: str,
    more: Mapping[str, str] | None = None,
) -> None:
    """Writes a file of cases as the protocol wants it; `more` is metadata that some runners know, such as texts or
    the number of `threads` to compute with."""
    import numpy as np
    from safetensors.numpy import save_file

    # Not ascontiguousarray, which gives a single number an axis.
    flat = {f"{c}/{name}": np.asarray(a, order="C") for c, arrays in cases.items() for name, a in arrays.items()}
    metadata = {
        "signature": json.dumps(signature.to_json()),
        "inputs": json.dumps([spec.name for spec in signature.inputs]),
        "task": task,
        "dtype": dtype,
        **(more or {}),
    }
    with disk_errors():
        save_file(flat, path, metadata=metadata)


def limit_threads(metadata: Mapping[str, str]) -> None:
    """Lets PyTorch compute with as many threads as the file of cases says, where it says so."""
    import torch

    if metadata.get("threads"):
        torch.set_num_threads(int(metadata["threads"]))


class CaseFailed(Exception):
    """A program that raised in one of the cases."""


class Program(ABC):
    """A runner in Python: opens an artifact once, then runs case by case."""

    runtime: ClassVar[str]

    @abstractmethod
    def open(self, artifact: Path, device: str, metadata: Mapping[str, str]) -> None:
        """Loads the artifact onto the device. Raises BertxError or RuntimeError with one line."""

    @abstractmethod
    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Any]:
        """Outputs by name for one case, as numpy arrays or torch tensors on the CPU. This is what is timed."""

    def taps(self, inputs: Mapping[str, Array]) -> Mapping[str, Any]:
        """Hidden states by name for one case, where they are not among its outputs."""
        return {}

    @abstractmethod
    def facts(self) -> Mapping[str, str]:
        """version, provider and device that were really used."""

    def threads(self) -> int:
        """How many threads it computes with: PyTorch's, of most programs."""
        import torch

        return torch.get_num_threads()


def main(program: Program) -> NoReturn:
    """Runs a Python runner from the command line and ends the process with the protocol's exit code."""
    guarded(lambda: _serve(program), program.runtime)


def guarded(work: Callable[[], None], name: str) -> NoReturn:
    """Does the work of a program and ends the process; what goes wrong becomes one line on standard error and an exit
    code."""
    try:
        work()
    except BertxError as error:
        _fail(f"{error.code}: {error}", error.exit_code)
    except CaseFailed as error:
        _fail(f"{name}: {error}", 1)
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises is this artifact's verdict, told in one line
        _fail(f"{name}: {type(error).__name__}: {error}", 1)
    leave(0)


def _fail(message: str, status: int) -> NoReturn:
    sys.stderr.write(escape(" ".join(message.split()), 500) + "\n")
    leave(status)


def _serve(program: Program) -> None:
    import argparse

    parser = argparse.ArgumentParser(prog=program.runtime)
    for name in ("artifact", "inputs", "outputs"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", required=True)
    chosen = parser.parse_args()
    cases = read_tensors(chosen.inputs)
    program.open(chosen.artifact, chosen.device, cases.metadata)
    results: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for case, inputs in cases.arrays.items():
        started = time.perf_counter()
        try:
            outputs = program.run(inputs)
        except BertxError:
            raise
        except Exception as error:
            raise CaseFailed(f"in case {case}: {type(error).__name__}: {error}") from error
        seconds[case] = time.perf_counter() - started
        taps = program.taps(inputs)
        # An output is what it is, whatever a file says of the values inside it.
        results |= {f"{case}/{name}": value for name, value in (*taps.items(), *outputs.items())}
    write_outputs(
        chosen.outputs,
        results,
        {
            "runtime": program.runtime,
            "seconds": json.dumps(seconds),
            "threads": str(program.threads()),
            **program.facts(),
        },
    )


def write_outputs(path: Path, results: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Writes a runner's outputs: numpy arrays, or torch tensors where numpy has no such dtype."""
    import numpy as np

    if all(isinstance(value, np.ndarray) for value in results.values()):
        from safetensors.numpy import save_file as save_arrays

        arrays = {name: np.asarray(value, order="C") for name, value in results.items()}
        with disk_errors():
            save_arrays(arrays, path, metadata=dict(metadata))
        return
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in results.items()}
    with disk_errors():
        save_file(tensors, path, metadata=dict(metadata))
