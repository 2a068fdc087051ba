"""bertx doctor: what is here, and what is missing with what to install."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
from documents import checked

from bertx.formats import registry as formats
from bertx.runtimes import registry as runtimes
from bertx.runtimes.device import cuda_count
from program import Ran

#: a CUDA driver of two devices; cuInit gives what is filled in
DRIVER = """
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return %d; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, device ? "Second" : "First", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)5 << 30; return 0; }
"""


def test_every_runtime_is_listed_with_its_versions(bertx: Callable[..., Ran], environment: dict[str, str]) -> None:
    ran = bertx("doctor", "--json")
    found = checked(ran.json)
    assert (ran.code, ran.err) == (0, "")
    assert [runtime["name"] for runtime in found["runtimes"]] == list(runtimes())
    assert all(runtime["state"] == "ready" for runtime in found["runtimes"] if not runtime["native"])
    stated = {name: number for runtime in found["runtimes"] for name, number in runtime["versions"].items()}
    assert stated["torch"] == version("torch")
    assert found["unread_formats"] == []
    assert found["cache"]["path"] == environment["BERTX_CACHE"]
    assert found["hub_cache"]["path"] == f"{environment['HF_HOME']}/hub"


def test_devices_and_memory_are_this_machines(bertx: Callable[..., Ran]) -> None:
    found = checked(bertx("doctor", "--json").json)
    assert [device["name"] for device in found["devices"]] == ["cpu", *(f"cuda:{k}" for k in range(cuda_count()))]
    assert found["memory_bytes"] == psutil.virtual_memory().total
    assert 0 < found["free_memory_bytes"] <= found["memory_bytes"]
    assert (found["driver"] is None) is (cuda_count() == 0)


def test_the_table_tells_a_person(bertx: Callable[..., Ran]) -> None:
    text = bertx("doctor").out
    for name in (*runtimes(), "fugashi", "unidic-lite", "ipadic", "cpu:", "Hub cache"):
        assert name in text


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs a C compiler on Linux")
@pytest.mark.parametrize("works", [True, False])
def test_devices_are_what_the_driver_says(works: bool, bertx: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "driver.c").write_text(DRIVER % (0 if works else 100), "utf-8")
    command = ["cc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", tmp_path / "driver.c"]
    subprocess.run(command, check=True, capture_output=True)
    found = checked(bertx("doctor", "--json", LD_LIBRARY_PATH=str(tmp_path)).json)
    devices = {device["name"]: (device["model"], device["memory_bytes"]) for device in found["devices"][1:]}
    assert devices == ({"cuda:0": ("First", 5 << 30), "cuda:1": ("Second", 5 << 30)} if works else {})
    assert (found["driver"] or {}).get("cuda") == ("13.2" if works else None)


def doctor_without(module: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the program where a module cannot be found."""
    program = f"import sys; sys.modules[{module!r}] = None; from bertx.cli import main; main()"
    command = [sys.executable, "-c", program, "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize(("module", "lost"), [("onnxruntime", ["onnx"]), ("torch", ["safetensors", "torchscript"])])
def test_a_format_without_a_runtime_is_exit_5_and_says_what_to_install(
    module: str, lost: list[str], environment: dict[str, str]
) -> None:
    ended = doctor_without(module, environment, "--json")
    found = checked(json.loads(ended.stdout))
    assert (ended.returncode, sorted(found["unread_formats"])) == (5, lost)
    missing = {runtime["name"]: runtime["missing"] for runtime in found["runtimes"]}
    assert f"pip install {module}" in missing.values()
    assert ended.stderr.startswith("bertx: error[E_RUNTIME]: no runtime here reads ")
    assert ended.stderr.endswith(f"; pip install {module}\n")
    assert all(name in ended.stderr for name in lost)


def test_a_missing_dictionary_is_listed_and_no_failure(environment: dict[str, str]) -> None:
    ended = doctor_without("unidic_lite", environment)
    assert ended.returncode == 0
    line = next(line for line in ended.stdout.splitlines() if line.startswith("unidic-lite"))
    assert "missing" in line
    assert line.endswith("pip install unidic-lite")


def test_every_format_is_looked_for() -> None:
    """The rule of `unread` over the registry, so that a new format needs a runtime to be ready."""
    from bertx.machine import examine

    found = examine(Path("/nowhere/cache"), Path("/nowhere/hub"))
    read = {name for runtime in found.runtimes for name in runtime.reads}
    assert read == set(formats())
    assert found.problem() is None
    assert found.cache.path == Path("/nowhere/cache")
