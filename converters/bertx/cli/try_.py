"""bertx try"""

from __future__ import annotations

from typing import Any

import click

from bertx.answers import Answer, Labels, Similarity, Span, TokenLabels, Words
from bertx.cli import emit, emit_json, warn
from bertx.cli.options import Phases, cache_folder, common
from bertx.cli.tables import table
from bertx.errors import escape
from bertx.trial import Tried, TryOptions, ask


@click.command("try")
@click.argument("target")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True)
@click.option("--runtime", help="Only in this runtime. Default: the first that is ready, ONNX before the others.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Words or labels to show.")
@click.option("--trust", is_flag=True, help="Load TorchScript files that bertx did not write here: they can run code.")
@common("device", "offline", "json", "verbose", "quiet")
def command(target: str, texts: tuple[str, ...], **chosen: Any) -> None:
    """Show what an artifact answers to each TEXT: similarities, masked words, labels, or the answer in a text.

    TARGET is a bundle or one file inside a bundle. A masked word is written [MASK]; for question-answering give
    the question, then the text.
    """
    options = TryOptions(chosen["runtime"], chosen["device"], chosen["top"], chosen["trust"], cache=cache_folder())
    phases = Phases(chosen["verbose"], chosen["quiet"])
    phases("asking")
    try:
        tried = ask(target, texts, options)
    finally:
        phases.close()
    for line in tried.warnings:
        warn(line)
    if chosen["as_json"]:
        emit_json(tried.to_json())
    elif not chosen["quiet"]:
        emit("\n".join([_who(tried), "", *described(tried.answer, tried)]))


def _who(tried: Tried) -> str:
    version = tried.facts.get("version", "")
    name = escape(tried.artifact.name)
    return f"{name} in {tried.runtime} {escape(version)} on {escape(tried.device)}: {escape(tried.task)}"


def described(answer: Answer, tried: Tried) -> list[str]:
    """The lines for a person."""
    match answer:
        case Similarity():
            return _similarity(answer, tried)
        case Words():
            return _words(answer, tried)
        case Labels():
            return _labels(answer, tried)
        case TokenLabels():
            return _token_labels(answer)
        case Span():
            return [f"{escape(answer.answer, 500) or '(nothing)'}  ({answer.probability:.3f})"]


def _text(tried: Tried, number: int, limit: int = 60) -> str:
    return escape(tried.rows[number].text, limit)


def _similarity(answer: Similarity, tried: Tried) -> list[str]:
    pooled = f", {answer.pooling}" if answer.pooling else ""
    if answer.cosines is None:
        shown = ", ".join(f"{number:.4f}" for number in answer.first[0])
        return [
            f"{answer.output}{pooled}: {answer.size} numbers of norm {answer.norms[0]:.4f}",
            f"[{shown}{', …' if answer.size > len(answer.first[0]) else ''}]",
        ]
    numbers = [str(k) for k in range(1, len(tried.rows) + 1)]
    rows = [
        (number, _text(tried, k), *(f"{cosine:.3f}" for cosine in answer.cosines[k]))
        for k, number in enumerate(numbers)
    ]
    title = f"cosine similarity of {answer.output} ({answer.size} numbers{pooled})"
    return [title, table(("", "text", *numbers), rows, right=("", *numbers))]


def _words(answer: Words, tried: Tried) -> list[str]:
    rows = [
        (
            _text(tried, mask.text) if k == 0 else "",
            str(mask.position) if k == 0 else "",
            escape(word.word),
            f"{word.probability:.3f}",
        )
        for mask in answer.masks
        for k, word in enumerate(mask.words)
    ]
    return [table(("text", "at", "word", "probability"), rows, right=("at", "probability"))]


def _labels(answer: Labels, tried: Tried) -> list[str]:
    rows = [
        (_text(tried, number) if k == 0 else "", escape(label.label), f"{label.score:.3f}")
        for number, labels in enumerate(answer.texts)
        for k, label in enumerate(labels)
    ]
    score = "score" if answer.function == "none" else "probability"
    return [table(("text", "label", score), rows, right=(score,))]


def _token_labels(answer: TokenLabels) -> list[str]:
    rows = [
        (str(number), escape(each.token), escape(each.label), f"{each.probability:.3f}")
        for number, labels in enumerate(answer.texts, 1)
        for each in labels
    ]
    return [table(("text", "token", "label", "probability"), rows, right=("probability",))]
