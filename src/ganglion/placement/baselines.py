"""What simpler policies would do with the same fleet: to say what a plan is worth, and where it is worth nothing.

Each goes through the gateways once, group by group, and gives every group the first of its columns, in the policy's
order, that fits the gateway, the edge site and the cloud and leaves each share that those who come later need at
least. Rules are kept; devices for which nothing fits are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ganglion.core.errors import PlacementInfeasible
from ganglion.placement.columns import (
    SHARED,
    WIDTH,
    Floats,
    Stencil,
    enumerate_columns,
    merged_sums,
    stencil,
    weights_of,
)
from ganglion.placement.decompose import limits_left, scarce_rows
from ganglion.placement.gateways import Batch
from ganglion.placement.objective import QUANTITIES, Objective
from ganglion.placement.routes import EDGE, RANKS
from ganglion.placement.terrain import Terrain, merged_choices

POLICIES = ("greedy", "edge-ward", "edge-only", "cloud-only", "fastest")
"""Cheapest first; lowest tiers first; as near to the edge site as may be; as high as may be; fastest reflexes first."""
COLUMNS_TRIED_MAX = 1_000
"""A policy looks at no more of a face's columns: its first ones, and the leanest in each share."""
_HEIGHT, _LATENCY = QUANTITIES.index("height"), QUANTITIES.index("latency_ms")
_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy comes to: the objective's first level, of the devices it could place; the slowest mean loop."""

    policy: str
    worth: float
    unplaced: int
    devices: int


def compare(terrain: Terrain, policy: str) -> Outcome:
    """What the policy does; raises ``placement.policy`` for one that is not known."""
    if policy not in POLICIES:
        raise PlacementInfeasible(
            "placement.policy",
            f"there is no policy {policy!r}",
            why=f"known are {', '.join(POLICIES)}",
            next_step="name some of those, e.g. --compare greedy,cloud-only",
        )
    first = weights_of(Objective("", terrain.objective.levels[:1]), 0.0)
    best: Outcome | None = None
    for merged_ranks in merged_choices(terrain):
        fixed = merged_sums(terrain.ground, merged_ranks)
        if not np.isfinite(fixed).all() or (fixed[SHARED] > 1 + _SLACK).any():
            continue
        found = _walk(terrain, policy, merged_ranks, fixed, first)
        if best is None or (found.unplaced, found.worth) < (best.unplaced, best.worth):
            best = found
    devices = terrain.fleet.devices
    return best or Outcome(policy, 0.0, devices, devices)


def _walk(
    terrain: Terrain, policy: str, merged_ranks: dict[str, int], fixed: Floats, first: Floats
) -> Outcome:
    stencils = {
        name: stencil(terrain.ground, name, terrain.forbidden, merged_ranks) for name in terrain.faces.paths
    }
    if not all(all(face.allowed) for face in stencils.values()):
        return Outcome(policy, 0.0, terrain.fleet.devices, terrain.fleet.devices)
    scarce = scarce_rows(terrain, stencils, limits_left(fixed))
    ordered = {name: _in_order(face, policy, first, scarce[name]) for name, face in stencils.items()}
    worth, unplaced = float(fixed @ first), 0
    cloud = 1 - fixed[SHARED][6:]
    for block, batches in zip(terrain.fleet.blocks, terrain.batches, strict=True):
        edge = 1 - fixed[SHARED][3:6] if block.edge is not None else np.full(3, 1e12)
        room = np.concatenate([np.zeros(3), edge, cloud])
        later = sum((batch.many @ batch.counts @ _leanest(ordered, batch) for batch in batches), np.zeros(8))
        for batch in batches:
            lean = _leanest(ordered, batch)
            for counts, many in zip(batch.counts, batch.many, strict=True):
                for _ in range(int(many)):
                    room[:3] = 1 - fixed[SHARED][:3]
                    here = counts @ lean
                    for name, count, least in zip(batch.faces, counts, lean, strict=True):
                        here, later = here - count * least, later - count * least
                        kept = np.concatenate([here[:3], later[3:6], np.zeros(2)])
                        cost, shares = ordered[name]
                        fits = (count * shares <= room - kept + _SLACK).all(axis=1)
                        place = int(fits.argmax()) if len(fits) else 0
                        if not len(fits) or not fits[place]:
                            unplaced += int(count) * block.many
                            continue
                        room = room - count * shares[place]
                        worth += float(count * cost[place]) * block.many
        cloud = np.maximum(cloud - block.many * (cloud - room[6:]), 0.0)
    return Outcome(policy, worth, unplaced, terrain.fleet.devices)


def _leanest(ordered: Mapping[str, tuple[Floats, Floats]], batch: Batch) -> Floats:
    """[face, share]: what a device takes of each share at least."""
    found = [ordered[f][1] for f in batch.faces]
    return np.array([shares.min(axis=0) if len(shares) else np.zeros(8) for shares in found])


def _in_order(face: Stencil, policy: str, first: Floats, scarce: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Cost and shares of the columns, in the policy's order."""
    weights = np.zeros(WIDTH)
    if policy == "greedy":
        weights = first.copy()
    elif policy == "fastest":
        weights[_LATENCY] = 1.0
    else:
        sign = -1.0 if policy == "cloud-only" else 1.0
        seats = face.seats.copy()
        if policy == "edge-only":
            for rank in RANKS:
                seats[:, rank, _HEIGHT] = abs(rank - EDGE)
        face = replace(face, seats=seats)
        weights[_HEIGHT] = sign
    # Among columns that the policy finds equal, the cheaper one.
    weights = weights + (1e-9 * first if policy != "greedy" else 0.0)
    columns = enumerate_columns(face, weights, scarce, most=COLUMNS_TRIED_MAX)
    order = np.argsort(columns.sums[:, :WIDTH] @ weights, kind="stable")
    sums = columns.sums[order]
    return sums[:, :WIDTH] @ first, sums[:, SHARED]
