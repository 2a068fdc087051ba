"""What tests of runtimes in other languages share: where they are built."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertx.cli.options import cache_folder


@pytest.fixture(scope="session")
def built(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tests' environment, with the native runtimes of the user's cache."""
    cache = tmp_path_factory.mktemp("native") / "bertx"
    cache.mkdir()
    tests = Path(environment["BERTX_CACHE"])
    for name in ("torchscript", "references"):
        (tests / name).mkdir(parents=True, exist_ok=True)
        (cache / name).symlink_to(tests / name)
    (cache / "native").symlink_to(cache_folder() / "native")
    return {"BERTX_CACHE": str(cache)}
