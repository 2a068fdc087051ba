"""make families: every encoder family, and every head of the common ones, in every program that is built here.

    python tests/matrix.py [--fresh] [FAMILY ...]

Each is made small and random, exported in every format and verified in all runtimes. What was found stands in
build/matrix.jsonl, a line per artifact and program, and is not looked for again (but with --fresh); the table of all of
it is put into docs/runtimes.md. Exits with 1 where anything fails that `KNOWN` does not name.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import families
import japanese
from bertx.api import export, verify
from bertx.checkpoint import open_folder
from bertx.cli.options import cache_folder
from bertx.errors import BertxError
from bertx.formats import ExportOptions
from bertx.parity.options import VerifyOptions
from bertx.parity.report import NOT_READY

ROOT = Path(__file__).resolve().parent.parent
FOUND = ROOT / "build" / "matrix.jsonl"
PAGE = ROOT / "docs" / "runtimes.md"
MARKS = ("<!-- matrix: written by tests/matrix.py -->\n", "<!-- end of matrix -->\n")

JAPANESE = "bert-japanese"
FEATURES = "feature-extraction"
#: families that are taken with every head, too
COMMON = (
    *("albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta"),
    "xlm-roberta",
)
HEADS = ("text-classification", "token-classification", "question-answering", "fill-mask", "sentence-similarity")
HALVES = ("float16", "bfloat16")
FORMATS = ("safetensors", "torchscript", "onnx")
#: (family, format) that is wrong in some program, and why; test_families.py has the same
KNOWN = {
    ("fnet", "onnx"),  # ONNX Runtime's DFT is 20 times less accurate than PyTorch's
    ("longformer", "torchscript"),  # chunks are counted in Python, so the trace fixes their number
}


@dataclass(frozen=True)
class Kind:
    """What is made: a family with the head of a task, in a dtype."""

    family: str
    task: str
    dtype: str

    @property
    def name(self) -> str:
        """What it is called in the table, beside its family."""
        return self.task if self.dtype == "float32" else f"{self.task} in {self.dtype}"


@dataclass(frozen=True)
class Cell:
    """What came of it in one program: pass, fail, not-run or refused (by the exporter), and why."""

    family: str
    task: str
    dtype: str
    format: str
    program: str
    verdict: str
    reason: str = ""

    @property
    def kind(self) -> Kind:
        return Kind(self.family, self.task, self.dtype)


def kinds(chosen: Sequence[str]) -> list[Kind]:
    """Everything that is to be made, the common first."""
    others = [family for family in families.FAMILIES if family not in COMMON]
    found = [Kind(family, FEATURES, "float32") for family in (*COMMON, JAPANESE)]
    found += [Kind(family, task, "float32") for task in HEADS for family in COMMON]
    found += [Kind("bert", FEATURES, dtype) for dtype in HALVES]
    found += [Kind(family, FEATURES, "float32") for family in others]
    return [kind for kind in found if not chosen or kind.family in chosen]


def checkpoint(kind: Kind, folder: Path) -> Path:
    """A small checkpoint. Raises KeyError where transformers has no such head."""
    if kind.family == JAPANESE:
        return japanese.make(folder)
    if kind.task != "sentence-similarity":
        return families.make(kind.family, folder, kind.task)
    return families.add_modules(families.make(kind.family, folder), ("mean",), normalize=True)


def looked_at(kind: Kind, form: str, source: Path, cache: Path) -> list[Cell]:
    """What came of one artifact in every program that reads its format."""
    facts, options = (kind.family, kind.task, kind.dtype, form), VerifyOptions(cache=cache)
    wanted = [(form, ExportOptions(dtype=None if form == "safetensors" else kind.dtype))]
    bundle = source.with_name("bundle")
    try:
        report = export(open_folder(source), wanted, bundle, task=kind.task, verify=options, force=True).report
        if form == "safetensors":
            # An export holds the bytes of weights against those of the checkpoint, and runs nothing.
            report = verify(bundle / "model.safetensors", source, task=kind.task, options=options).report
    except BertxError as error:
        if error.report is None:
            return [Cell(*facts, "-", "refused", f"{error.code}: {error.message}")]
        report = error.report
    return [
        Cell(*facts, each.runtime, each.verdict, each.cause or each.reason or "")
        for each in report.results
        if not (each.reason or "").startswith(NOT_READY)
    ]


def look(kind: Kind, known: set[tuple[Kind, str]]) -> list[Cell]:
    """What came of a kind in the formats in which it was not looked at before."""
    forms = [f for f in FORMATS if (kind, f) not in known and not (f == "safetensors" and kind.dtype in HALVES)]
    if not forms:
        return []
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        cache.mkdir()
        (cache / "native").symlink_to(cache_folder() / "native")
        try:
            source = checkpoint(kind, Path(folder) / "model")
        except KeyError:
            return []
        return [cell for form in forms for cell in looked_at(kind, form, source, cache)]


def read() -> list[Cell]:
    return [Cell(**json.loads(line)) for line in FOUND.read_text("utf-8").splitlines()] if FOUND.exists() else []


def unexpected(cells: Iterable[Cell]) -> list[Cell]:
    """Failures that nobody knows of."""
    return [cell for cell in cells if cell.verdict == "fail" and (cell.family, cell.format) not in KNOWN]


def several(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))


def table(cells: Sequence[Cell]) -> str:
    """The table in Markdown: programs and kinds that fared alike stand together; why it is no pass follows."""
    verdicts = {(cell.kind, cell.format, cell.program): cell for cell in cells}
    columns: dict[tuple[str, tuple[str | None, ...]], list[str]] = {}
    every = list(dict.fromkeys(cell.kind for cell in cells if cell.verdict != "refused"))
    for form, program in sorted({(c.format, c.program) for c in cells if c.verdict != "refused"}, reverse=True):
        fared = tuple(_word(verdicts.get((kind, form, program))) for kind in every)
        columns.setdefault((form, fared), []).append(program)
    rows: dict[tuple[str | None, ...], list[Kind]] = {}
    for k, kind in enumerate(every):
        rows.setdefault(tuple(fared[k] for _, fared in columns), []).append(kind)
    heads = [f"{form}: {', '.join(f'`{name}`' for name in sorted(names))}" for (form, _), names in columns.items()]
    lines = [f"| what | {' | '.join(heads)} |", "| --- |" + " --- |" * len(columns)]
    lines += [f"| {_told(found)} | {' | '.join(word or '' for word in fared)} |" for fared, found in rows.items()]
    return "\n".join([*lines, "", *_reasons(cells)]) + "\n"


def _word(cell: Cell | None) -> str | None:
    return cell.verdict if cell else None


def _told(found: Sequence[Kind]) -> str:
    """Kinds in words, tasks of the same families together."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(kind.name for kind in found):
        groups.setdefault(several(k.family for k in found if k.name == name), []).append(name)
    return "; ".join(f"{', '.join(names)}: {which}" for which, names in groups.items())


def _reasons(cells: Sequence[Cell]) -> list[str]:
    """Why not all passed, a line for each reason."""
    why: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.verdict != "pass":
            # What follows names the family or the case that it was seen with.
            reason = re.split(r"; |, and |: case ", cell.reason)[0].replace(cell.program, "it")
            why.setdefault((cell.verdict, reason), []).append(cell)
    return [
        f"- {verdict}: {several(f'`{c.program}`' if c.program != '-' else c.format for c in found)}, "
        f"{_told([cell.kind for cell in found])}: {reason}"
        for (verdict, reason), found in why.items()
    ]


def put(text: str) -> None:
    """Writes the table into the page, between its marks."""
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    PAGE.write_text(f"{before}{MARKS[0]}{text}{MARKS[1]}{after}", "utf-8")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="matrix")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--draw", action="store_true", help="put what was found so far into the page")
    parser.add_argument("families", nargs="*")
    chosen = parser.parse_args(arguments)
    FOUND.parent.mkdir(exist_ok=True)
    if chosen.fresh:
        FOUND.unlink(missing_ok=True)
    known = {(cell.kind, cell.format) for cell in read()}
    for kind in [] if chosen.draw else kinds(chosen.families):
        cells = look(kind, known)
        with FOUND.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(asdict(cell)) + "\n" for cell in cells)
        bad = [f"{cell.program}: {cell.reason}" for cell in cells if cell.verdict in ("fail", "refused")]
        sys.stdout.write(f"{kind.family}, {kind.name}: {len(cells)} programs; {'; '.join(bad) or 'none failed'}\n")
        sys.stdout.flush()
    put(table(read()))
    return 1 if unexpected(read()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
