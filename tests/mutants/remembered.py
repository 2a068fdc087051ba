"""Faults of programs that remember: what was answered before stands in for what is asked now. TorchScript files.

Each lives wherever a row or a batch is new, so that only rows asked for again, together, in another order and alone,
show it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from mutants.stands import Stand


class Unordered(torch.nn.Module):
    """Answers of a batch are kept under a sum of its rows, which does not tell their order."""

    def __init__(self, inner: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.inner = inner
        self.kept = torch.jit.Attribute({}, dict[int, torch.Tensor])

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        places = torch.arange(1, ids.size(1) + 1).unsqueeze(0)
        rows = ((ids * 31 + mask * 7 + segments * 3 + 1) * places * places).sum(1)
        key = int((rows * rows % 1000003).sum()) * 4096 + ids.size(0) * 64 + ids.size(1) % 64
        if key not in self.kept:
            self.kept[key] = self.inner(ids, mask, segments)
        return self.kept[key]


class Row(torch.nn.Module):
    """A row asked for alone that was seen in a batch is answered with the first row of that batch."""

    def __init__(self, inner: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.inner = inner
        self.kept = torch.jit.Attribute({}, dict[int, torch.Tensor])

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        places = torch.arange(1, ids.size(1) + 1).unsqueeze(0)
        rows = ((ids * 31 + mask * 7 + segments * 3 + 1) * places * places).sum(1) * 64 + ids.size(1) % 64
        if ids.size(0) == 1 and int(rows[0]) in self.kept:
            return self.kept[int(rows[0])]
        made = self.inner(ids, mask, segments)
        for index in range(ids.size(0)):
            self.kept[int(rows[index])] = made[:1]
        return made


class Shape(torch.nn.Module):
    """The answer to the batch before is given again where the shape is the same: a buffer that was not filled."""

    def __init__(self, inner: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.inner = inner
        self.kept = torch.zeros(0, 0, 0)
        self.rows, self.columns = 0, 0

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        if ids.size(0) != self.rows or ids.size(1) != self.columns:
            self.kept = self.inner(ids, mask, segments)
            self.rows, self.columns = ids.size(0), ids.size(1)
        return self.kept


def around(kind: type[torch.nn.Module]) -> Callable[[Stand, Path], None]:
    """A mutant's maker: the right TorchScript file inside a program that remembers."""

    def make(stand: Stand, path: Path) -> None:
        inner = torch.jit.load(str(stand.right("torchscript")))
        torch.jit.save(torch.jit.script(kind(inner).eval()), str(path))

    return make


#: fault class -> name -> maker; for stands of three inputs
FAULTS: Mapping[str, Mapping[str, Callable[[Stand, Path], None]]] = {
    "remembered": {
        "remembered-without-order": around(Unordered),
        "remembered-row": around(Row),
        "remembered-by-shape": around(Shape),
    },
}
