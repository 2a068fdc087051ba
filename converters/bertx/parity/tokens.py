"""The tokenizer beside an artifact against the checkpoint's, on text: the right answer to other ids is a wrong one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import bertx.bundle as bundle
import bertx.manifest as manifests
from bertx.checkpoint import Checkpoint
from bertx.errors import InputRefused
from bertx.parity.compare import Compared, Row, failed, pool
from bertx.runtimes.process import Limits
from bertx.tokenizer import golden, open_shipped, open_tokenizer
from bertx.tokenizer.mecab import asked_dictionary
from bertx.tokenizer.settings import TOKENIZER
from bertx.tokenizer.stock import Encoded, Texts
from bertx.tokenizer.writer import Plan, expected, plan

NAME = "tokenizer"


def compare_tokens(
    home: Path | None, checkpoint: Checkpoint, texts: Sequence[str], limits: Limits, cache: Path | None
) -> Row | None:
    """A row of the report: how many ids are those of the checkpoint's own tokenizer, or which text gets others.

    A bundle's tokenizer is taken as it is shipped, padding and cutting included; that of somebody else's folder
    without either. None where no tokenizer goes with the artifact, or the checkpoint has none. Raises
    LocalProblem(E_DICTIONARY) where a MeCab dictionary is missing.
    """
    if home is None or not _belongs(home):
        return None
    planned = plan(checkpoint.folder, _asked(home))
    if planned is None:
        return None
    asked = (*golden.texts(planned.settings), *((text,) for text in texts))
    wanted = expected(planned, asked, limits, cache)
    try:
        problem = _difference(home, planned, asked, wanted)
    except InputRefused as error:
        problem = error.message
    if problem is not None:
        return failed(NAME, problem, 1.0)
    count = sum(len(each.ids) for each in wanted)
    return pool(NAME, [Compared("texts", count, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, ())], "float32", 1.0)


def text_folder(homes: Iterable[Path | None], checkpoint: Checkpoint) -> Path:
    """Whose tokenizer makes the cases of text: the first that lies beside an artifact, which need not be made anew."""
    return next((home for home in homes if home is not None and _usable(home)), checkpoint.folder)


def _belongs(home: Path) -> bool:
    """Whether a tokenizer.json goes with an artifact: it lies there, or the manifest says that it should."""
    if (home / TOKENIZER).is_file():
        return True
    return bundle.is_bundle(home) and TOKENIZER in manifests.read(home).files


def _asked(home: Path) -> str | None:
    try:
        return asked_dictionary(home)
    except InputRefused:
        return None  # a contract that is malformed is found when the tokenizer is opened


def _usable(home: Path) -> bool:
    try:
        return (home / TOKENIZER).is_file() and open_tokenizer(home) is not None
    except InputRefused:
        return False


def _difference(home: Path, planned: Plan, asked: Sequence[Texts], wanted: Sequence[Encoded]) -> str | None:
    """Where the tokenizer of a folder gives other ids than the checkpoint's, in words; None where it does not."""
    if not (home / TOKENIZER).is_file():
        return f"{TOKENIZER} is missing"
    if bundle.is_bundle(home):
        shipped = open_shipped(home)
        return golden.difference(asked, shipped.given(asked), wanted, shipped.token)
    tokenizer = open_tokenizer(home, planned.contract.dictionary.name if planned.contract else None)
    if tokenizer is None:
        return f"{TOKENIZER} is missing"
    found = replace(tokenizer, longest=planned.settings.limit).encoded(asked, planned.settings.side or "right")
    return golden.difference(asked, found, wanted, tokenizer.token)
