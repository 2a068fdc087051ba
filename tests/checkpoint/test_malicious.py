"""Malformed and malicious torch.save files: each ends in one line and exit 3, none runs anything or fills memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from malicious import CASES

#: inspects each folder that stdin names with the program's own entry point, in one process under a memory limit
PROGRAM = """
import contextlib, io, json, pathlib, resource, sys

def watch(event, arguments):
    if event in ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
        sys.__stdout__.write(f"RAN {event}\\n")
    if event == "open" and "PWNED" in str(arguments[0]):
        sys.__stdout__.write("RAN open\\n")

from bertx.cli import run
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
sys.addaudithook(watch)
found = {}
for folder in sys.stdin.read().splitlines():
    sys.argv = ["bertx", "inspect", folder]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        found[folder] = [run(), errors.getvalue()]
status = pathlib.Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(json.dumps({"found": found, "peak": peak}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory limits and pipes are read the Linux way")
def test_each_is_refused_in_one_line_and_none_runs(tmp_path: Path) -> None:
    assert len(CASES) >= 60
    names = {}
    for number, (name, make) in enumerate(CASES.items()):
        folder = tmp_path / str(number) / "model"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
        make(folder / "pytorch_model.bin")
        names[str(folder)] = name
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-c", PROGRAM]
    ended = subprocess.run(command, input="\n".join(names), capture_output=True, text=True, cwd=work, timeout=120)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)  # a line of a hook would be no JSON
    for folder, name in names.items():
        code, errors = told["found"][folder]
        assert (code, errors.count("\n")) == (3, 1), (name, errors)
        assert errors.startswith(("bertx: error[E_FORMAT]: ", "bertx: error[E_WEIGHTS]: ")), (name, errors)
        assert "; " in errors, (name, errors)
    assert list(work.iterdir()) == []
    assert told["peak"] < 400 * 1024  # KiB


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("os.system, protocol 4", "names posix.system, which is code"),
        ("a wrapper", "wraps what it holds: state_dict is a dictionary"),
        ("a quantised tensor", "has tensor x, which is quantised"),
        ("a sparse tensor", "has tensor x, which is sparse"),
        ("a number", "holds x, which is no tensor (int)"),
        ("a tar archive", "was written by a PyTorch before 0.1.10"),
        ("a bomb", "has a compressed entry: archive/data.pkl"),
        ("a TorchScript file", "is a TorchScript file"),
        ("big-endian", "in another byte order"),
        ("a cut archive", "is truncated"),
        ("a Git LFS pointer", "is a Git LFS pointer"),
        ("an offset behind the storage", "tensor x reaches outside its storage"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, says: str) -> None:
    from bertx.checkpoint.weights import read_weights
    from bertx.errors import InputRefused

    (tmp_path / "model").mkdir()
    CASES[name](tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(InputRefused) as caught:
        read_weights(tmp_path / "model")
    assert says in caught.value.message
