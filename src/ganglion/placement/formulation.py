"""The placement as a mixed-integer program.

Columns: ``seat[key, rank]`` (whole): the stage of ``key`` runs at that rank; ``cross[key, wire]``: its output
goes up that link, at least (some reader is above it) minus (the stage itself is); ``urgent[key]``: so it does for
a reflex, over a device's link. Rows: one seat each, data goes only up, and the capacities, each tagged with the
rule it comes from and scaled to a limit of 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ganglion.core.errors import PlacementInfeasible
from ganglion.flow.stages import ActStage
from ganglion.placement import cost, rules
from ganglion.placement.demand import DATAGRAM_ROW_BYTES_MAX, Key
from ganglion.placement.figures import Ground
from ganglion.placement.jurisdictions import lies_in
from ganglion.placement.objective import QUANTITIES
from ganglion.placement.routes import DEVICE, RANKS, Spot, Wire
from ganglion.placement.rules import CPU_SHARE_MAX, Rule, Seat
from ganglion.placement.solver import OutOfBudget, Program, solve
from ganglion.placement.terms import seat_quantities, wire_quantities

COLUMNS_MAX = 20_000
"""More is no small topology: this version plans exactly or not at all."""

Terms = dict[int, float]


@dataclass(slots=True)
class Formulation:
    """The program, what its columns mean, and what they add to the quantities of an objective."""

    program: Program
    seats: dict[Seat, int]
    cross: dict[tuple[Key, str], int]
    urgent: dict[Key, int]

    forbidden: Mapping[Seat, frozenset[Rule]]
    quantities: dict[str, Terms] = field(default_factory=lambda: {name: {} for name in QUANTITIES})

    def add(self, column: int, found: Mapping[str, float], sign: float = 1.0) -> None:
        """What one more use of a column adds to the objective's quantities."""
        for name, value in found.items():
            terms = self.quantities[name]
            terms[column] = terms.get(column, 0.0) + sign * value

    def level(self, weights: Mapping[str, float]) -> Terms:
        """One level of an objective as costs of columns."""
        terms: Terms = {}
        for name, weight in weights.items():
            for column, value in self.quantities[name].items():
                terms[column] = terms.get(column, 0.0) + weight * value
        return terms

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


def build(ground: Ground, pins: Mapping[str, str]) -> Formulation:
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
    urgent = {
        key: program.column(whole=False)
        for key in ground.loads
        if ground.urgent_readers(key) and any(w.device_link for w in ground.ways[key[1]].wires)
    }
    formulation = Formulation(
        program, seats, cross, urgent, rules.forbidden(ground.spec, ground.ways, ground.loads, pins)
    )
    _structure(ground, formulation)
    _transit(ground, formulation)
    _nodes(ground, formulation)
    _links(ground, formulation)
    _deadlines(ground, formulation)
    _costs(ground, formulation)
    return formulation


def _above(formulation: Formulation, key: Key, rank: int, sign: float) -> Terms:
    return {formulation.seats[*key, r]: sign for r in RANKS if r > rank}


def _structure(ground: Ground, formulation: Formulation) -> None:
    for key in ground.loads:
        formulation.program.row({formulation.seats[*key, r]: 1.0 for r in RANKS}, low=1.0, high=1.0)
        for reader in ground.readers(key):
            for rank in RANKS[:-1]:
                terms = _above(formulation, reader, rank, 1.0) | _above(formulation, key, rank, -1.0)
                formulation.program.row(terms, low=0.0)
            for wire in ground.ways[key[1]].wires:
                terms = _above(formulation, reader, wire.lower, -1.0) | _above(
                    formulation, key, wire.lower, 1.0
                )
                formulation.program.row({**terms, formulation.cross[key, wire.id]: 1.0}, low=0.0)
        if key in formulation.urgent:
            for reader in ground.urgent_readers(key):
                terms = _above(formulation, reader, DEVICE, -1.0) | _above(formulation, key, DEVICE, 1.0)
                formulation.program.row({**terms, formulation.urgent[key]: 1.0}, low=0.0)


def _transit(ground: Ground, formulation: Formulation) -> None:
    """Rows that must stay somewhere do not even pass elsewhere; too large ones do not leave a device."""
    for (key, wire), column in _crossings(ground, formulation):
        stage = ground.loads[key].stage
        if wire.device_link and stage.schema.row_bytes > DATAGRAM_ROW_BYTES_MAX:
            formulation.program.row({column: 1.0}, high=0.0, tag=rules.datagram_rule(stage))

        allowed = stage.constraint.jurisdictions
        place = ground.ways[key[1]].spots[wire.upper].jurisdiction
        if allowed is not None and not lies_in(place, allowed):
            formulation.program.row({column: 1.0}, high=0.0, tag=rules.jurisdiction_rule(stage))
        if ground.ways[key[1]].spots[wire.upper].refuses & stage.labels.categories:
            rule = rules.label_rule(ground.ways[key[1]].spots[wire.upper], stage)
            formulation.program.row({column: 1.0}, high=0.0, tag=rule)


def _crossings(ground: Ground, formulation: Formulation) -> list[tuple[tuple[Key, Wire], int]]:
    wires = ground.wires()
    return [((key, wires[name]), column) for (key, name), column in formulation.cross.items()]


def _carried(ground: Ground, formulation: Formulation) -> Iterator[tuple[Key, Wire, int, bool, float]]:
    """What columns cost on links, to be added up: gathered rows, and for urgent ones the difference to them."""
    for (key, wire), column in _crossings(ground, formulation):
        yield key, wire, column, False, 1.0
        if wire.device_link and key in formulation.urgent:
            yield key, wire, formulation.urgent[key], True, 1.0
            yield key, wire, formulation.urgent[key], False, -1.0


def _nodes(ground: Ground, formulation: Formulation) -> None:
    spots = ground.spots()
    cpu: dict[str, Terms] = {node: {} for node in spots}
    memory: dict[str, Terms] = {node: {} for node in spots}
    flash: dict[str, Terms] = {node: {} for node in spots}
    for (stage, path, rank), column in formulation.seats.items():
        spot = ground.ways[path].spots.get(rank)
        if spot is not None:
            load = ground.loads[stage, path]
            cpu[spot.node][column] = cost.stage_cpus(load, spot)
            memory[spot.node][column] = float(cost.stage_memory_bytes(load, spot))
            flash[spot.node][column] = float(cost.stage_flash_bytes(load, spot))

    for key, wire, column, urgent, sign in _carried(ground, formulation):
        for spot in _ends(ground, key, wire):
            used = sign * cost.hop_cpus(ground.loads[key], wire, spot, urgent=urgent)
            cpu[spot.node][column] = cpu[spot.node].get(column, 0.0) + used

    for node, spot in spots.items():
        if spot.flash_bytes is not None:
            rule = rules.flash_rule(spot, spot.flash_bytes)
            _capacity(formulation, flash[node], float(spot.flash_bytes), rule)
        _capacity(formulation, cpu[node], spot.node_class.cpus * CPU_SHARE_MAX, rules.cpu_rule(spot))
        _capacity(formulation, memory[node], float(spot.memory_bytes), rules.memory_rule(spot))


def _ends(ground: Ground, key: Key, wire: Wire) -> tuple[Spot, Spot]:
    spots = ground.ways[key[1]].spots
    return spots[wire.lower], spots[wire.upper]


def _capacity(formulation: Formulation, terms: Terms, limit: float, rule: Rule) -> None:
    """The row ``terms <= limit``, scaled; left out where everything fits anyway."""
    if sum(terms.values()) <= limit:
        return
    scale = row_scale(limit)
    formulation.program.row({c: v / scale for c, v in terms.items() if v}, high=limit / scale, tag=rule)


def row_scale(limit: float) -> float:
    """What rows of a limit are divided by: the limit, so that all have 1 there; but nothing is divided by nothing."""
    return limit if limit > 1e-12 else 1.0


def _links(ground: Ground, formulation: Formulation) -> None:
    shares: dict[str, Terms] = {name: {} for name in ground.wires()}

    for key, wire, column, urgent, sign in _carried(ground, formulation):
        share = sign * cost.wire_share(ground.loads[key], wire, urgent=urgent)
        shares[wire.id][column] = shares[wire.id].get(column, 0.0) + share

    for name, wire in ground.wires().items():
        rule = rules.bandwidth_rule(wire)
        _capacity(formulation, shares[name], wire.share_max - cost.idle_share(wire), rule)


def _deadlines(ground: Ground, formulation: Formulation) -> None:
    for (act, path), load in ground.loads.items():
        way = ground.ways[path]
        stage = load.stage
        if not isinstance(stage, ActStage) or not way.actuators:
            continue  # without an actuator the seat is forbidden already
        terms: Terms = {}
        for key in ground.loop_stages(act, path):
            for rank, spot in way.spots.items():
                terms[formulation.seats[*key, rank]] = cost.compute_ns(ground.loads[key], spot)

            if key in formulation.urgent:
                terms[formulation.urgent[key]] = cost.loop_stream_ns(ground.loads[key], way)
        left_ns = stage.within_ns - cost.loop_fixed_ns(way)

        scale = float(max(stage.within_ns, 1))
        scaled = {c: v / scale for c, v in terms.items()}
        formulation.program.row(scaled, high=left_ns / scale, tag=rules.deadline_rule(stage))
        for column, value in terms.items():
            formulation.add(column, {"latency_ms": value / 1e6 * load.members})


def _costs(ground: Ground, formulation: Formulation) -> None:
    for (stage, path, rank), column in formulation.seats.items():
        spot = ground.ways[path].spots.get(rank)
        found = {"height": float(rank)}
        if spot is not None:
            found = seat_quantities(ground.loads[stage, path], spot)
        formulation.add(column, found)

    for key, wire, column, urgent, sign in _carried(ground, formulation):
        used = wire_quantities(ground.loads[key], wire, _ends(ground, key, wire), urgent=urgent)
        formulation.add(column, used, sign)
