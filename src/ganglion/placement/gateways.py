"""The best choice of columns for every gateway, at given prices of what gateways share; many gateways at once.

A gateway with devices of T groups takes one column for each. Where the cheapest columns fit they are the best choice.
Where they do not, all combinations are tried if they are few; else the gateway's own shares get prices
(`ganglion.placement.hulls`), and combinations of the columns that are cheapest at those are tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganglion.placement.columns import AT_GATEWAY, SHARED, WIDTH, Columns, Floats
from ganglion.placement.dominance import pareto
from ganglion.placement.hulls import Priced, along_hulls, by_prices, refined

FEW_COMBINATIONS = 1_000
"""So many are tried one by one at once."""
COMBINATIONS_MAX = 6_000
"""So many are where prices leave it open; more are not."""
_CELLS_MAX = 2_000_000
_SLACK = 1e-9
_SETTLED = 1e-9
"""A choice that is dearer than its bound by no larger part is the best."""

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


@dataclass(frozen=True, slots=True)
class _Lists:
    """Per group the columns that could be best: their places in the table, cost at the prices, scarce shares."""

    kept: list[NDArray[np.int64]]
    costs: list[Floats]
    shares: list[Floats]
    rows: NDArray[np.int64]

    @property
    def combinations(self) -> float:
        return float(np.prod([float(len(kept)) for kept in self.kept]))


def _lists(counts: Floats, tables: Sequence[Table], priced: Sequence[Floats], limit: Floats) -> _Lists:
    most = np.array([t.gateway.max(axis=0) for t in tables])
    rows = np.flatnonzero(((counts @ most) > limit).any(axis=0))
    kept = [pareto(np.column_stack([p, t.gateway[:, rows]])) for p, t in zip(priced, tables, strict=True)]
    shares = [t.gateway[k][:, rows] for t, k in zip(tables, kept, strict=True)]
    return _Lists(kept, [p[k] for p, k in zip(priced, kept, strict=True)], shares, rows)


def _priced(counts: Floats, lists: _Lists, limit: Floats) -> Priced:
    """Prices of each gateway's own shares, and the choices near them."""
    first = along_hulls if len(lists.rows) == 1 else by_prices
    found = first(counts, lists.costs, lists.shares, limit[lists.rows])
    return refined(counts, lists.costs, lists.shares, limit[lists.rows], found)


def _fitted(
    counts: Floats, tables: Sequence[Table], priced: Sequence[Floats], limit: Floats
) -> tuple[Picks, Floats, Floats]:
    lists = _lists(counts, tables, priced, limit)
    costs, shares, rows = lists.costs, lists.shares, lists.rows
    if lists.combinations <= FEW_COMBINATIONS:
        places, value = _all_combinations(counts, costs, shares, limit[rows])
        return _picked(lists.kept, places), value, value.copy()
    found = _priced(counts, lists, limit)
    open_ = np.flatnonzero(found.value - found.bound > _SETTLED * np.abs(found.value))
    if open_.size and lists.combinations <= COMBINATIONS_MAX:
        places, value = _all_combinations(counts[open_], costs, shares, limit[rows])
        found.places[open_], found.value[open_], found.bound[open_] = places, value, value
    return _picked(lists.kept, found.places), found.value, found.bound


def own_prices(batch: Batch, tables: Sequence[Table], prices: Floats, limit: Floats) -> tuple[Floats, Floats]:
    """Prices [kind, 3] of the gateways' own shares at ``prices`` of what they share, and the bound [kind] there.

    The bound is each group's cheapest column at all these prices, less the prices of what the gateway has.
    """
    priced = [t.cost + t.above @ prices for t in tables]
    lists = _lists(batch.counts, tables, priced, limit)
    own = np.zeros((len(batch.counts), 3))
    if lists.rows.size:
        own[:, lists.rows] = _priced(batch.counts, lists, limit).prices
    least = [(p + own @ t.gateway.T).min(axis=1) for p, t in zip(priced, tables, strict=True)]
    return own, (batch.counts * np.column_stack(least)).sum(axis=1) - own @ limit


def _picked(lists: Sequence[NDArray[np.int64]], places: NDArray[np.int64]) -> Picks:
    return np.column_stack([kept[places[:, t]] for t, kept in enumerate(lists)]).astype(np.int32)


def _all_combinations(
    counts: Floats, costs: list[Floats], shares: list[Floats], limit: Floats
) -> tuple[NDArray[np.int64], Floats]:
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
    return grid[:, best].T, value
