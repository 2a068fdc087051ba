"""The reference program: the stock model in float64 on the CPU, and at the artifact's dtype on its device.

    python -m bertx.parity.reference --folder F --inputs CASES --dtype D --device D --exact OUT --rounded OUT

Runs in a process of its own, like every runtime. Some families keep float32 parts in float64 (`pure` is then false);
where float64 is impossible the exact answer is the float32 one, and rounding is imitated by moving the embeddings by
one unit in the last place (`noise` then says "ulp").
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertx.checkpoint import Checkpoint
from bertx.errors import Bug, InputRefused, NotCompared
from bertx.model.precision import precision
from bertx.parity import store
from bertx.parity.compare import Noise
from bertx.runtimes import process
from bertx.runtimes.eager import EagerProgram
from bertx.runtimes.protocol import Tensors, guarded, read_tensors, write_outputs
from bertx.signature import TensorSpec


@dataclass(frozen=True)
class Reference:
    """What eager PyTorch computes on the cases: exactly, rounded, and with which versions.

    `noise`, by case and output, is there where it was recorded; `rounded` then says nothing. `outputs` are their
    symbolic shapes where the cases alone cannot tell them.
    """

    exact: Tensors
    rounded: Tensors
    facts: Mapping[str, Any]
    noise: Mapping[str, Mapping[str, Noise]] | None = None
    outputs: tuple[TensorSpec, ...] = ()


def compute(
    checkpoint: Checkpoint, inputs: Path, dtype: str, device: str, limits: process.Limits, cache: Path | None = None
) -> Reference:
    """What eager PyTorch answers to a file of cases, from the cache where it was asked before.

    Raises what the reference program refused, or NotCompared where it failed.
    """
    name = store.key(checkpoint, inputs, dtype, device) if cache else ""
    known = store.load(cache, name) if cache else None
    if known is not None:
        return _read(*known, inputs)
    with tempfile.TemporaryDirectory(prefix="bertx-") as folder:
        exact, rounded = Path(folder) / "exact.safetensors", Path(folder) / "rounded.safetensors"
        paths = {"artifact": checkpoint.folder / "model", "inputs": inputs, "outputs": rounded, "exact": exact}
        command = [sys.executable, "-P", "-m", __name__, "--dtype", dtype, "--device", device]
        ended = process.run([*command, *(part for k, v in paths.items() for part in (f"--{k}", str(v)))], limits)
        if ended.reason is not None:
            why = f"the reference could not be computed: {ended.reason}"
            hint = "give it more seconds with --timeout, or more free memory"
            raise process.refusal(ended) or NotCompared("E_NOT_COMPARED", why, hint)
        made = _read(exact, rounded, inputs)
        if cache:
            store.save(cache, name, exact, rounded)
    return made


def _read(exact: Path, rounded: Path, inputs: Path) -> Reference:
    answers = read_tensors(exact)
    made = Reference(answers, read_tensors(rounded), json.loads(answers.metadata["facts"]))
    _check_finite(made, read_tensors(inputs))
    return made


def _check_finite(made: Reference, cases: Tensors) -> None:
    """Refuses a reference with NaN or Inf in it, rounded as well as exact: infinite noise would excuse any error.

    Rows that hold no token are left out: eager PyTorch need not give them a number.
    """
    import numpy as np

    if not made.exact.arrays:
        raise Bug("E_BUG", "the reference computed nothing", "report this")
    for answers in (made.exact, made.rounded):
        for case, outputs in answers.arrays.items():
            for name, array in outputs.items():
                if not np.isfinite(_answered(array, cases.arrays[case])).all():
                    what = f"eager PyTorch itself gives no finite {name} in case {case}"
                    raise InputRefused("E_WEIGHTS", what, "check the checkpoint, or choose another --dtype")


def _answered(array: Any, inputs: Mapping[str, Any]) -> Any:
    """The rows of an answer whose input holds a token; all of it where there is no mask."""
    mask = inputs.get("attention_mask")
    return array if mask is None or len(mask) != len(array) else array[(mask == 1).any(axis=1)]


def _program() -> None:
    import torch
    import transformers

    parser = argparse.ArgumentParser(prog="reference")
    for name in ("artifact", "inputs", "outputs", "exact"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--dtype", required=True)
    chosen = parser.parse_args()
    cases = read_tensors(chosen.inputs)
    stock = EagerProgram(chosen.dtype)
    stock.open(chosen.artifact, chosen.device, cases.metadata)
    rounded = _answers(stock, cases)
    if chosen.dtype != "float32":
        stock = EagerProgram("float32")
        stock.open(chosen.artifact, "cpu", cases.metadata)
    exact, pure = exact_answers(stock, cases)
    if pure is None and chosen.dtype == "float32":
        rounded = moved_answers(stock, cases)
    facts = {
        **stock.facts(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "attention": "eager",
        "head": stock.loaded.head,
        "pure": pure,
        "noise": "ulp" if pure is None else "float64",
    }
    write_outputs(chosen.outputs, rounded, {})
    write_outputs(chosen.exact, exact, {"facts": json.dumps(facts)})


def _answers(stock: EagerProgram, cases: Tensors) -> dict[str, Any]:
    return {
        f"{case}/{name}": value for case, inputs in cases.arrays.items() for name, value in stock.run(inputs).items()
    }


def exact_answers(stock: EagerProgram, cases: Tensors) -> tuple[dict[str, Any], bool | None]:
    """(answers in float64 on the CPU, whether all of it was float64); (those in float32, None) where it cannot."""
    stock.device = "cpu"
    stock.loaded.model.cpu().double()
    smallest = min(cases.arrays.values(), key=lambda inputs: sum(array.size for array in inputs.values()))
    try:
        with precision() as watch:
            stock.run(smallest)
        answers = _answers(stock, cases)
        # A softmax in float32 turns float64's lowest number into −inf: tokens that see no key are NaN there only.
        if all(
            bool(_answered(value, cases.arrays[name.partition("/")[0]]).isfinite().all())
            for name, value in answers.items()
        ):
            return answers, watch.pure
    except RuntimeError:
        pass
    stock.loaded.model.float()
    return _answers(stock, cases), None


def moved_answers(stock: EagerProgram, cases: Tensors) -> dict[str, Any]:
    """Answers with the embeddings moved by one unit in the last place, up and down in turn."""
    import torch

    def move(_module: Any, _inputs: Any, output: Any) -> Any:
        sign = torch.where(torch.arange(output.numel()).reshape(output.shape) % 2 == 0, 1.0, -1.0)
        return output + sign * output.abs() * torch.finfo(output.dtype).eps

    handle = stock.loaded.model.get_input_embeddings().register_forward_hook(move)
    try:
        return _answers(stock, cases)
    finally:
        handle.remove()


if __name__ == "__main__":
    guarded(_program, "reference")
