"""bertx pull: one commit, pinned; a folder of the user's own, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from documents import checked

from hub_server import HubServer
from program import Ran

WANTED = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture
def served(checkpoint: Callable[[str], Path], hub: HubServer, tmp_path: Path) -> tuple[Path, str]:
    """(the folder that the Hub serves as org/tiny, its commit); code and another framework's weights lie there too."""
    folder = tmp_path / "served"
    shutil.copytree(checkpoint("feature-extraction"), folder)
    for name in ("modeling_tiny.py", "tf_model.h5", "pytorch_model.bin"):
        (folder / name).write_text("unwanted", "utf-8")
    return folder, hub.add("org/tiny", folder)


def test_it_prints_the_folder_and_the_commit(
    bertx: Callable[..., Ran], served: tuple[Path, str], online: dict[str, str], tmp_path: Path
) -> None:
    ran = bertx("pull", "org/tiny", **online)
    folder, commit = ran.out.splitlines()
    assert (ran.code, ran.err, commit) == (0, "", served[1])
    assert Path(folder).is_relative_to(tmp_path / "hf")
    assert sorted(path.name for path in Path(folder).iterdir()) == WANTED


def test_a_home_that_is_no_folder_holds_no_token(
    bertx: Callable[..., Ran], served: tuple[Path, str], online: dict[str, str], tmp_path: Path
) -> None:
    nowhere = {**online, "HF_HOME": "/dev/null", "HOME": "/dev/null"}
    ran = bertx("pull", "org/tiny", **nowhere)
    assert (ran.code, ran.err.startswith("bertx: error[E_DISK]: ")) == (5, True)
    ran = bertx("pull", "org/tiny", **nowhere, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert (ran.code, ran.err) == (0, "")


def test_the_document_lists_every_file_with_its_hash(
    bertx: Callable[..., Ran], served: tuple[Path, str], online: dict[str, str]
) -> None:
    found = checked(bertx("pull", "org/tiny", "--json", **online).json)
    assert (found["checkpoint"], found["commit"]) == ("org/tiny", served[1])
    assert sorted(file["path"] for file in found["files"]) == WANTED
    for file in found["files"]:
        data = (served[0] / file["path"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_an_older_commit_can_be_named_and_a_branch_is_resolved_once(
    bertx: Callable[..., Ran],
    served: tuple[Path, str],
    checkpoint: Callable[[str], Path],
    hub: HubServer,
    online: dict[str, str],
) -> None:
    old = served[1]
    new = hub.add("org/tiny", checkpoint("fill-mask"))
    assert new != old
    assert bertx("pull", "org/tiny", **online).out.splitlines()[1] == new
    assert bertx("pull", "org/tiny", "--revision", old, **online).out.splitlines()[1] == old
    asked = len(hub.requests)
    assert bertx("pull", "org/tiny", "--offline", **online).out.splitlines()[1] == new
    assert len(hub.requests) == asked


def test_what_the_cache_does_not_have_is_exit_4_offline(
    bertx: Callable[..., Ran], served: tuple[Path, str], hub: HubServer, online: dict[str, str]
) -> None:
    ran = bertx("pull", "org/tiny", "--offline", **online)
    assert (ran.code, ran.out, hub.requests) == (4, "", [])
    assert ran.err.startswith("bertx: error[E_OFFLINE]: ")


def test_a_copy_is_the_users_own(
    bertx: Callable[..., Ran], served: tuple[Path, str], online: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "shelf" / "tiny"
    ran = bertx("pull", "org/tiny", "-o", out, "--json", **online)
    found = checked(ran.json)
    assert (ran.code, found["folder"], found["commit"]) == (0, str(out), served[1])
    assert sorted(path.name for path in out.iterdir()) == WANTED
    for name in WANTED:
        assert not (out / name).is_symlink()
        assert (out / name).stat().st_nlink == 1
        assert (out / name).read_bytes() == (served[0] / name).read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("place", ["a full folder", "a file", "inside the source"])
def test_a_copy_goes_to_a_new_or_empty_folder_only(
    place: str, bertx: Callable[..., Ran], served: tuple[Path, str], tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine", "utf-8")
    places = {
        "a full folder": tmp_path / "full",
        "a file": tmp_path / "full" / "notes.txt",
        "inside the source": served[0] / "copy",
    }
    before = sorted(tmp_path.rglob("*"))
    ran = bertx("pull", served[0], "-o", places[place])
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("bertx: error[E_OUTPUT]: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_filled(bertx: Callable[..., Ran], served: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert bertx("pull", served[0], "-o", tmp_path / "out").code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == WANTED


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_disk_that_refuses_leaves_nothing(
    served: tuple[Path, str], environment: dict[str, str], tmp_path: Path
) -> None:
    size = (served[0] / "model.safetensors").stat().st_size
    program = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2},) * 2);"
        "from bertx.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "pull", str(served[0]), "-o", str(tmp_path / "shelf" / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (ended.returncode, ended.stdout) == (5, "")
    assert ended.stderr.startswith("bertx: error[E_DISK]: ")
    assert not (tmp_path / "shelf").exists()


def test_a_local_folder_is_printed_as_it_is(bertx: Callable[..., Ran], checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("feature-extraction")
    ran = bertx("pull", folder)
    assert (ran.code, ran.out) == (0, f"{folder}\nno commit: a local folder\n")
    found = checked(bertx("pull", folder, "--json").json)
    assert (found["commit"], found["folder"]) == (None, str(folder))
    assert sorted(file["path"] for file in found["files"]) == WANTED


def test_a_bundle_stands_for_its_checkpoint(
    bertx: Callable[..., Ran], unverified: Callable[..., Path], checkpoint: Callable[[str], Path]
) -> None:
    ran = bertx("pull", unverified("feature-extraction", "onnx"))
    assert ran.out.splitlines()[0] == str(checkpoint("feature-extraction"))


def test_a_folder_without_weights_is_refused(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), "utf-8")
    ran = bertx("pull", tmp_path)
    assert ran.code == 3
    assert ran.err.startswith("bertx: error[E_WEIGHTS]: ")


def test_a_wrong_hash_is_exit_4_and_leaves_no_copy(
    bertx: Callable[..., Ran], served: tuple[Path, str], hub: HubServer, online: dict[str, str], tmp_path: Path
) -> None:
    hub.fault("corrupt", "*/model.safetensors", method="GET")
    ran = bertx("pull", "org/tiny", "-o", tmp_path / "out", "--json", **online)
    assert (ran.code, checked(ran.json)["code"]) == (4, "E_HASH")
    assert not (tmp_path / "out").exists()


TOKEN = "hf_never_to_be_printed"
REFUSALS = {
    "gated": ("E_GATED", "org/tiny is gated; accept its terms on the Hub and set HF_TOKEN"),
    "private": ("E_NOT_FOUND", "on the Hub it is missing or private"),
    "no such repository": ("E_NOT_FOUND", "org/nothing is no folder here"),
    "no such revision": ("E_NOT_FOUND", "org/tiny has no revision v9"),
    "a lost file": ("E_NOT_FOUND", "lacks a file that org/tiny lists"),
    "a wrong token": ("E_GATED", "refuses the token sent"),
    "a rate limit": ("E_NETWORK", "asks to wait 3600 s"),
    "a broken Hub": ("E_NETWORK", "answers HTTP 502"),
    "a page to log in": ("E_NETWORK", "does not answer as a Hub does"),
    "no Hub": ("E_NETWORK", "cannot be reached"),
}


@pytest.mark.parametrize(("why", "command"), [*((why, "pull") for why in REFUSALS), ("a lost file", "to-safetensors")])
def test_each_way_in_which_a_hub_refuses_is_one_line_of_its_own(
    why: str,
    command: str,
    bertx: Callable[..., Ran],
    served: tuple[Path, str],
    hub: HubServer,
    online: dict[str, str],
    tmp_path: Path,
) -> None:
    if why in ("gated", "private"):
        hub.add("org/tiny", served[0], token="another", gated=why == "gated")
    spoiled = {
        "a lost file": ("*/tokenizer.json", 404, {"X-Error-Code": "EntryNotFound"}),
        "a wrong token": ("*", 401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
        "a rate limit": ("*", 429, {"Retry-After": "3600"}),
        "a broken Hub": ("*/config.json", 502, {}),
        "a page to log in": ("*", 200, {}),
    }
    if why in spoiled:
        pattern, status, headers = spoiled[why]
        hub.fault("status", pattern, status=status, headers=headers, body=b"<html>Log in</html>")
    address = hub.url.rpartition(":")[0] + ":9" if why == "no Hub" else hub.url
    more = ["--revision", "v9"] if why == "no such revision" else []
    name = "org/nothing" if why == "no such repository" else "org/tiny"
    own = {**online, "HF_TOKEN": TOKEN, "HF_ENDPOINT": address}
    ran = bertx(command, name, "-o", tmp_path / "out", "--json", *more, **own)
    code, told = REFUSALS[why]
    assert (ran.code, checked(ran.json)["code"], checked(ran.json)["exit"]) == (4, code, 4)
    assert ran.err.startswith(f"bertx: error[{code}]: ")
    assert (told in ran.err, ran.err.count("\n"), TOKEN in ran.err + ran.out) == (True, 1, False)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_sees_how_far_it_is_and_then_the_folder_alone(
    quiet: bool, served: tuple[Path, str], environment: dict[str, str], online: dict[str, str]
) -> None:
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "bertx", "pull", "org/tiny", *(["--quiet"] if quiet else [])]
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, env={**environment, **online}, text=True, timeout=60
    )
    os.close(theirs)
    shown = ""
    with suppress(OSError):  # as a terminal ends whose other side is closed
        shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert ended.returncode == 0
    assert ("org/tiny:   0%|" in shown, shown.endswith("\r\x1b[2K"), shown == "") == (not quiet, not quiet, quiet)
    assert ended.stdout.splitlines()[1:] == ([] if quiet else [served[1]])


def test_an_interrupted_download_is_gone_on_with(
    bertx: Callable[..., Ran],
    start: Callable[..., subprocess.Popen[str]],
    served: tuple[Path, str],
    hub: HubServer,
    online: dict[str, str],
    tmp_path: Path,
) -> None:
    hub.fault("stall", "*/model.safetensors", times=1)
    process = start("pull", "org/tiny", **online)
    while not any(path.stat().st_size for path in tmp_path.rglob("*.incomplete")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, ("", "bertx: error[E_INTERRUPTED]: it was interrupted; run it again\n"))
    assert bertx("pull", "org/tiny", **online).code == 0
    assert len(hub.ranges) == 1
