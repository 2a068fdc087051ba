"""Every way in which bertx can end other than well, as one tree.

    BertxError                      exit
    ├── ParityFailed                   1   an artifact was compared and is wrong
    ├── UsageError                     2   what was asked for cannot be understood or is ambiguous
    ├── InputRefused                   3   what was given is malformed, incomplete or unsafe
    ├── SourceUnavailable              4   the checkpoint cannot be had (Hub, network, not found, gated)
    ├── LocalProblem                   5   this machine lacks something (device, disk, runtime, lock)
    ├── NotCompared                    6   nothing, or not everything asked for, was checked
    ├── Bug                           70   bertx itself is wrong
    ├── Interrupted                  130   somebody pressed Ctrl-C
    └── Terminated                   143   somebody asked it to end (SIGTERM)

Each error carries an E_CODE, what happened and what to do. Only `cli/` prints them. The codes are listed in
`CODES` below and in docs/errors.md; a test compares the two.
"""

from __future__ import annotations

from typing import Any, ClassVar

#: E_CODE -> what it means; the exit code is that of the class that raises it.
CODES: dict[str, str] = {
    "E_PARITY": "an artifact does not compute what the reference computes",
    "E_USAGE": "an option or argument is not understood",
    "E_TASK": "the task cannot be told from the checkpoint and must be named",
    "E_OUTPUT": "the output folder and the source overlap, or the output is no bundle",
    "E_RECIPE": "a recipe is not understood",
    "E_CONFIG": "config.json is missing, malformed, unknown or unsafe",
    "E_WEIGHTS": "weights are missing, unused, misshapen, not finite or of a refused type",
    "E_FORMAT": "a file is not what its name says",
    "E_TASK_UNSUPPORTED": "the checkpoint cannot do this task",
    "E_MODULES": "a sentence-transformers module is not understood",
    "E_MODULE": "a plain module gives nothing that can be exported and judged",
    "E_TOKENIZER": "the tokenizer is missing or cannot be read",
    "E_BUNDLE": "a bundle or its manifest is malformed",
    "E_BUNDLE_MISMATCH": "the bundle holds another commit, task or head",
    "E_UNTRUSTED": "a TorchScript file that bertx did not write here would run code",
    "E_EXPORT": "PyTorch could not export this model to this format",
    "E_CASES": "a file of cases is malformed or does not fit the signature",
    "E_NOT_FOUND": "no such checkpoint, revision or file",
    "E_GATED": "the checkpoint is gated or private",
    "E_NETWORK": "the Hub did not answer",
    "E_HASH": "a downloaded file does not have the hash that the Hub states",
    "E_OFFLINE": "not in the cache, or not all of it, and --offline forbids asking the Hub",
    "E_REFERENCE": "no reference can be found to compare with",
    "E_DEVICE": "the device asked for is not here, or was not used",
    "E_RUNTIME": "a runtime asked for by name is not ready",
    "E_BUILD": "a native runtime could not be built",
    "E_DICTIONARY": "the MeCab dictionary of a Japanese tokenizer is missing, or is another one",
    "E_PACKAGE": "a Python package that is needed is not installed, or cannot be loaded",
    "E_LOCKED": "another process is writing this bundle, or downloading this checkpoint",
    "E_DISK": "the disk is full, or a folder cannot be written",
    "E_STDOUT": "standard output was closed",
    "E_NOT_COMPARED": "something that was asked for was not compared",
    "E_UNSUPPORTED": "the library of a runtime asked for by name lacks what an artifact needs",
    "E_BUG": "a bug in bertx",
    "E_INTERRUPTED": "it was interrupted with Ctrl-C (SIGINT)",
    "E_TERMINATED": "it was asked to end (SIGTERM)",
}


class BertxError(Exception):
    """An end that bertx foresaw: a code, what happened, and what to do about it."""

    exit_code: ClassVar[int] = 70

    def __init__(self, code: str, message: str, hint: str) -> None:
        if code not in CODES:
            raise KeyError(f"{code} is not listed in bertx.errors.CODES")
        super().__init__(f"{message}; {hint}")
        self.code = code
        self.message = message
        self.hint = hint
        #: the bertx.parity.report.Report that led here, where one did
        self.report: Any = None
        #: whether it stands in the JSON document that was printed
        self.documented = False

    def to_json(self) -> dict[str, Any]:
        """The document of schema bertx.error/1."""
        told = {"code": self.code, "exit": self.exit_code, "message": self.message, "hint": self.hint}
        return {"schema": "bertx.error/1"} | {k: escape(v, 2000) if isinstance(v, str) else v for k, v in told.items()}


class ParityFailed(BertxError):
    """An artifact was compared and is wrong."""

    exit_code = 1


class UsageError(BertxError):
    """What was asked for cannot be understood, or is ambiguous."""

    exit_code = 2


class InputRefused(BertxError):
    """What was given is malformed, incomplete or unsafe."""

    exit_code = 3


class SourceUnavailable(BertxError):
    """The checkpoint cannot be had."""

    exit_code = 4


class LocalProblem(BertxError):
    """This machine lacks something."""

    exit_code = 5


class NotCompared(BertxError):
    """Nothing, or not everything asked for, was checked."""

    exit_code = 6


class Bug(BertxError):
    """bertx itself is wrong."""

    exit_code = 70


class Interrupted(BertxError):
    """Somebody pressed Ctrl-C."""

    exit_code = 130


class Terminated(BertxError):
    """Somebody asked it to end."""

    exit_code = 143


def is_unicode(text: str) -> bool:
    """Python reads a file name of other bytes into lone surrogates, which JSON cannot hold."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def escape(text: object, limit: int = 300) -> str:
    """One printable line of at most `limit` characters from text that came from outside."""
    raw = str(text)
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in raw)
    return line if len(line) <= limit else line[: limit - 1] + "…"
