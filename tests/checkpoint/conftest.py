"""A Hub on a local port, for each test its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_hub import REPO, UNWANTED, WANTED, model

from bertx.checkpoint.hub import HubOptions
from hub_server import HubServer


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with HubServer() as server:
        yield server


@pytest.fixture
def options(hub: HubServer, tmp_path: Path) -> HubOptions:
    return HubOptions(cache=tmp_path / "cache", endpoint=hub.url, timeout=5)


@pytest.fixture
def offline(options: HubOptions) -> HubOptions:
    return replace(options, offline=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return model(tmp_path / "model", WANTED + UNWANTED)


@pytest.fixture
def commit(hub: HubServer, source: Path) -> str:
    """The one commit of `REPO`, served from `source`."""
    return hub.add(REPO, source)
