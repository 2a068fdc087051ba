"""A report as JUnit XML, which every CI system shows."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from bertx.bundle import disk_errors
from bertx.errors import escape
from bertx.parity.report import Result


def write_junit(results: Sequence[Result], path: Path) -> None:
    """One test case per artifact and runtime; what was not compared though it was asked for is an error."""
    counts = {
        "tests": len(results),
        "failures": sum(r.verdict == "fail" for r in results),
        "errors": sum(r.verdict == "not-run" and bool(r.asked) for r in results),
        "skipped": sum(r.verdict == "not-run" and not r.asked for r in results),
    }
    suite = ElementTree.Element("testsuite", {"name": "bertx", **{k: str(v) for k, v in counts.items()}})
    for result in results:
        seconds = f"{result.seconds:.3f}"
        case = ElementTree.SubElement(
            suite, "testcase", classname=escape(result.artifact), name=escape(result.runtime), time=seconds
        )
        why = result.cause or result.reason or ""
        if result.verdict != "pass":
            kind = "failure" if result.verdict == "fail" else "error" if result.asked else "skipped"
            ElementTree.SubElement(case, kind, message=escape(why, 10_000))
    with disk_errors():
        ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)
