"""The server of docs/guides/server as a process, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from program import ROOT

GUIDE = ROOT / "docs" / "guides" / "server"
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    url: str

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, path: str, body: Any) -> Answer:
        return self.request("POST", path, json.dumps(body).encode())

    def request(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Answer:
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=120)
        try:
            connection.request(method, path, body, {"content-type": kind})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def embed(self, inputs: str | Sequence[str]) -> Array:
        answer = self.post("/embed", {"inputs": inputs})
        assert answer.status == 200, answer.content
        return np.asarray(answer.json, dtype=np.float32)

    def in_lists(self, texts: Sequence[str]) -> Array:
        """The embeddings of texts, 32 in a request."""
        return np.concatenate([self.embed(texts[k : k + 32]) for k in range(0, len(texts), 32)])


@contextmanager
def serving(program: Path, bundle: Path, *options: str) -> Iterator[Server]:
    """A server on a free port of loopback, killed in the end unless it ended before."""
    command = [str(program), str(bundle), "--listen", "127.0.0.1:0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+)\n", line)
        assert found is not None, process.communicate(timeout=60)[1]
        yield Server(process, found[1])
    finally:
        process.kill()
        process.communicate()
