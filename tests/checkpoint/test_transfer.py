"""How files travel: in which steps, with whose token, resumed how, given up when; on real sockets."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
from tiny_hub import REPO, TOKEN, WANTED, WEIGHTS, files, model, paths, python, refusal, same_weights

from bertx import exchange
from bertx.checkpoint.hub import HubOptions, snapshot
from hub_server import HubServer, Kind


@pytest.fixture
def other() -> Iterator[HubServer]:
    """Another host, such as the one that a Hub keeps its large files on."""
    with HubServer() as server:
        yield server


@pytest.fixture
def large(hub: HubServer, tmp_path: Path) -> Path:
    """What the Hub serves as `REPO`: weights of 1 MiB."""
    hub.add(REPO, source := model(tmp_path / "large", WANTED, elements=2**18))
    return source


def part(options: HubOptions, source: Path) -> Path:
    """Where the weights grow in the cache."""
    (found,) = Path(options.cache or "").rglob("*.incomplete")
    assert found.stat().st_size < (source / WEIGHTS).stat().st_size
    return found


# Redirects and tokens


@pytest.mark.parametrize("absolute", [False, True])
def test_an_organisation_that_moved_is_followed_with_the_token(
    hub: HubServer, options: HubOptions, source: Path, absolute: bool
) -> None:
    hub.add("tohoku-nlp/bert", source, token=TOKEN)
    hub.rename("cl-tohoku", "tohoku-nlp", hub.url if absolute else "")
    assert files(snapshot("cl-tohoku/bert", None, replace(options, token=TOKEN))) == sorted(WANTED)
    assert set(hub.tokens) == {f"Bearer {TOKEN}"}


def test_a_file_on_another_host_is_fetched_there_without_the_token(
    hub: HubServer, other: HubServer, options: HubOptions, source: Path
) -> None:
    commit = hub.add(REPO, source, token=TOKEN)
    other.add("storage/blobs", source, commit)
    there = f"{other.url}/storage/blobs/resolve/{commit}/{WEIGHTS}?signature=secret"
    hub.fault("status", f"*/{WEIGHTS}", status=302, headers={"Location": there, "X-Repo-Commit": commit})
    assert same_weights(snapshot(REPO, None, replace(options, token=TOKEN)), source)
    assert (len(hub.tokens), len(other.requests), other.tokens) == (len(WANTED) + 1, 1, [])


def test_a_listing_on_another_host_is_asked_for_without_the_token(
    hub: HubServer, other: HubServer, options: HubOptions, commit: str
) -> None:
    hub.fault("status", "/api/*", status=307, headers={"Location": f"{other.url}/api/models/{REPO}?blobs=true"})
    refusal(replace(options, token=TOKEN), "E_NOT_FOUND")
    assert (len(hub.tokens), len(other.requests), other.tokens) == (1, 1, [])


@pytest.mark.parametrize("there", ["file:///etc/passwd", "ftp://127.0.0.1/model", "//"])
def test_an_address_that_is_not_of_the_web_is_not_followed(
    hub: HubServer, options: HubOptions, commit: str, there: str
) -> None:
    hub.fault("status", f"*/{WEIGHTS}", status=302, headers={"Location": there})
    refusal(options, "E_NETWORK")
    assert not (Path(options.cache or "") / "models--org--tiny-bert/snapshots" / commit / WEIGHTS).exists()


@pytest.mark.parametrize("place", ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME"])
def test_the_token_comes_from_the_environment_or_its_file(
    hub: HubServer, source: Path, tmp_path: Path, place: str
) -> None:
    hub.add(REPO, source, token=TOKEN)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    stated = {"HF_TOKEN": TOKEN, "HF_TOKEN_PATH": str(tmp_path / "token"), "HF_HOME": str(tmp_path)}[place]
    own = {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "", "HF_ENDPOINT": hub.url, place: stated}
    run = python(f"print(snapshot({REPO!r}, None, HubOptions()).origin)", **own)
    assert (run.stdout.strip(), run.stderr) == ("hub", "")


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 302])
def test_no_traceback_shows_the_token(hub: HubServer, source: Path, tmp_path: Path, status: int) -> None:
    hub.add(REPO, source)
    told = {"X-Error-Message": f"Bearer {TOKEN} is wrong", "Retry-After": "3600", "Location": f"file:///{TOKEN}"}
    hub.fault("status", "*", status=status, headers=told, body=TOKEN.encode())
    address = hub.url.replace("http://", f"http://somebody:{TOKEN}@")
    own = {"HF_ENDPOINT": address, "HF_TOKEN": TOKEN, "HF_HUB_CACHE": str(tmp_path)}
    run = python(
        f"import sys; sys.argv = ['bertx', '--debug', 'pull', {REPO!r}]; import bertx.cli; bertx.cli.main()", **own
    )
    assert run.returncode == 4
    assert "Traceback" in run.stderr
    assert TOKEN not in run.stdout + run.stderr


@pytest.mark.parametrize("token", ["hf_ü", "hf_\x01\x7f", "hf_\u3042"])
def test_what_cannot_be_a_token_is_refused_unsent_and_untold(
    hub: HubServer, options: HubOptions, commit: str, token: str
) -> None:
    error = refusal(replace(options, token=token), "E_USAGE")
    assert "token" in error.message
    assert token[3:] not in str(error)
    assert hub.requests == []


@pytest.mark.parametrize("address", ["", "huggingface.co", "file:///tmp", "https://"])
def test_an_endpoint_that_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    own = {"HF_ENDPOINT": address, "HF_HUB_CACHE": str(tmp_path)}
    run = python(f"snapshot({REPO!r}, None, HubOptions())", **own)
    assert "bertx.errors.UsageError" in run.stderr
    assert "HF_ENDPOINT" in run.stderr


# Resuming


def test_a_later_run_goes_on_where_one_was_given_up(hub: HubServer, options: HubOptions, large: Path) -> None:
    hub.fault("cut", f"*/{WEIGHTS}", times=1)
    hub.fault("status", f"*/{WEIGHTS}", status=500)
    refusal(replace(options, timeout=0.2), "E_NETWORK")
    size = part(options, large).stat().st_size
    hub.mend()
    assert same_weights(snapshot(REPO, None, options), large)
    assert (size, hub.ranges[-1]) == ((large / WEIGHTS).stat().st_size // 2, f"bytes={size}-")


def test_a_later_run_goes_on_where_one_was_killed(
    hub: HubServer, options: HubOptions, large: Path, tmp_path: Path
) -> None:
    hub.fault("stall", f"*/{WEIGHTS}", times=1)
    program = f"from bertx.checkpoint.hub import *; snapshot({REPO!r}, None, HubOptions())"
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(options.cache), "HF_HUB_OFFLINE": "0"}
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, **own})
    half = (large / WEIGHTS).stat().st_size // 2
    while not any(path.stat().st_size >= half - 2**16 for path in tmp_path.rglob("*.incomplete")):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert same_weights(snapshot(REPO, None, options), large)
    assert int(hub.ranges[-1].removeprefix("bytes=").removesuffix("-")) >= half - 2**16


def test_what_an_earlier_run_left_is_hashed_too(hub: HubServer, options: HubOptions, large: Path) -> None:
    hub.fault("cut", f"*/{WEIGHTS}", times=1)
    hub.fault("status", f"*/{WEIGHTS}", status=500)
    refusal(replace(options, timeout=0.2), "E_NETWORK")
    left = part(options, large)
    left.write_bytes(b"\0" * left.stat().st_size)
    hub.mend()
    refusal(options, "E_HASH")
    assert not left.exists()
    assert same_weights(snapshot(REPO, None, options), large)


@pytest.mark.parametrize("length", [0, -1, 1])
def test_what_cannot_be_a_beginning_is_thrown_away(
    hub: HubServer, options: HubOptions, large: Path, length: int
) -> None:
    snapshot(REPO, None, options)
    (blob,) = Path(options.cache or "").rglob(f"blobs/{'?' * 64}")
    data = blob.read_bytes()
    blob.rename(blob.with_name(f"{blob.name}.incomplete")).write_bytes((data + b"more")[: len(data) + length])
    assert same_weights(snapshot(REPO, None, options), large)
    assert hub.ranges == ([f"bytes={len(data) - 1}-"] if length < 0 else [])


def test_a_server_that_knows_no_ranges_sends_the_whole_file_again(
    hub: HubServer, options: HubOptions, large: Path
) -> None:
    hub.fault("cut", f"*/{WEIGHTS}", times=1)
    hub.fault("whole", f"*/{WEIGHTS}")
    assert same_weights(snapshot(REPO, None, options), large)
    assert len(hub.ranges) == 1


def test_two_at_once_download_a_file_once(hub: HubServer, options: HubOptions, large: Path) -> None:
    hub.fault("stall", f"*/{WEIGHTS}", times=1)  # the first is held up, so that the second has to wait
    patient = replace(options, timeout=0.5)
    threads = [threading.Thread(target=snapshot, args=(REPO, None, patient)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same_weights(snapshot(REPO, None, replace(options, offline=True)), large)
    assert len([path for path in paths(hub) if path.endswith(WEIGHTS)]) == 2  # the one that stalled, and the rest


def test_a_download_of_another_process_that_does_not_get_on_is_not_waited_for(
    hub: HubServer, options: HubOptions, large: Path, tmp_path: Path
) -> None:
    snapshot(REPO, None, options)
    (blob,) = Path(options.cache or "").rglob(f"blobs/{'?' * 64}")
    blob.unlink()
    with exchange.locked(blob.with_name(f"{blob.name}.incomplete")):
        assert "does not get on" in refusal(replace(options, timeout=0.1), "E_LOCKED").message


# Giving up


@pytest.mark.parametrize("pattern", ["/api/*", "*/config.json", f"*/{WEIGHTS}"])
def test_a_server_that_drips_is_given_up(hub: HubServer, options: HubOptions, commit: str, pattern: str) -> None:
    hub.fault("drip", pattern)
    assert "less than 1024 bytes a second" in refusal(replace(options, timeout=0.2), "E_NETWORK").message


@pytest.mark.parametrize(
    ("kind", "pattern", "told"),
    [
        ("stall", "/api/*", "silent for more than 0.2 s"),
        ("cut", "/api/*", "breaks off its answer"),
        ("cut", "*/config.json", "breaks off its answer"),
        ("short", "*/config.json", "sends 22 of the 45 bytes of config.json"),
        ("long", "*/config.json", "sends more of config.json than the 45 bytes"),
    ],
)
def test_an_answer_that_is_not_whole_is_told_apart(
    hub: HubServer, options: HubOptions, commit: str, kind: Kind, pattern: str, told: str
) -> None:
    hub.fault(kind, pattern)
    assert told in refusal(replace(options, timeout=0.2), "E_NETWORK").message


def test_a_page_to_log_in_is_no_file(hub: HubServer, options: HubOptions, commit: str) -> None:
    page = b"<html>Log in</html>" + b" " * 26  # as long as the file
    hub.fault("status", "*/config.json", status=200, headers={"Content-Type": "text/html"}, body=page)
    assert "config.json" in refusal(options, "E_HASH").message


LISTING = '{"sha": "' + "a" * 40 + '", "siblings": [{"rfilename": "config.json", "size": 2, %s}]}'


@pytest.mark.parametrize(
    "listing",
    [
        "<html>", "", "[]", "{}", '{"sha": "main", "siblings": []}', '{"sha": null, "siblings": null}',
        '{"sha": "../../../../../../../../../../../../xx", "siblings": []}',
        LISTING % '"lfs": {"sha256": "../../evil"}', LISTING % '"blobId": "/etc/passwd"', LISTING % '"lfs": 1',
        LISTING % '"size": "2"', LISTING % '"size": -1', "[" * 100_000, '{"a": NaN}',
    ],
)  # fmt: skip
def test_what_is_no_listing_is_refused(hub: HubServer, options: HubOptions, commit: str, listing: str) -> None:
    hub.fault("status", "/api/*", status=200, body=listing.encode())
    assert "does not answer as a Hub does" in refusal(options, "E_NETWORK").message
    assert len(hub.requests) == 1


@pytest.mark.parametrize("packed", [False, True])
def test_a_listing_without_end_is_cut_off(hub: HubServer, options: HubOptions, commit: str, packed: bool) -> None:
    text = b'{"sha": "' + b"a" * 2**26
    headers = {"Content-Encoding": "gzip"} if packed else {}
    hub.fault("status", "/api/*", status=200, headers=headers, body=gzip.compress(text) if packed else text)
    assert "more files than any repository has" in refusal(options, "E_NETWORK").message


def test_a_file_that_grows_when_it_is_unpacked_is_cut_off(hub: HubServer, options: HubOptions, commit: str) -> None:
    body = gzip.compress(bytes(2**26))
    hub.fault("status", "*/config.json", status=200, headers={"Content-Encoding": "gzip"}, body=body)
    assert "sends more of config.json" in refusal(options, "E_NETWORK").message
    assert all(path.stat().st_size <= 45 for path in Path(options.cache or "").rglob("*.incomplete"))


def test_a_short_wait_is_kept(hub: HubServer, options: HubOptions, commit: str) -> None:
    hub.fault("status", "/api/*", status=429, headers={"Retry-After": "1"}, times=1)
    hub.fault("status", "*/config.json", status=503, headers={"Retry-After": formatdate(time.time() + 1.5)}, times=1)
    begin = time.monotonic()
    assert files(snapshot(REPO, None, options)) == sorted(WANTED)
    assert time.monotonic() - begin >= 1.0
    assert len(hub.requests) == len(WANTED) + 3


@pytest.mark.parametrize("wait", ["3600", formatdate(4e9)])
def test_a_long_wait_is_refused_at_once(hub: HubServer, options: HubOptions, commit: str, wait: str) -> None:
    hub.fault("status", "/api/*", status=503, headers={"Retry-After": wait})
    assert "asks to wait" in refusal(options, "E_NETWORK").message
    assert len(hub.requests) == 1


def test_an_address_of_ipv6_that_nobody_listens_on_cannot_be_reached(options: HubOptions) -> None:
    assert "cannot be reached" in refusal(replace(options, endpoint="http://[::1]:9"), "E_NETWORK").message


def test_a_disk_without_room_is_told_before_anything_is_downloaded(
    hub: HubServer, options: HubOptions, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 100))
    assert "where 100 are free" in refusal(options, "E_DISK").message
    assert len(hub.requests) == 1


def test_an_adapter_is_refused_before_anything_is_downloaded(
    hub: HubServer, options: HubOptions, tmp_path: Path
) -> None:
    hub.add(REPO, model(tmp_path / "model", [*WANTED, "adapter_config.json"]))
    assert "adapter" in refusal(options, "E_CONFIG").message
    assert len(hub.requests) == 1
