"""How sure a run is of a reaction that it measured: intervals that hold the true value with 95 % confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Interval = tuple[float, float]
DRAWS = 400
SEED = 1
COUNT_MIN = 6
"""Of fewer reactions no median has an interval of 95 %: all of them lie on one side of it more often than that."""


def parts_intervals(
    reactions: Sequence[Mapping[str, float]], parts: Mapping[str, Sequence[str]]
) -> dict[str, Interval]:
    """Per part: the interval of the sum of its steps' typical values, by drawing the same number of reactions again.

    ``reactions``: each one's steps. A typical value is the mean over the middle fifth by the whole reaction (see
    `accuracy.steps`), for which there is no formula. Empty for fewer than `COUNT_MIN`.
    """
    if len(reactions) < COUNT_MIN:
        return {}
    sums = np.array([[sum(r[step] for step in steps) for steps in parts.values()] for r in reactions])
    whole = sums.sum(axis=1)
    n = len(whole)
    edge = (n - 1) * 2 // 5
    rng = np.random.default_rng(SEED)
    found = np.empty((DRAWS, len(parts)))
    for k in range(DRAWS):
        drawn = rng.integers(0, n, n)
        middle = drawn[np.argsort(whole[drawn], kind="stable")[edge : n - edge]]
        found[k] = sums[middle].mean(axis=0)
    low, high = np.percentile(found, (2.5, 97.5), axis=0)
    return {name: (float(low[k]), float(high[k])) for k, name in enumerate(parts)}


def median_interval(values: Sequence[float]) -> Interval | None:
    """The interval of the median, from the values' order alone; None for fewer than `COUNT_MIN`."""
    n = len(values)
    if n < COUNT_MIN:
        return None
    # How many of n lie below the median is binomial with one half: the normal's 1.96, half a value to the safe side.
    below = int(max(0, np.floor(n / 2 - 0.98 * np.sqrt(n) - 0.5)))
    ordered = np.sort(np.asarray(values, float))
    return float(ordered[below]), float(ordered[n - 1 - below])
