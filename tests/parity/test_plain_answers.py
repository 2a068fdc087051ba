"""A plain module answers its cases in float64 and at its own dtype; one that cannot be judged is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bertx.errors import InputRefused
from bertx.model.plain import take
from bertx.parity.plain import Answers, ask

F = torch.nn.functional


class Does(torch.nn.Module):
    """Computes what it is told, with one layer of its own."""

    def __init__(self, compute: Callable[..., Any]) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        self.compute = compute
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.compute(self, *inputs)


def asked(module: torch.nn.Module, x: torch.Tensor | None = None) -> Answers:
    x = torch.rand(2, 4, generator=torch.Generator().manual_seed(0)) if x is None else x
    return ask(take(module, {"x": x}, {"x": {0: "batch"}}), {}, "quick", 0, "cpu")


def test_the_exact_answer_is_of_float64_and_the_rounded_one_of_the_modules_dtype() -> None:
    found = asked(Does(lambda self, x: self.layer(x)))
    assert found.reference.exact.dtypes == {"output": "float64"}
    assert found.reference.rounded.dtypes == {"output": "float32"}
    assert (found.dtype, found.reference.facts["noise"], found.reference.facts["pure"]) == ("float32", "float64", True)
    exact, rounded = (each.arrays["normal"]["output"] for each in (found.reference.exact, found.reference.rounded))
    assert 0 < np.abs(exact - rounded).max() < 1e-5


def test_outputs_have_the_symbols_of_their_inputs() -> None:
    found = asked(Does(lambda self, x: {"rows": self.layer(x), "count": x.sum(dim=1).argsort()}))
    assert [(spec.name, spec.dtype, spec.shape) for spec in found.outputs] == [
        ("rows", "float32", ("batch", 4)),
        ("count", "int64", ("batch",)),
    ]


def test_a_module_of_half_precision_is_judged_at_it() -> None:
    found = asked(Does(lambda self, x: self.layer(x)).half(), torch.rand(2, 4).half())
    assert (found.dtype, found.reference.exact.dtypes["output"]) == ("float16", "float64")


@pytest.mark.parametrize("module", [Does(lambda self, x: self.layer(x).double() * 1.0).double()])
def test_a_module_of_float64_has_its_noise_from_inputs_moved_by_one_ulp(module: torch.nn.Module) -> None:
    found = asked(module, torch.rand(2, 4).double())
    exact, rounded = (each.arrays["normal"]["output"] for each in (found.reference.exact, found.reference.rounded))
    assert (found.dtype, found.reference.facts["noise"]) == ("float64", "ulp")
    assert 0 < np.abs(exact - rounded).max() < 1e-14


def test_a_module_that_cannot_run_in_float64_has_its_noise_from_inputs_moved_by_one_ulp() -> None:
    fixed = torch.rand(4, 4)  # a tensor that is no buffer stays float32
    found = asked(Does(lambda self, x: x @ fixed))
    exact, rounded = (each.arrays["normal"]["output"] for each in (found.reference.exact, found.reference.rounded))
    assert found.reference.facts["noise"] == "ulp"
    assert 0 < np.abs(exact - rounded).max() < 1e-5


def test_parts_that_stay_in_float32_are_told() -> None:
    assert asked(Does(lambda self, x: self.layer(x.float().to(x.dtype)))).reference.facts["pure"] is False


def test_a_case_outside_of_the_modules_domain_is_left_out() -> None:
    found = asked(Does(lambda self, x: self.layer(x.sqrt())))
    assert "large" in found.left_out
    assert {"sample", "uniform", "axis-batch-7"} <= {case.name for case in found.cases}


def counting(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.calls += 1
    return self.layer(x) * self.calls


@pytest.mark.parametrize(
    ("compute", "why"),
    [
        (lambda self, x: F.dropout(self.layer(x)), "another output whenever it runs"),
        (lambda self, x: self.layer(x) + torch.randn(4), "another output whenever it runs"),
        (counting, "another output whenever it runs"),
        (lambda self, x: self.layer(x).log() * float("nan"), "NaN or Inf for the sample itself"),
        (lambda self, x: self.layer.weight, "the same whatever goes in"),
        (lambda self, x: (self.layer(x), x * 0), "output_1 is the same whatever goes in"),
        (lambda self, x: (self.layer(x), x[:, :0]), "output_1 is empty|runs only where"),
        (lambda self, x: (self.layer(x), self.layer(x).half()), "outputs in float16 and float32"),
        (lambda self, x: self.layer(x) if len(x) == 2 else 1 / 0, "runs only where it is 2"),
    ],
)
def test_what_cannot_be_judged_is_refused(compute: Callable[..., Any], why: str) -> None:
    with pytest.raises(InputRefused, match=why) as refused:
        asked(Does(compute))
    assert refused.value.code == "E_MODULE"


def test_an_input_that_matters_in_no_case_makes_an_output_constant() -> None:
    class Table(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x > 1e6).float()

    with pytest.raises(InputRefused, match="the same whatever goes in"):
        asked(Table())
    plain = take(Table(), {"x": torch.rand(2, 4)}, {"x": {0: "batch"}})
    assert ask(plain, {"x": (0.0, 2e6)}, "quick", 0, "cpu").dtype == "float32"


def test_dropout_of_a_module_in_training_is_off_and_the_module_stays_in_training() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5)).train()
    mean = module[1].running_mean.clone()
    asked(module)
    assert module.training
    assert torch.equal(module[1].running_mean, mean)


def test_no_random_number_of_the_caller_is_drawn() -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    asked(Does(lambda self, x: self.layer(x)), torch.ones(2, 4) / 3)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), wanted)
