"""A plain module is copied, fed by names or by position, and its outputs have names that are always the same."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from bertx.errors import InputRefused, UsageError
from bertx.model.plain import answer, samples_for_export, take
from bertx.signature import TensorSpec

IMAGE = {"image": torch.ones(2, 3, 4, 4)}
Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Found:
    mean: Any
    extra: Any = None


class Gives(torch.nn.Module):
    """Gives whatever `shape` makes of its input."""

    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, image: torch.Tensor) -> Any:
        return self.shape(image)


def names(shape: Any, outputs: list[str] | None = None) -> list[str]:
    plain = take(Gives(shape), IMAGE, {}, outputs)
    return list(answer(plain, plain.module, plain.samples))


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (lambda x: x, ["output"]),
        (lambda x: (x, x + 1), ["output_0", "output_1"]),
        (lambda x: [x, (x, x)], ["output_0", "output_1.0", "output_1.1"]),
        (lambda x: {"b": x, "a": {"c": x}}, ["b", "a.c"]),
        (lambda x: Pair(x, x), ["left", "right"]),
        (lambda x: Found(x), ["mean"]),
        (lambda x: BaseModelOutput(last_hidden_state=x, hidden_states=(x, x)),
         ["last_hidden_state", "hidden_states.0", "hidden_states.1"]),
    ],
)  # fmt: skip
def test_outputs_are_named_by_their_fields_keys_and_places(shape: Any, wanted: list[str]) -> None:
    assert names(shape) == wanted


def test_names_that_were_stated_are_taken_in_order() -> None:
    assert names(lambda x: (x, x + 1), ["image", "brighter"]) == ["image", "brighter"]


@pytest.mark.parametrize(
    ("shape", "outputs", "why"),
    [
        (lambda x: (x, 3), None, "output_1 is a int, not a tensor"),
        (lambda x: None, None, "gives no tensor"),
        (lambda x: (x, x), ["one"], "gives 2 outputs"),
        (lambda x: {"a/b": x}, None, "outputs called a/b"),
    ],
)
def test_what_is_no_named_tensor_is_refused(shape: Any, outputs: list[str] | None, why: str) -> None:
    with pytest.raises(InputRefused, match=why) as refused:
        names(shape, outputs)
    assert refused.value.code == "E_MODULE"


def test_inputs_go_by_name_where_forward_has_their_names_and_by_position_where_it_has_not() -> None:
    class Minus(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a - b

    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    by_name = take(Minus(), {"b": two, "a": one}, {})
    by_position = take(Minus(), {"first": two, "second": one}, {})
    assert answer(by_name, by_name.module, by_name.samples)["output"].item() == -1
    assert answer(by_position, by_position.module, by_position.samples)["output"].item() == 1


def test_the_users_module_is_copied_into_eval_mode_and_stays_as_it_was() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5)).train()
    module[1].eval()
    module(torch.ones(1, 4)).sum().backward()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    grads = [value.grad.clone() for value in module.parameters()]
    plain = take(module, {"x": torch.ones(2, 4)}, {})
    assert not plain.module.training
    assert (module.training, module[0].training, module[1].training) == (True, True, False)
    assert all(value.requires_grad for value in module.parameters())
    assert all(torch.equal(a, b.grad) for a, b in zip(grads, module.parameters(), strict=True))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_moving_axes_become_symbols() -> None:
    plain = take(Gives(lambda x: x), IMAGE, {"image": {0: "batch", 2: "side", 3: "side"}})
    assert plain.inputs == (TensorSpec("image", "float32", ("batch", 3, "side", "side")),)


def test_a_moving_axis_of_one_is_two_for_an_exporter() -> None:
    plain = take(Gives(lambda x: x), {"image": torch.ones(1, 3)}, {"image": {0: "batch"}})
    assert samples_for_export(plain)["image"].shape == (2, 3)


@pytest.mark.parametrize(
    ("inputs", "dynamic", "why"),
    [
        ({}, {}, "needs inputs"),
        ({"a b": torch.ones(1)}, {}, "is no name"),
        ({"x": [1.0]}, {}, "is a list"),
        ({"x": torch.ones(0, 3)}, {}, "is empty"),
        ({"x": torch.tensor([float("nan")])}, {}, "not finite"),
        ({"x": torch.ones(2, dtype=torch.complex64)}, {}, "is complex64"),
        ({"x": torch.ones(2)}, {"y": {0: "batch"}}, "dynamic names y"),
        ({"x": torch.ones(2)}, {"x": {1: "batch"}}, "has no axis 1"),
        ({"x": torch.ones(2), "y": torch.ones(3)}, {"x": {0: "batch"}, "y": {0: "batch"}}, "have the sizes 2 and 3"),
    ],
)
def test_inputs_that_do_not_fit_together_are_refused(inputs: Any, dynamic: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        take(Gives(lambda x: x), inputs, dynamic)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no nn\.Module"):
        take(lambda x: x, IMAGE, {})


def test_weights_that_are_not_finite_are_refused_by_name() -> None:
    module = torch.nn.Linear(2, 2)
    module.bias.data[0] = float("inf")
    with pytest.raises(InputRefused, match="bias is not finite"):
        take(module, {"x": torch.ones(1, 2)}, {})


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    module = torch.nn.Linear(2, 2)
    module.product = module.weight * 2  # a tensor with a history
    with pytest.raises(InputRefused, match="cannot be copied"):
        take(module, {"x": torch.ones(1, 2)}, {})
