"""The figures of a chosen placement: loops, links, nodes, money and assignments, from its tiers alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ganglion.core.topology import Topology
from ganglion.core.units import SECONDS_PER_DAY
from ganglion.flow.assignment import ALL, Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import TIERS, SourceStage
from ganglion.placement import cost
from ganglion.placement.demand import Key, Load
from ganglion.placement.plan import LinkUse, Loop, Money, NodeUse
from ganglion.placement.routes import DEVICE, HOURS_PER_MONTH, SECONDS_PER_MONTH, Route, Spot, Wire
from ganglion.placement.rules import CPU_SHARE_MAX


@dataclass(frozen=True, slots=True)
class Ground:
    """A flow on a topology: all that is given before anything is decided."""

    spec: FlowSpec
    topology: Topology
    ways: Mapping[str, Route]
    loads: Mapping[Key, Load]
    leading: frozenset[str] = field(init=False, compare=False)
    """The stages that reflexes need, and the reflexes."""
    _readers: Mapping[str, tuple[str, ...]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        acts = self.spec.reflexes
        leading = frozenset(x for act in acts for x in (*self.spec.ancestors(act.id), act.id))
        object.__setattr__(self, "leading", leading)
        readers = {s.id: tuple(c.id for c in self.spec.consumers(s.id)) for s in self.spec.stages}
        object.__setattr__(self, "_readers", readers)

    def readers(self, key: Key) -> list[Key]:
        """The stages, each on its path, that read the output of ``key``."""
        stage, path = key
        return [(n, path) if (n, path) in self.loads else (n, ALL) for n in self._readers[stage]]

    def urgent_readers(self, key: Key) -> list[Key]:
        """Those of them that lead to an actuator, when the stage does too."""
        leading = self.leading
        return [r for r in self.readers(key) if r[0] in leading] if key[0] in leading else []

    def loop_stages(self, act: str, path: str) -> list[Key]:
        """The stages a frame goes through until the command is given, in flow order."""
        wanted = {*self.spec.ancestors(act), act}
        return [k for k in self.loads if k[0] in wanted and k[1] == path]

    def spots(self) -> dict[str, Spot]:
        """Every node that some path has, devices first."""
        return {
            spot.node: spot
            for rank in range(len(TIERS))
            for way in self.ways.values()
            for spot in [way.spots.get(rank)]
            if spot is not None
        }

    def wires(self) -> dict[str, Wire]:
        """Every link that some path has, devices' first."""
        found = [wire for way in self.ways.values() for wire in way.wires]
        return {wire.id: wire for wire in sorted(found, key=lambda w: w.lower)}


Ranks = Mapping[Key, int]


def crossings(ground: Ground, ranks: Ranks) -> Iterator[tuple[Key, Wire, bool]]:
    """Every stream with every link it goes up, once however many read it above; and whether a reflex waits for it."""
    for key in ground.loads:
        highest = max([ranks[r] for r in ground.readers(key)], default=0)
        urgent = max([ranks[r] for r in ground.urgent_readers(key)], default=0)
        for wire in ground.ways[key[1]].wires:
            if ranks[key] <= wire.lower < highest:
                yield key, wire, wire.lower < urgent


def loop_parts(ground: Ground, ranks: Ranks, act: Key) -> cost.LoopParts:
    """Frame complete -> command at the actuator, without waiting for others' frames."""
    way = ground.ways[act[1]]
    keys = ground.loop_stages(*act)
    crossed = {k for k, wire, urgent in crossings(ground, ranks) if urgent and wire.device_link}
    parts = cost.loop_fixed_parts(way)
    for key in keys:
        at = ranks[key]
        computing = cost.compute_ns(ground.loads[key], way.spots[at])
        here = cost.LoopParts(device=computing) if at == DEVICE else cost.LoopParts(gateway=computing)
        parts = parts.plus(here)
        if key in crossed:
            parts = parts.plus(cost.loop_stream_parts(ground.loads[key], way))
    return parts


def loop_ns(ground: Ground, ranks: Ranks, act: Key) -> float:
    """The sum of `loop_parts`."""
    return math.fsum(loop_parts(ground, ranks, act))


def loops(ground: Ground, ranks: Ranks) -> tuple[Loop, ...]:
    """All reflexes on all paths."""
    return tuple(
        Loop(act, path, round(loop_ns(ground, ranks, (act, path))), cost.deadline_ns(load))
        for (act, path), load in ground.loads.items()
        if load.stage.kind == "act"
    )


def links(ground: Ground, ranks: Ranks) -> tuple[LinkUse, ...]:
    """What goes up every link, and what would with every frame sent to the cloud."""
    used: dict[str, list[tuple[Load, bool]]] = {w: [] for w in ground.wires()}

    raw: dict[str, list[Load]] = {w: [] for w in ground.wires()}

    for key, wire, urgent in crossings(ground, ranks):
        used[wire.id].append((ground.loads[key], urgent))

    for key, load in ground.loads.items():
        if isinstance(load.stage, SourceStage):
            for wire in ground.ways[key[1]].wires:
                raw[wire.id].append(load)
    return tuple(_link(wire, used[name], raw[name]) for name, wire in ground.wires().items())


def _link(wire: Wire, used: list[tuple[Load, bool]], raw: list[Load]) -> LinkUse:
    idle = cost.idle_bytes_per_s(wire)
    per_s = math.fsum([idle, *(cost.wire_bytes_per_s(x, wire, urgent=u) for x, u in used)])

    return LinkUse(
        wire.id,
        per_s * SECONDS_PER_DAY,
        math.fsum(x.rows_out_per_s * x.row_bytes * x.members for x in raw) * SECONDS_PER_DAY,
        math.fsum([cost.idle_share(wire), *(cost.wire_share(x, wire, urgent=u) for x, u in used)]),
        per_s * SECONDS_PER_MONTH * wire.per_byte,
    )


def cpus(ground: Ground, ranks: Ranks) -> dict[str, float]:
    """Node -> processors kept busy (of each device)."""
    parts: dict[str, list[float]] = {node: [] for node in ground.spots()}
    for key, load in ground.loads.items():
        spot = ground.ways[key[1]].spots[ranks[key]]
        parts[spot.node].append(cost.stage_cpus(load, spot))

    for key, wire, urgent in crossings(ground, ranks):
        for rank in (wire.lower, wire.upper):
            spot = ground.ways[key[1]].spots[rank]
            parts[spot.node].append(cost.hop_cpus(ground.loads[key], wire, spot, urgent=urgent))
    return {node: math.fsum(values) for node, values in parts.items()}


def kilowatts(ground: Ground, ranks: Ranks) -> dict[str, float]:
    """Node -> power above idle (of each device)."""
    parts: dict[str, list[float]] = {node: [] for node in ground.spots()}
    for key, load in ground.loads.items():
        spot = ground.ways[key[1]].spots[ranks[key]]
        parts[spot.node].append(cost.stage_kilowatt(load, spot))
    for key, wire, urgent in crossings(ground, ranks):
        for rank in (wire.lower, wire.upper):
            spot = ground.ways[key[1]].spots[rank]
            busy = cost.hop_cpus(ground.loads[key], wire, spot, urgent=urgent)
            parts[spot.node].append(busy * spot.busy_kilowatt)
    return {node: math.fsum(values) for node, values in parts.items()}


def nodes(ground: Ground, ranks: Ranks) -> tuple[NodeUse, ...]:
    """What every node has to do."""
    busy = cpus(ground, ranks)
    memory = dict.fromkeys(busy, 0)
    flash = dict.fromkeys(busy, 0)
    for key, load in ground.loads.items():
        spot = ground.ways[key[1]].spots[ranks[key]]
        memory[spot.node] += cost.stage_memory_bytes(load, spot)
        flash[spot.node] += cost.stage_flash_bytes(load, spot)
    return tuple(
        NodeUse(
            node,
            TIERS[spot.rank],
            busy[node],
            spot.node_class.cpus * CPU_SHARE_MAX,
            memory[node],
            spot.memory_bytes,
            None if spot.flash_bytes is None else flash[node],
            spot.flash_bytes,
        )
        for node, spot in ground.spots().items()
    )


def money(ground: Ground, ranks: Ranks) -> Money:
    """The month's bill, with what is paid whatever is decided."""
    volume, energy, cpu, fixed = [0.0], [0.0], [0.0], [0.0]

    moved = [(w, cost.idle_bytes_per_s(w)) for w in ground.wires().values()]
    for key, wire, urgent in crossings(ground, ranks):
        moved.append((wire, cost.wire_bytes_per_s(ground.loads[key], wire, urgent=urgent)))
    for wire, per_s in moved:
        volume.append(per_s * SECONDS_PER_MONTH * (wire.per_byte - wire.energy_per_byte))
        energy.append(per_s * SECONDS_PER_MONTH * wire.energy_per_byte)

    spots, power = ground.spots(), kilowatts(ground, ranks)
    for node, busy in cpus(ground, ranks).items():
        spot = spots[node]
        energy.append(power[node] * spot.count * HOURS_PER_MONTH * spot.energy_per_kwh)
        cpu.append(busy * spot.count * spot.node_class.price_per_cpu_month)
        idle_kilowatt_hours = spot.node_class.watts_idle / 1000 * HOURS_PER_MONTH
        energy.append(spot.count * idle_kilowatt_hours * ground.topology.electricity_per_kwh)
        fixed.append(spot.count * spot.node_class.price_per_month)
    return Money(math.fsum(volume), math.fsum(energy), math.fsum(cpu), math.fsum(fixed))


def assignments(ground: Ground, ranks: Ranks) -> dict[str, Assignment]:
    """Node -> what it runs for which paths, and which streams of which paths it hands to its parent.

    A merging window runs for the paths of its input rows, what follows it for ``*``. A stream goes up from
    the node that makes it through every node below its highest reader. Every site's node has an assignment.
    """
    topology = ground.topology
    runs: dict[str, dict[str, set[str]]] = {topology.node_id(s): {} for s in topology.sites}
    runs.update({node: {} for node, spot in ground.spots().items() if spot.rank == DEVICE})
    exports: dict[str, dict[str, set[str]]] = {node: {} for node in runs}
    for (stage, path), load in ground.loads.items():
        node = ground.ways[path].spots[ranks[stage, path]].node
        paths = [path] if path != ALL else _input_paths(ground, load)
        runs[node].setdefault(stage, set()).update(paths)
    for (stage, path), wire, _ in crossings(ground, ranks):
        node = ground.ways[path].spots[wire.lower].node
        exports[node].setdefault(stage, set()).add(path)
    places = {node: (spot.site, TIERS[spot.rank]) for node, spot in ground.spots().items()}
    places |= {topology.node_id(s): (s, site.tier) for s, site in topology.sites.items()}
    digest = ground.spec.digest
    return {
        node: Assignment(node, *places[node], digest, _frozen(runs[node]), _frozen(exports[node]))
        for node in runs
    }


def _input_paths(ground: Ground, load: Load) -> list[str]:
    merged = [(name, ALL) in ground.loads for name in load.stage.inputs]
    paths = [ALL] if any(merged) else []
    return paths if all(merged) else [path for path in ground.ways if path != ALL] + paths


def _frozen(sets: dict[str, set[str]]) -> dict[str, frozenset[str]]:
    return {name: frozenset(values) for name, values in sets.items()}
