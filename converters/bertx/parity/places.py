"""Causes that show in where the wrong numbers of an image lie."""

from __future__ import annotations

from bertx.parity.findings import Findings


def border(found: Findings) -> str | None:
    """Wrong along the edges of the last two axes and right inside of them, in every case that is wrong."""
    import numpy as np

    for row in found.rows:
        depths: list[float] = []
        for _, made, exact in found.pairs(row.name):
            if made.ndim < 4:
                break
            wrong = (abs(made - exact) > row.max_limit * row.max_noise).any(axis=tuple(range(made.ndim - 2)))
            height, width = wrong.shape
            if wrong.any() and min(height, width) >= 8:
                down, across = np.nonzero(wrong)
                depth = np.minimum(np.minimum(down, height - 1 - down), np.minimum(across, width - 1 - across))
                depths.append(float(depth.max()) / min(height, width))
        if depths and max(depths) < 0.25:
            return f"{row.name} is wrong only along the edges of its last two axes: another padding or padding mode"
    return None
