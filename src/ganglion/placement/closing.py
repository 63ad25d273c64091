"""An edge site's gap closed: every choice of its gateways that could be in a better plan, as one small program.

At the edge site's prices each choice of a gateway is dearer than the gateway's best one by its reduced cost. In a plan
that is better than the one found, no reduced cost is above the gap between that plan and the bound (G. Dantzig,
R. Fulkerson, S. Johnson, 1954). What is left is listed, and HiGHS takes one for every gateway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganglion.placement.columns import Floats
from ganglion.placement.dominance import pareto
from ganglion.placement.gateways import Batch, Table, choose, own_prices
from ganglion.placement.solver import OutOfBudget, Program, solve

KINDS_MAX = 200
"""Kinds of gateway at an edge site whose gap is closed."""
CHOICES_MAX = 4_000
"""Of all its gateways together."""
COMBINATIONS_MAX = 100_000
NODES_MAX = 500
_SLACK = 1e-9


class _TooMany(Exception):
    """More choices could be in a better plan than are listed."""


@dataclass(frozen=True, slots=True)
class Closed:
    """``chosen``: kind -> (columns of its groups, how many of its gateways take them); ``bound``: of the whole."""

    chosen: dict[int, list[tuple[tuple[int, ...], int]]]
    cost: float
    bound: float


@dataclass(frozen=True, slots=True)
class _Listed:
    kind: int
    many: int
    picks: NDArray[np.int64]
    cost: Floats
    above: Floats


def close(
    batches: Sequence[Batch],
    tables: Mapping[str, Table],
    limits: tuple[Floats, Floats],
    prices: tuple[Floats, Floats],
    gap: tuple[float, float],
) -> Closed | None:
    """The best choice for every gateway; None when too many could be, or the program's budget ended.

    ``limits`` [3] of each gateway and [3] of the edge site, ``prices`` [3] of the edge site and [2] of the cloud;
    ``gap``: cost of the plan found (with the cloud's prices) and the bound, both in the objective's unit.
    """
    if sum(len(b.kinds) for b in batches) > KINDS_MAX:
        return None
    every = np.concatenate(prices)
    slack = gap[0] - gap[1] + _SLACK * abs(gap[0])
    listed: list[_Listed] = []
    try:
        for batch in batches:
            listed += _listed(batch, [tables[f] for f in batch.faces], every, limits[0], slack)
            if sum(len(one.cost) for one in listed) > CHOICES_MAX:
                return None
        return _solved(listed, limits[1], prices[1], gap[0])
    except (_TooMany, OutOfBudget):
        return None


def _listed(
    batch: Batch, tables: Sequence[Table], every: Floats, limit: Floats, slack: float
) -> list[_Listed]:
    best = choose(batch, tables, every, limit)
    prices, bound = own_prices(batch, tables, every, limit)
    found = []
    for row, kind in enumerate(batch.kinds.tolist()):
        counts = batch.counts[row]
        most = float(best.bound[row]) + slack
        picks = _combined(counts, tables, every, prices[row], most - float(bound[row]))
        cost = sum(n * t.cost[picks[:, g]] for g, (n, t) in enumerate(zip(counts, tables, strict=True)))
        above = sum(n * t.above[picks[:, g]] for g, (n, t) in enumerate(zip(counts, tables, strict=True)))
        own = sum(n * t.gateway[picks[:, g]] for g, (n, t) in enumerate(zip(counts, tables, strict=True)))
        cost, above = np.asarray(cost), np.asarray(above)
        able = np.flatnonzero((own <= limit + _SLACK).all(axis=1) & (cost + above @ every <= most))
        able = able[pareto(np.column_stack([cost[able], above[able]]))]
        found.append(_Listed(kind, int(batch.many[row]), picks[able], cost[able], above[able]))
    return found


def _combined(
    counts: Floats, tables: Sequence[Table], every: Floats, own: Floats, most: float
) -> NDArray[np.int64]:
    """Combinations of columns, one per group, that together are dearer by at most ``most`` at all prices."""
    picks = np.zeros((1, 0), np.int64)
    dearer = np.zeros(1)
    for count, table in zip(counts, tables, strict=True):
        priced = table.cost + table.above @ every + table.gateway @ own
        extra = count * (priced - priced.min())
        near = np.flatnonzero(extra <= most)
        if len(near) * len(picks) > COMBINATIONS_MAX * 10:
            raise _TooMany
        total = dearer[:, None] + extra[near]
        old, new = np.nonzero(total <= most)
        if len(old) > COMBINATIONS_MAX:
            raise _TooMany
        picks = np.column_stack([picks[old], near[new]])
        dearer = total[old, new]
    return picks


def _solved(
    listed: Sequence[_Listed], edge_limit: Floats, cloud_prices: Floats, scale: float
) -> Closed | None:
    program = Program()
    costs: dict[int, float] = {}
    rows: list[dict[int, float]] = [{} for _ in edge_limit]
    owner: list[tuple[_Listed, int]] = []
    for one in listed:
        first = len(program.upper)
        for choice in range(len(one.cost)):
            column = program.column(whole=True)
            program.upper[column] = float(one.many)
            owner.append((one, choice))
            costs[column] = float(one.cost[choice] + cloud_prices @ one.above[choice, 3:])
            for r, row in enumerate(rows):
                row[column] = float(one.above[choice, r]) / max(float(edge_limit[r]), 1e-12)
        own = dict.fromkeys(range(first, len(program.upper)), 1.0)
        program.row(own, low=float(one.many), high=float(one.many))
    for row in rows:
        program.row(row, high=1.0)
    size = abs(scale) or 1.0
    found = solve(program, {c: v / size for c, v in costs.items()}, nodes_max=NODES_MAX)
    if found is None:
        return None
    chosen: dict[int, list[tuple[tuple[int, ...], int]]] = {}
    for column, (one, choice) in enumerate(owner):
        many = round(found.values[column])
        if many:
            chosen.setdefault(one.kind, []).append((tuple(one.picks[choice].tolist()), many))
    cost = sum(costs[c] * round(found.values[c]) for c in costs)
    return Closed(chosen, cost, (found.objective - found.gap * abs(found.objective)) * size)
