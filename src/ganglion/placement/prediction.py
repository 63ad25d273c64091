"""What a plan says will be measured: every stage, message, byte and part of a loop, one by one.

The same functions that made the plan's own figures make these, from its tiers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ganglion.core.calibration import figures_of
from ganglion.core.topology import Topology
from ganglion.core.units import NS_PER_S
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import TIERS, SourceStage
from ganglion.placement import cost, figures
from ganglion.placement.demand import Key
from ganglion.placement.figures import Ground
from ganglion.placement.plan import Plan
from ganglion.placement.planner import lay_out
from ganglion.placement.routes import DEVICE, Spot

Origin = Literal["measured", "counted", "declared", "stale"]
"""Where a figure comes from: timed, counted instructions, the topology's text; ``stale``: the topology's text, since
what was measured under this name was another work."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage on one node (of ``device:<path>``: on each device): per row, and as a share of a processor."""

    stage: str
    node: str
    row_ns: float
    rows_per_s: float
    cpus: float
    origin: Origin


@dataclass(frozen=True, slots=True)
class NodeCost:
    """``own_cpus``: of the node's program without any message; 0 where that was not measured."""

    node: str
    stages_cpus: float
    messages_cpus: float
    own_cpus: float

    @property
    def cpus(self) -> float:
        return self.stages_cpus + self.messages_cpus + self.own_cpus


@dataclass(frozen=True, slots=True)
class StreamBytes:
    """One stream on one link, all origins together."""

    stream: str
    link: str
    bytes_per_s: float
    messages_per_s: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Everything a run can be compared with. ``loops``: (act, path) -> its parts; ``frames_per_s``: of one origin."""

    stages: tuple[StageCost, ...]
    nodes: tuple[NodeCost, ...]
    streams: tuple[StreamBytes, ...]
    loops: Mapping[Key, cost.LoopParts]
    frames_per_s: float


def predict(spec: FlowSpec, topology: Topology, plan: Plan) -> Prediction:
    """The prediction of a plan made of this flow and topology."""
    ground = lay_out(spec, topology, plan.selectivities)
    ranks = {(p.stage, p.path): TIERS.index(p.tier) for p in plan.placements}
    stages = _stages(ground, ranks)
    acts = [key for key, load in ground.loads.items() if load.stage.kind == "act"]
    return Prediction(
        stages,
        _nodes(ground, ranks, stages),
        _streams(ground, ranks),
        {act: figures.loop_parts(ground, ranks, act) for act in acts},
        math.fsum(NS_PER_S / s.every_ns for s in spec.sources),
    )


def _stages(ground: Ground, ranks: figures.Ranks) -> tuple[StageCost, ...]:
    found: dict[tuple[str, str], StageCost] = {}
    for (stage, path), load in ground.loads.items():
        if isinstance(load.stage, SourceStage):
            continue
        spot = ground.ways[path].spots[ranks[stage, path]]
        before = found.get((stage, spot.node))
        # A node runs a stage for several paths: rows and processors add up, and a row costs the same.
        members = 1 if spot.rank == DEVICE else load.members
        rows = load.rows_in_per_s * members + (before.rows_per_s if before else 0.0)
        cpus = cost.stage_cpus(load, spot) + (before.cpus if before else 0.0)
        origin = origin_of(load.digest, stage, spot)
        found[stage, spot.node] = StageCost(stage, spot.node, cost.compute_ns(load, spot), rows, cpus, origin)
    return tuple(found.values())


def origin_of(digest: str, stage: str, spot: Spot) -> Origin:
    """Where the figure of a stage at a spot comes from."""
    known = figures_of(spot.node_class)
    found = known.stages.get(digest) if known else None
    if found is None:
        return "stale" if known and stage in known.names() else "declared"
    if found.call_ns is not None and found.row_ns is not None:
        return "measured"
    return "counted" if found.instructions is not None and spot.node_class.clock_mhz else "declared"


def _nodes(ground: Ground, ranks: figures.Ranks, stages: tuple[StageCost, ...]) -> tuple[NodeCost, ...]:
    busy = figures.cpus(ground, ranks)
    found = []
    for node, spot in ground.spots().items():
        own = math.fsum(s.cpus for s in stages if s.node == node)
        found.append(NodeCost(node, own, busy[node] - own, cost.own_cpus(spot) or 0.0))
    return tuple(found)


def _streams(ground: Ground, ranks: figures.Ranks) -> tuple[StreamBytes, ...]:
    found: dict[tuple[str, str], StreamBytes] = {}
    for key, wire, urgent in figures.crossings(ground, ranks):
        load = ground.loads[key]
        before = found.get((key[0], wire.id), StreamBytes(key[0], wire.id, 0.0, 0.0))
        found[key[0], wire.id] = StreamBytes(
            key[0],
            wire.id,
            before.bytes_per_s + cost.wire_bytes_per_s(load, wire, urgent=urgent),
            before.messages_per_s + load.messages_per_s(cost.carriage(wire, urgent=urgent)) * load.members,
        )
    return tuple(found.values())
