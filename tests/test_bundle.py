"""The bundle's folder: whole or not at all, one writer at a time, and nothing left beside it."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bertx import bundle, exchange, manifest
from bertx.bundle import is_bundle, sha256, stage, verify_files
from bertx.errors import Bug, InputRefused
from bertx.manifest import ArtifactEntry, Manifest, Source

EMPTY = Manifest("0.1.0", Source("bert", None, None, {}), "fill-mask", "BertForMaskedLM", (), {})
REPORT = {"schema": "bertx.report/1", "verdict": "pass"}
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux")


def publish(output: Path, files: dict[str, str], *, replace: bool = False) -> Manifest:
    with stage(output, replace=replace) as staged:
        for relative, text in files.items():
            staged.path(relative).write_text(text, encoding="utf-8")
        return staged.publish(EMPTY)


def contents(folder: Path) -> dict[str, str]:
    """Relative path -> text of every file but bertx.json."""
    return {
        path.relative_to(folder).as_posix(): path.read_text("utf-8")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / manifest.NAME
    }


def beside(output: Path) -> list[str]:
    """What lies beside a bundle, other than itself."""
    return sorted(path.name for path in output.parent.iterdir() if path != output)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "room" / "out"


@pytest.fixture(params=["exchange", "pair"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to put one folder in the place of another."""
    if request.param == "pair":
        monkeypatch.setattr(exchange, "exchange_folders", lambda first, second: False)


# -- publishing


def test_a_new_bundle_appears_with_its_manifest_and_nothing_beside_it(output: Path) -> None:
    written = publish(output, {"config.json": "{}", "onnx/model.onnx": "graph"})
    assert contents(output) == {"config.json": "{}", "onnx/model.onnx": "graph"}
    assert manifest.read(output) == written
    assert list(written.files) == ["config.json", "onnx/model.onnx"]
    assert beside(output) == []


def test_nothing_is_visible_before_publish(output: Path) -> None:
    with stage(output) as staged:
        staged.path("a").write_text("a")
        assert not output.exists()
        staged.publish(EMPTY)
        assert contents(output) == {"a": "a"}


@pytest.mark.usefixtures("either_way")
def test_a_bundle_is_replaced_by_one_that_keeps_what_was_not_touched(output: Path) -> None:
    publish(output, {"a": "old a", "deep/b": "old b", "deep/c": "old c"})
    with stage(output) as staged:
        assert staged.old == manifest.read(output)
        staged.path("a").write_text("new a")
        staged.remove("deep/c")
        written = staged.publish(EMPTY)
        assert contents(output) == {"a": "new a", "deep/b": "old b"}
    assert list(written.files) == ["a", "deep/b"]
    assert verify_files(output, manifest.read(output)) == []
    assert beside(output) == []


@pytest.mark.usefixtures("either_way")
def test_an_empty_folder_is_a_place_for_a_bundle(output: Path) -> None:
    output.mkdir(parents=True)
    publish(output, {"a": "a"})
    assert contents(output) == {"a": "a"}
    assert beside(output) == []


def test_unchanged_files_are_linked_not_copied(output: Path) -> None:
    publish(output, {"model.safetensors": "weights"})
    before = (output / "model.safetensors").stat().st_ino
    publish(output, {"other": "x"})
    assert (output / "model.safetensors").stat().st_ino == before


def test_unchanged_files_are_copied_where_the_file_system_has_no_links(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(self: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    publish(output, {"model.safetensors": "weights"})
    monkeypatch.setattr(Path, "hardlink_to", no_links)
    publish(output, {"other": "x"})
    assert contents(output) == {"model.safetensors": "weights", "other": "x"}


def test_a_write_to_a_staged_file_does_not_reach_the_old_bundle(output: Path) -> None:
    publish(output, {"a": "old"})
    with stage(output) as staged, staged.path("a").open("w") as file:
        file.write("new")
        file.flush()
        assert contents(output) == {"a": "old"}


def test_replace_starts_empty(output: Path) -> None:
    publish(output, {"a": "a", "deep/b": "b"})
    publish(output, {"c": "c"}, replace=True)
    assert contents(output) == {"c": "c"}


@pytest.mark.parametrize("again", [False, True], ids=["added to", "replaced"])
def test_the_books_of_git_are_kept_and_not_listed(output: Path, again: bool) -> None:
    publish(output, {"a": "a"})
    (output / ".git" / "refs").mkdir(parents=True)
    (output / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (output / ".gitattributes").write_text("*.onnx filter=lfs")
    written = publish(output, {"b": "b"}, replace=again)
    assert (output / ".git" / "HEAD").read_text() == "ref: refs/heads/main"
    assert (output / ".git" / "refs").is_dir()
    assert list(written.files) == (["b"] if again else [".gitattributes", "a", "b"])


def test_a_link_to_a_folder_is_written_through(output: Path, tmp_path: Path) -> None:
    output.mkdir(parents=True)
    (tmp_path / "link").symlink_to(output)
    publish(tmp_path / "link", {"a": "a"})
    assert (tmp_path / "link").is_symlink()
    assert contents(output) == {"a": "a"}


def test_removing_the_last_file_of_a_folder_removes_the_folder(output: Path) -> None:
    publish(output, {"a": "a", "deep/er/b": "b"})
    with stage(output) as staged:
        staged.remove("deep/er/b")
        staged.remove("deep/er/b")
        staged.publish(EMPTY)
    assert [path.name for path in sorted(output.iterdir())] == ["a", "bertx.json"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_and_folders_get_the_usual_modes(output: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with stage(output) as staged:
            path = staged.path("deep/model.safetensors")
            path.write_text("weights")
            path.chmod(0o600)  # as safetensors leaves it
            staged.publish(EMPTY)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in output.rglob("*") if path.is_file()}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in (output, output / "deep")}
    assert (modes, folders) == ({0o666 & ~umask}, {0o777 & ~umask})


def test_an_artifact_that_was_not_written_is_a_bug_and_publishes_nothing(output: Path) -> None:
    with pytest.raises(Bug, match=r"model\.onnx was not written"), stage(output) as staged:
        staged.publish(replace(EMPTY, artifacts=(artifact("model.onnx"),)))
    assert not output.exists()


def test_publishing_twice_is_a_bug(output: Path) -> None:
    with pytest.raises(Bug, match="published twice"), stage(output) as staged:
        staged.publish(EMPTY)
        staged.publish(EMPTY)
    assert is_bundle(output)


@pytest.mark.parametrize("relative", ["../x", "/x", "a/../../x", "", "a\\b"])
def test_a_staged_path_stays_in_the_bundle(output: Path, relative: str) -> None:
    with stage(output) as staged:
        for use in (staged.path, staged.remove):
            with pytest.raises(InputRefused, match="no path inside"):
                use(relative)


def test_the_manifest_is_written_by_publish_alone(output: Path) -> None:
    with stage(output) as staged, pytest.raises(Bug, match="by publish alone"):
        staged.path("bertx.json")


def test_a_file_where_a_folder_is_needed_is_refused(output: Path) -> None:
    publish(output, {"onnx": "a file"})
    with stage(output) as staged, pytest.raises(InputRefused, match="in its place"):
        staged.path("onnx/model.onnx")


# -- reports stay with the bytes that they judged


def artifact(path: str) -> ArtifactEntry:
    return ArtifactEntry(path, "onnx", "float32", "fill-mask", None, {}, {}, {}, REPORT)


@pytest.mark.parametrize("touched", ["model.onnx", "model.onnx_data"])
def test_an_artifact_changed_by_somebody_else_loses_its_report(output: Path, touched: str) -> None:
    judged = replace(EMPTY, artifacts=(artifact("model.onnx"), artifact("other.onnx")))
    with stage(output) as staged:
        for name in ("model.onnx", "model.onnx_data", "other.onnx"):
            staged.path(name).write_text(name)
        staged.publish(judged)
    (output / touched).write_text("tampered")
    with stage(output) as staged:
        written = staged.publish(judged)
    assert [entry.report for entry in written.artifacts] == [None, REPORT]
    assert manifest.read(output) == written


def test_an_artifact_that_is_carried_or_rebuilt_keeps_its_report(output: Path) -> None:
    judged = replace(EMPTY, artifacts=(artifact("carried.onnx"), artifact("rebuilt.onnx")))
    with stage(output) as staged:
        staged.path("carried.onnx").write_text("1")
        staged.path("rebuilt.onnx").write_text("1")
        staged.publish(judged)
    with stage(output) as staged:
        staged.path("rebuilt.onnx").write_text("2")
        written = staged.publish(judged)
    assert [entry.report for entry in written.artifacts] == [REPORT, REPORT]


# -- failing


class FailedError(Exception):
    pass


@contextmanager
def failing() -> Iterator[None]:
    with pytest.raises(FailedError):
        yield


def test_the_old_bundle_survives_an_exception(output: Path) -> None:
    publish(output, {"a": "old"})
    before = (output / "bertx.json").read_bytes()
    with failing(), stage(output) as staged:
        staged.path("a").write_text("new")
        staged.remove("a")
        raise FailedError
    assert contents(output) == {"a": "old"}
    assert (output / "bertx.json").read_bytes() == before
    assert beside(output) == []


def test_a_failed_first_export_leaves_no_folder_at_all(tmp_path: Path) -> None:
    with failing(), stage(tmp_path / "new" / "er" / "out") as staged:
        staged.path("a").write_text("a")
        raise FailedError
    assert list(tmp_path.iterdir()) == []


def test_leaving_without_publish_changes_nothing(output: Path) -> None:
    publish(output, {"a": "old"})
    with stage(output) as staged:
        staged.path("a").write_text("new")
    assert contents(output) == {"a": "old"}
    assert beside(output) == []


# -- what is refused


@pytest.mark.parametrize("again", [False, True], ids=["added to", "replaced"])
def test_a_bundle_with_a_malformed_manifest_is_refused(output: Path, again: bool) -> None:
    publish(output, {"a": "a"})
    (output / "bertx.json").write_text("{")
    with pytest.raises(InputRefused) as refused, stage(output, replace=again):
        pass
    assert refused.value.code == "E_BUNDLE"
    assert contents(output) == {"a": "a"}


def test_a_link_inside_the_bundle_becomes_the_file(output: Path) -> None:
    publish(output, {"deep/a": "a"})
    (output / "link").symlink_to("deep/a")
    written = publish(output, {"b": "b"})
    assert contents(output) == {"b": "b", "deep/a": "a", "link": "a"}
    assert not (output / "link").is_symlink()
    assert "link" in written.files


def _outside(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _sideways(path: Path) -> None:
    (path.parent.parent / "secret").write_text("secret")
    path.symlink_to("../secret")


def _nowhere(path: Path) -> None:
    path.symlink_to("nothing")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _folder(path: Path) -> None:
    path.symlink_to(".")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _backslash(path: Path) -> None:
    (path.parent / "a\\b").touch()


def _no_unicode(path: Path) -> None:
    (path.parent / os.fsdecode(b"\xff")).touch()


@pytest.mark.parametrize(
    "plant", [_outside, _sideways, _nowhere, _loop, _folder, _pipe, _socket, _backslash, _no_unicode]
)
def test_what_is_no_file_of_the_bundle_is_refused(output: Path, plant: Callable[[Path], None]) -> None:
    publish(output, {"a": "a"})
    plant(output / "x")
    with pytest.raises(InputRefused) as refused, stage(output):
        pass
    assert refused.value.code == "E_BUNDLE"
    assert (output / "a").read_text() == "a"
    assert not [name for name in beside(output) if "bertx" in name]


# -- hashes


def test_a_file_is_hashed_beyond_one_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * (bundle.CHUNK + 1))
    (tmp_path / "b").write_bytes(b"")
    assert sha256(tmp_path / "b") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    known = subprocess.run(["sha256sum", tmp_path / "a"], capture_output=True, text=True, check=True)
    assert sha256(tmp_path / "a") == known.stdout[:64]


def test_files_that_differ_from_the_manifest_are_named(output: Path) -> None:
    written = publish(output, {name: name for name in ("changed", "fine", "folder", "longer", "missing")})
    (output / "changed").write_text("CHANGED")
    (output / "longer").write_text("longer still")
    (output / "missing").unlink()
    (output / "folder").unlink()
    (output / "folder").mkdir()
    (output / "unlisted").touch()
    assert verify_files(output, written) == ["changed", "folder", "longer", "missing"]


def test_links_to_the_same_bytes_are_as_good_as_files(output: Path, tmp_path: Path) -> None:
    """A bundle in the Hub cache is a folder of links."""
    written = publish(output, {"a": "a"})
    (output / "a").rename(tmp_path / "blob")
    (output / "a").symlink_to(tmp_path / "blob")
    assert verify_files(output, written) == []


def test_the_room_is_light() -> None:
    heavy = "{'numpy', 'torch', 'ctypes', 'click'}"
    program = f"import sys, bertx.bundle; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
