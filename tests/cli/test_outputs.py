"""Where an exporter writes, what it refuses to write to, and what --no-verify and --force mean."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bertx.manifest import read
from families import make
from hub_server import HubServer
from program import Ran

EXPORTERS = ("to-safetensors", "trace", "to-onnx")


@pytest.fixture
def model(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the checkpoint, in a folder that nothing else is in."""
    folder = tmp_path / "shelf" / "model"
    shutil.copytree(checkpoint("feature-extraction"), folder)
    return folder


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("place", ["equal", "inside", "around", "equal by a link"])
def test_an_output_that_overlaps_the_source_is_refused(
    exporter: str, place: str, bertx: Callable[..., Ran], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(model)
    places = {
        "equal": model,
        "inside": model / "new" / "out",
        "around": model.parent,
        "equal by a link": tmp_path / "link",
    }
    before = sorted(tmp_path.rglob("*"))
    ran = bertx(exporter, model, "-o", places[place])
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("bertx: error[E_OUTPUT]: ")
    assert "overlap" in ran.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_local_folder_goes_to_its_name_and_bertx(bertx: Callable[..., Ran], model: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    ran = bertx("to-safetensors", model, "--no-verify", cwd=here)
    assert (ran.code, [path.name for path in here.iterdir()]) == (0, ["model-bertx"])
    assert "model-bertx/model.safetensors" in ran.out


def test_a_cache_that_cannot_be_written_is_a_warning(bertx: Callable[..., Ran], model: Path, tmp_path: Path) -> None:
    ran = bertx("trace", model, "-o", tmp_path / "out", "--no-verify", BERTX_CACHE=str(model / "config.json" / "cache"))
    assert ran.code == 0
    first, second = ran.err.splitlines()
    assert first.startswith("bertx: warning: ")
    assert first.endswith("/cache cannot be written, so that torchscript/model.pt will need --trust")
    assert second == "bertx: warning: nothing was compared: --no-verify"


def test_a_tilde_that_no_shell_has_read_is_the_home_folder(
    bertx: Callable[..., Ran], model: Path, tmp_path: Path
) -> None:
    for command in (("to-safetensors", model, "--no-verify"), ("pull", model), ("tokenizer", model)):
        ran = bertx(*command, "-o", f"~/{command[0]}", cwd=tmp_path, HOME=str(tmp_path / "home"))
        assert ran.code == 0, ran.err
        assert (tmp_path / "home" / command[0] / "config.json").is_file()
    assert not (tmp_path / "~").exists()


def test_a_hub_model_goes_to_its_name_at_its_commit(
    bertx: Callable[..., Ran], model: Path, hub: HubServer, online: dict[str, str], tmp_path: Path
) -> None:
    commit = hub.add("org/tiny-model", model)
    here = tmp_path / "here"
    here.mkdir()
    ran = bertx("to-safetensors", "org/tiny-model", "--no-verify", cwd=here, **online)
    assert (ran.code, [path.name for path in here.iterdir()]) == (0, ["tiny-model"])
    source = read(here / "tiny-model").source
    assert (source.checkpoint, source.commit, source.folder) == ("org/tiny-model", commit, None)


@pytest.mark.parametrize(
    ("options", "code"),
    [((), 2), (("-o", "tiny-model"), 2), (("--task", "poetry"), 2), (("--device", "cuda:99"), 5)],
    ids=["a folder of its name", "a full folder", "an unknown task", "a device that is not here"],
)
def test_what_can_be_refused_is_refused_before_a_download(
    options: tuple[str, ...],
    code: int,
    bertx: Callable[..., Ran],
    model: Path,
    hub: HubServer,
    online: dict[str, str],
    tmp_path: Path,
) -> None:
    hub.add("org/tiny-model", model)
    (tmp_path / "tiny-model").mkdir()
    (tmp_path / "tiny-model" / "notes.txt").write_text("mine", "utf-8")
    assert bertx("to-safetensors", "org/tiny-model", *options, cwd=tmp_path, **online).code == code
    assert hub.requests == []


def test_without_verification_it_says_so_everywhere(bertx: Callable[..., Ran], model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = bertx("trace", model, "-o", out, "--no-verify", "--json")
    assert ran.code == 0
    assert ran.err == "bertx: warning: nothing was compared: --no-verify\n"
    (entry,) = read(out).artifacts
    assert entry.report is not None
    assert entry.report["verdict"] == "incomplete"
    assert [(r["verdict"], r["reason"]) for r in entry.report["results"]] == [("not-run", "--no-verify")]
    assert bertx("inspect", out, "--json").json["artifacts"][0]["verdict"] == "not-run"


def test_a_bundle_of_another_checkpoint_is_replaced_with_force_alone(
    bertx: Callable[..., Ran], model: Path, unverified: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(unverified("feature-extraction", "onnx"), out)
    other = make("bert", tmp_path / "other", seed=1)
    refused = bertx("to-safetensors", other, "-o", out, "--no-verify")
    assert (refused.code, refused.out) == (3, "")
    assert refused.err.startswith("bertx: error[E_BUNDLE_MISMATCH]: ")
    assert [entry.path for entry in read(out).artifacts] == ["onnx/model.onnx"]
    forced = bertx("to-safetensors", other, "-o", out, "--no-verify", "--force")
    assert forced.code == 0
    assert [entry.path for entry in read(out).artifacts] == ["model.safetensors"]
    assert not (out / "onnx").exists()


def test_another_task_in_the_same_bundle_is_refused(
    bertx: Callable[..., Ran], checkpoint: Callable[[str], Path], unverified: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(unverified("fill-mask", "onnx"), out)
    ran = bertx("to-safetensors", checkpoint("fill-mask"), "-o", out, "--task", "feature-extraction", "--no-verify")
    assert ran.code == 3
    assert ran.err.startswith("bertx: error[E_BUNDLE_MISMATCH]: ")


def test_a_bundle_stands_for_its_checkpoint_and_is_its_own_output(
    bertx: Callable[..., Ran], unverified: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(unverified("feature-extraction", "onnx"), out)
    ran = bertx("to-safetensors", out, "--no-verify")
    assert ran.code == 0
    assert [entry.path for entry in read(out).artifacts] == ["onnx/model.onnx", "model.safetensors"]


def test_quiet_says_nothing_and_verbose_tells_the_phases(
    bertx: Callable[..., Ran], model: Path, tmp_path: Path
) -> None:
    quiet = bertx("to-safetensors", model, "-o", tmp_path / "out", "-q")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    verbose = bertx("to-safetensors", model, "-o", tmp_path / "out", "-v")
    phases = [line.split(" s  ", 1)[1] for line in verbose.err.splitlines()]
    assert phases == [
        "fetching",
        "writing model.safetensors",
        "tokenizer.json: texts are cut at 48 tokens",
        "special_tokens_map.json: made of tokenizer_config.json",
        "checking that the weights are complete",
        "publishing",
    ]
