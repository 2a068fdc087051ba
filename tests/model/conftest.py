"""Tiny checkpoints made once, and how many families are taken all of the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from families import FAMILIES, make

#: what `make test` exports and verifies; `make families` takes all of them, `pytest --families all`
FEW = ("deberta-v2", "modernbert", "mpnet", "roberta")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--families", choices=("few", "all"), default="few", help="export and verify every family")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "exported_family" in metafunc.fixturenames:
        every = metafunc.config.getoption("families", "few") == "all"
        metafunc.parametrize("exported_family", sorted(FAMILIES) if every else FEW)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny models are slower on two threads than on one, most of all beside other work."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """made(model type, task, **changes to the configuration) -> its folder, made once. Tests do not write to it."""
    folders: dict[str, Path] = {}

    def once(model_type: str, task: str = "feature-extraction", **changes: Any) -> Path:
        key = repr((model_type, task, sorted(changes.items())))
        if key not in folders:
            folders[key] = make(model_type, tmp_path_factory.mktemp(model_type) / "tiny", task, **changes)
        return folders[key]

    return once
