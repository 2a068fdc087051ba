"""Texts from end to end: a runner that makes its own ids of texts is judged on the ids that Python makes of them.

One program in another language was seen to leave "ü" as it is, and to be wrong by 5e-2 for that alone. So runners that
take texts are given the golden texts as strings, beside the other cases; what they answer becomes rows of the report:
`texts` for the ids, exactly, and `texts.<output>` for each output, by the same rule as all others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import bertx.bundle as bundle
from bertx.errors import InputRefused, escape
from bertx.parity.cases import Case, Facts
from bertx.parity.compare import Compared, Row, failed, pool
from bertx.parity.findings import TAP
from bertx.parity.judge import STACKED, Bench, Subject, judge_outputs
from bertx.parity.reference import Reference
from bertx.parity.report import Result
from bertx.runtimes import Foreign, Reading, Runtime
from bertx.runtimes.protocol import Tensors
from bertx.signature import TensorSpec
from bertx.tokenizer import Tokenizer, golden, mecab
from bertx.tokenizer.settings import CONTRACT, TOKENIZER, Settings
from bertx.tokenizer.stock import Encoded

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

NAME = "texts"
#: the most tokens of a text: more are cut, which is compared, too
LONGEST = 128
#: texts of a case
ROWS = 8
#: what tokenizers make of texts
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
#: The state before the first layer is the same vector for a token at its place in every text, [CLS] at the first say.
#: Its rounding repeats within a case, where the rule of cases takes it for chance: it is judged on the other cases.
FIRST = f"{TAP}0"


@dataclass(frozen=True)
class Spoken:
    """Texts by case, and `cases` with the ids that Python makes of them, cut at `longest` and padded on the right.

    `token` names the token that an id stands for.
    """

    cases: tuple[Case, ...]
    texts: Mapping[str, tuple[str, ...]]
    wanted: Mapping[str, tuple[Encoded, ...]]
    longest: int
    token: Callable[[int], str]

    @property
    def blank(self) -> tuple[Case, ...]:
        """The cases as a runner gets them: with nothing in them, since it makes the ids itself."""
        import numpy as np

        return tuple(Case(c.name, {name: np.zeros_like(a) for name, a in c.inputs.items()}) for c in self.cases)

    @property
    def metadata(self) -> dict[str, str]:
        """What the file of cases says of them."""
        return {"texts": json.dumps({n: list(t) for n, t in self.texts.items()}), "longest": str(self.longest)}


def reading(
    subject: Subject, runtime: Runtime | Foreign, fed: Sequence[TensorSpec], static: Mapping[str, int]
) -> Reading | str | None:
    """What a runner makes ids of texts with; a text says why one that takes texts is given none; None where it takes
    none, or where there is no tokenizer.

    Raises LocalProblem(E_DICTIONARY) where a MeCab dictionary is missing.
    """
    home, taken = subject.home, {spec.name: spec.dtype for spec in fed}
    if not runtime.takes_texts or home is None or not (home / TOKENIZER).is_file():
        return None
    if not bundle.is_bundle(home):
        return "the file lies in no bundle"
    if static:
        return f"the file fixes {' and '.join(static)}"
    if not set(INPUTS[:2]) <= set(taken) <= set(INPUTS) or set(taken.values()) != {"int64"}:
        stated = ", ".join(f"{escape(name, 60)} ({kind})" for name, kind in taken.items())
        return f"the file is fed {stated}, where texts give {', '.join(INPUTS)} (int64)"
    if not (home / CONTRACT).is_file():
        return Reading(home / TOKENIZER)
    if not runtime.takes_japanese:
        return f"{runtime.name} does not do the MeCab contract that {TOKENIZER} is made for"
    try:
        return Reading(home / TOKENIZER, *mecab.place(mecab.read_contract(home)))
    except InputRefused as error:
        return error.message  # which fails the row of the tokenizer, too


def spoken(
    tokenizer: Tokenizer, settings: Settings, more: Sequence[str], inputs: Sequence[str], known: Facts
) -> Spoken | None:
    """The golden texts of a tokenizer and `more`, the shortest first; None where the model knows no token of them."""
    longest = min(LONGEST, known.longest, tokenizer.longest or LONGEST)
    asked = list(dict.fromkeys([*(each[0] for each in golden.texts(settings) if len(each) == 1), *more]))
    found = replace(tokenizer, longest=longest).encoded([(text,) for text in asked], "right")
    both = [(text, e) for text, e in zip(asked, found, strict=True) if e.ids and max(e.ids) < known.vocabulary]
    both.sort(key=lambda each: len(each[1].ids))
    batches = {f"{NAME}-{k // ROWS}": both[k : k + ROWS] for k in range(0, len(both), ROWS)}
    if not batches:
        return None
    wanted = {name: tuple(encoded for _, encoded in rows) for name, rows in batches.items()}
    made = tuple(_case(name, rows, inputs, known.padding) for name, rows in wanted.items())
    texts = {name: tuple(text for text, _ in rows) for name, rows in batches.items()}
    return Spoken(made, texts, wanted, longest, tokenizer.token)


def _case(name: str, rows: Sequence[Encoded], inputs: Sequence[str], padding: int) -> Case:
    import numpy as np

    width = max(len(row.ids) for row in rows)

    def filled(parts: Sequence[Sequence[int]], value: int) -> Array:
        return np.array([[*part, *[value] * (width - len(part))] for part in parts], dtype=np.int64)

    arrays = (
        filled([row.ids for row in rows], padding),
        filled([[1] * len(row.ids) for row in rows], 0),
        filled([row.type_ids for row in rows], 0),
    )
    named = dict(zip(INPUTS, arrays, strict=True))
    return Case(name, {each: named[each] for each in inputs if each in named})


def apart(made: Tensors, names: Sequence[str]) -> Tensors:
    """Of what was computed, what belongs to cases of these names."""
    arrays = {name: made.arrays[name] for name in names if name in made.arrays}
    there = {tensor for tensors in arrays.values() for tensor in tensors}
    return replace(made, arrays=arrays, dtypes={name: kind for name, kind in made.dtypes.items() if name in there})


def only(reference: Reference, cases: Sequence[Case]) -> Reference:
    """Of a reference, what belongs to these cases."""
    names = [case.name for case in cases]
    return replace(reference, exact=apart(reference.exact, names), rounded=apart(reference.rounded, names))


def unheard(result: Result, why: str, what: str = NAME) -> Result:
    """A result that says what was not judged of texts, and why."""
    return replace(result, unjudged=(*result.unjudged, f"{what} ({why})"))


def with_texts(result: Result, made: Tensors, subject: Subject, bench: Bench, known: Spoken) -> Result:
    """A result with what its runner made of the texts; `bench` has their cases, `made` all that was computed."""
    found = apart(made, [case.name for case in known.cases])
    problem = _misread(found, bench.cases, known)
    if problem is not None:
        return _failing(result, (failed(NAME, problem, bench.factor),), f"{NAME}: {problem}")
    count = sum(int(case.inputs["attention_mask"].sum()) for case in bench.cases)
    ids = pool(NAME, [Compared(NAME, count, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, ())], "float32", bench.factor)
    known_outputs = tuple(spec for name, spec in bench.specs.items() if _counts(name, subject))
    wanted = tuple(name for name in subject.outputs if name != FIRST)
    if subject.budget is not None or not known_outputs or (subject.outputs and not wanted):
        why = "a budget is for plain texts" if subject.budget else "what it gives is judged on the other cases"
        return unheard(replace(result, outputs=(*result.outputs, ids)), why, f"{NAME}: outputs")
    computed = {case: {n: a for n, a in tensors.items() if n not in INPUTS} for case, tensors in found.arrays.items()}
    judged = judge_outputs(
        replace(result, verdict="fail", taps=(), cause=None),
        replace(subject, outputs=wanted),
        replace(found, arrays=computed),
        replace(bench, reference=replace(bench.reference, outputs=known_outputs)),
    )
    rows = (ids, *(replace(row, name=f"{NAME}.{row.name}") for row in judged.outputs))
    if judged.verdict == "pass":
        return replace(result, outputs=(*result.outputs, *rows))
    return _failing(result, rows, f"{NAME}: {judged.cause or judged.reason}")


def _counts(name: str, subject: Subject) -> bool:
    """Whether an output is judged on texts, too: what only lies inside of the artifact, and FIRST, are not."""
    asked = name in subject.outputs or STACKED in subject.outputs
    return name != FIRST and (asked or not name.startswith(TAP))


def _failing(result: Result, rows: Sequence[Row], why: str) -> Result:
    causes = "; ".join(filter(None, [result.cause, why]))
    return replace(result, verdict="fail", outputs=(*result.outputs, *rows), cause=causes)


def _misread(made: Tensors, cases: Sequence[Case], known: Spoken) -> str | None:
    """The first text of which the runner makes other ids than Python, in words; None where there is none."""
    for case in cases:
        given = made.arrays.get(case.name, {})
        lacking = next((name for name in case.inputs if name not in given), None)
        if lacking is not None:
            return f"it gives back no {lacking} of the texts in case {case.name}"
        shapes = {given[name].shape for name in case.inputs}
        rows = len(known.texts[case.name])
        if len(shapes) != 1 or any(len(shape) != 2 or shape[0] != rows for shape in shapes):
            return f"it makes no batch of {rows} texts in case {case.name}"
        asked = [(text,) for text in known.texts[case.name]]
        read = [_row(given, k, wanted) for k, wanted in enumerate(known.wanted[case.name])]
        other = golden.difference(asked, read, known.wanted[case.name], known.token)
        if other is not None:
            return f"the runner's tokenizer reads a text otherwise: {other}"
        mask = case.inputs["attention_mask"]
        if given["attention_mask"].shape != mask.shape or (given["attention_mask"] != mask).any():
            return f"it does not pad on the right to the longest text of case {case.name}"
    return None


def _row(given: Mapping[str, Array], row: int, wanted: Encoded) -> Encoded:
    """What a runner made of one text; type ids that it need not make are taken for right."""
    valid = given["attention_mask"][row] == 1
    ids, kinds = (tuple(given[n][row][valid].tolist()) if n in given else None for n in (INPUTS[0], INPUTS[2]))
    return Encoded(ids or (), wanted.type_ids if kinds is None else kinds)
