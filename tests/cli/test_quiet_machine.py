"""A run leaves nothing outside of the output and the cache, whatever the libraries are used to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from program import Ran


def test_onnx_runtime_leaves_nothing_in_the_users_home_or_the_temp_folder(
    bertx: Callable[..., Ran], unverified: Callable[..., Path], tmp_path: Path
) -> None:
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    for folder in (home, temporary):
        folder.mkdir()
    bundle = unverified("feature-extraction", "onnx")
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "TMPDIR": str(temporary)}
    ran = bertx("try", bundle, "ab c", "--runtime", "onnxruntime", **places)
    assert ran.code == 0, ran.err
    assert [*home.rglob("*"), *temporary.rglob("*")] == []
