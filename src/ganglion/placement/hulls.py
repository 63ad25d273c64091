"""Choices of columns for many gateways whose own shares are scarce: prices of those, bounds, and what is near them.

One scarce share: each group's columns have a lower convex hull of cost over share. Going down all hulls at once, by the
steps that cost least per share freed, gives every gateway its best price, and a choice that fits (P. Sinha,
A. Zoltners, The multiple-choice knapsack problem, 1979). Several: prices are raised by subgradient steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

STEPS_MAX = 60
"""Of raising a gateway's prices."""
NEAR = 6
"""Columns of each group, the cheapest at the gateway's prices, whose combinations are tried."""
_CELLS_MAX = 2_000_000
_SLACK = 1e-9


@dataclass(slots=True)
class Priced:
    """Per gateway: a column for each group, their cost (infinite where none was found), what no choice is below
    (infinite where there is none), and the prices [gateway, share] at which that was seen.
    """

    places: Places
    value: Floats
    bound: Floats
    prices: Floats


def along_hulls(counts: Floats, costs: Sequence[Floats], shares: Sequence[Floats], limit: Floats) -> Priced:
    """For one scarce share; ``counts`` [gateway, group], ``costs`` [column] and ``shares`` [column, 1] per group."""
    hulls = [_hull(c, s[:, 0]) for c, s in zip(costs, shares, strict=True)]
    slopes = np.concatenate([slope for _, slope in hulls])
    group = np.repeat(np.arange(len(hulls)), [len(slope) for _, slope in hulls])
    order = np.argsort(slopes, kind="stable")
    # After so many steps, where each group is on its hull.
    taken = group[order, None] == np.arange(len(hulls))
    at = np.vstack([np.zeros((1, len(hulls)), np.int64), np.cumsum(taken, axis=0)])
    places = np.column_stack([hull[at[:, t]] for t, (hull, _) in enumerate(hulls)])
    cost = np.column_stack([c[places[:, t]] for t, c in enumerate(costs)])
    share = np.column_stack([s[places[:, t], 0] for t, s in enumerate(shares)])
    used = counts @ share.T
    fits = used <= limit[0] + _SLACK
    step = fits.argmax(axis=1)
    none = ~fits.any(axis=1)
    price = np.where(step > 0, np.r_[0.0, slopes[order]][step], 0.0)
    rows = np.arange(len(counts))
    value = (counts * cost[step]).sum(axis=1)
    bound = value + price * (used[rows, step] - limit[0])
    value[none], bound[none] = np.inf, np.inf
    return Priced(places[step], value, np.minimum(bound, value), price[:, None])


def _hull(cost: Floats, share: Floats) -> tuple[Places, Floats]:
    """The columns on the lower convex hull from the cheapest down to the leanest; a share's price at each step."""
    order = np.lexsort((share, cost))
    kept: list[int] = [int(order[0])]
    slopes: list[float] = []
    for one in order[1:].tolist():
        if share[one] >= share[kept[-1]]:
            continue
        slope = _slope(cost, share, kept[-1], one)
        while slopes and slope <= slopes[-1]:
            kept.pop()
            slopes.pop()
            slope = _slope(cost, share, kept[-1], one)
        kept.append(one)
        slopes.append(slope)
    return np.array(kept), np.array(slopes)


def _slope(cost: Floats, share: Floats, above: int, below: int) -> float:
    return float((cost[below] - cost[above]) / (share[above] - share[below]))


def by_prices(counts: Floats, costs: Sequence[Floats], shares: Sequence[Floats], limit: Floats) -> Priced:
    """For several scarce shares: each gateway's prices are raised until its columns fit; the best seen are kept."""
    number = len(counts)
    prices = np.zeros((number, len(limit)))
    best_prices = prices.copy()
    bound = np.full(number, -np.inf)
    leanest = np.tile([int((s / limit).max(axis=1).argmin()) for s in shares], (number, 1))
    best, value = _mended(leanest, counts, costs, shares, limit)
    # A row that even the leanest columns overrun proves that nothing fits.
    least = sum(counts[:, t, None] * s.min(axis=0) for t, s in enumerate(shares))
    none = (least > limit + _SLACK).any(axis=1)
    reach = np.ones(number)
    for step in range(STEPS_MAX):
        places = np.column_stack(
            [(c + prices @ s.T).argmin(axis=1) for c, s in zip(costs, shares, strict=True)]
        )
        used = sum(counts[:, t, None] * s[places[:, t]] for t, s in enumerate(shares))
        worth = sum(counts[:, t] * c[places[:, t]] for t, c in enumerate(costs))
        over = used - limit
        dual = worth + (prices * over).sum(axis=1)
        rises = dual > bound
        bound = np.maximum(bound, dual)
        best_prices[rises] = prices[rises]
        reach = np.where(rises, reach, reach * 0.7)
        if step % 4 == 3 or step == STEPS_MAX - 1:
            tried, now = _mended(places, counts, costs, shares, limit)
            better = now < value
            value[better], best[better] = now[better], tried[better]
        target = np.where(np.isfinite(value), value, dual + 0.1 * np.abs(dual) + 1e-6)
        size = np.maximum((over**2).sum(axis=1), 1e-12)
        prices = np.maximum(prices + (reach * np.maximum(target - dual, 0) / size)[:, None] * over, 0.0)
    bound[none] = np.inf
    return Priced(best, value, np.minimum(bound, np.where(none, np.inf, value)), best_prices)


def _mended(
    places: Places, counts: Floats, costs: Sequence[Floats], shares: Sequence[Floats], limit: Floats
) -> tuple[Places, Floats]:
    """Changes one group's column at a time: until the gateway's shares suffice, then to the cheapest that fits."""
    places = places.copy()
    number, groups = places.shape
    rows = np.arange(number)
    used = sum(counts[:, t, None] * s[places[:, t]] for t, s in enumerate(shares))
    for turn in range(3 * groups):
        t = turn % groups
        rest = used - counts[:, t, None] * shares[t][places[:, t]]
        whole = rest[:, None, :] + counts[:, t, None, None] * shares[t]
        excess = np.maximum(whole - limit - _SLACK, 0).sum(axis=2)
        now = excess[rows, places[:, t]]
        rank = np.where(excess <= 0, costs[t], np.inf)
        chosen = rank.argmin(axis=1)
        stuck = np.isinf(rank[rows, chosen])
        lower = excess.argmin(axis=1)
        chosen = np.where(stuck, np.where(excess[rows, lower] < now, lower, places[:, t]), chosen)
        places[:, t] = chosen
        used = rest + counts[:, t, None] * shares[t][chosen]
    fits = (used <= limit + _SLACK).all(axis=1)
    value = sum(counts[:, t] * c[places[:, t]] for t, c in enumerate(costs))
    return places, np.where(fits, value, np.inf)


def refined(
    counts: Floats, costs: Sequence[Floats], shares: Sequence[Floats], limit: Floats, found: Priced
) -> Priced:
    """Tries the combinations of the `NEAR` columns of each group that are cheapest at the gateway's prices.

    A choice with any other column costs at least the bound and what that column is dearer, so the bound rises.
    """
    near, beyond = _nearest(counts, costs, shares, found.prices)
    grid = np.indices([n.shape[1] for n in near]).reshape(len(near), -1)
    step = max(1, _CELLS_MAX // grid.shape[1])
    for start in range(0, len(counts), step):
        part = slice(start, start + step)
        chosen = [n[part][:, g] for n, g in zip(near, grid, strict=True)]
        total = np.sum([counts[part, t, None] * costs[t][c] for t, c in enumerate(chosen)], axis=0)
        for r in range(len(limit)):
            used = sum(counts[part, t, None] * shares[t][c, r] for t, c in enumerate(chosen))
            total = np.where(used > limit[r] + _SLACK, np.inf, total)
        best = total.argmin(axis=1)
        rows = np.arange(len(best))
        value = total[rows, best]
        better = np.flatnonzero(value < found.value[part])
        found.value[start + better] = value[better]
        for t, c in enumerate(chosen):
            found.places[start + better, t] = c[better, best[better]]
    proved = np.minimum(found.value, found.bound + beyond)
    found.bound = np.where(np.isfinite(found.bound), np.maximum(found.bound, proved), found.bound)
    return found


def _nearest(
    counts: Floats, costs: Sequence[Floats], shares: Sequence[Floats], prices: Floats
) -> tuple[list[Places], Floats]:
    """Per group [gateway, column] the nearest columns, and how much dearer a choice with any other one is at least."""
    near: list[Places] = []
    beyond = np.full(len(counts), np.inf)
    rows = np.arange(len(counts))
    for t, (cost, share) in enumerate(zip(costs, shares, strict=True)):
        priced = cost + prices @ share.T
        dearer = counts[:, t, None] * (priced - priced.min(axis=1, keepdims=True))
        if len(cost) <= NEAR:
            near.append(np.tile(np.arange(len(cost)), (len(counts), 1)))
            continue
        order = np.argpartition(dearer, NEAR, axis=1)
        near.append(order[:, :NEAR])
        beyond = np.minimum(beyond, dearer[rows, order[:, NEAR]])
    return near, beyond
