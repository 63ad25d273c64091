"""The best choice of columns for every gateway, at given prices of what gateways share; many gateways at once.

A gateway with devices of T groups takes one column for each. Where the cheapest columns fit they are the best choice.
Where they do not, all combinations of columns that could be best are tried; where those are too many, prices of the
gateway's own shares are raised (subgradient steps) and the choice is mended by changing one column at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganglion.placement.columns import AT_GATEWAY, SHARED, WIDTH, Columns, Floats
from ganglion.placement.dominance import pareto

COMBINATIONS_MAX = 6_000
"""More are not tried one by one."""
STEPS_MAX = 60
"""Of raising a gateway's prices."""
_CELLS_MAX = 2_000_000
_SLACK = 1e-9

Picks = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of one face, as the choice sees them: what each costs, and takes of gateway and above."""

    columns: Columns
    cost: Floats
    gateway: Floats
    above: Floats

    @staticmethod
    def make(columns: Columns, weights: Floats) -> Table:
        """The table of some columns, at the objective's weights."""
        sums = columns.sums
        return Table(
            columns,
            sums[:, :WIDTH] @ weights,
            np.ascontiguousarray(sums[:, AT_GATEWAY]),
            np.ascontiguousarray(sums[:, AT_GATEWAY.stop : SHARED.stop]),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Kinds of gateway with devices of the same faces: ``counts`` [kind, face] of them, ``many`` of each kind."""

    faces: tuple[str, ...]
    kinds: NDArray[np.int64]
    counts: Floats
    many: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Choice:
    """Per kind of gateway: a column for each face, what that costs and takes above, and what no choice is below.

    ``bound`` counts prices in; it is infinite where no choice exists, and so is ``cost`` where none was found.
    """

    picks: Picks
    cost: Floats
    above: Floats
    bound: Floats


def choose(batch: Batch, tables: Sequence[Table], prices: Floats, limit: Floats) -> Choice:
    """The best choice for every kind of gateway of the batch; ``limit`` [3] of each gateway's own shares."""
    priced = [t.cost + t.above @ prices for t in tables]
    counts = batch.counts
    first = np.array([p.argmin() for p in priced], dtype=np.int32)
    picks = np.tile(first, (len(counts), 1))
    value = counts @ np.array([p[c] for p, c in zip(priced, first, strict=True)])
    bound = value.copy()
    used = counts @ np.array([t.gateway[c] for t, c in zip(tables, first, strict=True)])
    tight = np.flatnonzero((used > limit + _SLACK).any(axis=1))
    if tight.size:
        found, value[tight], bound[tight] = _fitted(counts[tight], tables, priced, limit)
        picks[tight] = found
    lost = np.isinf(value)
    above = np.zeros((len(counts), tables[0].above.shape[1]))
    cost = np.zeros(len(counts))
    for t, table in enumerate(tables):
        above += counts[:, t, None] * table.above[picks[:, t]]
        cost += counts[:, t] * table.cost[picks[:, t]]
    cost[lost] = np.inf
    return Choice(picks, cost, above, bound)


def _fitted(
    counts: Floats, tables: Sequence[Table], priced: Sequence[Floats], limit: Floats
) -> tuple[Picks, Floats, Floats]:
    most = np.array([t.gateway.max(axis=0) for t in tables])
    rows = np.flatnonzero(((counts @ most) > limit).any(axis=0))
    lists = [pareto(np.column_stack([p, t.gateway[:, rows]])) for p, t in zip(priced, tables, strict=True)]
    shares = [t.gateway[kept][:, rows] for t, kept in zip(tables, lists, strict=True)]
    costs = [p[kept] for p, kept in zip(priced, lists, strict=True)]
    if np.prod([float(len(kept)) for kept in lists]) <= COMBINATIONS_MAX:
        places, value, bound = _all_combinations(counts, costs, shares, limit[rows])
    else:
        places, value, bound = _by_prices(counts, costs, shares, limit[rows])
    picks = np.column_stack([kept[places[:, t]] for t, kept in enumerate(lists)]).astype(np.int32)
    return picks, value, bound


def _all_combinations(
    counts: Floats, costs: list[Floats], shares: list[Floats], limit: Floats
) -> tuple[NDArray[np.int64], Floats, Floats]:
    grid = np.indices([len(c) for c in costs]).reshape(len(costs), -1)
    worth = np.array([c[g] for c, g in zip(costs, grid, strict=True)])
    taken = [np.array([s[g, r] for s, g in zip(shares, grid, strict=True)]) for r in range(len(limit))]
    best = np.zeros(len(counts), dtype=np.int64)
    value = np.zeros(len(counts))
    step = max(1, _CELLS_MAX // grid.shape[1])
    for start in range(0, len(counts), step):
        part = counts[start : start + step]
        total = part @ worth
        for r, one in enumerate(taken):
            total[part @ one > limit[r] + _SLACK] = np.inf
        chosen = total.argmin(axis=1)
        best[start : start + step] = chosen
        value[start : start + step] = total[np.arange(len(part)), chosen]
    return grid[:, best].T, value, value.copy()


def _by_prices(
    counts: Floats, costs: list[Floats], shares: list[Floats], limit: Floats
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Each gateway's own prices are raised until its columns fit; the best price seen is the bound."""
    number = len(counts)
    prices = np.zeros((number, len(limit)))
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
        reach = np.where(rises, reach, reach * 0.7)
        if step % 4 == 3 or step == STEPS_MAX - 1:
            tried, now = _mended(places, counts, costs, shares, limit)
            better = now < value
            value[better], best[better] = now[better], tried[better]
        target = np.where(np.isfinite(value), value, dual + 0.1 * np.abs(dual) + 1e-6)
        size = np.maximum((over**2).sum(axis=1), 1e-12)
        prices = np.maximum(prices + (reach * np.maximum(target - dual, 0) / size)[:, None] * over, 0.0)
    bound[none] = np.inf
    return best, value, np.minimum(bound, value)


def _mended(
    places: NDArray[np.int64], counts: Floats, costs: list[Floats], shares: list[Floats], limit: Floats
) -> tuple[NDArray[np.int64], Floats]:
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
