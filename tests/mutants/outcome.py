"""What became of mutants: one outcome each, as the record keeps it, and the tables made of all of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mutants.stands import PLANS
from mutants.trial import OBSERVABLE, Mutant, Trial


@dataclass(frozen=True)
class Outcome:
    """How a mutant fared. `ratio`, its true error over noise, is None where it gives no number at all.

    `share` is the largest judged ratio over its limit, None where something else than a ratio decided; `cases` are
    those that kill it, each alone; `made` is False where the family has no such part.
    """

    label: str
    fault: str
    right: bool
    made: bool = True
    passed: bool = False
    ratio: float | None = None
    share: float | None = None
    cases: tuple[str, ...] = ()
    cause: str = ""

    @classmethod
    def of(cls, trial: Trial) -> Outcome:
        mutant, result = trial.mutant, trial.result
        ratio = trial.ratio if math.isfinite(trial.ratio) else None
        words = result.cause or result.reason or ""
        return cls(
            mutant.label, mutant.fault, mutant.right, True, trial.passed, ratio, trial.share, trial.killing, words[:300]
        )

    @classmethod
    def left_out(cls, mutant: Mutant) -> Outcome:
        return cls(mutant.label, mutant.fault, mutant.right, made=False)

    @property
    def stand(self) -> str:
        return self.label.partition("/")[0]

    @property
    def observable(self) -> bool:
        return self.ratio is None or self.ratio >= OBSERVABLE


@dataclass(frozen=True)
class Tally:
    """What became of all mutants, and in how many seconds."""

    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def made(self) -> list[Outcome]:
        return [each for each in self.outcomes if each.made]

    @property
    def wrong(self) -> list[Outcome]:
        return [each for each in self.made if not each.right]

    @property
    def observable(self) -> list[Outcome]:
        return [each for each in self.wrong if each.observable]

    @property
    def unobservable(self) -> list[Outcome]:
        return [each for each in self.wrong if not each.observable]

    @property
    def alive(self) -> list[Outcome]:
        return [each for each in self.observable if each.passed]

    @property
    def right(self) -> list[Outcome]:
        return [each for each in self.made if each.right]

    @property
    def refused(self) -> list[Outcome]:
        return [each for each in self.right if not each.passed]


def _killed(outcomes: Sequence[Outcome]) -> int:
    return sum(1 for each in outcomes if not each.passed)


def fault_table(found: Tally) -> list[str]:
    """Fault class by stand: observable mutants killed, of how many."""
    stands = [name for name in PLANS if any(each.stand == name for each in found.made)]
    lines = [f"| fault | {' | '.join(stands)} | killed | of observable | not observable |"]
    lines.append("| --- |" + " --- |" * (len(stands) + 3))
    for fault in dict.fromkeys(each.fault for each in found.wrong):
        cells = []
        for stand in stands:
            seen = [each for each in found.observable if (each.fault, each.stand) == (fault, stand)]
            cells.append(f"{_killed(seen)}/{len(seen)}" if seen else "")
        seen = [each for each in found.observable if each.fault == fault]
        hidden = sum(1 for each in found.unobservable if each.fault == fault)
        lines.append(f"| {fault} | {' | '.join(cells)} | {_killed(seen)} | {len(seen)} | {hidden or ''} |")
    return lines


def case_table(found: Tally) -> list[str]:
    """Case by case: how many mutants it kills, how many it alone kills, and one of these."""
    killers = Counter(case for each in found.observable for case in each.cases)
    alone: dict[str, list[str]] = {}
    for each in found.observable:
        if len(each.cases) == 1:
            alone.setdefault(each.cases[0], []).append(each.label)
    lines = ["| case | kills | alone | for example |", "| --- | --- | --- | --- |"]
    for case, count in killers.most_common():
        mine = alone.get(case, [])
        lines.append(f"| {case} | {count} | {len(mine)} | {mine[0] if mine else ''} |")
    return lines


def summary(found: Tally) -> list[str]:
    """The figures in words, and every exception by name."""
    left_out = sum(1 for each in found.outcomes if not each.made)
    lines = [
        f"wrong artifacts: {len(found.wrong)}, observable {len(found.observable)}, killed {_killed(found.observable)}",
        f"right artifacts: {len(found.right)}, false alarms {len(found.refused)}",
        f"made on a family that has no such part, and left out: {left_out}",
    ]
    for title, outcomes in (
        ("ALIVE", found.alive),
        ("REFUSED", found.refused),
        (f"not observable (error below {OBSERVABLE:g} times the noise)", found.unobservable),
    ):
        for each in outcomes:
            judged = "passes" if each.passed else "fails"
            ratio = math.inf if each.ratio is None else each.ratio
            lines.append(f"{title}: {each.label}, ratio {ratio:.3g}, {judged}; {each.cause}"[:240])
    return lines
