"""A TorchScript file is judged in the mode in which it was saved: what loads it need not call eval()."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bertx.cli.options import cache_folder
from bertx.runtimes import Job, registry
from bertx.runtimes.native import Native
from bertx.runtimes.process import Limits, run
from bertx.runtimes.protocol import read_tensors, write_cases
from bertx.signature import Signature, TensorSpec
from program import ready_or_skip

#: DJL calls eval() itself, for everybody
AS_SAVED = [each.at(cache_folder()) for name in ("libtorch", "tch") if isinstance(each := registry()[name], Native)]


class Dropped(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.dropout(input_ids.unsqueeze(-1).float())


@pytest.mark.parametrize("runtime", AS_SAVED, ids=lambda runtime: runtime.name)
@pytest.mark.parametrize("training", [False, True])
def test_dropout_that_was_left_on_is_on(runtime: Native, training: bool, tmp_path: Path) -> None:
    native = ready_or_skip(runtime)
    torch.jit.save(torch.jit.script(Dropped().train(training)), str(tmp_path / "model.pt"))
    job = Job(tmp_path / "model.pt", tmp_path / "cases", tmp_path / "out", "cpu")
    spec = TensorSpec("input_ids", "int64", ("batch", "sequence"))
    signature = Signature((spec,), (TensorSpec("last_hidden_state", "float32", ()),))
    case = {"input_ids": np.ones((4, 50), dtype=np.int64)}
    write_cases(job.inputs, {"one": case}, signature, "feature-extraction", "float32")
    assert run(native.command(job), Limits(60)).reason is None
    made = read_tensors(job.outputs).arrays["one"]["last_hidden_state"]
    assert bool((made == 0).any()) == training
