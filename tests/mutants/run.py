"""Makes every mutant, judges it and prints how the judge did: `make mutants`.

    python tests/mutants/run.py [--stand NAME]... [--fault CLASS]... [--jobs N] [--record FILE] [--markdown FILE]

Stands are shared out over processes. Each outcome is a line of the record as soon as it is there: a run that was
interrupted goes on where it ended, unless the judge, the mutants or PyTorch have changed since. Exits with 1 where a
wrong artifact that can be told from a right one passes, or a right one fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mutants.catalogue import catalogue
from mutants.outcome import Outcome, Tally, case_table, fault_table, summary

ROOT = Path(__file__).resolve().parents[2]
#: seconds between two lines of progress
_INTERVAL = 15.0


def state() -> str:
    """A hash of everything that decides an outcome: the judge, the mutants, the versions of what runs them."""
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "converters").rglob("*.py"), *(ROOT / "tests" / "mutants").glob("*.py"),
                        ROOT / "tests" / "families.py"]):  # fmt: skip
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    for name in ("torch", "transformers", "onnx", "numpy"):
        digest.update(f"{name} {version(name)}".encode())
    return digest.hexdigest()


def attempt_all(stand: str, labels: Sequence[str], record: Path) -> int:
    """In a process of its own: attempts mutants of one stand, a line of the record each; how many seconds it took."""
    import torch

    from mutants.stands import Stands
    from mutants.trial import Inapplicable, attempt

    torch.set_num_threads(1)  # the models are tiny: threads that wait for each other cost more than they save
    started = time.perf_counter()
    mutants, stands = {mutant.label: mutant for mutant in catalogue()}, Stands()
    for label in labels:
        mutant = mutants[label]
        try:
            found = Outcome.of(attempt(mutant, stands[stand]))
        except Inapplicable:
            found = Outcome.left_out(mutant)
        except Exception as error:  # noqa: BLE001 - told in words that can be sent to another process
            raise RuntimeError(f"{label}: {type(error).__name__}: {error}") from None
        with record.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(found)) + "\n")
    return int(time.perf_counter() - started)


def known(record: Path, now: str) -> dict[str, Outcome]:
    """Outcomes of an earlier run in the same state; a record of another state is begun anew."""
    lines = record.read_text("utf-8").splitlines() if record.is_file() else []
    if not lines or json.loads(lines[0]) != {"state": now}:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"state": now}) + "\n", "utf-8")
        return {}
    return {found.label: found for found in _outcomes(lines[1:])}


def _outcomes(lines: Sequence[str]) -> Iterator[Outcome]:
    for line in lines:
        try:
            yield Outcome(**json.loads(line))
        except (ValueError, TypeError):
            continue  # cut short by an interrupt


def run(labels: Sequence[str], record: Path, jobs: int) -> Tally:
    """Attempts what the record does not hold yet, stand by stand, the largest first."""
    started = time.perf_counter()
    before = known(record, state())
    left: dict[str, list[str]] = {}
    for label in labels:
        if label not in before:
            left.setdefault(label.partition("/")[0], []).append(label)
    order = sorted(left, key=lambda stand: (stand != "minilm", -len(left[stand])))
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        running: set[Future[int]] = {pool.submit(attempt_all, stand, left[stand], record) for stand in order}
        while running:
            done, running = wait(running, _INTERVAL)
            for each in done:
                each.result()
            count = len(known(record, state()))
            sys.stderr.write(f"{count} of {len(labels)} mutants, {time.perf_counter() - started:.0f} s\n")
    found = known(record, state())
    return Tally(tuple(found[label] for label in labels), time.perf_counter() - started)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stand", action="append")
    parser.add_argument("--fault", action="append")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--record", type=Path, default=ROOT / "build" / "mutants.jsonl")
    parser.add_argument("--markdown", type=Path, help="also write the tables there, without times")
    chosen = parser.parse_args()
    labels = [
        mutant.label
        for mutant in catalogue()
        if (not chosen.stand or mutant.stand in chosen.stand) and (not chosen.fault or mutant.fault in chosen.fault)
    ]
    found = run(labels, chosen.record, chosen.jobs)
    lines = [*fault_table(found), "", *case_table(found), "", *summary(found)]
    sys.stdout.writelines(f"{line}\n" for line in [*lines, f"seconds: {found.seconds:.0f}"])
    if chosen.markdown:
        chosen.markdown.write_text("\n".join(lines) + "\n", "utf-8")
    return 1 if found.alive or found.refused or not found.observable else 0


if __name__ == "__main__":
    sys.exit(main())
