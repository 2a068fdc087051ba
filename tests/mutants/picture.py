"""Draws what a run of the mutants found: how far right and wrong artifacts lie from the limit.

    python tests/mutants/picture.py build/mutants.jsonl docs/mutants.svg

Two histograms on one logarithmic axis, the largest judged ratio of each artifact over its limit, in quarters of a
decade. The colours follow the reader's choice of light or dark.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mutants.outcome import Outcome

WIDTH, LEFT, RIGHT = 760, 20, 740
#: decades of the axis
FIRST, LAST = -2, 6
#: top and height of the two panels
PANELS = {"right": (48, 96), "wrong": (182, 150)}
BASE = 340

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-weight: 600; }
.small { font-size: 11px; fill: #57606a; }
.right { fill: #1a7f37; }
.wrong { fill: #bc4c00; }
.hidden { fill: #bc4c00; opacity: 0.4; }
.axis { stroke: #8c959f; stroke-width: 1; }
.limit { stroke: #24292f; stroke-width: 1.5; stroke-dasharray: 5 3; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .small { fill: #9198a1; }
  .right { fill: #3fb950; }
  .wrong, .hidden { fill: #f0883e; }
  .axis { stroke: #656d76; }
  .limit { stroke: #e6edf3; }
}
"""


def place(share: float) -> float:
    """Where a ratio over its limit lies on the axis, in pixels."""
    decades = min(max(math.log10(share), FIRST), LAST)
    return LEFT + (decades - FIRST) / (LAST - FIRST) * (RIGHT - LEFT)


def histogram(shares: Sequence[float]) -> Counter[int]:
    """Quarter of a decade -> how many lie in it; what lies beyond the axis is in its last one."""
    return Counter(min(max(math.floor(4 * math.log10(s)), 4 * FIRST), 4 * LAST - 1) for s in shares)


def bars(panel: str, stacked: Sequence[tuple[str, Counter[int]]]) -> list[str]:
    """The bars of a panel, one class on another, as high as the panel where they are highest."""
    top, height = PANELS[panel]
    total: Counter[int] = sum((counts for _, counts in stacked), Counter())
    unit = height / max(total.values(), default=1)
    width = (RIGHT - LEFT) / (LAST - FIRST) / 4
    drawn = []
    for quarter in sorted(total):
        floor = top + height
        for name, counts in stacked:
            if counts[quarter]:
                floor -= counts[quarter] * unit
                x = LEFT + (quarter / 4 - FIRST) / (LAST - FIRST) * (RIGHT - LEFT)
                size = f'width="{width - 1.5:.1f}" height="{counts[quarter] * unit:.1f}"'
                drawn.append(f'<rect class="{name}" x="{x + 0.75:.1f}" y="{floor:.1f}" {size}/>')
    return drawn


def picture(outcomes: Sequence[Outcome]) -> str:
    """The drawing as SVG."""
    made = [each for each in outcomes if each.made]
    right = [each.share for each in made if each.right and each.share]
    wrong = [each for each in made if not each.right and each.observable]
    seen = [each.share for each in wrong if each.share and each.share > 1]
    hidden = [each.share for each in made if not each.right and not each.observable and each.share]
    none = sum(1 for each in wrong if each.share is None)
    within = sum(1 for each in wrong if each.share is not None and each.share <= 1)
    limit = place(1)
    drawn = [
        *bars("right", [("right", histogram(right))]),
        *bars("wrong", [("wrong", histogram(seen)), ("hidden", histogram(hidden))]),
        f'<line class="limit" x1="{limit}" x2="{limit}" y1="34" y2="{BASE}"/>',
        f'<text class="small" x="{limit + 6}" y="44">the limit: 3 times the noise (rms), 12 times (max)</text>',
    ]
    for panel in PANELS:
        bottom = sum(PANELS[panel])
        drawn.append(f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    for decade in range(FIRST, LAST + 1):
        x = place(10.0**decade)
        name = {-2: "0.01", -1: "0.1", 0: "1", 1: "10", 2: "100"}.get(decade, f"10{_power(decade)}")
        drawn.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{BASE - 8}" y2="{BASE - 3}"/>')
        drawn.append(f'<text class="small" x="{x:.1f}" y="{BASE + 10}" text-anchor="middle">{name}</text>')
    words = [
        ("title", LEFT, 20, f"{len(right)} right artifacts: at most {max(right):.2f} of the limit"),
        ("title", limit + 6, 174, f"{len(seen)} wrong artifacts: at least {min(seen):.1f} times the limit"),
        ("small", LEFT, BASE + 30, f"Largest judged ratio over its limit, in quarters of a decade. "
         f"Paler: {len(hidden)} whose error is below 30 times the noise."),
        ("small", LEFT, BASE + 46, f"{none} more wrong ones give no ratio (NaN, another shape, a crash), {within} are "
         "found by the bytes of their weights alone."),
    ]  # fmt: skip
    drawn += [f'<text class="{kind}" x="{x:.1f}" y="{y}">{text}</text>' for kind, x, y, text in words]
    label = f"{len(right)} right artifacts below the limit, {len(seen)} wrong ones above it, on a logarithmic axis"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {BASE + 56}" role="img" aria-label="{label}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *drawn, "</svg>"]) + "\n"


def _power(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def main() -> None:
    record, target = (Path(argument) for argument in sys.argv[1:3])
    lines = record.read_text("utf-8").splitlines()[1:]
    target.write_text(picture([Outcome(**json.loads(line)) for line in lines]), "utf-8")


if __name__ == "__main__":
    main()
