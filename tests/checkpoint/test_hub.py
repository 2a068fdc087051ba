"""Checkpoints from the Hub, against a Hub on a local port."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bertx.checkpoint.hub import TRIES, HubOptions, Snapshot, cached, snapshot
from bertx.errors import BertxError
from hub_server import HubServer, Kind

REPO = "org/tiny-bert"
TOKEN = "hf_never_to_be_printed"
WEIGHTS = "model.safetensors"
WANTED = ["README.md", "config.json", "tokenizer_config.json", "vocab.txt", WEIGHTS]
UNWANTED = ["pytorch_model.bin", "modeling_tiny.py", "onnx/model.onnx", "tf_model.h5", ".gitattributes"]
SHARDS = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with HubServer() as server:
        yield server


@pytest.fixture
def options(hub: HubServer, tmp_path: Path) -> HubOptions:
    return HubOptions(cache=tmp_path / "cache", endpoint=hub.url, timeout=5)


@pytest.fixture
def offline(options: HubOptions) -> HubOptions:
    return replace(options, offline=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return model(tmp_path / "model", WANTED + UNWANTED)


@pytest.fixture
def commit(hub: HubServer, source: Path) -> str:
    """The one commit of `REPO`, served from `source`."""
    return hub.add(REPO, source)


def model(folder: Path, names: list[str], *, value: float = 1.0, elements: int = 512) -> Path:
    """A repository of a few KB: real safetensors, and a line of text in every other file."""
    import numpy as np
    from safetensors.numpy import save_file

    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            save_file({"embeddings.weight": np.full(elements, value, dtype=np.float32)}, path)
        else:
            path.write_text(json.dumps({"model_type": "bert", "file": name}), encoding="utf-8")
    return folder


def files(found: Snapshot) -> list[str]:
    return sorted(path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file())


def same_weights(found: Snapshot, source: Path) -> bool:
    return (found.folder / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()


def paths(hub: HubServer) -> list[str]:
    return [path for _, path in hub.requests]


def refusal(options: HubOptions, code: str, *, repo: str = REPO, revision: str | None = None) -> BertxError:
    """The error with which a snapshot ends: it has the code's exit code, is one line, and says what to do."""
    with pytest.raises(BertxError) as caught:
        snapshot(repo, revision, options)
    error = caught.value
    assert (error.code, error.exit_code) == (code, {"E_USAGE": 2, "E_DISK": 5}.get(code, 4))
    assert len(str(error).splitlines()) == 1
    assert error.hint
    assert TOKEN not in str(error)
    return error


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that has the room's names and Path, as the environment says."""
    return subprocess.run(
        [sys.executable, "-c", f"from pathlib import Path\nfrom bertx.checkpoint.hub import *\n{program}"],
        env={**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# What is downloaded


def test_a_branch_is_pinned_to_the_commit_it_has_now(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        source = model(tmp_path / str(value), WANTED, value=value)
        commit = hub.add(REPO, source)
        found = snapshot(REPO, "main", options)
        assert (found.commit, found.folder.name) == (commit, commit)
        assert same_weights(found, source)


def test_no_revision_means_the_main_branch(options: HubOptions, commit: str) -> None:
    assert snapshot(REPO, None, options).commit == commit


@pytest.mark.parametrize("name", ["v1.0", "refs/pr/1"])
def test_a_tag_or_pull_request_is_a_revision(hub: HubServer, options: HubOptions, source: Path, name: str) -> None:
    hub.add(REPO, source, "c" * 40, {name: "c" * 40})
    for each in (options, replace(options, offline=True)):
        assert snapshot(REPO, name, each).commit == "c" * 40


def test_a_commit_is_a_revision(hub: HubServer, options: HubOptions, commit: str, tmp_path: Path) -> None:
    hub.add(REPO, model(tmp_path / "new", WANTED, value=2.0))
    assert snapshot(REPO, commit, options).commit == commit


def test_the_commit_is_asked_for_once_and_named_from_then_on(hub: HubServer, options: HubOptions, commit: str) -> None:
    snapshot(REPO, "main", options)
    first, *rest = paths(hub)
    assert first == f"/api/models/{REPO}/revision/main"
    assert all(path.startswith(f"/{REPO}/resolve/{commit}/") for path in rest)


def test_only_needed_files_are_asked_for_and_weights_last(hub: HubServer, options: HubOptions, commit: str) -> None:
    assert files(snapshot(REPO, None, options)) == sorted(WANTED)
    asked = [path.partition(f"/resolve/{commit}/")[2] for path in paths(hub)[1:]]
    assert set(asked) == set(WANTED)
    assert asked[-1] == WEIGHTS


def test_a_renamed_organisation_is_followed(hub: HubServer, options: HubOptions, source: Path) -> None:
    commit = hub.add("tohoku-nlp/bert", source)
    hub.rename("cl-tohoku", "tohoku-nlp")
    found = snapshot("cl-tohoku/bert", None, options)
    assert (found.repo, found.commit, files(found)) == ("cl-tohoku/bert", commit, sorted(WANTED))


def test_a_repository_without_an_organisation_is_found(hub: HubServer, options: HubOptions, source: Path) -> None:
    hub.add("google-bert/bert-base-uncased", source)
    hub.rename("bert-base-uncased", "google-bert/bert-base-uncased")
    assert files(snapshot("bert-base-uncased", None, options)) == sorted(WANTED)


def test_shards_and_module_folders_arrive(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    modules = ["modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"]
    hub.add(REPO, model(tmp_path / "model", ["config.json", *modules, *SHARDS]))
    found = snapshot(REPO, None, options)
    assert files(found) == sorted(["config.json", *modules, *SHARDS])
    assert cached(REPO, found.commit, options) == found.folder


def test_a_private_repository_opens_to_its_token(hub: HubServer, options: HubOptions, source: Path) -> None:
    hub.add(REPO, source, token=TOKEN)
    assert files(snapshot(REPO, None, replace(options, token=TOKEN))) == sorted(WANTED)
    assert TOKEN not in repr(replace(options, token=TOKEN))


def test_nothing_about_this_machine_is_told(hub: HubServer, options: HubOptions, commit: str) -> None:
    snapshot(REPO, None, options)
    assert all(agent.startswith("bertx/") and " " not in agent for agent in hub.user_agents)


@pytest.mark.parametrize("progress", [False, True])
def test_nothing_but_progress_is_printed(hub: HubServer, commit: str, tmp_path: Path, progress: bool) -> None:
    hub.fault("cut", f"*/{WEIGHTS}", method="GET", times=1)  # the library warns of it
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path), "TQDM_POSITION": "-1"}  # bars, as on a terminal
    run = python(f"snapshot({REPO!r}, None, HubOptions(progress={progress}))", **own)
    assert (run.returncode, run.stdout, f"{WEIGHTS}: 100%" in run.stderr) == (0, "", progress)
    assert progress or run.stderr == ""
    assert "Error" not in run.stderr


def test_a_broken_download_is_resumed(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    source = model(tmp_path / "large", WANTED, elements=6 * 2**20)  # huggingface_hub keeps pieces of 10 MiB
    hub.add(REPO, source)
    hub.fault("cut", f"*/{WEIGHTS}", method="GET", times=1)
    assert same_weights(snapshot(REPO, None, options), source)
    assert hub.ranges == [f"bytes={10 * 2**20}-"]


# The cache


def test_a_second_call_asks_for_nothing_but_the_revision(hub: HubServer, options: HubOptions, commit: str) -> None:
    first = snapshot(REPO, "main", options)
    hub.requests.clear()
    second = snapshot(REPO, "main", options)
    assert hub.requests == [("GET", f"/api/models/{REPO}/revision/main")]
    assert (first.origin, second.origin, first.folder) == ("hub", "cache", second.folder)


def test_the_cache_answers_offline(hub: HubServer, options: HubOptions, offline: HubOptions, commit: str) -> None:
    online = snapshot(REPO, None, options)
    hub.requests.clear()
    for revision in (None, "main", commit):
        assert snapshot(REPO, revision, offline) == replace(online, origin="cache")
    assert hub.requests == []


def test_offline_without_a_cache_is_refused_unasked(hub: HubServer, offline: HubOptions, commit: str) -> None:
    for revision in (None, commit):
        refusal(offline, "E_OFFLINE", revision=revision)
    assert hub.requests == []


def test_offline_knows_only_branches_asked_for_before(options: HubOptions, offline: HubOptions, commit: str) -> None:
    snapshot(REPO, "main", options)
    refusal(offline, "E_OFFLINE", revision="other")


@pytest.mark.parametrize("lost", ["config.json", *SHARDS])
def test_a_cache_without_config_or_all_weights_is_incomplete(
    hub: HubServer, options: HubOptions, offline: HubOptions, tmp_path: Path, lost: str
) -> None:
    hub.add(REPO, model(tmp_path / "model", ["config.json", *SHARDS]))
    found = snapshot(REPO, None, options)
    (found.folder / lost).unlink()
    assert cached(REPO, found.commit, options) is None
    refusal(offline, "E_OFFLINE")


def test_a_download_that_ended_early_is_incomplete(hub: HubServer, options: HubOptions, commit: str) -> None:
    hub.fault("status", f"*/{WEIGHTS}", status=404)
    refusal(options, "E_NOT_FOUND")
    assert cached(REPO, commit, options) is None


def test_a_lost_file_is_downloaded_again(options: HubOptions, commit: str) -> None:
    (snapshot(REPO, None, options).folder / "vocab.txt").unlink()
    again = snapshot(REPO, None, options)
    assert (again.origin, files(again)) == ("hub", sorted(WANTED))


@pytest.mark.parametrize("name", ["main", "../..", "0" * 39])
def test_only_a_commit_is_cached(options: HubOptions, name: str) -> None:
    assert cached(REPO, name, options) is None


# Hashes


def test_wrong_bytes_are_refused_and_downloaded_again(
    hub: HubServer, options: HubOptions, commit: str, source: Path
) -> None:
    hub.fault("corrupt", f"*/{WEIGHTS}", method="GET", times=1)
    assert WEIGHTS in refusal(options, "E_HASH").message
    assert cached(REPO, commit, options) is None
    assert same_weights(snapshot(REPO, None, options), source)


@pytest.mark.parametrize("offline", [False, True])
def test_a_cached_file_that_changed_is_refused_and_removed(options: HubOptions, commit: str, offline: bool) -> None:
    weights = snapshot(REPO, None, options).folder / WEIGHTS
    blob = weights.resolve()
    blob.write_bytes(b"\0" * blob.stat().st_size)
    refusal(replace(options, offline=offline), "E_HASH")
    assert not blob.exists()
    assert not weights.is_symlink()


def test_a_wrong_file_outside_the_cache_is_left_alone(options: HubOptions, commit: str, tmp_path: Path) -> None:
    weights = snapshot(REPO, None, options).folder / WEIGHTS
    (tmp_path / "mine").write_bytes(b"precious")
    weights.unlink()
    weights.symlink_to(tmp_path / "mine")
    refusal(options, "E_HASH")
    assert (tmp_path / "mine").read_bytes() == b"precious"


# Refusals


@pytest.mark.parametrize("name", ["", "./model", "/tmp/model", "a/b/c", "a--b", "org/..", "~/model", "org/name.git"])
def test_what_is_no_hub_id_is_refused_unasked(hub: HubServer, options: HubOptions, name: str) -> None:
    assert "no folder on this machine and no Hub id" in refusal(options, "E_USAGE", repo=name).message
    assert hub.requests == []


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_missing_repository_may_be_private(options: HubOptions, token: str | None) -> None:
    error = refusal(replace(options, token=token), "E_NOT_FOUND", repo="org/nothing")
    assert "missing or private" in error.message
    assert "HF_TOKEN" in error.hint


@pytest.mark.parametrize("name", ["nothing", "0" * 40])
def test_a_missing_revision_is_named(options: HubOptions, commit: str, name: str) -> None:
    assert f"no revision {name}" in refusal(options, "E_NOT_FOUND", revision=name).message


@pytest.mark.parametrize(
    ("lost", "told"), [("config.json", "no config.json"), (WEIGHTS, "no complete PyTorch weights")]
)
def test_a_repository_without_a_model_is_refused_before_a_download(
    hub: HubServer, options: HubOptions, tmp_path: Path, lost: str, told: str
) -> None:
    hub.add(REPO, model(tmp_path / "model", [name for name in WANTED if name != lost]))
    assert told in refusal(options, "E_NOT_FOUND").message
    assert len(hub.requests) == 1


@pytest.mark.parametrize("token", [None, "hf_of_somebody_else"])
def test_a_gated_repository_asks_for_its_terms_and_a_token(
    hub: HubServer, options: HubOptions, source: Path, token: str | None
) -> None:
    hub.add(REPO, source, token=TOKEN, gated=True)
    hint = refusal(replace(options, token=token), "E_GATED").hint
    assert "terms" in hint
    assert "HF_TOKEN" in hint


def test_a_server_that_is_down_cannot_be_reached(options: HubOptions) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = refusal(replace(options, endpoint=f"http://user:{TOKEN}@127.0.0.1:{port}"), "E_NETWORK")
    assert f"127.0.0.1:{port} cannot be reached" in error.message
    assert "--offline" in error.hint


@pytest.mark.parametrize(
    ("status", "pattern", "headers", "code", "told"),
    [
        (401, "*", {"X-Error-Message": "Invalid credentials in Authorization header"}, "E_GATED", "the token sent"),
        (403, "*", {}, "E_GATED", "refuses access"),
        (404, "*/vocab.txt", {"X-Error-Code": "EntryNotFound"}, "E_NOT_FOUND", "lacks a file"),
        (404, "*", {}, "E_NOT_FOUND", "has no org/tiny-bert at main"),
        (429, "*", {}, "E_NETWORK", "answers HTTP 429"),
        (429, "*/config.json", {"Retry-After": "3600"}, "E_NETWORK", "asks to wait 3600 s"),
        (429, "*/config.json", {"ratelimit": '"resolvers";r=0;t=240'}, "E_NETWORK", "asks to wait 240 s"),
        (503, "*", {}, "E_NETWORK", "answers HTTP 503"),
        (200, "/api/*", {}, "E_NETWORK", "does not answer as a Hub does"),
        (302, "*/config.json", {"Location": "/api/loop/config.json"}, "E_NETWORK", "answers HTTP 302"),
    ],
)
def test_a_status_that_refuses_is_told_apart(
    hub: HubServer,
    options: HubOptions,
    commit: str,
    status: int,
    pattern: str,
    headers: dict[str, str],
    code: str,
    told: str,
) -> None:
    hub.fault("status", pattern, status=status, headers=headers)
    assert told in refusal(replace(options, token=TOKEN), code).message


def test_another_commit_than_asked_for_is_refused(hub: HubServer, options: HubOptions, commit: str) -> None:
    hub.fault("commit", "*/config.json")
    assert "another commit" in refusal(options, "E_NETWORK").message


def test_a_passing_failure_is_passed_over(hub: HubServer, options: HubOptions, commit: str) -> None:
    hub.fault("status", "*/config.json", status=503, times=1)
    assert files(snapshot(REPO, None, options)) == sorted(WANTED)


def test_a_file_is_given_up_after_few_tries(hub: HubServer, options: HubOptions, commit: str) -> None:
    hub.fault("status", "*/vocab.txt", status=503)
    assert "HTTP 503" in refusal(options, "E_NETWORK").message
    assert len([path for path in paths(hub) if path.endswith("/vocab.txt")]) == TRIES


@pytest.mark.parametrize(
    ("kind", "pattern", "method"),
    [("silence", "/api/*", None), ("silence", "*/config.json", "HEAD"), ("stall", f"*/{WEIGHTS}", "GET")],
)
def test_a_silent_server_is_given_up_within_six_waits(
    hub: HubServer, options: HubOptions, commit: str, kind: Kind, pattern: str, method: str | None
) -> None:
    hub.fault(kind, pattern, method=method)
    begin = time.monotonic()
    assert "silent for more than 0.5 s" in refusal(replace(options, timeout=0.5), "E_NETWORK").message
    # With the default wait of 10 s this is a minute; the pauses between tries are a few seconds in any case.
    assert time.monotonic() - begin < 6 * 0.5 + 10


def test_a_cache_that_is_no_folder_is_a_local_problem(options: HubOptions, commit: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert "HF_HUB_CACHE" in refusal(replace(options, cache=tmp_path / "file"), "E_DISK").hint


def test_a_full_disk_is_a_local_problem(hub: HubServer, commit: str, tmp_path: Path) -> None:
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
    run = python(f"{limit}snapshot({REPO!r}, None, HubOptions(cache=Path({str(tmp_path)!r}), endpoint={hub.url!r}))")
    assert "bertx.errors.LocalProblem: the Hub cache" in run.stderr
    assert not list(tmp_path.rglob("*.incomplete"))


# Processes of their own


def test_huggingface_hubs_variables_hold_where_options_do_not(hub: HubServer, source: Path, tmp_path: Path) -> None:
    commit = hub.add(REPO, source, token=TOKEN)
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_TOKEN": TOKEN}
    run = python(f"print(snapshot({REPO!r}, None, HubOptions()).folder)", **own)
    folder = tmp_path / "cache/models--org--tiny-bert/snapshots" / commit
    assert (run.stdout.strip(), run.stderr) == (str(folder), "")
    hub.requests.clear()
    run = python(f"print(snapshot({REPO!r}, None, HubOptions()).folder)", **own, HF_HUB_OFFLINE="1")
    assert (run.stdout.strip(), run.stderr, hub.requests) == (str(folder), "", [])


def test_offline_opens_no_socket(options: HubOptions, commit: str) -> None:
    snapshot(REPO, None, options)
    guard = "import os, sys; sys.addaudithook(lambda event, _: event.startswith('socket.') and os._exit(99))\n"
    run = python(
        f"{guard}print(snapshot({REPO!r}, None, HubOptions(Path({str(options.cache)!r}), offline=True)).commit)"
    )
    assert (run.returncode, run.stdout.strip()) == (0, commit), run.stderr


def test_importing_the_room_imports_no_client() -> None:
    assert python("import sys; print('huggingface_hub' in sys.modules)").stdout.strip() == "False"
