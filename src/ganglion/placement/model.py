"""The placement as a mixed-integer program.

Columns: ``seat[key, rank]`` (whole): the stage of ``key`` runs at that rank; ``cross[key, wire]``: its output
goes up that link, at least (some reader is above it) minus (the stage itself is). Rows: one seat each, data
goes only up, and the capacities, each tagged with the rule it comes from and scaled to a limit of 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ganglion.core.errors import PlacementInfeasible
from ganglion.flow.stages import ActStage
from ganglion.placement import cost, rules
from ganglion.placement.demand import Key
from ganglion.placement.figures import Ground
from ganglion.placement.jurisdictions import lies_in
from ganglion.placement.routes import RANKS, Spot, Wire
from ganglion.placement.rules import CPU_SHARE_MAX, LINK_SHARE_MAX, Rule, Seat
from ganglion.placement.solver import OutOfBudget, Program, solve

COLUMNS_MAX = 100_000
"""More is no small topology: this version plans exactly or not at all."""

Terms = dict[int, float]


@dataclass(slots=True)
class Model:
    """The program, what its columns mean, and its three costs."""

    program: Program
    seats: dict[Seat, int]
    cross: dict[tuple[Key, str], int]
    forbidden: Mapping[Seat, frozenset[Rule]]
    money: Terms = field(default_factory=dict)
    latency_ms: Terms = field(default_factory=dict)
    height: Terms = field(default_factory=dict)

    def ranks(self, values: tuple[float, ...]) -> dict[Key, int]:
        """The chosen rank of every stage on every path."""
        return {(s, p): rank for (s, p, rank), column in self.seats.items() if values[column] > 0.5}

    @property
    def rules(self) -> list[Rule]:
        """Every rule in the program, in the order in which a clash tries to do without them."""
        found = {rule for against in self.forbidden.values() for rule in against}
        found |= {row.tag for row in self.program.rows if isinstance(row.tag, Rule)}
        return sorted(found, key=lambda r: (r.order, r.text))

    def zeros(self, active: Iterable[Rule]) -> list[int]:
        """The columns that the active rules hold at 0."""
        rules = frozenset(active)
        return [self.seats[seat] for seat, against in self.forbidden.items() if not rules.isdisjoint(against)]

    def feasible(self, active: Iterable[Rule]) -> bool:
        """Whether some placement obeys the active rules; when the budget ends first, we say yes."""
        rules = frozenset(active)
        rows = [r for r in self.program.rows if r.tag is None or r.tag in rules]
        try:
            return solve(self.program, {}, zero=self.zeros(rules), rows=rows) is not None
        except OutOfBudget:
            return True


def build(ground: Ground, pins: Mapping[str, str]) -> Model:
    """Raises ``placement.size`` when there are more than `COLUMNS_MAX` columns."""
    wires = sum(len(ground.ways[path].wires) for _, path in ground.loads)
    columns = len(ground.loads) * len(RANKS) + wires
    if columns > COLUMNS_MAX:
        raise PlacementInfeasible(
            "placement.size",
            f"{len(ground.loads)} stages on paths make a program of {columns} columns",
            why=f"this version plans exactly, up to {COLUMNS_MAX} columns",
            next_step="plan fewer gateways or device groups at once",
        )
    program = Program()
    seats = {(s, p, rank): program.column(whole=True) for s, p in ground.loads for rank in RANKS}
    cross = {
        (key, wire.id): program.column(whole=False)
        for key in ground.loads
        for wire in ground.ways[key[1]].wires
        if ground.readers(key)
    }
    model = Model(program, seats, cross, rules.forbidden(ground.spec, ground.ways, ground.loads, pins))
    _structure(ground, model)
    _transit(ground, model)
    _nodes(ground, model)
    _links(ground, model)
    _deadlines(ground, model)
    _costs(ground, model)
    return model


def _above(model: Model, key: Key, rank: int, sign: float) -> Terms:
    return {model.seats[*key, r]: sign for r in RANKS if r > rank}


def _structure(ground: Ground, model: Model) -> None:
    for key in ground.loads:
        model.program.row({model.seats[*key, r]: 1.0 for r in RANKS}, low=1.0, high=1.0)
        for reader in ground.readers(key):
            for rank in RANKS[:-1]:
                terms = _above(model, reader, rank, 1.0) | _above(model, key, rank, -1.0)
                model.program.row(terms, low=0.0)
            for wire in ground.ways[key[1]].wires:
                terms = _above(model, reader, wire.lower, -1.0) | _above(model, key, wire.lower, 1.0)
                model.program.row({**terms, model.cross[key, wire.id]: 1.0}, low=0.0)


def _transit(ground: Ground, model: Model) -> None:
    """Rows that must stay somewhere do not even pass through another place."""
    for (key, wire), column in _crossings(ground, model):
        stage = ground.loads[key].stage
        allowed = stage.constraint.jurisdictions
        place = ground.ways[key[1]].spots[wire.upper].jurisdiction
        if allowed is not None and not lies_in(place, allowed):
            model.program.row({column: 1.0}, high=0.0, tag=rules.jurisdiction_rule(stage))


def _crossings(ground: Ground, model: Model) -> list[tuple[tuple[Key, Wire], int]]:
    wires = ground.wires()
    return [((key, wires[name]), column) for (key, name), column in model.cross.items()]


def _nodes(ground: Ground, model: Model) -> None:
    spots = ground.spots()
    cpu: dict[str, Terms] = {node: {} for node in spots}
    memory: dict[str, Terms] = {node: {} for node in spots}
    for (stage, path, rank), column in model.seats.items():
        spot = ground.ways[path].spots.get(rank)
        if spot is not None:
            load = ground.loads[stage, path]
            cpu[spot.node][column] = cost.stage_cpus(load, spot)
            memory[spot.node][column] = float(cost.stage_memory_bytes(load, spot))
    for (key, wire), column in _crossings(ground, model):
        for spot in _ends(ground, key, wire):
            cpu[spot.node][column] = cost.hop_cpus(ground.loads[key], wire, spot)
    for node, spot in spots.items():
        _capacity(model, cpu[node], spot.node_class.cpus * CPU_SHARE_MAX, rules.cpu_rule(spot))
        _capacity(model, memory[node], float(spot.memory_bytes), rules.memory_rule(spot))


def _ends(ground: Ground, key: Key, wire: Wire) -> tuple[Spot, Spot]:
    spots = ground.ways[key[1]].spots
    return spots[wire.lower], spots[wire.upper]


def _capacity(model: Model, terms: Terms, limit: float, rule: Rule) -> None:
    """The row ``terms <= limit``, scaled; left out where everything fits anyway."""
    if sum(terms.values()) <= limit:
        return
    scale = max(limit, 1e-12)
    model.program.row({c: v / scale for c, v in terms.items() if v}, high=limit / scale, tag=rule)


def _links(ground: Ground, model: Model) -> None:
    shares: dict[str, Terms] = {name: {} for name in ground.wires()}
    for (key, wire), column in _crossings(ground, model):
        shares[wire.id][column] = cost.wire_share(ground.loads[key], wire)
    for name, wire in ground.wires().items():
        rule = rules.bandwidth_rule(name, wire.link.bandwidth_bit_per_s)
        _capacity(model, shares[name], LINK_SHARE_MAX, rule)


def _deadlines(ground: Ground, model: Model) -> None:
    for (act, path), load in ground.loads.items():
        way = ground.ways[path]
        stage = load.stage
        if not isinstance(stage, ActStage) or not way.actuators:
            continue  # without an actuator the seat is forbidden already
        terms: Terms = {}
        for key in ground.loop_stages(act, path):
            for rank, spot in way.spots.items():
                terms[model.seats[*key, rank]] = cost.compute_ns(ground.loads[key], spot)
            if (key, way.wires[0].id) in model.cross:
                terms[model.cross[key, way.wires[0].id]] = cost.loop_stream_ns(ground.loads[key], way)
        left_ns = stage.within_ns - cost.loop_fixed_ns(way) - cost.loop_frame_ns(way)
        scale = float(max(stage.within_ns, 1))
        scaled = {c: v / scale for c, v in terms.items()}
        model.program.row(scaled, high=left_ns / scale, tag=rules.deadline_rule(stage))
        for column, value in terms.items():
            weighted = value / 1e6 * load.members
            model.latency_ms[column] = model.latency_ms.get(column, 0.0) + weighted


def _costs(ground: Ground, model: Model) -> None:
    for (stage, path, rank), column in model.seats.items():
        model.height[column] = float(rank)
        spot = ground.ways[path].spots.get(rank)
        if spot is not None:
            model.money[column] = cost.stage_money(ground.loads[stage, path], spot)
    for (key, wire), column in _crossings(ground, model):
        model.money[column] = cost.wire_money(ground.loads[key], wire, _ends(ground, key, wire))
