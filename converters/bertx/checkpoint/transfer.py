"""Asking a Hub over HTTP: whatever it does, an answer or one clear refusal comes within a minute.

huggingface_hub gives the client (proxies, certificates, HF_HUB_OFFLINE) and the token (HF_TOKEN or its file). The
requests are made here, because its own downloads ask up to six times with a minute for each, wait for as long as
a server says, and begin anew what another run had begun.
"""

from __future__ import annotations

import contextlib
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bertx import __version__
from bertx.checkpoint.config import parse_json
from bertx.checkpoint.listing import Listing, from_api
from bertx.errors import BertxError, InputRefused, LocalProblem, SourceUnavailable, UsageError, escape

#: How often in a row something is asked for in vain; at 10 s of silence each, well below a minute.
TRIES = 3
#: Bytes that make a try worth its while, and the least that a server sends in a second.
_GAIN, _LEAST = 1 << 16, 1 << 10
#: A slow answer is watched for so many times the silence that is allowed.
_WATCHED = 3
#: The largest listing of a repository that is read, in bytes.
_MAX_LISTING = 32 * 2**20

#: X-Error-Code, or status -> code, what happened, what to do; the first that fits
_REFUSALS = {
    "GatedRepo": ("E_GATED", "{repo} is gated", "accept its terms on the Hub and set HF_TOKEN"),
    "RepoNotFound": (
        "E_NOT_FOUND",
        "{repo} is no folder here, and on the Hub it is missing or private",
        "check the name, or set HF_TOKEN",
    ),
    "RevisionNotFound": ("E_NOT_FOUND", "{repo} has no revision {revision}", "choose another one"),
    "EntryNotFound": ("E_NOT_FOUND", "the Hub lacks a file that {repo} lists", "try again later"),
    401: ("E_GATED", "the Hub refuses the token sent for {repo}", "correct or unset HF_TOKEN"),
    403: ("E_GATED", "the Hub refuses access to {repo}", "set HF_TOKEN to one that may read it"),
    404: ("E_NOT_FOUND", "the Hub has no {repo} at {revision}", "check the name and --revision"),
}
#: errors of the HTTP client that another try may pass over; its releases differ, so that names tell
_PASSING = {"TimeoutException", "NetworkError", "RemoteProtocolError"}


@dataclass(frozen=True)
class HubOptions:
    """How the Hub is asked. None stands for huggingface_hub's own default.

    `cache` is a Hub cache folder, `endpoint` a URL, `timeout` the seconds of silence that are allowed.
    `offline` forbids every socket, `progress` shows a bar where stderr is a terminal, `recheck` hashes also files
    that were in the cache already; `tell` takes what the user should know of a checkpoint that is taken all the same.
    """

    cache: Path | None = None
    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    offline: bool = False
    progress: bool = False
    recheck: bool = True
    timeout: float = 10.0
    tell: Callable[[str], object] = field(default=warnings.warn, repr=False, compare=False)


@dataclass(frozen=True)
class Asked:
    """What is asked for: a repository at a revision, None for its main branch."""

    repo: str
    revision: str | None
    options: HubOptions

    def about(self) -> dict[str, str]:
        """The words of a refusal."""
        return {"repo": escape(self.repo), "revision": escape(self.revision or "main")}

    def failed(self, what: str) -> BertxError:
        """`what` completes "the Hub at <address> …"; user names and tokens in the address are left out."""
        hint = "try again later, check the connection and HF_ENDPOINT, or use --offline with what is in the cache"
        return SourceUnavailable("E_NETWORK", f"the Hub at {escape(_shown(self.options))} {what}", hint)


def resolve(asked: Asked) -> tuple[str, Listing]:
    """The commit that a revision has now, and every file of it with its hash."""
    path = f"/api/models/{asked.repo}"
    path += "" if asked.revision is None else f"/revision/{quote(asked.revision, safe='')}"
    text = bytearray()

    def take(response: Any) -> None:
        text.clear()
        for chunk in body(response, asked):
            text.extend(chunk)
            if len(text) > _MAX_LISTING:
                raise asked.failed("lists more files than any repository has")

    receive(f"{path}?blobs=true", asked, take, first=True)
    try:
        return from_api(parse_json(bytes(text), Path("listing"), "E_FORMAT"))
    except (ValueError, InputRefused) as error:  # a login page, say
        raise asked.failed("does not answer as a Hub does") from error


def receive(
    path: str,
    asked: Asked,
    take: Callable[[Any], None],
    reached: Callable[[], int] = lambda: 0,
    *,
    first: bool = False,
) -> None:
    """Asks for a path of the Hub from byte `reached()` on and hands the answer to `take`, again where it breaks.

    Raises SourceUnavailable once that was in vain TRIES times in a row, or where it cannot help: so too where the
    `first` request of all reaches no Hub.
    """
    from huggingface_hub import get_session

    url, headers = _endpoint(asked.options) + path, _headers(asked)
    tries = 0
    while True:
        begin = reached()
        ranged = {"range": f"bytes={begin}-"} if begin else {}
        try:
            with get_session().stream(
                "GET", url, headers=headers | ranged, timeout=asked.options.timeout, follow_redirects=True
            ) as response:
                _check(response, asked)
                take(response)
                return
        except Exception as error:
            trouble = error if isinstance(error, _Trouble) else _explained(error, asked)
            if trouble is None:
                raise
            tries = 1 if reached() >= begin + _GAIN else tries + 1
            if not trouble.passing or tries >= TRIES or (first and trouble.unreached):
                raise trouble.known from error
        time.sleep(trouble.wait or min(1.0, asked.options.timeout) * tries)


class _Trouble(Exception):
    """Why a try was in vain; `passing` says that another may not be, after `wait` seconds."""

    def __init__(self, known: BertxError, *, passing: bool = False, wait: float = 0.0, unreached: bool = False) -> None:
        super().__init__(str(known))
        self.known, self.passing, self.wait, self.unreached = known, passing, wait, unreached


def broken(asked: Asked, what: str) -> Exception:
    """To be raised in `take` where an answer is not whole, so that it is asked for again."""
    return _Trouble(asked.failed(what), passing=True)


def body(response: Any, asked: Asked) -> Iterator[bytes]:
    """The decoded bytes of an answer as they come. Raises SourceUnavailable where they come too slowly."""
    begin, count, span = time.monotonic(), 0, _WATCHED * asked.options.timeout
    for chunk in response.iter_bytes():
        count += len(chunk)
        now = time.monotonic()
        if now - begin > span:
            if count < span * _LEAST:
                raise asked.failed(f"sends less than {_LEAST} bytes a second")
            begin, count = now, 0
        yield chunk


def _check(response: Any, asked: Asked) -> None:
    """Raises where an answer has a status that refuses."""
    status, headers = int(response.status_code), response.headers
    if 200 <= status < 300:
        return
    if status in (408, 429) or status >= 500:
        wait = _stated_wait(status, headers)
        told = f"answers HTTP {status}"
        if wait > asked.options.timeout:
            raise asked.failed(f"{told} and asks to wait {wait:.0f} s")
        raise _Trouble(asked.failed(told), passing=True, wait=wait)
    for key in (headers.get("x-error-code"), status):
        if key in _REFUSALS:
            code, message, hint = _REFUSALS[key]
            raise SourceUnavailable(code, message.format(**asked.about()), hint)
    raise asked.failed(f"answers HTTP {status}")


def _stated_wait(status: int, headers: Mapping[str, str]) -> float:
    """The seconds after which the Hub may be asked again, from the two headers that it states them in."""
    limited = re.search(r"\br\s*=\s*0\s*;\s*t\s*=\s*([0-9]{1,9})\b", headers.get("ratelimit", ""))
    if status == 429 and limited:
        return float(limited[1])
    stated = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", stated):
        return float(stated)
    with contextlib.suppress(ValueError, TypeError):
        from email.utils import parsedate_to_datetime

        return max(0.0, parsedate_to_datetime(stated).timestamp() - time.time())
    return 0.0


def _explained(error: Exception, asked: Asked) -> _Trouble | None:
    """What an error of the HTTP client means; None for every other."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, BertxError | OSError) or not names & {"RequestError", "InvalidURL", "StreamError"}:
        return None
    passing = bool(names & _PASSING)
    if "TimeoutException" in names:
        return _Trouble(asked.failed(f"is silent for more than {asked.options.timeout:g} s"), passing=passing)
    if "ConnectError" in names:  # the text of other errors may quote a header, and with it a token
        return _Trouble(asked.failed(f"cannot be reached ({escape(error)})"), passing=passing, unreached=True)
    told = {
        "TooManyRedirects": "redirects for ever",
        "UnsupportedProtocol": "redirects to an address that is not of the web",
        "ProxyError": "cannot be reached through the proxy",
        "RemoteProtocolError": "breaks off its answer",
        "NetworkError": "breaks off its answer",
    }
    for name, what in told.items():
        if name in names:
            return _Trouble(asked.failed(what), passing=passing)
    return _Trouble(asked.failed(f"cannot be read from ({type(error).__name__})"))


def _headers(asked: Asked) -> dict[str, str]:
    """User agent and token.

    huggingface_hub's own headers tell what is installed here and, to find that out, ask its Hub for a list of programs.
    """
    from huggingface_hub import constants, get_token

    token = asked.options.token
    if token is None and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        with contextlib.suppress(NotADirectoryError):  # HOME=/dev/null, as that of some services
            token = get_token()
    headers = {"user-agent": f"bertx/{__version__}", "accept-encoding": "identity"}
    if token is None:
        return headers
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        message = "the token for the Hub has characters that no token has"
        raise UsageError("E_USAGE", message, "correct HF_TOKEN, or the file that `hf auth login` wrote")
    return {**headers, "authorization": f"Bearer {token}"}


def _endpoint(options: HubOptions) -> str:
    from huggingface_hub import constants

    stated = str(options.endpoint or constants.ENDPOINT).rstrip("/")
    if not re.match(r"https?://[^/]", stated):
        message = f"{escape(_shown(options)) or 'nothing'} is no address of a Hub"
        raise UsageError("E_USAGE", message, "set HF_ENDPOINT to one that begins with https://, or unset it")
    return stated


def _shown(options: HubOptions) -> str:
    from huggingface_hub import constants

    return str(options.endpoint or constants.ENDPOINT).rstrip("/").rpartition("@")[2].partition("?")[0]


@contextlib.contextmanager
def disk_errors(cache: Path) -> Iterator[None]:
    """Turns an OSError of the cache's disk into LocalProblem("E_DISK")."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        message = f"the Hub cache {escape(cache)} cannot be used ({error.strerror})"
        raise LocalProblem("E_DISK", message, "free some space, or set HF_HUB_CACHE to another folder") from error
