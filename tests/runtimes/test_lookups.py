"""Where ids go in a TorchScript file, read off its graph: nothing but a plain lookup lets a table's bytes stand."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bertx.runtimes.lookups import Lookups, in_torchscript, stated

TABLE = torch.arange(40, dtype=torch.float32).reshape(10, 4)
NAME = hashlib.sha256(TABLE.numpy().tobytes()).hexdigest()
IDS, MASK = torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.long)


class Program(torch.nn.Module):
    """Looks a table up as it is told to."""

    def __init__(self, look: Callable[[Any, Any, Any], Any]) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(10, 4, _weight=TABLE.clone())
        self.look = look

    def forward(self, ids: Any, mask: Any) -> Any:
        return self.look(self.words, ids, mask)


def loaded(program: torch.nn.Module, *, scripted: bool = False) -> torch.jit.ScriptModule:
    stream = io.BytesIO()
    made = torch.jit.script(program) if scripted else torch.jit.trace(program, (IDS, MASK), check_trace=False)
    torch.jit.save(made.eval(), stream)
    stream.seek(0)
    return torch.jit.load(stream)


DIRECT = {
    "as they are": lambda words, ids, mask: words(ids),
    "through views and int32": lambda words, ids, mask: words(ids.reshape(-1).int()).reshape(1, 3, 4),
    "their shape and type beside": lambda words, ids, mask: words(ids) * torch.ones_like(ids).size(1),
    "changed in place afterwards": lambda words, ids, mask: words(ids).add_(1).relu_(),
}
OTHERWISE = {
    "mapped": lambda words, ids, mask: words(torch.where(ids == 7, 3, ids)),
    "mapped, and as they are beside": lambda words, ids, mask: words(ids.clamp_max(8)) + 0 * words(ids),
    "through few bits": lambda words, ids, mask: words(ids.to(torch.uint8).long()),
    "told from others": lambda words, ids, mask: words(ids) * (ids * 2).max(),
    "a table that is computed": lambda words, ids, mask: torch.nn.functional.embedding(ids, words.weight * 2),
    "a table that is changed": lambda words, ids, mask: words(ids) + 0 * words.weight.data.view(-1).add_(1).sum(),
}


@pytest.mark.parametrize("kind", DIRECT)
def test_ids_that_only_choose_rows_are_seen_to_and_the_table_is_named_by_its_numbers(kind: str) -> None:
    found = in_torchscript(loaded(Program(DIRECT[kind])), 0)
    assert found == Lookups(frozenset({NAME}), frozenset())
    assert found is not None
    assert stated(found.to_json()) == found


@pytest.mark.parametrize("kind", OTHERWISE)
def test_any_other_way_is_not_taken_for_a_plain_lookup(kind: str) -> None:
    assert in_torchscript(loaded(Program(OTHERWISE[kind])), 0) is None


def test_weights_that_were_folded_into_the_program_are_read_too() -> None:
    frozen = torch.jit.freeze(loaded(Program(DIRECT["as they are"])))
    assert in_torchscript(frozen, 0) == Lookups(frozenset({NAME}), frozenset())


def test_the_ids_that_others_are_told_from_are_named() -> None:
    counted = loaded(Program(lambda words, ids, mask: words(ids) + (ids != 1).cumsum(1).unsqueeze(-1)))
    assert in_torchscript(counted, 0) == Lookups(frozenset({NAME}), frozenset({1}))


def test_another_argument_that_looks_the_table_up_is_not_the_ids() -> None:
    found = in_torchscript(loaded(Program(lambda words, ids, mask: words(mask) + words(ids.clamp_max(8)))), 0)
    assert found is None


class Hooked(torch.nn.Module):
    """The ids are mapped in a hook, which runs before `forward` and is not in its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(10, 4, _weight=TABLE.clone())

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.words(ids)


def mapped(self: Any, given: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return given[0].clamp_max(8), given[1]


class Counting(torch.nn.Module):
    """Another answer after some calls."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(10, 4, _weight=TABLE.clone())
        self.calls = 0

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.words(ids)


class Branching(torch.nn.Module):
    """Another way for some ids."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(10, 4, _weight=TABLE.clone())

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if mask.sum() > 2:
            ids = ids.clamp_max(8)
        return self.words(ids)


@pytest.mark.parametrize("kind", [Counting, Branching])
def test_a_program_that_remembers_or_branches_is_not_taken_for_a_plain_lookup(kind: type[torch.nn.Module]) -> None:
    assert in_torchscript(loaded(kind(), scripted=True), 0) is None


def test_a_hook_is_not_overlooked() -> None:
    program = Hooked()
    program.register_forward_pre_hook(mapped)
    assert in_torchscript(loaded(program, scripted=True), 0) is None
    assert in_torchscript(loaded(Hooked(), scripted=True), 0) == Lookups(frozenset({NAME}), frozenset())


@pytest.mark.parametrize("text", [None, "", "no", "{}", '{"tables": [], "compared": [[]]}', "[]"])
def test_what_says_nothing_is_nothing(text: str | None) -> None:
    assert stated(text) is None
