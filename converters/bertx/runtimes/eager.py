"""Runtime `eager`: published safetensors in the stock transformers class. Also the reference's program.

The artifact is a folder's model.safetensors; its config.json (and modules.json) lie beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.runtimes import Runtime, absent
from bertx.runtimes.protocol import Program, limit_threads, main

if TYPE_CHECKING:
    from bertx.runtimes.protocol import Array


class Eager(Runtime):
    name = "eager"
    reads = frozenset({"safetensors"})
    distributions = ("torch", "transformers")

    def missing(self) -> str | None:
        return absent("torch", "transformers", "safetensors")


class EagerProgram(Program):
    """The stock class at one dtype on one device."""

    runtime = "eager"

    def __init__(self, dtype: str | None = None) -> None:
        self.dtype = dtype

    def open(self, artifact: Path, device: str, metadata: Mapping[str, str]) -> None:
        from bertx.checkpoint import open_folder
        from bertx.model.embedding import embedder
        from bertx.model.loading import load
        from bertx.model.tasks import task_named

        limit_threads(metadata)
        task = task_named(metadata["task"])
        checkpoint = open_folder(artifact.parent)
        self.device = device
        self.loaded = load(checkpoint, task, dtype=self.dtype or metadata.get("dtype", "float32"))
        self.loaded.model.to(device)
        self.embed = embedder(checkpoint.folder) if task.name == "sentence-similarity" else None

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Any]:
        import torch

        from bertx.model.stock import run_stock
        from bertx.model.tasks import HIDDEN_STATES

        # A picture is as precise as the model; ids stay what they are.
        own = next(p.dtype for p in self.loaded.model.parameters() if p.is_floating_point())
        given = {name: torch.from_numpy(array).to(self.device) for name, array in inputs.items()}
        tensors = {name: value.to(own) if value.is_floating_point() else value for name, value in given.items()}
        outputs, states = run_stock(self.loaded, tensors)
        outputs.pop(HIDDEN_STATES, None)
        if self.embed is not None:
            outputs["sentence_embedding"] = self.embed(outputs["last_hidden_state"], tensors["attention_mask"])
        outputs |= {f"{HIDDEN_STATES}.{k}": state for k, state in enumerate(states)}
        return {name: value.cpu() for name, value in outputs.items()}

    def facts(self) -> Mapping[str, str]:
        import torch
        import transformers

        used = str(next(self.loaded.model.parameters()).device)
        return {
            "version": f"{torch.__version__}, transformers {transformers.__version__}",
            "provider": "torch",
            "device": used,
            "dtype": str(next(self.loaded.model.parameters()).dtype).removeprefix("torch."),
        }


RUNTIME = Eager()

if __name__ == "__main__":
    main(EagerProgram())
