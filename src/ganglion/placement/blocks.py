"""Edge sites: prices on what their gateways share of them, and the choice of gateways mended to fit.

The bound is the Lagrangian's: at any prices, the gateways' best choices less the prices of the capacities. Prices
come from cutting planes (`ganglion.placement.cuts`). The plan takes
for every gateway one of the choices seen; gateways are moved between theirs until the capacities suffice, the
cheapest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ganglion.placement.closing import close
from ganglion.placement.columns import Floats
from ganglion.placement.cuts import next_prices
from ganglion.placement.gateways import Batch, Choice, Picks, Table, choose
from ganglion.placement.solver import OutOfBudget

ROUNDS_MAX = 30
"""Of new prices for one edge site."""
GAP_MAX = 1e-3
"""A certified gap that is small enough, unless another is asked for."""
_OF_GAP = 0.3
"""Prices are settled when the bound can rise by no larger part of that."""
FEW_KINDS = 40
"""At an edge site with so few kinds of gateway any gap is closed, if that is cheap."""
MOVES_MAX = 400
_SLACK = 1e-9
_EDGE = slice(0, 3)


class NoRoom(Exception):
    """No choice of the block's gateways fits: ``kind`` is the gateway, or None for the edge site itself."""

    def __init__(self, kind: int | None) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(slots=True)
class Pool:
    """The choices seen for every gateway of a block, those of a kind too: [choice, gateway], and what they take."""

    kinds: NDArray[np.int64]
    picks: list[list[Picks]] = field(default_factory=list)
    cost: list[Floats] = field(default_factory=list)
    above: list[Floats] = field(default_factory=list)


@dataclass(slots=True)
class BlockPlan:
    """``chosen``: the choice of every gateway in the pool; ``bound``: at the prices of the cloud."""

    pool: Pool
    chosen: NDArray[np.int64]
    bound: float
    prices: Floats

    @property
    def cost(self) -> float:
        return float(np.array(self.pool.cost)[self.chosen, np.arange(len(self.chosen))].sum())

    @property
    def above(self) -> Floats:
        return np.asarray(np.array(self.pool.above)[self.chosen, np.arange(len(self.chosen))].sum(axis=0))


def solve_block(
    batches: Sequence[Batch],
    tables: Mapping[str, Table],
    limits: tuple[Floats, Floats],
    cloud_prices: Floats,
    hint: Floats | None = None,
    gap_max: float = GAP_MAX,
) -> BlockPlan:
    """The block at given prices of the cloud; ``limits`` [3] of each gateway and [3] of the edge site.

    ``hint``: prices that may be near; ``gap_max``: part of the cost that may be left between plan and bound.
    Raises `NoRoom`, or `OutOfBudget` when what exists was not found.
    """
    gateway_limit, edge_limit = limits
    search = _Search(batches, tables, gateway_limit, edge_limit, cloud_prices)
    search.look(np.zeros(3))
    if (search.excess[0] <= _SLACK).all():
        return BlockPlan(search.pool, np.zeros(len(search.pool.kinds), np.int64), search.bound, np.zeros(3))
    over = search.excess[0] > 0
    # The leanest choices: prices so high that money does not matter show whether anything fits.
    scale = 1.0 + abs(search.values[0])
    search.look(np.where(over, 1e4 * scale / np.maximum(edge_limit, 1e-9), 0.0))
    if hint is not None and hint.any():
        search.look(hint)
    prices = np.zeros(3)
    for _ in range(ROUNDS_MAX):
        upper, prices = next_prices(search.values, search.excess, 1e5 * scale)
        if upper - search.bound <= _OF_GAP * gap_max * max(abs(upper), 1e-12):
            break
        if any(np.array_equal(prices, p) for p in search.seen):
            break
        search.look(prices)
    if search.bound > search.ceiling:
        raise NoRoom(None)
    best = int(np.argmax(search.duals[1:])) + 1
    chosen = np.full(len(search.pool.kinds), best, np.int64)
    mend(search.pool, chosen, edge_limit)
    return _closed(search, BlockPlan(search.pool, chosen, search.bound, search.prices), gap_max)


def _closed(search: _Search, plan: BlockPlan, gap_max: float) -> BlockPlan:
    """The plan, or a better one with a higher bound where its gap is wide, or the edge site small."""
    cost = plan.cost + float(search.cloud_prices @ plan.above[3:])
    gap = (cost - plan.bound) / max(abs(cost), 1e-12)
    kinds = sum(len(batch.kinds) for batch in search.batches)
    if gap <= (_SLACK if kinds <= FEW_KINDS else gap_max):
        return plan
    if not all(search.tables[f].columns.complete for batch in search.batches for f in batch.faces):
        return plan
    limits, prices = (search.gateway_limit, search.edge_limit), (plan.prices, search.cloud_prices)
    found = close(search.batches, search.tables, limits, prices, (cost, plan.bound))
    if found is None:
        return plan
    bound = max(plan.bound, found.bound)
    if found.cost >= cost:
        return BlockPlan(plan.pool, plan.chosen, min(bound, cost), plan.prices)
    last = search.put(found.chosen)
    return BlockPlan(
        plan.pool, np.full(len(plan.chosen), last, np.int64), min(bound, found.cost), plan.prices
    )


class _Search:
    """Choices at prices tried, as cuts: their cost, and how much they take beyond the edge site's shares."""

    def __init__(
        self,
        batches: Sequence[Batch],
        tables: Mapping[str, Table],
        gateway_limit: Floats,
        edge_limit: Floats,
        cloud_prices: Floats,
    ) -> None:
        self.batches, self.tables = batches, tables
        self.gateway_limit, self.edge_limit, self.cloud_prices = gateway_limit, edge_limit, cloud_prices
        self.pool = Pool(np.concatenate([np.repeat(b.kinds, b.many) for b in batches]))
        self.seen: list[Floats] = []
        self.values: list[float] = []
        self.excess: list[Floats] = []
        self.duals: list[float] = []
        self.bound = -np.inf
        self.prices = np.zeros(3)
        # Nothing that fits costs more, so a larger bound proves that nothing fits.
        dearest = [b.counts @ np.array([self.tables[f].cost.max() for f in b.faces]) for b in batches]
        self.ceiling = 1e-6 + 1.001 * sum(
            float(b.many @ np.abs(d)) for b, d in zip(batches, dearest, strict=True)
        )

    def look(self, prices: Floats) -> None:
        """Adds the best choices at the prices; raises `NoRoom` for a gateway without one."""
        every = np.concatenate([prices, self.cloud_prices])
        dual = -float(prices @ self.edge_limit)
        picks, costs, aboves = [], [], []
        for batch in self.batches:
            found = choose(batch, [self.tables[f] for f in batch.faces], every, self.gateway_limit)
            _check(batch, found)
            dual += float(batch.many @ found.bound)
            picks.append(np.repeat(found.picks, batch.many, axis=0))
            costs.append(np.repeat(found.cost, batch.many))
            aboves.append(np.repeat(found.above, batch.many, axis=0))
        self.pool.picks.append(picks)
        cost, above = np.concatenate(costs), np.concatenate(aboves)
        self.pool.cost.append(cost)
        self.pool.above.append(above)
        total = above.sum(axis=0)
        self.seen.append(prices)
        self.values.append(float(cost.sum() + self.cloud_prices @ total[3:]))
        self.excess.append(total[_EDGE] - self.edge_limit)
        self.duals.append(dual)
        if dual > self.bound:
            self.bound, self.prices = dual, prices

    def put(self, chosen: Mapping[int, Sequence[tuple[tuple[int, ...], int]]]) -> int:
        """Adds given choices, kind by kind, to the pool; gives their place in it."""
        picks, costs, aboves = [], [], []
        for batch in self.batches:
            taken = [
                pick for kind in batch.kinds.tolist() for pick, many in chosen[kind] for _ in range(many)
            ]
            own = np.array(taken, dtype=np.int32)
            counts = np.repeat(batch.counts, batch.many, axis=0)
            picks.append(own)
            tables = [self.tables[f] for f in batch.faces]
            costs.append(np.sum([counts[:, t] * one.cost[own[:, t]] for t, one in enumerate(tables)], axis=0))
            aboves.append(
                np.sum([counts[:, t, None] * one.above[own[:, t]] for t, one in enumerate(tables)], axis=0)
            )
        self.pool.picks.append(picks)
        self.pool.cost.append(np.concatenate(costs))
        self.pool.above.append(np.concatenate(aboves))
        return len(self.pool.picks) - 1


def _check(batch: Batch, found: Choice) -> None:
    if np.isinf(found.bound).any():
        raise NoRoom(int(batch.kinds[int(np.flatnonzero(np.isinf(found.bound))[0])]))
    if np.isinf(found.cost).any():
        raise OutOfBudget("no choice was found for a gateway whose columns are too many to try")


def mend(pool: Pool, chosen: NDArray[np.int64], edge_limit: Floats) -> None:
    """Moves gateways between the choices seen until the edge site's shares suffice, then to cheaper ones that fit.

    Raises `OutOfBudget` when no such moves are found.
    """
    cost, above = np.array(pool.cost), np.array(pool.above)[:, :, _EDGE]
    rows = np.arange(len(chosen))
    for _ in range(MOVES_MAX):
        used = above[chosen, rows].sum(axis=0)
        over = used - edge_limit
        if (over <= _SLACK).all():
            break
        dearer = cost - cost[chosen, rows]
        taken = above - above[chosen, rows]
        eased = np.minimum(-taken, np.maximum(over, 0))[:, :, over > _SLACK] / over[over > _SLACK]
        gain = eased.sum(axis=2)
        room = np.where(over > _SLACK, 0.0, np.maximum(-over, 0.0) + _SLACK)
        able = (gain > 1e-12) & (taken <= np.where(over > _SLACK, np.inf, room)).all(axis=2)
        if not able.any():
            raise OutOfBudget("no move between the choices seen makes room at an edge site")
        ratio = np.where(able, np.maximum(dearer, 0.0) / np.where(able, gain, 1.0) + 1e-15 * dearer, np.inf)
        option = ratio.argmin(axis=0)
        rank = ratio[option, rows]
        order = np.argsort(rank, kind="stable")
        order = order[np.isfinite(rank[order])]
        effect = np.cumsum(taken[option[order], order], axis=0)
        enough = (over + effect <= _SLACK).all(axis=1)
        spoilt = (effect > np.where(over > _SLACK, np.inf, room)).any(axis=1)
        last = int(np.argmax(enough)) + 1 if enough.any() else len(order)
        if spoilt.any():
            last = max(1, min(last, int(np.argmax(spoilt))))
        chosen[order[:last]] = option[order[:last]]
    else:
        raise OutOfBudget("moving gateways between the choices seen did not end")
    _cheapen(cost, above, chosen, edge_limit)


def _cheapen(cost: Floats, above: Floats, chosen: NDArray[np.int64], edge_limit: Floats) -> None:
    """Single moves that save and fit, the largest saving per share first, until there is none."""
    rows = np.arange(len(chosen))
    for _ in range(4):
        room = edge_limit - above[chosen, rows].sum(axis=0)
        saved = cost[chosen, rows] - cost
        taken = above - above[chosen, rows]
        able = (saved > 1e-12) & (taken <= room + _SLACK).all(axis=2)
        if not able.any():
            return
        weight = np.maximum(taken, 0) @ (1 / np.maximum(edge_limit, 1e-9)) + 1e-9
        ratio = np.where(able, saved / weight, -np.inf)
        option = ratio.argmax(axis=0)
        order = np.argsort(-ratio[option, rows], kind="stable")
        for gateway in order[: int(able.any(axis=0).sum())][:MOVES_MAX]:
            step = taken[option[gateway], gateway]
            if (step <= room + _SLACK).all():
                chosen[gateway] = option[gateway]
                room = room - step
