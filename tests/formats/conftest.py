"""A tiny checkpoint and, beside it, the cache that verification uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bertx.parity.verify import VerifyOptions
from families import make


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny models are slower on two threads than on one, most of all beside other work."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with a pooler and two segments. Tests do not write to it."""
    return make("bert", tmp_path_factory.mktemp("formats") / "tiny-bert")


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> VerifyOptions:
    return VerifyOptions(cache=tmp_path_factory.mktemp("cache"))
