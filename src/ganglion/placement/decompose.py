"""Large fleets: relaxed, checked, repaired up the tree, with prices where gateways share an edge site or the cloud.

Faces get their columns once; every block (an edge site and its gateways, see `ganglion.placement.fleet`) is solved by
itself at the cloud's prices, which are 0 unless the cloud is full. Merged stages run once for all, so each way to
place them is tried.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ganglion.flow.assignment import ALL
from ganglion.placement.blocks import GAP_MAX, BlockPlan, NoRoom, solve_block
from ganglion.placement.columns import (
    AT_CLOUD,
    AT_EDGE,
    AT_GATEWAY,
    OWN,
    SHARED,
    WIDTH,
    Floats,
    Stencil,
    enumerate_columns,
    merged_sums,
    moved,
    stencil,
    weights_of,
)
from ganglion.placement.cuts import next_prices
from ganglion.placement.gateways import Batch, Table
from ganglion.placement.objective import Objective
from ganglion.placement.pricing import priced_columns, with_columns
from ganglion.placement.pricing_rounds import price_out
from ganglion.placement.solver import OutOfBudget, missing
from ganglion.placement.terrain import Terrain, merged_choices

MERGED_MAX = 64
"""Ways to place the merged stages that are tried."""
CLOUD_ROUNDS_MAX = 12
PRICING_ROUNDS_MAX = 4
_ENDLESS = 1e12
TIE_SHARE = 1e-11
"""A later level of the objective weighs so little of the one before (as far as either can go), and decides ties."""


class NoColumns(Exception):
    """No device of the face has a column: its own rules clash."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class NoBlock(Exception):
    """The block's gateways do not fit; ``kind`` names one that does not by itself.

    Not ``certain`` when columns were priced and not listed: then it is only that none was found.
    """

    def __init__(self, block: int, kind: int | None, *, certain: bool) -> None:
        super().__init__(block, kind)
        self.block = block
        self.kind = kind
        self.certain = certain


@dataclass(slots=True)
class FleetSolution:
    """The chosen columns. ``sums``: of all that is decided, `WIDTH` of them; ``gap``: to the best there may be."""

    terrain: Terrain
    merged_ranks: dict[str, int]
    tables: dict[str, Table]
    blocks: list[BlockPlan]
    sums: Floats
    gap: float
    stencils: dict[str, Stencil] = field(default_factory=dict)
    weights: Floats = field(default_factory=lambda: np.zeros(WIDTH))
    cloud_prices: Floats = field(default_factory=lambda: np.zeros(2))


def solve_fleet(terrain: Terrain, gap_max: float = GAP_MAX) -> FleetSolution:
    """The best solution found, with its certified gap; ``gap_max``: one that is small enough, so search ends there.

    Raises `NoColumns` or `NoBlock` when there is none, `OutOfBudget` when there may be one that was not found.
    """
    best: FleetSolution | None = None
    lowest = np.inf
    failed: Exception | None = None
    ways = list(itertools.islice(merged_choices(terrain), MERGED_MAX + 1))
    faces = {n: stencil(terrain.ground, n, terrain.forbidden, ways[0]) for n in terrain.faces.paths if ways}
    for merged_ranks in ways[:MERGED_MAX]:
        stencils = {name: moved(face, terrain.spec, merged_ranks) for name, face in faces.items()}
        most = np.inf if best is None else _worth(best)
        try:
            found, bound = _solve_with(terrain, merged_ranks, stencils, most, gap_max)
        except _Worse:
            continue
        except (NoColumns, NoBlock) as error:
            failed = failed or error
            continue
        lowest = min(lowest, bound)
        if best is None or _worth(found) < _worth(best):
            best = found
    if best is None:
        raise failed or NoColumns(ALL)
    if len(ways) > MERGED_MAX:
        lowest = 0.0
    cost = _worth(best)
    first = float(best.sums @ weights_of(_first_level(terrain.objective), 0.0))
    gap = max(cost - lowest, 0.0) / max(abs(first), 1e-12)
    best.gap = 0.0 if gap < 1e-8 or cost - lowest < 1e-9 else gap
    return best


def _first_level(objective: Objective) -> Objective:
    return Objective(objective.text, objective.levels[:1])


def _worth(solution: FleetSolution) -> float:
    return float(solution.sums @ solution.weights)


class _Worse(Exception):
    """Even without what devices share, this way to place the merged stages costs more than one that was found."""


def _solve_with(
    terrain: Terrain, merged_ranks: dict[str, int], stencils: dict[str, Stencil], found: float, gap_max: float
) -> tuple[FleetSolution, float]:
    fixed = merged_sums(terrain.ground, merged_ranks)
    if not np.isfinite(fixed).all():
        raise NoColumns(ALL)
    for name, face in stencils.items():
        if not all(face.allowed):
            raise NoColumns(name)
    limits = limits_left(fixed)
    weights = _weights(terrain, stencils)
    active = scarce_rows(terrain, stencils, limits)
    tables = {name: _table(name, face, weights, active[name]) for name, face in stencils.items()}
    alone = sum(terrain.faces.paths[name].count * table.cost.min() for name, table in tables.items())
    if alone + float(fixed @ weights) > found and all(t.columns.complete for t in tables.values()):
        raise _Worse
    plans, bound, prices = _all_blocks(terrain, tables, limits, gap_max)
    for _ in range(PRICING_ROUNDS_MAX):
        if all(table.columns.complete for table in tables.values()):
            break
        priced = price_out(terrain, stencils, tables, plans, (weights, limits, prices))
        bound = priced.bound
        fresh = {name: ranks for name, ranks in priced.fresh.items() if ranks}
        if not fresh:
            break
        for name, ranks in fresh.items():
            more = with_columns(stencils[name], tables[name].columns, ranks, weights, active[name])
            tables[name] = Table.make(more, weights)
        plans, _, prices = _all_blocks(terrain, tables, limits, gap_max)
    sums = fixed + total_sums(terrain, tables, plans)
    solution = FleetSolution(terrain, merged_ranks, tables, plans, sums, 0.0, stencils, weights, prices)
    return solution, bound + float(fixed @ weights)


Limits = tuple[Floats, Floats, Floats]


def limits_left(fixed: Floats) -> Limits:
    """What is left to gateways, edge sites and the cloud; where merged stages run below, there is only one of each."""
    own = (1 - fixed[AT_GATEWAY], 1 - fixed[AT_EDGE], 1 - fixed[AT_CLOUD])
    if (np.concatenate(own) < -1e-9).any():
        raise NoColumns(ALL)
    return own


def _weights(terrain: Terrain, stencils: Mapping[str, Stencil]) -> Floats:
    """The first level, and a trace of the later ones to decide ties."""
    most = sum(
        (terrain.faces.paths[name].count * face.upper[:WIDTH] for name, face in stencils.items()),
        np.zeros(WIDTH),
    )
    levels = terrain.objective.levels
    sizes = [float(most @ weights_of(Objective("", (level,)), 0.0)) for level in levels]
    weights = np.zeros(WIDTH)
    factor = 1.0
    for place, level in enumerate(levels):
        if place and sizes[place] > 0:
            factor = TIE_SHARE * (sizes[0] or 1.0) / sizes[place] * 0.01 ** (place - 1)
        weights += factor * weights_of(Objective("", (level,)), 0.0)
    return weights


def scarce_rows(
    terrain: Terrain, stencils: Mapping[str, Stencil], limits: Limits
) -> dict[str, NDArray[np.bool_]]:
    """Per face, which of the shared rows could run out at all."""
    gateway, edge, cloud = limits
    active = {name: np.zeros(SHARED.stop - SHARED.start, dtype=bool) for name in stencils}
    upper = {name: face.upper[SHARED] for name, face in stencils.items()}
    whole = np.zeros(2)
    for b, batches in enumerate(terrain.batches):
        total = np.zeros(5)
        for batch in batches:
            most = np.array([upper[name] for name in batch.faces])
            tight = (batch.counts @ most[:, :3] > gateway).any(axis=0)
            for name in batch.faces:
                active[name][:3] |= tight
            total += batch.many @ (batch.counts @ most[:, 3:])
        full = total[:3] > edge
        for batch in batches:
            for name in batch.faces:
                active[name][3:6] |= full
        whole += terrain.fleet.blocks[b].many * total[3:]
    for rows in active.values():
        rows[6:] |= whole > cloud
    return active


def _table(name: str, face: Stencil, weights: Floats, active: NDArray[np.bool_]) -> Table:
    columns = enumerate_columns(face, weights, active)
    if not columns.complete:
        columns = priced_columns(face, columns, weights, active)
    if not len(columns.ranks):
        raise NoColumns(name) if columns.complete or not missing() else OutOfBudget(missing())
    return Table.make(columns, weights)


def _all_blocks(
    terrain: Terrain, tables: Mapping[str, Table], limits: Limits, gap_max: float
) -> tuple[list[BlockPlan], float, Floats]:
    """The blocks at the cloud's prices; those are raised while the cloud is too small."""
    gateway, edge, cloud = limits
    many = np.array([block.many for block in terrain.fleet.blocks])
    prices = np.zeros(2)
    bound, fitting = -np.inf, None
    values: list[float] = []
    excess: list[Floats] = []
    for _ in range(CLOUD_ROUNDS_MAX):
        plans = _blocks_at(terrain, tables, (gateway, edge), prices, gap_max)
        used = sum((m * p.above[3:] for m, p in zip(many, plans, strict=True)), np.zeros(2))
        cost = float(sum(m * p.cost for m, p in zip(many, plans, strict=True)))
        bound = max(bound, float(sum(m * p.bound for m, p in zip(many, plans, strict=True)) - prices @ cloud))
        if (used <= cloud + 1e-9).all() and (fitting is None or cost < fitting[0]):
            fitting = (cost, plans, prices)
            if not prices.any() or cost - bound <= 1e-4 * abs(cost):
                break
        values.append(cost)
        excess.append(used - cloud)
        upper, found = next_prices(values, excess, 1e4 * (1 + abs(values[0])))
        if upper - bound <= 1e-6 * abs(upper) or np.array_equal(found, prices):
            break
        prices = found
    if fitting is None:
        raise OutOfBudget("the cloud is too small for every choice that was seen")
    return fitting[1], bound, fitting[2]


def _blocks_at(
    terrain: Terrain,
    tables: Mapping[str, Table],
    limits: tuple[Floats, Floats],
    prices: Floats,
    gap_max: float,
) -> list[BlockPlan]:
    plans: list[BlockPlan] = []
    hints: dict[object, Floats] = {}
    for b, batches in enumerate(terrain.batches):
        # Blocks that face the same have near prices.
        look = tuple(sorted({name for batch in batches for name in batch.faces}))
        edge = limits[1] if terrain.fleet.blocks[b].edge is not None else np.full(3, _ENDLESS)
        try:
            plan = solve_block(batches, tables, (limits[0], edge), prices, hints.get(look), gap_max)
        except NoRoom as error:
            certain = all(tables[name].columns.complete for name in look)
            raise NoBlock(b, error.kind, certain=certain) from error
        hints[look] = plan.prices
        plans.append(plan)
    return plans


def final_picks(batches: Sequence[Batch], plan: BlockPlan) -> list[NDArray[np.int32]]:
    """Per batch the columns that each of its gateways takes: [gateway, face]."""
    found, start = [], 0
    for place, batch in enumerate(batches):
        number = int(batch.many.sum())
        chosen = plan.chosen[start : start + number]
        options = np.array([picks[place] for picks in plan.pool.picks])
        found.append(options[chosen, np.arange(number)])
        start += number
    return found


def total_sums(terrain: Terrain, tables: Mapping[str, Table], plans: Sequence[BlockPlan]) -> Floats:
    """All `WIDTH` sums of the chosen columns of all devices; shares are of no one and left at 0."""
    total = np.zeros(WIDTH)
    for b, plan in enumerate(plans):
        for batch, picks in zip(terrain.batches[b], final_picks(terrain.batches[b], plan), strict=True):
            counts = np.repeat(batch.counts, batch.many, axis=0)
            for t, name in enumerate(batch.faces):
                sums = tables[name].columns.sums[:, : OWN.start]
                weight = np.bincount(picks[:, t], weights=counts[:, t], minlength=len(sums))
                total[: OWN.start] += terrain.fleet.blocks[b].many * (weight @ sums)
    return total
