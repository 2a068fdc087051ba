"""A Hugging Face Hub on a local port, serving folders as repositories: real sockets, real HTTP, chosen faults.

    with HubServer() as hub:
        commit = hub.add("org/model", folder)
        subprocess.run([...], env={**os.environ, "HF_ENDPOINT": hub.url})
        assert hub.requests[0] == ("GET", "/api/models/org/model")

The routes, headers and error codes are those that huggingface_hub reads: `/api/models/...` and
`/<repo>/resolve/<revision>/<path>` with ETag, X-Repo-Commit, X-Linked-Etag, X-Error-Code and ranges.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

#: files of these kinds are in LFS, as they are on the Hub
LFS = (".safetensors", ".bin", ".model", ".onnx", ".h5", ".msgpack", ".ot")

_API = re.compile(r"/api/models/(?P<repo>[^/]+(?:/[^/]+)??)(?:/(?P<verb>revision|tree)/(?P<revision>[^/]+))?")
_FILE = re.compile(r"/(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")

Kind = Literal["status", "silence", "stall", "drip", "cut", "short", "long", "whole", "corrupt", "commit"]


@dataclass
class Fault:
    """What goes wrong with requests whose path fits a pattern; `left` more times, or for ever where None."""

    kind: Kind
    pattern: str
    method: str | None
    left: int | None
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Repo:
    """A repository: commit -> folder, branch or tag -> commit, and the token it asks for."""

    commits: dict[str, Path] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False


class HubServer:
    """A Hub for the length of a `with` block.

    `requests` are (method, path without query) in order, `ranges` the Range headers among them, `tokens` what was
    sent as Authorization.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[str] = []
        self.tokens: list[str] = []
        self.user_agents: set[str] = set()
        self.closing = threading.Event()
        self._repos: dict[str, Repo] = {}
        self._renamed: dict[str, tuple[str, str]] = {}
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._http = _Listener(("127.0.0.1", 0), _Handler)
        self._http.hub = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """The address, as HF_ENDPOINT takes it."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def add(
        self,
        repo_id: str,
        folder: Path,
        commit: str | None = None,
        branches: Mapping[str, str] | None = None,
        *,
        token: str | None = None,
        gated: bool = False,
    ) -> str:
        """Serves a folder as one commit of a repository, and returns the commit (by default made from its files).

        `branches` are names of commits, by default {"main": commit}. With `token` the repository is private; with
        `gated` too, it can be seen but its files cannot be had without the token.
        """
        commit = commit or hashlib.sha1(repr([(n, _read(folder, n)) for n in _names(folder)]).encode()).hexdigest()
        repo = self._repos.setdefault(repo_id, Repo())
        repo.commits[commit] = folder
        repo.branches.update(branches or {"main": commit})
        repo.token, repo.gated = token, gated
        return commit

    def rename(self, old: str, new: str, base: str = "") -> None:
        """Answers 307 where an organisation, or a repository without one, is asked for by its old name.

        The new address is relative, or begins with `base`.
        """
        self._renamed[old] = new, base

    def fault(
        self,
        kind: Kind,
        pattern: str = "*",
        *,
        method: str | None = None,
        times: int | None = None,
        status: int = 503,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        """Spoils the requests whose path fits a shell pattern, `times` times or until `mend`.

        status: answers `status` with `headers` and `body`; silence: answers nothing; stall: falls silent within the
        body; drip: sends a byte now and then; cut: closes the connection within the body; short, long: sends, and
        states the length of, a half or more than all of it; whole: sends all, whatever range is asked for; corrupt:
        changes one bit; commit: states another commit.
        """
        self._faults.append(Fault(kind, pattern, method, times, status, headers or {}, body))

    def mend(self) -> None:
        """Ends all faults."""
        self._faults.clear()

    def note(self, method: str, path: str, headers: Message) -> Fault | None:
        """Records a request and takes the first fault that fits it."""
        with self._lock:
            self.requests.append((method, path))
            self.ranges += headers.get_all("Range", [])
            self.tokens += headers.get_all("Authorization", [])
            self.user_agents.add(headers.get("User-Agent", ""))
            for fault in self._faults:
                if fault.left != 0 and fault.method in (None, method) and fnmatchcase(path, fault.pattern):
                    fault.left = None if fault.left is None else fault.left - 1
                    return fault
        return None

    def moved(self, repo_id: str) -> tuple[str, str] | None:
        """(the new id of a renamed repository, what its address begins with)."""
        head, slash, name = repo_id.partition("/")
        if head not in self._renamed:
            return None
        new, base = self._renamed[head]
        return new + slash + name, base

    def find(self, repo_id: str) -> Repo | None:
        return self._repos.get(repo_id)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    hub: HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle of an answer is no error of the test."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing on stderr."""

    def _serve(self) -> None:
        hub, path = self.server.hub, urlsplit(self.path).path
        fault = hub.note(self.command, path, self.headers)
        if fault is not None and fault.kind == "silence":
            self._hang()
        elif fault is not None and fault.kind == "status":
            self._send(fault.status, fault.body, fault.headers)
        elif api := _API.fullmatch(path):
            self._model(api["repo"], api["verb"], unquote(api["revision"] or "main"), fault)
        elif file := _FILE.fullmatch(path):
            self._file(file["repo"], unquote(file["revision"]), unquote(file["path"]), fault)
        else:
            self._refuse(404, None)

    def _found(self, repo_id: str, revision: str, *, reading: bool) -> tuple[Path, str] | None:
        """The folder and commit that are asked for; None where the refusal has been sent."""
        hub, sent = self.server.hub, self.headers.get("Authorization")
        new = hub.moved(repo_id)
        repo = hub.find(repo_id)
        if new is not None:
            self._send(307, b"", {"Location": new[1] + self.path.replace(repo_id, new[0], 1)})
        elif repo is None or (repo.token and not repo.gated and sent != f"Bearer {repo.token}"):
            self._refuse(404 if sent else 401, "RepoNotFound")
        elif (commit := repo.branches.get(revision, revision)) not in repo.commits:
            self._refuse(404, "RevisionNotFound")
        elif reading and repo.gated and sent != f"Bearer {repo.token}":
            self._refuse(403 if sent else 401, "GatedRepo")
        else:
            return repo.commits[commit], commit
        return None

    def _model(self, repo_id: str, verb: str | None, revision: str, fault: Fault | None) -> None:
        found = self._found(repo_id, revision, reading=verb == "tree")
        if found is None:
            return
        folder, commit = found
        if verb == "tree":
            document: Any = [_tree_entry(folder, name) for name in _names(folder)]
        else:
            detailed = "blobs=" in urlsplit(self.path).query
            siblings = [_sibling(folder, name) if detailed else {"rfilename": name} for name in _names(folder)]
            document = {"_id": commit[:24], "id": repo_id, "modelId": repo_id, "sha": commit, "siblings": siblings}
            document |= {"private": False, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0}
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"}, fault)

    def _file(self, repo_id: str, revision: str, path: str, fault: Fault | None) -> None:
        found = self._found(repo_id, revision, reading=True)
        if found is None:
            return
        folder, commit = found
        if path not in _names(folder):
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
            return
        data = _read(folder, path)
        headers = {"X-Repo-Commit": commit[::-1] if fault and fault.kind == "commit" else commit}
        headers |= {"ETag": f'"{_etag(path, data)}"', "Accept-Ranges": "bytes"}
        if path.endswith(LFS):
            headers |= {"X-Linked-Etag": f'"{_etag(path, data)}"', "X-Linked-Size": str(len(data))}
        spoiled = {
            "corrupt": data[:-1] + bytes([data[-1] ^ 1]),
            "short": data[: len(data) // 2],
            "long": data + b"more",
        }
        data = spoiled.get(fault.kind, data) if fault else data
        ranged = "" if fault and fault.kind == "whole" else self.headers.get("Range", "")
        begin = re.fullmatch(r"bytes=(\d+)-", ranged)
        if begin:
            headers["Content-Range"] = f"bytes {begin[1]}-{len(data) - 1}/{len(data)}"
        self._send(206 if begin else 200, data[int(begin[1]) if begin else 0 :], headers, fault)

    def _refuse(self, status: int, code: str | None, headers: Mapping[str, str] | None = None) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
        self._send(status, json.dumps({"error": code or "not found"}).encode(), {**(headers or {}), **named})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], fault: Fault | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        kind = None if fault is None else fault.kind
        if kind == "drip":
            self._drip(body)
            return
        if kind not in ("stall", "cut"):
            self.wfile.write(body)
            return
        self.wfile.write(body[: len(body) // 2])
        self.close_connection = True
        if kind == "stall":
            self._hang()

    def _drip(self, body: bytes) -> None:
        self.close_connection = True
        for byte in body:
            if self.server.hub.closing.wait(0.05):
                return
            self.wfile.write(bytes([byte]))

    def _hang(self) -> None:
        """Says nothing more for as long as the server runs."""
        self.server.hub.closing.wait()
        self.close_connection = True


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _read(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _blob_id(data: bytes) -> str:
    """The id of a file in git."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _etag(name: str, data: bytes) -> str:
    return _sha256(data) if name.endswith(LFS) else _blob_id(data)


def _sibling(folder: Path, name: str) -> dict[str, Any]:
    """A file as `/api/models/<repo>?blobs=true` lists it."""
    data = _read(folder, name)
    entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": _blob_id(data)}
    return (
        entry | {"lfs": {"sha256": _sha256(data), "size": len(data), "pointerSize": 134}}
        if name.endswith(LFS)
        else entry
    )


def _tree_entry(folder: Path, name: str) -> dict[str, Any]:
    """A file as `/api/models/<repo>/tree/<revision>?recursive=true` lists it."""
    data = _read(folder, name)
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": _blob_id(data)}
    return (
        entry | {"lfs": {"oid": _sha256(data), "size": len(data), "pointerSize": 134}} if name.endswith(LFS) else entry
    )
