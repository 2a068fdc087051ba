"""Checkpoints from the Hub, against a Hub on a local port."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertx.checkpoint.hub import TRIES, HubOptions, Snapshot, cached, needed, snapshot
from bertx.errors import BertxError, LocalProblem, UsageError
from hub_server import HubServer

REPO = "org/tiny-bert"
TOKEN = "hf_never_to_be_printed"
WANTED = ["README.md", "config.json", "tokenizer_config.json", "vocab.txt", "model.safetensors"]
UNWANTED = ["pytorch_model.bin", "modeling_tiny.py", "onnx/model.onnx", "tf_model.h5", ".gitattributes"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with HubServer() as server:
        yield server


@pytest.fixture
def options(hub: HubServer, tmp_path: Path) -> HubOptions:
    return HubOptions(cache=tmp_path / "cache", endpoint=hub.url, timeout=5)


def model(folder: Path, value: float = 1.0, *, names: list[str] | None = None) -> Path:
    """A repository of a few KB: a real model.safetensors, and a line of text in every other file."""
    import numpy as np
    from safetensors.numpy import save_file

    for name in names or WANTED + UNWANTED:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            save_file({"embeddings.weight": np.full((16, 32), value, dtype=np.float32)}, path)
        else:
            path.write_text(json.dumps({"model_type": "bert", "file": name}), encoding="utf-8")
    return folder


def offline(options: HubOptions) -> HubOptions:
    return HubOptions(cache=options.cache, endpoint=options.endpoint, offline=True)


def files(found: Snapshot) -> list[str]:
    return sorted(path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file())


def paths(hub: HubServer, method: str | None = None) -> list[str]:
    return [path for each, path in hub.requests if method in (None, each)]


def refusal(repo: str, options: HubOptions, *, revision: str | None = None, code: str) -> BertxError:
    """The error with which a snapshot ends: of the code's exit code, and one line."""
    with pytest.raises(BertxError) as caught:
        snapshot(repo, revision, options)
    error = caught.value
    assert error.code == code
    assert error.exit_code == {"E_USAGE": 2, "E_DISK": 5}.get(code, 4)
    assert len(str(error).splitlines()) == 1
    assert error.hint
    assert TOKEN not in str(error)
    return error


# What is downloaded


def test_a_branch_is_pinned_to_the_commit_it_has_now(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    old = hub.add(REPO, model(tmp_path / "old", 1.0))
    first = snapshot(REPO, "main", options)
    new = hub.add(REPO, model(tmp_path / "new", 2.0))
    second = snapshot(REPO, "main", options)
    assert (first.commit, second.commit) == (old, new)
    assert first.folder != second.folder
    for found, source in ((first, "old"), (second, "new")):
        assert (found.folder / "model.safetensors").read_bytes() == (
            tmp_path / source / "model.safetensors"
        ).read_bytes()


def test_no_revision_means_the_main_branch(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    commit = hub.add(REPO, model(tmp_path / "model"))
    assert snapshot(REPO, None, options).commit == commit


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1"])
def test_a_tag_or_pull_request_is_a_revision(
    hub: HubServer, options: HubOptions, tmp_path: Path, revision: str
) -> None:
    commit = "c" * 40
    hub.add(REPO, model(tmp_path / "model"), commit, {revision: commit})
    assert snapshot(REPO, revision, options).commit == commit
    assert snapshot(REPO, revision, offline(options)).commit == commit


def test_a_commit_is_a_revision(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    old = hub.add(REPO, model(tmp_path / "old", 1.0))
    hub.add(REPO, model(tmp_path / "new", 2.0))
    assert snapshot(REPO, old, options).commit == old


def test_every_download_names_the_commit_and_not_the_branch(
    hub: HubServer, options: HubOptions, tmp_path: Path
) -> None:
    commit = hub.add(REPO, model(tmp_path / "model"))
    snapshot(REPO, "main", options)
    assert {path.split("/")[4] for path in paths(hub) if "/resolve/" in path} == {commit}


def test_the_commit_is_asked_for_once(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    snapshot(REPO, "main", options)
    assert [path for path in paths(hub) if path.startswith("/api/")] == [f"/api/models/{REPO}/revision/main"]


def test_only_needed_files_are_asked_for(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    found = snapshot(REPO, None, options)
    assert files(found) == sorted(WANTED)
    assert not [path for path in paths(hub) for name in UNWANTED if path.endswith(name)]


def test_weights_are_downloaded_last(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    snapshot(REPO, None, options)
    assert paths(hub)[-1].endswith("/model.safetensors")


def test_a_renamed_organisation_is_followed(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    commit = hub.add("tohoku-nlp/bert", model(tmp_path / "model"))
    hub.rename("cl-tohoku", "tohoku-nlp")
    found = snapshot("cl-tohoku/bert", None, options)
    assert (found.repo, found.commit, files(found)) == ("cl-tohoku/bert", commit, sorted(WANTED))


def test_a_repository_without_an_organisation_is_found(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    hub.add("google-bert/bert-base-uncased", model(tmp_path / "model"))
    hub.rename("bert-base-uncased", "google-bert/bert-base-uncased")
    assert files(snapshot("bert-base-uncased", None, options)) == sorted(WANTED)


def test_shards_and_module_folders_arrive(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    names = ["config.json", "modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"]
    names += ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    hub.add(REPO, model(tmp_path / "model", names=names))
    found = snapshot(REPO, None, options)
    assert files(found) == sorted(names)
    assert cached(REPO, found.commit, options) == found.folder


def test_a_private_repository_opens_to_its_token(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    hub.add(REPO, model(tmp_path / "model"), token=TOKEN)
    with_token = HubOptions(cache=options.cache, endpoint=options.endpoint, token=TOKEN)
    assert files(snapshot(REPO, None, with_token)) == sorted(WANTED)
    assert TOKEN not in repr(with_token)


def test_nothing_about_this_machine_is_told(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    snapshot(REPO, None, options)
    assert all(agent.startswith("bertx/") and " " not in agent for agent in hub.user_agents)


def test_nothing_is_printed(
    hub: HubServer, options: HubOptions, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    hub.fault("cut", "*/model.safetensors", method="GET", times=1)
    snapshot(REPO, None, options)
    hub.fault("status", status=503)
    refusal(REPO, options, code="E_NETWORK")
    assert capfd.readouterr() == ("", "")


def test_a_broken_download_is_resumed(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    hub.fault("cut", "*/model.safetensors", method="GET", times=2)
    found = snapshot(REPO, None, options)
    assert (found.folder / "model.safetensors").read_bytes() == (tmp_path / "model/model.safetensors").read_bytes()
    size = (found.folder / "model.safetensors").stat().st_size
    begin = size // 2
    assert hub.ranges == [f"bytes={begin}-", f"bytes={begin + (size - begin) // 2}-"]


# The cache


def test_a_second_call_asks_for_the_revision_and_nothing_else(
    hub: HubServer, options: HubOptions, tmp_path: Path
) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    first = snapshot(REPO, "main", options)
    hub.requests.clear()
    second = snapshot(REPO, "main", options)
    assert hub.requests == [("GET", f"/api/models/{REPO}/revision/main")]
    assert (first.origin, second.origin) == ("hub", "cache")
    assert first.folder == second.folder


def test_the_cache_answers_offline_after_a_run_online(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    commit = hub.add(REPO, model(tmp_path / "model"))
    online = snapshot(REPO, None, options)
    hub.requests.clear()
    for revision in (None, "main", commit):
        assert snapshot(REPO, revision, offline(options)) == Snapshot(REPO, commit, online.folder, "cache")
    assert hub.requests == []


def test_offline_without_a_cache_is_refused_without_a_request(
    hub: HubServer, options: HubOptions, tmp_path: Path
) -> None:
    commit = hub.add(REPO, model(tmp_path / "model"))
    for revision in (None, commit):
        refusal(REPO, offline(options), revision=revision, code="E_OFFLINE")
    assert hub.requests == []


def test_offline_knows_only_the_branches_that_were_asked_for(
    hub: HubServer, options: HubOptions, tmp_path: Path
) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    snapshot(REPO, "main", options)
    refusal(REPO, offline(options), revision="other", code="E_OFFLINE")


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_a_cache_without_config_or_weights_is_not_complete(
    hub: HubServer, options: HubOptions, tmp_path: Path, lost: str
) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    found = snapshot(REPO, None, options)
    (found.folder / lost).unlink()
    assert cached(REPO, found.commit, options) is None
    refusal(REPO, offline(options), code="E_OFFLINE")


def test_a_cache_without_one_shard_is_not_complete(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    names = ["config.json", "model.safetensors.index.json"]
    names += ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    hub.add(REPO, model(tmp_path / "model", names=names))
    found = snapshot(REPO, None, options)
    (found.folder / names[-1]).unlink()
    assert cached(REPO, found.commit, options) is None


def test_a_download_that_ended_early_does_not_count_as_cached(
    hub: HubServer, options: HubOptions, tmp_path: Path
) -> None:
    commit = hub.add(REPO, model(tmp_path / "model"))
    hub.fault("status", "*/model.safetensors", status=404)
    refusal(REPO, options, code="E_NOT_FOUND")
    assert cached(REPO, commit, options) is None
    refusal(REPO, offline(options), code="E_OFFLINE")


def test_a_lost_file_is_downloaded_again(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    found = snapshot(REPO, None, options)
    (found.folder / "vocab.txt").unlink()
    assert snapshot(REPO, None, options).origin == "hub"
    assert files(found) == sorted(WANTED)


def test_cached_knows_nothing_that_is_no_commit(options: HubOptions) -> None:
    assert [cached(REPO, name, options) for name in ("main", "../..", "0" * 39)] == [None] * 3
    assert cached("../escape", "0" * 40, options) is None


# Hashes


def test_wrong_bytes_are_refused_and_downloaded_again_next_time(
    hub: HubServer, options: HubOptions, tmp_path: Path
) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    hub.fault("corrupt", "*/model.safetensors", times=2)  # HEAD and GET
    assert "model.safetensors" in str(refusal(REPO, options, code="E_HASH"))
    refusal(REPO, offline(options), code="E_OFFLINE")
    found = snapshot(REPO, None, options)
    assert (found.folder / "model.safetensors").read_bytes() == (tmp_path / "model/model.safetensors").read_bytes()


@pytest.mark.parametrize("asks", [True, False], ids=["online", "offline"])
def test_a_file_that_changed_in_the_cache_is_refused_and_removed(
    hub: HubServer, options: HubOptions, tmp_path: Path, asks: bool
) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    weights = snapshot(REPO, None, options).folder / "model.safetensors"
    blob = weights.resolve()
    blob.write_bytes(b"\0" * blob.stat().st_size)
    refusal(REPO, options if asks else offline(options), code="E_HASH")
    assert not blob.exists()
    assert not weights.is_symlink()


def test_a_wrong_file_outside_the_cache_is_left_alone(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    weights = snapshot(REPO, None, options).folder / "model.safetensors"
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"precious")
    weights.unlink()
    weights.symlink_to(mine)
    refusal(REPO, options, code="E_HASH")
    assert mine.read_bytes() == b"precious"


# Refusals


@pytest.mark.parametrize("name", ["", "./model", "/tmp/model", "a/b/c", "a--b", "org/..", "~/model", "org/name.git"])
def test_what_is_no_hub_id_is_refused_without_a_request(hub: HubServer, options: HubOptions, name: str) -> None:
    with pytest.raises(UsageError, match="no folder on this machine and no Hub id"):
        snapshot(name, None, options)
    assert hub.requests == []


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_missing_repository_is_missing_or_private(options: HubOptions, token: str | None) -> None:
    asked = HubOptions(cache=options.cache, endpoint=options.endpoint, token=token)
    error = refusal("org/nothing", asked, code="E_NOT_FOUND")
    assert "missing" in error.message
    assert "private" in error.message
    assert "HF_TOKEN" in error.hint


@pytest.mark.parametrize("revision", ["nothing", "0" * 40])
def test_a_missing_revision_is_named(hub: HubServer, options: HubOptions, tmp_path: Path, revision: str) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    assert f"no revision {revision}" in refusal(REPO, options, revision=revision, code="E_NOT_FOUND").message


@pytest.mark.parametrize(("lost", "told"), [("config.json", "no config.json"), ("model.safetensors", "weights")])
def test_a_repository_without_a_model_is_refused_before_a_download(
    hub: HubServer, options: HubOptions, tmp_path: Path, lost: str, told: str
) -> None:
    hub.add(REPO, model(tmp_path / "model", names=[name for name in WANTED if name != lost]))
    assert told in refusal(REPO, options, code="E_NOT_FOUND").message
    assert len(hub.requests) == 1


def test_a_file_that_the_hub_lists_and_does_not_have_is_reported(
    hub: HubServer, options: HubOptions, tmp_path: Path
) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    hub.fault("status", "*/vocab.txt", status=404, headers={"X-Error-Code": "EntryNotFound"})
    assert "lacks a file" in refusal(REPO, options, code="E_NOT_FOUND").message


@pytest.mark.parametrize("token", [None, "hf_of_somebody_else"])
def test_a_gated_repository_asks_for_its_terms_and_a_token(
    hub: HubServer, options: HubOptions, tmp_path: Path, token: str | None
) -> None:
    hub.add(REPO, model(tmp_path / "model"), token=TOKEN, gated=True)
    asked = HubOptions(cache=options.cache, endpoint=options.endpoint, token=token)
    error = refusal(REPO, asked, code="E_GATED")
    assert "terms" in error.hint
    assert "HF_TOKEN" in error.hint


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_reported_and_not_printed(hub: HubServer, options: HubOptions, status: int) -> None:
    hub.fault("status", status=status, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
    refusal(REPO, HubOptions(cache=options.cache, endpoint=options.endpoint, token=TOKEN), code="E_GATED")


def test_a_server_that_is_down_cannot_be_reached(options: HubOptions) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    down = HubOptions(cache=options.cache, endpoint=f"http://user:{TOKEN}@127.0.0.1:{port}")
    error = refusal(REPO, down, code="E_NETWORK")
    assert f"127.0.0.1:{port} cannot be reached" in error.message
    assert "--offline" in error.hint


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failing_server_is_reported_with_its_status(hub: HubServer, options: HubOptions, status: int) -> None:
    hub.fault("status", status=status)
    assert f"HTTP {status}" in refusal(REPO, options, code="E_NETWORK").message


def test_a_server_that_is_no_hub_is_reported(hub: HubServer, options: HubOptions) -> None:
    hub.fault("status", status=200)
    assert "does not answer as a Hub does" in refusal(REPO, options, code="E_NETWORK").message


def test_another_commit_than_asked_for_is_refused(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    hub.fault("commit", "*/config.json")
    assert "another commit" in refusal(REPO, options, code="E_NETWORK").message


def test_a_file_is_asked_for_again_after_a_passing_failure(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    hub.fault("status", "*/config.json", status=503, times=1)
    assert files(snapshot(REPO, None, options)) == sorted(WANTED)


def test_a_file_is_given_up_after_few_tries(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    hub.fault("status", "*/vocab.txt", status=503)
    assert "HTTP 503" in refusal(REPO, options, code="E_NETWORK").message
    assert len([path for path in paths(hub) if path.endswith("/vocab.txt")]) == TRIES


@pytest.mark.parametrize("headers", [{"Retry-After": "3600"}, {"ratelimit": '"resolvers";r=0;t=240'}])
def test_a_long_wait_that_the_hub_asks_for_is_reported_at_once(
    hub: HubServer, options: HubOptions, tmp_path: Path, headers: dict[str, str]
) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    hub.fault("status", "*/config.json", status=429, headers=headers)
    assert "asks to wait" in refusal(REPO, options, code="E_NETWORK").message


@pytest.mark.parametrize(
    ("kind", "pattern", "method"),
    [("silence", "/api/*", None), ("silence", "*/config.json", "HEAD"), ("stall", "*/model.safetensors", "GET")],
)
def test_a_silent_server_is_given_up_within_six_waits(
    hub: HubServer, options: HubOptions, tmp_path: Path, kind: str, pattern: str, method: str | None
) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    hub.fault(kind, pattern, method=method)  # type: ignore[arg-type]
    begin = time.monotonic()
    error = refusal(REPO, HubOptions(cache=options.cache, endpoint=options.endpoint, timeout=0.5), code="E_NETWORK")
    # A minute for the default of 10 s a wait; the pauses between tries, a few seconds, do not depend on it.
    assert time.monotonic() - begin < 6 * 0.5 + 10
    assert "silent for more than 0.5 s" in error.message


def test_a_cache_that_cannot_be_written_is_a_problem_of_this_machine(
    hub: HubServer, options: HubOptions, tmp_path: Path
) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(LocalProblem, match="HF_HUB_CACHE"):
        snapshot(REPO, None, HubOptions(cache=tmp_path / "file", endpoint=options.endpoint))


def test_a_full_disk_is_a_problem_of_this_machine(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, model(tmp_path / "model"))
    program = (
        "import resource, signal, sys; from pathlib import Path; from bertx.checkpoint.hub import *;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024));"
        f"snapshot({REPO!r}, None, HubOptions())"
    )
    run = python(program, HF_ENDPOINT=hub.url, HF_HUB_CACHE=str(tmp_path / "cache"))
    assert "bertx.errors.LocalProblem: the Hub cache" in run.stderr
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


# Processes of their own


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_huggingface_hubs_own_variables_hold_where_options_are_not_set(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add(REPO, model(tmp_path / "model"), token=TOKEN)
    program = f"from bertx.checkpoint.hub import *; print(snapshot({REPO!r}, None, HubOptions()).folder)"
    run = python(program, HF_ENDPOINT=hub.url, HF_HUB_CACHE=str(tmp_path / "cache"), HF_TOKEN=TOKEN)
    assert run.stdout.strip() == str(tmp_path / "cache/models--org--tiny-bert/snapshots" / commit)
    assert run.stderr == ""


def test_hf_hub_offline_means_offline(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    commit = hub.add(REPO, model(tmp_path / "model"))
    snapshot(REPO, None, options)
    hub.requests.clear()
    program = f"from bertx.checkpoint.hub import *; print(snapshot({REPO!r}, None, HubOptions()).commit)"
    run = python(program, HF_ENDPOINT=hub.url, HF_HUB_CACHE=str(tmp_path / "cache"), HF_HUB_OFFLINE="1")
    assert (run.stdout.strip(), run.stderr, hub.requests) == (commit, "", [])


def test_offline_opens_no_socket(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    commit = hub.add(REPO, model(tmp_path / "model"))
    snapshot(REPO, None, options)
    program = (
        "import os, sys; sys.addaudithook(lambda event, _: event.startswith('socket.') and os._exit(99));"
        "from bertx.checkpoint.hub import *; from pathlib import Path;"
        f"options = HubOptions(cache=Path({str(options.cache)!r}), offline=True);"
        f"print(snapshot({REPO!r}, None, options).commit)"
    )
    run = python(program)
    assert (run.returncode, run.stdout.strip()) == (0, commit), run.stderr


def test_importing_the_room_imports_no_client() -> None:
    program = (
        "import bertx.checkpoint.hub, sys; print([m for m in sys.modules if m.split('.')[0] == 'huggingface_hub'])"
    )
    assert python(program).stdout.strip() == "[]"


# The choice of files, on listings as the Hub has them


def test_needed_of_a_bert_with_all_frameworks() -> None:
    listing = [".gitattributes", "LICENSE", "README.md", "config.json", "flax_model.msgpack", "model.onnx"]
    listing += ["coreml/fill-mask/float32_model.mlpackage/Manifest.json", "model.safetensors", "pytorch_model.bin"]
    listing += ["rust_model.ot", "tf_model.h5", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    kept = ["LICENSE", "README.md", "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    assert needed(listing) == [*kept, "model.safetensors"]


def test_needed_of_a_sentence_transformer() -> None:
    listing = [".gitattributes", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"]
    listing += ["2_Dense/pytorch_model.bin", "2_Normalize/config.json", "README.md", "config.json", "data_config.json"]
    listing += ["config_sentence_transformers.json", "model.safetensors", "modules.json", "onnx/model.onnx"]
    listing += ["onnx/model_qint8_avx512.onnx", "openvino/openvino_model.bin", "openvino/openvino_model.xml"]
    listing += ["pytorch_model.bin", "sentence_bert_config.json", "special_tokens_map.json", "train_script.py"]
    listing += ["tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    assert needed(listing) == [
        *("1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "2_Normalize/config.json"),
        *("README.md", "config.json", "config_sentence_transformers.json", "data_config.json", "modules.json"),
        *("sentence_bert_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"),
        *("vocab.txt", "model.safetensors"),
    ]


@pytest.mark.parametrize(
    "tokenizer",
    [
        ["spiece.model"],
        ["sentencepiece.bpe.model"],
        ["spm.model", "added_tokens.json"],
        ["merges.txt", "vocab.json"],
        ["bpe.codes", "vocab.txt"],
        ["tokenizer.json"],
    ],
    ids=" ".join,
)
def test_needed_keeps_tokenizers_of_every_kind(tokenizer: list[str]) -> None:
    assert set(tokenizer) <= set(needed(["config.json", "model.safetensors", *tokenizer]))


SHARDS = {
    "safetensors": ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    "bin": ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
}


def test_needed_prefers_one_safetensors_file_to_shards_and_bin() -> None:
    listing = ["config.json", "pytorch_model.bin", "model.safetensors.index.json", *SHARDS["safetensors"]]
    assert needed([*listing, "model.safetensors"]) == ["config.json", "model.safetensors"]


def test_needed_prefers_shards_of_safetensors_to_bin() -> None:
    weights = ["model.safetensors.index.json", *SHARDS["safetensors"]]
    assert needed(["config.json", "pytorch_model.bin", *weights]) == ["config.json", *weights]


def test_needed_takes_bin_where_there_is_nothing_else() -> None:
    listing = ["config.json", "tf_model.h5", "pytorch_model.bin", "training_args.bin", "optimizer.bin"]
    assert needed(listing) == ["config.json", "pytorch_model.bin"]


def test_needed_takes_shards_of_bin_where_there_is_nothing_else() -> None:
    weights = ["pytorch_model.bin.index.json", *SHARDS["bin"]]
    assert needed(["config.json", *weights]) == ["config.json", *weights]


def test_needed_leaves_other_variants_and_adapters() -> None:
    listing = ["config.json", "model.fp16.safetensors", "adapter_model.safetensors", "checkpoint-500/model.safetensors"]
    assert needed(listing) == ["config.json"]


@pytest.mark.parametrize(
    "name",
    [
        *("../config.json", "/etc/config.json", "../../1_Pooling/config.json", "1_Pooling/../config.json"),
        *("..\\x.model", "sub/vocab.txt", "a b.model", "x.model\n"),
        *("modeling_bert.py", "1_Custom/custom.py", "1_Pooling/modeling.py"),
    ],
)
def test_needed_takes_neither_code_nor_a_path_out_of_the_folder(name: str) -> None:
    assert needed([name]) == []
