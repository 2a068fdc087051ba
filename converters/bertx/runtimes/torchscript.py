"""Runtime `torchscript`: torch.jit.load on the published file, inputs by position as Rust and C++ give them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.runtimes import Runtime, absent
from bertx.runtimes.protocol import Program, main

if TYPE_CHECKING:
    from bertx.runtimes.protocol import Array


class TorchScript(Runtime):
    name = "torchscript"
    reads = frozenset({"torchscript"})
    distributions = ("torch",)

    def missing(self) -> str | None:
        return absent("torch")


class TorchScriptProgram(Program):
    """forward(*inputs) -> one Tensor; hidden_states(*inputs), where the file has it, gives all layer boundaries."""

    runtime = "torchscript"

    def open(self, artifact: Path, device: str, metadata: Mapping[str, str]) -> None:
        import torch

        self.device = device
        self.module = torch.jit.load(str(artifact), map_location=device).eval()
        signature = json.loads(metadata["signature"])
        self.inputs = {spec["name"]: getattr(torch, spec["dtype"]) for spec in signature["inputs"]}
        # Asked of the compiled module: a plain one may have an attribute or a part of this name.
        self.tapped = "hidden_states" in self.module._c._method_names()
        self.output = signature["outputs"][0]["name"] if signature["outputs"] else "output"
        self.provider = "unknown"

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Any]:
        import torch

        tensors = [torch.from_numpy(inputs[name]).to(self.device, dtype) for name, dtype in self.inputs.items()]
        with torch.inference_mode():
            result = self.module(*tensors)
            states = self.module.hidden_states(*tensors) if self.tapped else ()
        if not isinstance(result, torch.Tensor):
            raise TypeError(f"forward gave a {type(result).__name__}, not one Tensor")
        self.provider = str(result.device)
        return {self.output: result.cpu()} | {f"hidden_states.{k}": state.cpu() for k, state in enumerate(states)}

    def facts(self) -> Mapping[str, str]:
        import torch

        found = next((str(p.dtype).removeprefix("torch.") for p in self.module.parameters()), "unknown")
        return {"version": torch.__version__, "provider": "torch", "device": self.provider, "dtype": found}


RUNTIME = TorchScript()

if __name__ == "__main__":
    main(TorchScriptProgram())
