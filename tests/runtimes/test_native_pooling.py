"""Programs that read weights pool as the folder says, or say that they cannot. Tested where they are built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertx.cli.options import cache_folder
from bertx.runtimes import runtime_named
from bertx.runtimes.native import Native
from families import add_modules, make
from program import Ran, ready_or_skip


@pytest.fixture(params=["candle", "tch-varstore"])
def native(request: pytest.FixtureRequest) -> Native:
    found: Native = ready_or_skip(runtime_named(request.param).at(cache_folder()))
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_modules(make("bert", tmp_path_factory.mktemp("plain") / "model"), ("mean",), normalize=True)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a layer behind the pooling that neither program knows."""
    return add_modules(make("bert", tmp_path_factory.mktemp("odd") / "model"), ("mean",), dense=16)


def verified(bertx: Callable[..., Ran], folder: Path, built: dict[str, str], *more: str) -> Ran:
    return bertx("verify", folder / "model.safetensors", "--against", folder, "--json", *more, **built)


def of(ran: Ran, native: Native) -> Any:
    return next(each for each in ran.json["results"] if each["runtime"] == native.name)


def test_a_pooling_that_is_stated_by_name_is_known(
    native: Native, bertx: Callable[..., Ran], plain: Path, built: dict[str, str]
) -> None:
    found = of(verified(bertx, plain, built), native)
    assert (found["verdict"], found["reason"]) == ("pass", None)
    assert "sentence_embedding" in [row["name"] for row in found["outputs"]]


def test_a_module_that_it_does_not_know_is_no_fault_of_the_weights(
    native: Native, bertx: Callable[..., Ran], odd: Path, built: dict[str, str]
) -> None:
    ran = verified(bertx, odd, built)
    found = of(ran, native)
    assert (found["verdict"], ran.code) == ("not-run", 0), ran.err
    assert found["reason"].endswith("the module Dense of modules.json is not known here")
    assert verified(bertx, odd, built, "--runtime", native.name).code == 6
