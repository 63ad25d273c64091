"""Rounds of column generation: whether a column that no list has would help, and the bound that holds without lists.

At prices of the edge site and the cloud (their mean over the blocks) and of a gateway's own shares (a few steps), the
cheapest column of every face bounds what any gateway can do: its devices times those, less the prices of what it has.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganglion.placement.blocks import BlockPlan
from ganglion.placement.columns import Floats, Stencil
from ganglion.placement.gateways import Table
from ganglion.placement.pricing import cheapest
from ganglion.placement.terrain import Terrain

LEVELS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
PRICED_MAX = 4
"""Prices of gateways at which all faces are priced."""
_HELPS = 1e-6


@dataclass(frozen=True, slots=True)
class PricedOut:
    """``bound``: nothing costs less, whatever its columns; ``fresh``: per face, columns that would help."""

    bound: float
    fresh: dict[str, list[NDArray[np.int8]]]


def price_out(
    terrain: Terrain,
    stencils: Mapping[str, Stencil],
    tables: Mapping[str, Table],
    plans: Sequence[BlockPlan],
    at: tuple[Floats, tuple[Floats, Floats, Floats], Floats],
) -> PricedOut:
    """Prices every face at a few gateway prices; ``at``: weights, limits of gateway, edge and cloud, cloud prices."""
    weights, (gateway, edge, cloud), cloud_prices = at
    many = np.array([b.many for b in terrain.fleet.blocks], dtype=float)
    mean = np.average([p.prices for p in plans], axis=0, weights=many)
    above = np.concatenate([mean, cloud_prices])
    chosen = _gateway_prices(terrain, tables, above, gateway)
    lows: list[dict[str, float]] = []
    fresh: dict[str, list[NDArray[np.int8]]] = {name: [] for name in tables}
    for prices in chosen:
        every = np.concatenate([prices, above])
        low = {}
        for name, table in tables.items():
            listed = float((table.cost + table.gateway @ prices + table.above @ above).min())
            if table.columns.complete:
                low[name] = listed
                continue
            found = cheapest(stencils[name], weights, every)
            low[name] = min(found.low, listed)
            if found.ranks is not None and found.low < listed - _HELPS * max(abs(listed), 1e-12):
                fresh[name].append(found.ranks)
        lows.append(low)
    bound = -float(cloud_prices @ cloud)
    for block, batches in zip(terrain.fleet.blocks, terrain.batches, strict=True):
        one = -float(mean @ edge) if block.edge is not None else 0.0
        for batch in batches:
            values = [batch.counts @ np.array([low[f] for f in batch.faces]) - prices @ gateway
                      for low, prices in zip(lows, chosen, strict=True)]  # fmt: skip
            one += float(batch.many @ np.max(values, axis=0))
        bound += block.many * one
    return PricedOut(bound, fresh)


def _gateway_prices(
    terrain: Terrain, tables: Mapping[str, Table], above: Floats, limit: Floats
) -> list[Floats]:
    """None, and the prices (of a grid on the scale of the columns) that bound most gateways best by their lists."""
    spread = np.max([np.ptp(t.cost + t.above @ above) for t in tables.values()])
    taken = np.max([np.ptp(t.gateway, axis=0) for t in tables.values()], axis=0)
    worth = np.where(taken > 1e-9, spread / np.maximum(taken, 1e-9), 0.0)
    grid = [worth * np.array(step) for step in itertools.product(LEVELS, repeat=3)]
    grid = list({tuple(g): g for g in grid}.values())
    votes = np.zeros(len(grid))
    for batches in terrain.batches:
        for batch in batches:
            best = np.full(len(batch.counts), -np.inf)
            winner = np.zeros(len(batch.counts), dtype=np.int64)
            for place, prices in enumerate(grid):
                priced = (
                    tables[f].cost + tables[f].gateway @ prices + tables[f].above @ above for f in batch.faces
                )
                mins = np.array([p.min() for p in priced])
                value = batch.counts @ mins - prices @ limit
                winner = np.where(value > best + 1e-12, place, winner)
                best = np.maximum(best, value)
            votes += np.bincount(winner, weights=batch.many, minlength=len(grid))
    order = [int(g) for g in np.argsort(-votes, kind="stable")[:PRICED_MAX] if votes[g] > 0]
    return [np.zeros(3), *(grid[g] for g in order if grid[g].any())]
