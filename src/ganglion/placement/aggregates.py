"""What a fleet's plan says in kinds: nodes that run the same stages under the same kind of site, counted.

For pictures and people: a plan of a million devices has a handful of kinds. Shares are means over the nodes of a kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from ganglion.core.units import SECONDS_PER_DAY
from ganglion.flow.stages import TIERS
from ganglion.placement import cost
from ganglion.placement.columns import OWN, Floats
from ganglion.placement.expansion import Expansion, Pattern
from ganglion.placement.plan import Aggregate, LinkUse, NodeUse
from ganglion.placement.routes import CLOUD, DEVICE, EDGE, GATEWAY, Spot, Wire
from ganglion.placement.rules import CPU_SHARE_MAX


@dataclass(slots=True)
class _Sum:
    """Nodes that do the same, so far: shares of processors, memory, link, added up."""

    stages: tuple[str, ...]
    spot: Spot
    wire: Wire | None
    many: int = 0
    shares: Floats = field(default_factory=lambda: np.zeros(3))


def aggregates(expansion: Expansion) -> tuple[Aggregate, ...]:
    """The kinds of node of a fleet's plan: devices and gateways (the most frequent first), edge sites, the cloud."""
    edges: dict[tuple[object, ...], _Sum] = {}
    gateways: dict[tuple[object, ...], _Sum] = {}
    devices: dict[tuple[object, ...], _Sum] = {}
    for block in range(len(expansion.terrain.fleet.blocks)):
        key = _edge(expansion, block, edges)
        for kind, patterns in expansion.patterns[block].items():
            for pattern in patterns:
                _gateway(expansion, (block, kind), pattern, key, gateways, devices)
    found = [_cloud(expansion)]
    names: dict[tuple[object, ...], str] = {(): found[0].name}
    for tier, sums in (("edge", edges), ("gateway", gateways), ("device", devices)):
        order = {name: place for place, name in enumerate(names.values())}
        ranked = sorted(sums.items(), key=lambda item: -item[1].many)
        if tier == "device":  # as their gateways are
            ranked = sorted(sums.items(), key=lambda item: order[names[_above(item[0])]])
        for place, (key, one) in enumerate(ranked):
            above = names[_above(key)]
            names[key] = f"{one.spot.class_name} {tier}s {place + 1}"
            if tier == "device":
                names[key] = f"{key[1]} at {above}"
            found.append(_finished(names[key], tier, one, above))
    return tuple(found)


def _above(key: tuple[object, ...]) -> tuple[object, ...]:
    """The key of what a node of this key hangs on; that of the cloud is empty."""
    return key[0] if isinstance(key[0], tuple) else ()


def _ordered(expansion: Expansion, stages: Iterable[str]) -> tuple[str, ...]:
    wanted = set(stages)
    return tuple(s.id for s in expansion.terrain.spec.stages if s.id in wanted)


def _merged(expansion: Expansion, rank: int) -> list[str]:
    return [s for s, r in expansion.solution.merged_ranks.items() if r == rank]


def _edge(expansion: Expansion, block: int, edges: dict[tuple[object, ...], _Sum]) -> tuple[object, ...]:
    """The key of a block's edge sites among ``edges``; empty for gateways that hang on the cloud."""
    terrain, plan = expansion.terrain, expansion.solution.blocks[block]
    there = terrain.fleet.blocks[block]
    if there.edge is None:
        return ()
    taken = {
        p for patterns in expansion.patterns[block].values() for one in patterns for p in one.picks.items()
    }
    stages = {s for face, column in taken for s, r in expansion.ranks_of(face, column).items() if r == EDGE}
    ordered = _ordered(expansion, [*stages, *_merged(expansion, EDGE)])
    way = terrain.ground.ways[next(iter(taken))[0]]
    key = ("edge", way.spots[EDGE].class_name, ordered)
    wire = next(w for w in way.wires if w.lower == EDGE)
    one = edges.setdefault(key, _Sum(ordered, way.spots[EDGE], wire))
    one.many += there.many
    one.shares = one.shares + there.many * plan.above[:3]
    return key


def _gateway(
    expansion: Expansion,
    at: tuple[int, int],
    pattern: Pattern,
    edge: tuple[object, ...],
    gateways: dict[tuple[object, ...], _Sum],
    devices: dict[tuple[object, ...], _Sum],
) -> None:
    terrain, block = expansion.terrain, expansion.terrain.fleet.blocks[at[0]]
    counts = block.kinds[at[1]].counts
    groups = [name for name, count in zip(terrain.topology.devices, counts, strict=True) if count]
    number, shares = pattern.many * block.many, np.zeros(3)
    ranks = {face: expansion.ranks_of(face, column) for face, column in pattern.picks.items()}
    for (face, column), count in zip(pattern.picks.items(), (c for c in counts if c), strict=True):
        shares += count * expansion.solution.tables[face].gateway[column]
    stages = _ordered(expansion, (s for one in ranks.values() for s, r in one.items() if r == GATEWAY))
    below = tuple(
        (group, _ordered(expansion, (s for s, r in ranks[face].items() if r == DEVICE)))
        for group, face in zip(groups, pattern.picks, strict=True)
    )
    way = terrain.ground.ways[next(iter(pattern.picks))]
    key = (edge, way.spots[GATEWAY].class_name, stages, below)
    wire = next(w for w in way.wires if w.lower == GATEWAY)
    one = gateways.setdefault(key, _Sum(stages, way.spots[GATEWAY], wire))
    one.many += number
    one.shares = one.shares + number * shares
    for (group, runs), (face, column), count in zip(
        below, pattern.picks.items(), (c for c in counts if c), strict=True
    ):
        spots = terrain.ground.ways[face]
        own = expansion.solution.tables[face].columns.sums[column, OWN][:3]
        each = devices.setdefault((key, group), _Sum(runs, spots.spots[DEVICE], spots.wires[0]))
        each.many += number * count
        each.shares = each.shares + number * count * own


def _finished(name: str, tier: str, one: _Sum, parent: str) -> Aggregate:
    share = one.shares / one.many
    spot, wire = one.spot, one.wire
    busy_max = spot.node_class.cpus * CPU_SHARE_MAX
    use = NodeUse(
        name,
        tier,
        float(share[0]) * busy_max,
        busy_max,
        round(share[1] * spot.memory_bytes),
        spot.memory_bytes,
    )
    up = None
    if wire is not None:
        room = wire.share_max - cost.idle_share(wire)
        whole = float(share[2]) * room + cost.idle_share(wire)
        bytes_per_day = whole * wire.link.bandwidth_bit_per_s / 8 * SECONDS_PER_DAY
        up = LinkUse(f"{name}>{parent}", bytes_per_day, 0.0, whole, 0.0)
    return Aggregate(name, tier, one.many, one.stages, use, up, parent)


def _cloud(expansion: Expansion) -> Aggregate:
    terrain = expansion.terrain
    stages = {
        s
        for face, taken in expansion.taken.items()
        for column in np.flatnonzero(taken)
        for s, r in expansion.ranks_of(face, int(column)).items()
        if r == CLOUD
    }
    used = sum(
        (b.many * p.above[3:] for b, p in zip(terrain.fleet.blocks, expansion.solution.blocks, strict=True)),
        np.zeros(2),
    )
    spot = next(iter(terrain.ground.ways.values())).spots[CLOUD]
    ordered = _ordered(expansion, [*stages, *_merged(expansion, CLOUD)])
    one = _Sum(ordered, spot, None, 1, np.array([*used, 0.0]))
    return replace(_finished(spot.node, TIERS[CLOUD], one, ""), many=1)
