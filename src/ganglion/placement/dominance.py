"""Which rows of keys no other row beats: in one set, or in many small sets at once.

A row beats another when it is at most as large in every key (to a billionth). Columns of placement are compared so
thousands of times per plan, mostly in small sets, which are compared pairwise all at once; larger sets of three keys
are swept with a staircase (H. T. Kung, F. Luccio, F. P. Preparata, On finding the maxima of a set of vectors, 1975).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

SLACK = 1e-9
PAIRWISE_MAX = 64
"""Sets up to this size are compared pairwise."""
_CELLS_MAX = 4_000_000


def pareto(keys: Floats) -> Places:
    """The rows of ``keys`` [row, key] that no other row beats (of equal ones the first), in their order."""
    if len(keys) < 2:
        return np.arange(len(keys))
    keys = keys[:, np.ptp(keys, axis=0) > 0]
    if keys.shape[1] < 2:
        return np.array([keys[:, 0].argmin() if keys.shape[1] else 0], dtype=np.int64)
    order = np.lexsort(keys.T[::-1])
    ranked = keys[order]
    return np.sort(order[_sweep(ranked, ranked - SLACK * np.abs(ranked))])


def pareto_in_sets(keys: Floats, sets: Places) -> Places:
    """The same where only rows of one set compete: ``sets`` [row] says which set a row is in."""
    if len(keys) < 2:
        return np.arange(len(keys))
    keys = keys[:, np.ptp(keys, axis=0) > 0]
    order = np.lexsort((*keys.T[::-1], sets))
    starts = np.flatnonzero(np.r_[True, np.diff(sets[order]) != 0])
    sizes = np.diff(np.r_[starts, len(order)])
    keep = np.zeros(len(order), dtype=bool)
    if keys.shape[1] < 2:
        keep[starts] = True  # the first of each set has the least key
        return np.sort(order[keep])
    ranked = keys[order]
    low = ranked - SLACK * np.abs(ranked)
    keep[starts[sizes == 1]] = True
    _pairwise(ranked, low, starts, sizes, keep)
    for at in np.flatnonzero(sizes > PAIRWISE_MAX):
        part = slice(starts[at], starts[at] + sizes[at])
        keep[part] = _sweep(ranked[part], low[part])
    return np.sort(order[keep])


def _pairwise(ranked: Floats, low: Floats, starts: Places, sizes: Places, keep: NDArray[np.bool_]) -> None:
    """All sets of about one size at once: a row is kept when none before it in its set beats it."""
    width, smaller = 2, 1
    while smaller < PAIRWISE_MAX:
        chosen = np.flatnonzero((sizes > smaller) & (sizes <= width))
        step = max(1, _CELLS_MAX // width**2)
        for first in range(0, len(chosen), step):
            some = chosen[first : first + step]
            inside = np.arange(width) < sizes[some][:, None]
            places = np.where(inside, starts[some][:, None] + np.arange(width), starts[some][:, None])
            beats = np.tri(width, k=-1, dtype=bool).T & inside[:, :, None]
            for one, bar in zip(ranked.T, low.T, strict=True):
                beats = beats & (bar[places][:, :, None] <= one[places][:, None, :])
            alive = inside & ~beats.any(axis=1)
            keep[places[alive]] = True
        smaller, width = width, width * 2


def _sweep(ranked: Floats, low: Floats) -> NDArray[np.bool_]:
    """One set, in the order of its keys."""
    if ranked.shape[1] == 2:
        before = np.r_[np.inf, np.minimum.accumulate(low[:, 1])[:-1]]
        return np.asarray(ranked[:, 1] < before)
    if len(ranked) <= PAIRWISE_MAX:
        beats = (low[:, None, :] <= ranked[None, :, :]).all(axis=2)
        return np.asarray(~np.triu(beats, k=1).any(axis=0))
    if ranked.shape[1] == 3:
        return _staircase(ranked, low)
    keep = np.zeros(len(ranked), dtype=bool)
    alive = np.arange(len(ranked))
    while alive.size:
        keep[alive[0]] = True
        bar, alive = low[alive[0]], alive[1:]
        alive = alive[(ranked[alive] < bar).any(axis=1)]
    return keep


def _staircase(ranked: Floats, low: Floats) -> NDArray[np.bool_]:
    """Three keys: those kept so far are a staircase in the last two, rising in one and falling in the other."""
    keep = np.zeros(len(ranked), dtype=bool)
    seconds: list[float] = []
    thirds: list[float] = []
    rows = zip(
        ranked[:, 1].tolist(), ranked[:, 2].tolist(), low[:, 1].tolist(), low[:, 2].tolist(), strict=True
    )
    for row, (second, third, low_second, low_third) in enumerate(rows):
        at = bisect_right(seconds, second)
        if at and thirds[at - 1] <= third:
            continue
        keep[row] = True
        first = bisect_left(seconds, low_second)
        last = first
        while last < len(thirds) and thirds[last] >= low_third:
            last += 1
        if first and thirds[first - 1] <= low_third:
            continue
        seconds[first:last] = [low_second]
        thirds[first:last] = [low_third]
    return keep
