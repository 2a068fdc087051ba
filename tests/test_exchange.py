"""What happens beside a bundle: refused places, the exchange, the lock, and recovery after a kill."""

from __future__ import annotations

import errno
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bertx import exchange, manifest
from bertx.bundle import stage, verify_files
from bertx.errors import LocalProblem, UsageError
from bertx.manifest import Manifest, Source

EMPTY = Manifest("0.1.0", Source("bert", None, None, {}), "fill-mask", "BertForMaskedLM", (), {})
linux = pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux")


def publish(output: Path, files: dict[str, str]) -> Manifest:
    with stage(output) as staged:
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


# -- what is no place for a bundle


def refused_output(output: Path) -> str:
    with pytest.raises(UsageError) as refused, stage(output, replace=True):
        pass
    assert refused.value.code == "E_OUTPUT"
    return str(refused.value)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    assert "is a file" in refused_output(tmp_path / "out")
    assert "is inside a file" in refused_output(tmp_path / "out" / "deeper")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_of_somebody_elses_files_is_refused_even_to_replace(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert "holds files but no bertx.json" in refused_output(tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"
    assert beside(tmp_path / "out") == []


@pytest.mark.parametrize("path", ["/", "/proc", "a\0b", "x" * 240])
def test_what_cannot_be_exchanged_is_refused(path: str) -> None:
    refused_output(Path(path))


def test_the_current_folder_is_refused(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(output, {"deep/a": "a"})
    monkeypatch.chdir(output / "deep")
    assert "holds the current folder" in refused_output(Path(".."))


# -- the exchange


@pytest.mark.usefixtures("either_way")
def test_a_bundle_survives_an_exchange_that_fails(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(output, {"a": "old"})
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if "bertx-stage" in self.name:
            raise OSError(errno.EIO, "broken", str(target))
        return rename(self, target)

    def broken(first: Path, second: Path) -> bool:
        raise OSError(errno.EIO, "broken", str(second))

    monkeypatch.setattr(Path, "rename", refuse)
    if exchange.exchange_folders.__name__ == "exchange_folders":
        monkeypatch.setattr(exchange, "exchange_folders", broken)
    with pytest.raises(LocalProblem) as refused:
        publish(output, {"a": "new"})
    assert refused.value.code == "E_DISK"
    assert contents(output) == {"a": "old"}
    assert beside(output) == []


@linux
def test_folders_are_exchanged_in_one_step_here(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert exchange.exchange_folders(tmp_path / "first", tmp_path / "second")
    assert (tmp_path / "first" / "second").exists()
    with pytest.raises(FileNotFoundError):
        exchange.exchange_folders(tmp_path / "first", tmp_path / "none")


# -- the lock


def test_a_second_writer_is_refused_at_once(output: Path) -> None:
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from bertx.bundle import stage
        from bertx.errors import LocalProblem
        try:
            with stage(Path(sys.argv[1])):
                print("got in")
        except LocalProblem as error:
            print(error.code, error.exit_code)
    """)
    with stage(output) as staged:
        command = [sys.executable, "-c", program, str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout == "E_LOCKED 5\n"
        staged.publish(EMPTY)  # the refused one did not remove what is ours
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "got in\n"
    assert beside(output) == []


def test_one_process_cannot_write_a_bundle_twice_at_once(output: Path) -> None:
    with stage(output), pytest.raises(LocalProblem, match="another process is writing"), stage(output):
        pass


def test_two_bundles_side_by_side_have_two_locks(output: Path) -> None:
    with stage(output) as first, stage(output.parent / "other") as second:
        first.publish(EMPTY)
        second.publish(EMPTY)
    assert beside(output) == ["other"]


def test_a_lock_file_without_its_process_does_not_block(output: Path) -> None:
    publish(output, {"a": "a"})
    (output.parent / ".out.bertx.lock").touch()
    publish(output, {"a": "b"})
    assert beside(output) == []


def test_of_many_writers_at_once_none_are_inside_together(output: Path, tmp_path: Path) -> None:
    """Each holder makes a file that must not be there yet, while the lock file comes and goes."""
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from bertx import exchange
        from bertx.errors import LocalProblem
        output, inside, entered = Path(sys.argv[1]), Path(sys.argv[2]), 0
        while entered < 300:
            try:
                with exchange.locked(output):
                    inside.touch(exist_ok=False)
                    inside.unlink()
                    entered += 1
            except LocalProblem as error:
                assert error.code == "E_LOCKED", error
    """)
    output.parent.mkdir()
    command = [sys.executable, "-c", program, str(output), str(tmp_path / "inside")]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [writer.communicate(timeout=120)[1] for writer in writers]
    assert errors == ["", "", ""]
    assert beside(output) == []


# -- recovery, from each state in which a killed writer can leave the folder


def old_and_new(output: Path) -> tuple[Path, Path]:
    """A bundle "old" and a complete one "new", both under the names that a writer gives them."""
    aside, staged = exchange.sibling(output, "old"), exchange.sibling(output, "stage")
    output.parent.mkdir()
    for folder, text in ((aside, "old"), (staged, "new")):
        elsewhere = output.parent.parent / text
        publish(elsewhere, {"a": text})
        elsewhere.rename(folder)
    return aside, staged


def recovered(output: Path) -> dict[str, str]:
    with stage(output) as staged:
        assert staged.old == manifest.read(output)
    assert beside(output) == []
    assert verify_files(output, manifest.read(output)) == []
    return contents(output)


def test_killed_while_staging_the_old_bundle_stays(output: Path) -> None:
    aside, _ = old_and_new(output)
    aside.rename(output)
    (exchange.sibling(output, "stage")).mkdir(mode=0o500)
    assert recovered(output) == {"a": "old"}


def test_killed_between_the_two_renames_the_old_bundle_comes_back(output: Path) -> None:
    old_and_new(output)
    assert recovered(output) == {"a": "old"}


def test_killed_between_the_two_renames_and_an_empty_folder_made_since(output: Path) -> None:
    old_and_new(output)
    output.mkdir()
    assert recovered(output) == {"a": "old"}


def test_killed_after_the_second_rename_the_new_bundle_stays(output: Path) -> None:
    _, staged = old_and_new(output)
    staged.rename(output)
    assert recovered(output) == {"a": "new"}


def test_killed_while_the_old_bundle_is_removed_the_new_bundle_stays(output: Path) -> None:
    aside, staged = old_and_new(output)
    staged.rename(output)
    (aside / "bertx.json").unlink()
    aside.rename(exchange.sibling(output, "stage"))
    assert recovered(output) == {"a": "new"}


def test_recovery_touches_nothing_that_only_looks_like_its_own(output: Path) -> None:
    publish(output, {"a": "a"})
    names = [
        ".out.bertx-stage-mine",
        ".out.bertx-stage-0123456789abcdef.bertx-stage-0123456789abcdef",  # a bundle's that is called so
        ".out.bertx-old-0123456789abcdeX",
        "out.bertx-old-0123456789abcdef",
        ".outer.bertx-stage-0123456789abcdef",
    ]
    for name in names:
        (output.parent / name).mkdir()
    (output.parent / ".out.bertx-stage-0123456789abcdef").symlink_to(output)
    publish(output, {"a": "b"})
    assert beside(output) == sorted([*names, ".out.bertx-stage-0123456789abcdef"])
    assert contents(output) == {"a": "b"}


def test_a_refused_output_is_not_recovered(output: Path) -> None:
    old_and_new(output)
    before = beside(output)
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    refused_output(output)
    assert beside(output) == before
