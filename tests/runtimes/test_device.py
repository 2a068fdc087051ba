"""Devices: what is asked for is used or refused, never replaced."""

from __future__ import annotations

import pytest

from bertx.errors import LocalProblem, UsageError
from bertx.runtimes import device


def test_auto_is_the_cpu_where_there_is_no_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cuda_count", lambda: 0)
    assert device.resolve("auto") == "cpu"


def test_auto_is_cuda_where_there_is_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cuda_count", lambda: 1)
    assert device.resolve("auto") == "cuda"


@pytest.mark.parametrize(("asked", "count"), [("cuda", 0), ("cuda:1", 1)])
def test_a_device_that_is_not_here_is_a_local_problem(asked: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cuda_count", lambda: count)
    with pytest.raises(LocalProblem) as raised:
        device.resolve(asked)
    assert (raised.value.code, raised.value.exit_code) == ("E_DEVICE", 5)


@pytest.mark.parametrize("asked", ["gpu", "cuda:x", "cuda:", "", "CPU", "cuda:100"])
def test_an_unknown_device_is_a_usage_error(asked: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        device.resolve(asked)
