"""Flow and fleet before anything is decided: faces with their routes and loads, gateways in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ganglion.core.topology import Topology
from ganglion.flow.assignment import ALL
from ganglion.flow.spec import FlowSpec
from ganglion.placement import rules
from ganglion.placement.demand import demand, merged_stages
from ganglion.placement.figures import Ground
from ganglion.placement.fleet import Faces, Fleet, collapse, faces, shared_ranks
from ganglion.placement.gateways import Batch
from ganglion.placement.measured import uplink_row_bytes
from ganglion.placement.objective import Objective
from ganglion.placement.routes import CLOUD, EDGE, GATEWAY, RANKS, Route, route
from ganglion.placement.rules import Rule, Seat


@dataclass(slots=True)
class Terrain:
    """Flow and fleet before anything is decided."""

    spec: FlowSpec
    topology: Topology
    fleet: Fleet
    faces: Faces
    ground: Ground
    forbidden: Mapping[Seat, frozenset[Rule]]
    batches: tuple[tuple[Batch, ...], ...]
    objective: Objective
    selectivities: Mapping[str, float]


def survey(
    spec: FlowSpec,
    topology: Topology,
    pins: Mapping[str, str],
    selectivities: Mapping[str, float],
    objective: Objective,
) -> Terrain:
    """The flow on the collapsed topology."""
    fleet = collapse(topology)
    found = faces(fleet)
    ways = {name: route(topology, path) for name, path in found.paths.items()}
    gateway, edge = shared_ranks(fleet)
    first = next(iter(ways.values()))
    shared = [
        r for r, there in ((GATEWAY, gateway), (EDGE, edge), (CLOUD, True)) if there and r in first.spots
    ]
    wires = tuple(w for w in first.wires if w.lower in shared and w.upper in shared)
    ways[ALL] = Route(ALL, {r: first.spots[r] for r in shared}, wires, frozenset(), "")
    origins = {name: path.count for name, path in found.paths.items()}
    loads = demand(spec, origins, selectivities, uplink_row_bytes(spec, topology))
    ground = Ground(spec, topology, ways, loads)
    barred = rules.forbidden(spec, ways, loads, pins)
    batches = tuple(_batches(fleet, found, b) for b in range(len(fleet.blocks)))
    return Terrain(spec, topology, fleet, found, ground, barred, batches, objective, dict(selectivities))


def _batches(fleet: Fleet, found: Faces, block: int) -> tuple[Batch, ...]:
    by_faces: dict[tuple[str, ...], list[int]] = {}
    for k, row in enumerate(found.of[block]):
        by_faces.setdefault(tuple(name for name in row if name is not None), []).append(k)
    kinds = fleet.blocks[block].kinds
    return tuple(
        Batch(
            names,
            np.array(members),
            np.array([[c for c in kinds[k].counts if c] for k in members], dtype=float),
            np.array([kinds[k].many for k in members]),
        )
        for names, members in by_faces.items()
    )


def merged_choices(terrain: Terrain) -> Iterator[dict[str, int]]:
    """Every way to place the merged stages that no rule of their own forbids, rising with the data."""
    spec = terrain.spec
    merged = [s for s in spec.stages if s.id in merged_stages(spec)]
    names = {s.id for s in merged}

    def extend(done: dict[str, int]) -> Iterator[dict[str, int]]:
        if len(done) == len(merged):
            yield dict(done)
            return
        stage = merged[len(done)]
        lowest = max((done[i] for i in stage.inputs if i in names), default=0)
        for rank in RANKS:
            if rank >= lowest and not terrain.forbidden[stage.id, ALL, rank]:
                yield from extend({**done, stage.id: rank})

    yield from extend({})
