"""How many texts a second: a running embed-server, and sentence-transformers on the same machine, one after the other.

    python load.py http://127.0.0.1:8080 BUNDLE [SECONDS]

The server is asked over HTTP by 16 connections at a time. Python is called directly, without a web server around it.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from urllib.parse import urlsplit

#: sentences of 8 to 40 words, none like another, as questions and answers of a help desk are
SENTENCE = "how do I reset my password when the link in the mail has expired and nobody answers the phone"
CONNECTIONS = 16


def text(number: int) -> str:
    words = SENTENCE.split()
    return " ".join(words[(number * 7 + k) % len(words)] for k in range(8 + number * 11 % 33)) + f" {number}?"


def ask(url: str, texts: int) -> Callable[[int], None]:
    """A function that sends one request of `texts` texts over a connection of its own."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port)

    def request(number: int) -> None:
        body = json.dumps({"inputs": [text(number * texts + k) for k in range(texts)]})
        connection.request("POST", "/embed", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(content.decode())

    return request


def measured(calls: list[Callable[[int], None]], texts: int, seconds: float) -> str:
    """Makes calls in as many threads as there are functions, for so many seconds; tells texts a second and latency."""
    numbers, taken = count(), []

    def work(call: Callable[[int], None]) -> None:
        while time.monotonic() < end:
            started = time.monotonic()
            call(next(numbers))
            taken.append(time.monotonic() - started)

    for call in calls:  # connects, and warms up
        call(next(numbers))
    started, end = time.monotonic(), time.monotonic() + seconds
    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(taken) * texts / (time.monotonic() - started)
    return f"{rate:.0f} texts/s, median {1000 * sorted(taken)[len(taken) // 2]:.0f} ms"


def main() -> None:
    url, bundle, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 10.0
    for texts in (1, 32):
        calls = [ask(url, texts) for _ in range(CONNECTIONS if texts == 1 else 2)]
        print(f"server, {len(calls)} connections, texts per request {texts}: {measured(calls, texts, seconds)}")  # noqa: T201

    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(bundle, device="cpu")
    for texts in (1, 32):

        def call(number: int, texts: int = texts) -> None:
            model.encode([text(number * texts + k) for k in range(texts)], batch_size=texts)

        print(f"Python, texts per call {texts}: {measured([call], texts, seconds)}")  # noqa: T201


if __name__ == "__main__":
    main()
