"""The next prices of shared capacities from the choices seen so far: a small linear program, with or without HiGHS.

Kelley's cutting planes (1960): each choice seen bounds the Lagrangian by its cost plus prices times what it takes too
much; the next prices are where the least of these is largest. With one to three capacities that may run out, the
corners can be tried one by one, which is what is done where HiGHS cannot be used.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ganglion.placement.solver import OutOfBudget, mixture

Floats = NDArray[np.float64]

CORNERS_MAX = 200_000
_ALLOWED = 1e-9


def next_prices(values: Sequence[float], excess: Sequence[Floats], price_max: float) -> tuple[float, Floats]:
    """What the Lagrangian can be at most, and the prices [row] for that, each from 0 to ``price_max``.

    ``values`` [choice]: costs; ``excess`` [choice][row]: what is taken beyond the capacities. Raises `OutOfBudget` for
    more corners than `CORNERS_MAX` without HiGHS.
    """
    try:
        upper, prices = mixture(values, excess, price_max)
        return upper, np.array(prices)
    except OutOfBudget:
        return by_corners(np.array(values), np.array(excess), price_max)


def by_corners(values: Floats, excess: Floats, price_max: float) -> tuple[float, Floats]:
    """The same without a solver: of all corners of the cuts the highest one that no cut is below."""
    rows = np.flatnonzero((excess > 0).any(axis=0))  # where nothing is taken too much, a price only lowers
    prices = np.zeros(excess.shape[1])
    if not rows.size:
        return float(values.min()), prices
    size = max(float(np.abs(values).max()), 1e-12)
    # One line per plane: height - slopes x prices <= level, prices as parts of the largest one.
    slopes = excess[:, rows] * (price_max / size)
    ends = np.eye(len(rows))
    planes = np.vstack([
        np.column_stack([np.ones(len(values)), -slopes]),
        np.column_stack([np.zeros(len(rows)), -ends]),
        np.column_stack([np.zeros(len(rows)), ends]),
    ])  # fmt: skip
    levels = np.concatenate([values / size, np.zeros(len(rows)), np.ones(len(rows))])
    corners = np.array(list(itertools.islice(
        itertools.combinations(range(len(levels)), len(rows) + 1), CORNERS_MAX + 1
    )))  # fmt: skip
    if len(corners) > CORNERS_MAX:
        raise OutOfBudget("more choices were seen of an edge site than can be combined without HiGHS")
    matrices = planes[corners]
    scale = np.abs(matrices).max(axis=2, keepdims=True)
    sound = np.abs(np.linalg.det(matrices / np.where(scale > 0, scale, 1.0))) > 1e-12
    points = np.linalg.solve(matrices[sound], levels[corners[sound]][:, :, None])[:, :, 0]
    # Rounding of a price may move it a trace over its ends; the height is then what the cuts say there.
    share = np.clip(points[:, 1:], 0.0, 1.0)
    height = (values / size + share @ slopes.T).min(axis=1)
    best = int(height.argmax())
    found = np.where(share[best] > _ALLOWED * 1e-6, share[best], 0.0)
    prices[rows] = found * price_max
    return float(height[best]) * size, prices
