"""What tests of guides share: the programs that are built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from embed_server import GUIDE
from rust import compiled


@pytest.fixture(scope="session")
def program() -> Path:
    """The server of docs/guides/server."""
    return compiled(GUIDE, "embed-server")
