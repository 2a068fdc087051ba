"""What a Hub on a local port can get wrong, and what bertx makes of it."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_hub import REPO, TOKEN, WANTED, WEIGHTS, files, model, paths, python, refusal

from bertx.checkpoint.hub import HubOptions, snapshot
from bertx.checkpoint.transfer import TRIES
from hub_server import HubServer, Kind

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
        (302, "*/config.json", {"Location": "/api/loop/config.json"}, "E_NETWORK", "redirects for ever"),
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
    [("silence", "/api/*", None), ("silence", "*/config.json", None), ("stall", f"*/{WEIGHTS}", "GET")],
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
