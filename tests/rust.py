"""Programs of guides in Rust, built in the user's cache beside what `bertx build` compiled, which is used again."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bertx.cli.options import cache_folder
from bertx.runtimes import runtime_named
from bertx.runtimes.native import location
from bertx.runtimes.native.building import copy_sources
from bertx.runtimes.native.cargo import Cargo
from program import ROOT


def compiled(guide: Path, name: str) -> Path:
    """The program `name` of the package in a guide's folder; skips the test where tch cannot be built here.

    It is built from a copy, where only a file whose contents changed gets a new time: cargo goes by that. The copy
    lies as in the repository, so that a guide may build on the crates of bertx, and is one more package of their
    workspace: then cargo gives the crates that both are made of the same features, and compiles none of them again.
    """
    runtime = runtime_named("tch").at(cache_folder())
    assert isinstance(runtime, Cargo)
    lacking = runtime.unbuildable()
    if lacking:
        pytest.skip(f"the guide cannot be built: {lacking}")
    native, copy = runtime.room / "work" / runtime.language, runtime.room / "work" / "guides"
    copy.mkdir(parents=True, exist_ok=True)
    with (copy / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder in (guide, runtime.folder):
            copy_sources(folder, copy / folder.relative_to(ROOT))
        package, workspace = (copy / folder.relative_to(ROOT) for folder in (guide, runtime.folder))
        _join(package, workspace)
        _take_versions(native / "source" / "Cargo.lock", workspace / "Cargo.lock")
        chosen = ["--workspace", "--bin", name, "--target-dir", str(native / "scratch")]
        words = ["cargo", "build", "--release", *chosen]
        environment = {**os.environ, "LIBTORCH": str(location("torch"))}
        ended = subprocess.run(words, cwd=package, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return Path(shutil.copy2(native / "scratch" / "release" / name, package / name))


def _join(package: Path, workspace: Path) -> None:
    """Makes a package a member of a workspace; both manifests are copies."""
    for manifest, key, text in (
        (package / "Cargo.toml", "[package]\n", f'[package]\nworkspace = "{os.path.relpath(workspace, package)}"\n'),
        (workspace / "Cargo.toml", "members = [", f'members = ["{os.path.relpath(package, workspace)}", '),
    ):
        told = manifest.read_text("utf-8")
        assert told.count(key) == 1
        manifest.write_text(told.replace(key, text), "utf-8")


def _take_versions(theirs: Path, ours: Path) -> None:
    """Lets cargo choose for a guide what it chose for bertx's own programs, as long as nothing was chosen since."""
    if theirs.is_file() and (not ours.is_file() or ours.stat().st_mtime < theirs.stat().st_mtime):
        shutil.copyfile(theirs, ours)
