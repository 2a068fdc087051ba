"""Checkpoints from the Hub, against a Hub on a local port."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_hub import REPO, SHARDS, TOKEN, WANTED, WEIGHTS, files, model, paths, python, refusal, same_weights

from bertx.checkpoint.hub import HubOptions, cached_folder, snapshot
from hub_server import HubServer

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
    assert snapshot(REPO, None, replace(options, offline=True)).folder == found.folder


def test_a_private_repository_opens_to_its_token(hub: HubServer, options: HubOptions, source: Path) -> None:
    hub.add(REPO, source, token=TOKEN)
    assert files(snapshot(REPO, None, replace(options, token=TOKEN))) == sorted(WANTED)
    assert TOKEN not in repr(replace(options, token=TOKEN))


def test_nothing_about_this_machine_is_told_or_asked_for(hub: HubServer, commit: str, tmp_path: Path) -> None:
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "AI_AGENT": "some-program"}
    assert python(f"snapshot({REPO!r}, None, HubOptions())", **own).stderr == ""
    assert all(agent.startswith("bertx/") and " " not in agent for agent in hub.user_agents)
    assert len(hub.requests) == len(WANTED) + 1


@pytest.mark.parametrize("progress", [False, True])
def test_nothing_but_progress_is_printed(hub: HubServer, commit: str, tmp_path: Path, progress: bool) -> None:
    hub.fault("cut", f"*/{WEIGHTS}", method="GET", times=1)  # the library warns of it
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path), "TQDM_POSITION": "-1"}  # bars, as on a terminal
    run = python(f"snapshot({REPO!r}, None, HubOptions(progress={progress}))", **own)
    assert (run.returncode, run.stdout, f"{REPO}: " in run.stderr) == (0, "", progress)
    assert progress or run.stderr == ""
    assert "Error" not in run.stderr


def test_a_broken_download_is_resumed(hub: HubServer, options: HubOptions, tmp_path: Path) -> None:
    source = model(tmp_path / "large", WANTED, elements=2**18)
    hub.add(REPO, source)
    hub.fault("cut", f"*/{WEIGHTS}", times=1)
    assert same_weights(snapshot(REPO, None, options), source)
    assert hub.ranges == [f"bytes={(source / WEIGHTS).stat().st_size // 2}-"]


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


MODULES = ["modules.json", "1_Pooling/config.json"]


@pytest.mark.parametrize("lost", ["config.json", "vocab.txt", *MODULES, *SHARDS])
def test_a_cache_that_lacks_a_file_of_the_commit_is_refused_by_its_name(
    hub: HubServer, options: HubOptions, offline: HubOptions, tmp_path: Path, lost: str
) -> None:
    hub.add(REPO, model(tmp_path / "model", ["config.json", "vocab.txt", *MODULES, *SHARDS]))
    (snapshot(REPO, None, options).folder / lost).unlink()
    assert f"it lacks {lost}" in refusal(offline, "E_OFFLINE").message


def test_a_whole_snapshot_of_another_program_is_known_to_be_whole(
    hub: HubServer, options: HubOptions, offline: HubOptions, commit: str
) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(REPO, cache_dir=options.cache, endpoint=options.endpoint)
    assert snapshot(REPO, None, offline).commit == commit


def test_huggingface_hub_finds_what_bertx_downloaded(hub: HubServer, options: HubOptions, commit: str) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir
    from huggingface_hub._tree_cache import read_tree_cache

    found = snapshot(REPO, None, options)
    hub.requests.clear()
    for name in WANTED:
        own = hf_hub_download(REPO, name, cache_dir=options.cache, local_files_only=True)
        assert Path(own) == found.folder / name
    listed = read_tree_cache(str(found.folder.parent.parent), commit)
    assert listed is not None
    assert listed[WEIGHTS].lfs_sha256 == (found.folder / WEIGHTS).resolve().name
    scanned = scan_cache_dir(options.cache)
    assert (len(scanned.repos), scanned.warnings, hub.requests) == (1, [], [])


def test_a_download_that_ended_early_is_incomplete(hub: HubServer, options: HubOptions, commit: str) -> None:
    hub.fault("status", f"*/{WEIGHTS}", status=404)
    refusal(options, "E_NOT_FOUND")
    refusal(replace(options, offline=True), "E_OFFLINE")


def test_a_lost_file_is_downloaded_again(options: HubOptions, commit: str) -> None:
    (snapshot(REPO, None, options).folder / "vocab.txt").unlink()
    again = snapshot(REPO, None, options)
    assert (again.origin, files(again)) == ("hub", sorted(WANTED))


@pytest.mark.parametrize("name", ["main", "../..", "0" * 39])
def test_only_a_commit_has_a_folder(options: HubOptions, commit: str, name: str) -> None:
    assert cached_folder(REPO, commit, options) is None
    assert snapshot(REPO, None, options).folder == cached_folder(REPO, commit, options)
    assert cached_folder(REPO, name, options) is None


# Hashes


def test_wrong_bytes_are_refused_and_downloaded_again(
    hub: HubServer, options: HubOptions, commit: str, source: Path
) -> None:
    for name in ("vocab.txt", WEIGHTS):  # in git and in LFS
        hub.fault("corrupt", f"*/{name}", times=1)
        assert name in refusal(options, "E_HASH").message
        refusal(replace(options, offline=True), "E_OFFLINE")
    assert same_weights(snapshot(REPO, None, options), source)
    assert not list((options.cache or Path()).rglob("*.incomplete"))


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("name", [WEIGHTS, "vocab.txt"])
def test_a_cached_file_that_changed_is_refused_and_removed(
    options: HubOptions, commit: str, offline: bool, name: str
) -> None:
    weights = snapshot(REPO, None, options).folder / name
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
