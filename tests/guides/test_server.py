"""docs/guides/server: the program in Rust answers over HTTP what sentence-transformers computes, and refuses well."""

from __future__ import annotations

import base64
import http.client
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from bertx.parity.compare import compare, pool
from bertx.tokenizer.golden import TEXTS
from embed_server import GUIDE, Answer, Array, Server, serving

README = (GUIDE / "README.md").read_text("utf-8")
LONG = ("over and " * 300, "Ünïcödé, 東京 and 👍🏽. " * 90, "x" * 5000)
#: accents, scripts, emoji, combining marks, control characters, long words, nothing, and more than the model reads
HURTING = (*TEXTS, *LONG)


@pytest.fixture(scope="module")
def server(program: Path, minilm_bundle: Path) -> Iterator[Server]:
    with serving(program, minilm_bundle) as running:
        yield running


@pytest.fixture(scope="module")
def reference(minilm: Path) -> tuple[Array, Array]:
    """(the embeddings of the texts in float64, in float32) by sentence-transformers, each text alone."""
    from sentence_transformers import SentenceTransformer

    options: dict[str, Any] = {"device": "cpu", "model_kwargs": {"attn_implementation": "eager"}}
    models = [SentenceTransformer(str(minilm), **options) for _ in range(2)]
    exact, rounded = (np.asarray(m.encode(list(HURTING), batch_size=1)) for m in (models[0].double(), models[1]))
    assert (exact.dtype, rounded.dtype) == (np.float64, np.float32)
    return exact, rounded


def judge(made: Array, reference: tuple[Array, Array]) -> None:
    """Holds embeddings to the rule of docs/parity.md: each text, and all of them, differ by rounding alone."""
    exact, rounded = reference
    assert made.shape == exact.shape
    judged = np.ones(exact.shape[1:], dtype=bool)
    rows = [compare(str(k), made[k], exact[k], rounded[k], judged) for k in range(len(exact))]
    row = pool("sentence_embedding", rows, "float32", 1.0)
    assert row.passed, f"rms {row.rms_ratio:.3g}, max {row.max_ratio:.3g}, wrong: {row.bad_cases}"


def test_each_text_alone_gives_what_python_gives(server: Server, reference: tuple[Array, Array]) -> None:
    judge(np.concatenate([server.embed(text) for text in HURTING]), reference)


def test_a_batch_of_short_and_long_texts_gives_the_same(server: Server, reference: tuple[Array, Array]) -> None:
    judge(server.in_lists(HURTING), reference)


def test_the_judge_sees_what_text_and_truncation_do(server: Server, reference: tuple[Array, Array]) -> None:
    made = server.in_lists([*HURTING[:-3], *(text[:1000] for text in LONG)])
    with pytest.raises(AssertionError, match="wrong: "):
        judge(made, reference)


def test_concurrent_requests_each_get_their_own_answer(server: Server, reference: tuple[Array, Array]) -> None:
    asked = [[(7 * k + n) % len(HURTING) for n in range(size)] for k, size in enumerate([1, 6, 2, 3] * 8)]
    start = threading.Barrier(len(asked))

    def ask(own: list[int]) -> Array:
        start.wait()
        return server.embed([HURTING[place] for place in own])

    with ThreadPoolExecutor(len(asked)) as threads:
        made = np.concatenate([*threads.map(ask, asked)])
    places = [place for own in asked for place in own]
    judge(made, (reference[0][places], reference[1][places]))


@pytest.mark.parametrize("form", [None, "float", "base64"])
def test_clients_of_openai_get_the_same(server: Server, reference: tuple[Array, Array], form: str | None) -> None:
    body = {"model": "minilm", "input": list(HURTING[:8])} | ({"encoding_format": form} if form else {})
    answer = server.post("/v1/embeddings", body).json
    assert (answer["object"], answer["model"]) == ("list", "minilm")
    assert answer["usage"]["total_tokens"] >= 16
    assert [each["index"] for each in answer["data"]] == [*range(8)]
    found = [each["embedding"] for each in answer["data"]]
    read = [np.frombuffer(base64.b64decode(e), "<f4") if form == "base64" else np.asarray(e, "f4") for e in found]
    judge(np.stack(read), (reference[0][:8], reference[1][:8]))


REFUSED = [
    ("/embed", b"{", 400, "Failed to parse the request body as JSON"),
    ("/embed", b'{"inputs": "\xff"}', 400, "Failed to parse the request body as JSON"),
    ("/embed", b'{"inputs": "\\ud800"}', 400, "Failed to parse the request body as JSON"),
    ("/embed", b"[" * 100_000, 400, "Failed to parse the request body as JSON"),
    ("/embed", b"[1]", 422, "expected a text or a list of texts"),
    ("/embed", b"{}", 422, "missing field `inputs`"),
    ("/embed", b'{"inputs": 5}', 422, "inputs: expected a text or a list of texts"),
    ("/embed", b'{"inputs": ["a", null]}', 422, "inputs: expected a text or a list of texts"),
    ("/embed", b'{"inputs": [["a", "b"]]}', 422, "inputs: expected a text or a list of texts"),
    ("/embed", b'{"inputs": []}', 422, "there is no text"),
    ("/embed", b'{"inputs": "a", "normalize": false}', 422, "the embeddings of this model are normalized"),
    ("/embed", b'{"inputs": "a", "prompt_name": "query"}', 422, "unknown field `prompt_name`"),
    ("/embed", json.dumps({"inputs": LONG[0], "truncate": False}).encode(), 413, "text 0 has more than 256 tokens"),
    ("/embed", json.dumps({"inputs": ["a"] * 33}).encode(), 413, "33 texts are more than the 32"),
    ("/embed", json.dumps({"inputs": "a " * 2**20}).encode(), 413, "length limit exceeded"),
    ("/v1/embeddings", b'{"input": [1, 2]}', 422, "input: expected a text or a list of texts"),
    ("/v1/embeddings", b'{"input": "a", "dimensions": 8}', 422, "unknown field `dimensions`"),
    ("/v1/embeddings", b'{"input": "a", "encoding_format": "int8"}', 422, "unknown variant `int8`"),
    ("/elsewhere", b"{}", 404, "there are /embed, /v1/embeddings and /health"),
    ("/health", b"{}", 405, "use another method"),
]


@pytest.mark.parametrize(("path", "body", "status", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_done_is_refused_and_the_server_lives_on(
    server: Server, path: str, body: bytes, status: int, message: str
) -> None:
    answer = server.request("POST", path, body)
    assert (answer.status, answer.json["error_type"]) == (status, "Validation")
    assert message in answer.json["error"]
    assert server.embed("still here").shape == (1, 384)


def test_a_body_of_another_kind_is_refused(server: Server) -> None:
    assert server.request("POST", "/embed", b'{"inputs": "a"}', "text/plain").status == 415


def test_health_tells_the_model_and_its_limits(server: Server, minilm_bundle: Path) -> None:
    told = {"status": "ok", "model": minilm_bundle.name, "dimensions": 384, "longest": 256, "most": 32, "waiting": 0}
    assert server.get("/health").json == told


def test_a_full_queue_refuses_at_once_and_empties(program: Path, minilm_bundle: Path) -> None:
    with serving(program, minilm_bundle, "--most", "8", "--queue", "8", "--threads", "1") as server:
        start = threading.Barrier(12)

        def ask(_: int) -> Answer:
            start.wait()
            return server.post("/embed", {"inputs": [LONG[1]] * 8})

        with ThreadPoolExecutor(12) as threads:
            answers = [*threads.map(ask, range(12))]
        assert {answer.status for answer in answers} == {200, 429}
        refused = next(answer for answer in answers if answer.status == 429)
        assert (refused.json["error_type"], refused.headers["retry-after"]) == ("Overloaded", "1")
        assert server.embed(["a"] * 8).shape == (8, 384)


def test_sigterm_answers_what_is_in_flight_and_ends_well(
    program: Path, minilm_bundle: Path, reference: tuple[Array, Array]
) -> None:
    with serving(program, minilm_bundle, "--threads", "1") as server, ThreadPoolExecutor(4) as threads:
        idle = http.client.HTTPConnection("127.0.0.1", urlsplit(server.url).port)
        idle.request("GET", "/health")  # stays connected: nothing to wait for
        idle.getresponse().read()
        asked = [threads.submit(server.embed, [LONG[1]] * 8) for _ in range(4)]
        while server.get("/health").json["waiting"] < 32:
            assert not any(each.done() for each in asked)
        server.process.send_signal(signal.SIGTERM)
        made = np.concatenate([each.result() for each in asked])
        assert server.process.wait(timeout=60) == 0
        with pytest.raises(ConnectionRefusedError):
            server.get("/health")
        idle.close()
    place = HURTING.index(LONG[1])
    judge(made, tuple(np.repeat(each[place : place + 1], 32, axis=0) for each in reference))  # type: ignore[arg-type]


def console(word: str) -> list[list[str]]:
    """The commands of the page that begin with a word."""
    return [shlex.split(line) for line in re.findall(rf"(?m)^\$ ({word} .*)$", README)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_requests_of_the_page_are_answered(server: Server) -> None:
    made = []
    for command in console("curl"):
        here = [word.replace("http://127.0.0.1:8080", server.url) for word in command]
        made.append(json.loads(subprocess.run(here, capture_output=True, check=True, timeout=60).stdout))
    assert [len(each) for each in made[:2]] == [2, 1]
    assert made[2]["data"][0]["embedding"] == made[1][0]  # the same text, alone: the same bits
    assert made[3]["status"] == "ok"


def test_the_client_of_the_page_gets_embeddings(server: Server, environment: dict[str, str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = code.replace("http://127.0.0.1:8080", server.url) + "print(embeddings.shape, embeddings.dtype)"
    online = {**environment, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=online, timeout=60)
    assert ended.stdout == "(2, 384) float32\n", ended.stderr


def test_the_page_shows_what_the_server_prints(program: Path, minilm_bundle: Path) -> None:
    (told, listening) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)[0].splitlines()
    with serving(program, minilm_bundle) as server:
        server.process.send_signal(signal.SIGTERM)
        err = server.process.communicate(timeout=60)[1]
    number = re.compile(r"[\d.]+")
    assert number.sub("#", err) == number.sub("#", told) + "\n"
    assert listening == "listening on http://127.0.0.1:8080"


def test_the_load_of_the_page_is_measured(server: Server, minilm_bundle: Path) -> None:
    ((_, script, url, _),) = console("python load.py")
    assert url == "http://127.0.0.1:8080"
    command = [sys.executable, "-W", "ignore", str(GUIDE / script), server.url, str(minilm_bundle), "0.2"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    lines = [re.sub(r"\d+", "#", line) for line in ended.stdout.splitlines()]
    shown = re.findall(r"```text\n(.*?)```", README, re.DOTALL)[1]
    assert lines == [re.sub(r"\d+", "#", line) for line in shown.splitlines()]


def test_the_options_of_the_page_are_those_of_the_program(program: Path) -> None:
    usage = subprocess.run([str(program)], capture_output=True, text=True, timeout=60).stderr
    assert re.findall(r"(?m)^\| `(--\w+)", README) == re.findall(r"\[(--\w+)", usage)
    defaults = dict(re.findall(r"(?m)^\| `(--\w+) [^|]*\| `?([\d.:]+)`? \|", README))
    assert defaults == dict(re.findall(r"\[(--\w+) ([\d.:]+)\]", usage))
