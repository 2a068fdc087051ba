"""Makes every mutant, judges it and prints how the judge did: `make mutants`.

    python tests/mutants/run.py [--stand NAME]... [--fault CLASS]... [--markdown FILE]

Exits with 1 where a wrong artifact that can be told from a right one passes, or a right one fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from mutants.catalogue import catalogue
from mutants.stands import PLANS, Stands
from mutants.trial import OBSERVABLE, Inapplicable, Mutant, Trial, attempt


@dataclass(frozen=True)
class Tally:
    """What became of all mutants, and in how many seconds."""

    trials: tuple[Trial, ...]
    inapplicable: int
    seconds: float

    @property
    def wrong(self) -> list[Trial]:
        return [trial for trial in self.trials if not trial.mutant.right]

    @property
    def observable(self) -> list[Trial]:
        return [trial for trial in self.wrong if trial.observable]

    @property
    def unobservable(self) -> list[Trial]:
        return [trial for trial in self.wrong if not trial.observable]

    @property
    def alive(self) -> list[Trial]:
        return [trial for trial in self.observable if trial.passed]

    @property
    def right(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.mutant.right]

    @property
    def refused(self) -> list[Trial]:
        return [trial for trial in self.right if not trial.passed]


def tally(mutants: Iterable[Mutant], stands: Stands) -> Tally:
    """Attempts all mutants, one after the other."""
    started, trials, inapplicable = time.perf_counter(), [], 0
    for mutant in mutants:
        try:
            trials.append(attempt(mutant, stands[mutant.stand]))
        except Inapplicable:
            inapplicable += 1
    return Tally(tuple(trials), inapplicable, time.perf_counter() - started)


def table(found: Tally) -> list[str]:
    """Fault class by stand: observable mutants killed, of how many."""
    stands = [name for name in PLANS if any(t.mutant.stand == name for t in found.trials)]
    lines = [f"| fault | {' | '.join(stands)} | killed | of observable | not observable |"]
    lines.append("| --- |" + " --- |" * (len(stands) + 3))
    for fault in dict.fromkeys(trial.mutant.fault for trial in found.wrong):
        cells = []
        for stand in stands:
            seen = [t for t in found.observable if (t.mutant.fault, t.mutant.stand) == (fault, stand)]
            cells.append(f"{_killed(seen)}/{len(seen)}" if seen else "")
        seen = [t for t in found.observable if t.mutant.fault == fault]
        hidden = sum(1 for t in found.unobservable if t.mutant.fault == fault)
        lines.append(f"| {fault} | {' | '.join(cells)} | {_killed(seen)} | {len(seen)} | {hidden or ''} |")
    return lines


def _killed(trials: Sequence[Trial]) -> int:
    return sum(1 for trial in trials if not trial.passed)


def summary(found: Tally) -> list[str]:
    """The figures in words, and every exception by name."""
    killed = _killed(found.observable)
    lines = [
        f"wrong artifacts: {len(found.wrong)}, observable {len(found.observable)}, killed {killed}",
        f"right artifacts: {len(found.right)}, false alarms {len(found.refused)}",
        f"made on a family that has no such part, and left out: {found.inapplicable}",
    ]
    for title, trials in (
        ("ALIVE", found.alive),
        ("REFUSED", found.refused),
        (f"not observable (error below {OBSERVABLE:g} times the noise)", found.unobservable),
    ):
        for t in trials:
            judged = "passes" if t.passed else "fails"
            lines.append(f"{title}: {t.mutant.label}, ratio {t.ratio:.3g}, {judged}; {t.result.cause or ''}"[:240])
    return lines


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stand", action="append")
    parser.add_argument("--fault", action="append")
    parser.add_argument("--markdown", type=Path, help="also write the table there, without times")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # the models are tiny: threads that wait for each other cost more than they save
    mutants = [
        mutant
        for mutant in catalogue()
        if (not chosen.stand or mutant.stand in chosen.stand) and (not chosen.fault or mutant.fault in chosen.fault)
    ]
    found = tally(mutants, Stands())
    lines = [*table(found), "", *summary(found)]
    sys.stdout.writelines(f"{line}\n" for line in [*lines, f"seconds: {found.seconds:.0f}"])
    if chosen.markdown:
        chosen.markdown.write_text("\n".join(lines) + "\n", "utf-8")
    return 1 if found.alive or found.refused or not found.observable else 0


if __name__ == "__main__":
    sys.exit(main())
