"""verify --html: one page that holds what the report says, loads nothing and lets nothing from outside be markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bertx import api
from bertx.cli.page import bar, page
from bertx.parity.options import VerifyOptions
from bertx.parity.part import Part
from bertx.parity.report import Report
from parity.drawn import draw, record
from program import Ran


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Report]:
    """(the report on a right file, the one on a wrong file)."""
    folder = tmp_path_factory.mktemp("page")
    golden = record(folder / "golden")
    right = draw(folder / "right.onnx", inputs={"input_ids": "x", "attention_mask": "mask", "token_type_ids": "types"})
    options = VerifyOptions(("onnxruntime",), device="cpu")
    wrong = draw(folder / "wrong.onnx", nudge=1e-2)
    return tuple(api.verify(path, golden, options=options).report for path in (right, wrong))  # type: ignore[return-value]


class Page(HTMLParser):
    """Tags, their attributes, and the text outside of style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.texts.append(data)


def test_the_page_says_what_the_report_says(reports: tuple[Report, Report]) -> None:
    right, wrong = (Page(page(report)) for report in reports)
    assert {"right.onnx", "pass", "last_hidden_state", "pooler_output", "onnxruntime", "recorded"} <= set(
        re.findall(r"[\w.]+", right.text)
    )
    assert "x is fed input_ids" in right.text
    (result,) = reports[1].results
    assert "fail" in wrong.text
    assert " ".join(str(result.cause).split()) in wrong.text
    row = result.outputs[0]
    worst = max(row.cases, key=lambda case: case.max_error)
    assert f"{worst.case} [ {', '.join(map(str, worst.worst))} ]".replace("[ ", "[").replace(" ]", "]") in wrong.text
    assert f"{row.rms_ratio:.3g}"[:4] in wrong.text


def test_the_page_lists_the_outputs_that_nothing_was_compared_with(reports: tuple[Report, Report]) -> None:
    (result,) = reports[0].results
    extra = replace(result, unjudged=("attention.0", "more"))
    assert "nothing was compared with attention.0 , more" in Page(page(replace(reports[0], results=(extra,)))).text
    assert "nothing was compared with" not in Page(page(reports[0])).text


def test_the_page_names_the_part_of_the_layer(reports: tuple[Report, Report]) -> None:
    (result,) = reports[1].results
    part = Part("attention.self.query", result.outputs[0], ())
    told = replace(result, first_bad_layer="encoder.layer.3", first_bad_part=part)
    assert (
        "first wrong at encoder.layer.3 , in attention.self.query"
        in Page(page(replace(reports[1], results=(told,)))).text
    )


def test_the_page_stands_alone_and_runs_nothing(reports: tuple[Report, Report]) -> None:
    found = Page(page(reports[1]))
    assert not {"script", "link", "img", "iframe", "form"} & set(found.tags)
    assert not {"src", "href"} & {name for name, _ in found.attributes}
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert "url(" not in page(reports[1])


def test_nothing_from_outside_is_markup(reports: tuple[Report, Report]) -> None:
    evil = '"><script>alert(1)</script><b onclick=x>'
    (result,) = reports[1].results
    rows = tuple(replace(row, name=evil) for row in result.outputs)
    changed = replace(
        result, artifact=evil, cause=evil, provider=evil, outputs=rows, inputs={evil: evil}, unjudged=(evil,)
    )
    report = replace(reports[1], results=(changed,), reference={**reports[1].reference, "checkpoint": evil})
    plain, made = Page(page(reports[1])), Page(page(report))
    assert set(made.tags) <= {*plain.tags, "code"}
    assert "onclick" not in {name for name, _ in made.attributes}
    assert "alert(1)" in made.text


def test_a_report_in_which_nothing_ran_has_a_page(reports: tuple[Report, Report]) -> None:
    (result,) = reports[0].results
    idle = replace(result, verdict="not-run", outputs=(), taps=(), reason="not ready", asked=True)
    assert "not ready" in Page(page(replace(reports[0], results=(idle,)))).text
    assert "nothing was compared" in Page(page(replace(reports[0], results=()))).text


@pytest.mark.parametrize(
    ("ratio", "percent"), [(0.0, 0), (0.1, 0), (3.0, 60), (1.0, 40.6), (1e9, 100), (None, 100)], ids=str
)
def test_a_bar_is_logarithmic_and_ends(ratio: float | None, percent: float) -> None:
    assert bar(ratio, 3.0) == pytest.approx(percent, abs=0.1)


def test_verify_writes_the_page(bertx: Callable[..., Ran], tmp_path: Path) -> None:
    golden = record(tmp_path / "golden")
    artifact = draw(tmp_path / "model.onnx")
    options = ("--against", golden, "--runtime", "onnxruntime", "--html", tmp_path / "page.html", "--quiet")
    ran = bertx("verify", artifact, *options)
    assert (ran.code, ran.out) == (0, ""), ran.err
    assert "<title>pass" in (tmp_path / "page.html").read_text("utf-8")
    refused = bertx("verify", artifact, *options[:4], "--html", tmp_path / "none" / "page.html")
    assert (refused.code, "the folder of" in refused.err) == (2, True)
