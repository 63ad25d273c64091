"""Nothing fits: the smallest set of rules that clash, and for each which change of it would do, tried by solving."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from ganglion.core.errors import PlacementInfeasible
from ganglion.core.topology import Path
from ganglion.core.units import format_bytes, format_duration
from ganglion.flow.assignment import ALL
from ganglion.flow.spec import FlowSpec
from ganglion.placement import cost
from ganglion.placement.demand import demand
from ganglion.placement.figures import Ground
from ganglion.placement.formulation import Formulation, build, row_scale
from ganglion.placement.measured import uplink_row_bytes
from ganglion.placement.routes import GATEWAY, Route, route
from ganglion.placement.rules import KINDS, Rule
from ganglion.placement.solver import OutOfBudget, as_row, solve
from ganglion.placement.terrain import Terrain

BLOCK_COLUMNS_MAX = 4_000
"""Of an edge site on which nothing fits: it is solved many times to find out why."""
_ROOM = 1.0 + 1e-6
"""What is suggested is a trace more than what is needed, so that it does not fail by rounding."""


def infeasible(spec: FlowSpec, ground: Ground, pins: Mapping[str, str]) -> PlacementInfeasible:
    """The error ``placement.infeasible`` for a ground on which nothing fits, with changes that were tried."""
    formulation = build(ground, pins)
    rules = clash(formulation)
    only = len(rules) == 1
    which = "this rule" if only else f"these {len(rules)} rules at once"
    steps = [_with_remedy(rule, ground, pins, formulation) for rule in rules]
    return PlacementInfeasible(
        "placement.infeasible",
        f"no placement of flow {spec.name} obeys {which}: {'; '.join(str(r) for r in rules)}",
        why="no place is left even for this one" if only else "without any one of them there would be one",
        next_step=" - or: ".join(dict.fromkeys(steps)),
    )


def clash(formulation: Formulation, *, keep: Iterable[Rule] = ()) -> tuple[Rule, ...]:
    """A smallest set of rules that cannot hold together: without any one of them there is a placement.

    That sources are at the device goes without saying; only where nothing else clashes with ``keep`` it is said.
    Deletion filter: a rule (first a whole kind of them) that is not needed for the clash is dropped for good.
    """
    given = [r for r in formulation.rules if r.kind == "source"]
    active = [r for r in formulation.rules if r.kind != "source"]
    for kind in KINDS:
        without = [r for r in active if r.kind != kind]
        if len(without) < len(active) and not formulation.feasible(given + without):
            active = without
    for rule in tuple(active):
        without = [r for r in active if r != rule]
        if rule not in keep and not formulation.feasible(given + without):
            active = without
    if not set(active) - set(keep):
        active += given
    return tuple(sorted(active, key=lambda r: r.order, reverse=True))


def _with_remedy(rule: Rule, ground: Ground, pins: Mapping[str, str], formulation: Formulation) -> str:
    remedy = ""
    if rule.kind in ("cpu", "memory", "flash", "bandwidth", "deadline"):
        remedy = _by_amount(rule, ground, formulation)
    elif rule.kind == "jurisdiction":
        remedy = _by_place(rule, ground, pins) or _by_declassifier(rule, ground, pins)
    return f"{rule.lift}: {remedy} would do" if remedy else rule.lift


def _by_amount(rule: Rule, ground: Ground, formulation: Formulation) -> str:
    """How far the rule's limit has to move while all others hold; "" when no move of it helps."""
    others = frozenset(r for r in formulation.rules if r != rule)
    program = formulation.program
    rows = [r for r in program.rows if r.tag is None or r.tag in others]
    own = [r for r in program.rows if r.tag == rule]
    more = program.column(whole=False)
    program.upper[more] = np.inf
    try:
        for row in own:
            terms = dict(zip(row.columns, row.coefficients, strict=True)) | {more: -1.0}
            rows.append(as_row(terms, high=row.high))
        found = solve(program, {more: 1.0}, zero=formulation.zeros(others), rows=rows)
        if found is None or not own:
            return ""
        beyond = found.values[more] * _ROOM + 1e-9
        checked = [replace(r, high=r.high + beyond) for r in own]
        kept = [r for r in program.rows if r.tag is None or r.tag in others]
        if solve(program, {}, zero=formulation.zeros(others), rows=kept + checked) is None:
            return ""
    except OutOfBudget:
        return ""
    finally:
        program.upper.pop()
        program.whole.pop()
    return _amount(rule, ground, beyond)


def _amount(rule: Rule, ground: Ground, beyond: float) -> str:
    """What the limit has to be when rows, scaled to it, reach that far beyond it."""
    if rule.kind == "deadline":
        act = next(a for a in ground.spec.reflexes if a.id == rule.subject)
        within_ns = math.ceil(act.within_ns * (1 + beyond) / 1e3) * 1000
        return f"within={format_duration(within_ns)} of {act.id}"
    if rule.kind == "bandwidth":
        wire = ground.wires()[rule.subject]
        idle = cost.idle_share(wire)
        share = wire.share_max - idle + row_scale(wire.share_max - idle) * beyond
        needed = wire.link.bandwidth_bit_per_s * (share + idle) / wire.share_max * 1.001
        return f"{needed / 1e6:.4g} Mbit of {wire.id}"
    if rule.kind == "flash":
        limits = {s.class_name: s.flash_bytes for s in ground.spots().values() if s.flash_bytes is not None}
        there = limits[rule.subject]
        needed_bytes = math.ceil((there + row_scale(there) * beyond) * 1.01)
        return f"{format_bytes(needed_bytes)} of flash of class {rule.subject}"
    spot = ground.spots()[rule.subject]
    if rule.kind == "cpu":
        return f"{spot.node_class.cpus * (1 + beyond) * 1.001:.4g} cpus of {spot.node}"
    needed = spot.memory_bytes + row_scale(spot.memory_bytes) * beyond
    return f"{format_bytes(math.ceil(needed * 1.01))} of {spot.node}"


def _by_place(rule: Rule, ground: Ground, pins: Mapping[str, str]) -> str:
    """One more jurisdiction that rows may be in."""
    allowed = tuple(rule.subject.split(", "))
    places = {s.jurisdiction for w in ground.ways.values() for s in w.spots.values()} - {None, *allowed}
    for place in sorted(p for p in places if p is not None):
        wider = {s.id for s in ground.spec.stages if s.constraint.jurisdictions == allowed}
        if fits(_kept_in(ground, wider, (*allowed, place)), pins):
            return f"{place} in keep_in="
    return ""


def _by_declassifier(rule: Rule, ground: Ground, pins: Mapping[str, str]) -> str:
    """The last stage after which rows would have to be free to go anywhere."""
    allowed = tuple(rule.subject.split(", "))
    for stage in reversed(ground.spec.stages):
        freed = {s.id for s in ground.spec.stages if stage.id in ground.spec.ancestors(s.id)} | {stage.id}
        freed = {s for s in freed if ground.spec[s].constraint.jurisdictions == allowed}
        if freed and fits(_kept_in(ground, freed, None), pins):
            return f"a declassifier at {stage.id}"
    return ""


def _kept_in(ground: Ground, stages: set[str], places: tuple[str, ...] | None) -> Ground:
    changed = {
        s.id: replace(s, constraint=replace(s.constraint, jurisdictions=places)) if s.id in stages else s
        for s in ground.spec.stages
    }
    spec = replace(ground.spec, stages=tuple(changed.values()))
    loads = {key: replace(load, stage=changed[key[0]]) for key, load in ground.loads.items()}
    return Ground(spec, ground.topology, ground.ways, loads)


def fits(ground: Ground, pins: Mapping[str, str]) -> bool:
    """Whether something fits; true also when the budget ends first."""
    formulation = build(ground, pins)
    return formulation.feasible(formulation.rules)


# -- the part of a fleet on which nothing fits ---------------------------------------------------------
def face_ground(terrain: Terrain, path: str) -> Ground:
    """One device of a face, and what all paths merge."""
    ground = terrain.ground
    if path == ALL:
        path = next(iter(terrain.faces.paths))
    ways = {path: _one_device(ground.ways[path]), ALL: ground.ways[ALL]}
    loads = {
        key: replace(load, members=1) if key[1] == path else load
        for key, load in ground.loads.items()
        if key[1] in ways
    }
    return Ground(ground.spec, ground.topology, ways, loads)


def _one_device(way: Route) -> Route:
    spots = {rank: replace(spot, count=1) for rank, spot in way.spots.items()}
    return Route(way.path, spots, tuple(replace(w, count=1) for w in way.wires), way.actuators, way.group)


def block_ground(terrain: Terrain, block: int, kind: int | None) -> Ground:
    """A gateway, or an edge site with its gateways; those beyond what one program takes are pooled into one."""
    chosen = terrain.fleet.blocks[block]
    topology, spec = terrain.topology, terrain.spec
    members = [
        (name, k.site, k.counts)
        for place, k in enumerate(chosen.kinds)
        if kind is None or place == kind
        for run in chosen.runs[0][place]
        for name in terrain.fleet.sites_of(run)
    ]
    if kind is not None:
        members = members[:1]
    most = max(1, BLOCK_COLUMNS_MAX // (8 * len(spec.stages) * max(1, len(topology.devices))))
    ways: dict[str, Route] = {}
    origins: dict[str, int] = {}
    for place, (name, site, counts) in enumerate(members[:most]):
        pooled = len(members) - most + 1 if place == most - 1 and len(members) > most else 1
        for group, count in zip(topology.devices, counts, strict=True):
            if not count:
                continue
            chain: dict[str, str] = {topology.sites[s].tier: s for s in topology.chain(site)}
            nodes = {tier: topology.node_id(s) for tier, s in chain.items()} | {"gateway": name}
            at = f"{name}-{group}"
            path = Path(at, site, group, count * pooled, dict(chain), {"device": f"device:{at}", **nodes})
            ways[at] = _pooled(_renamed(route(topology, path), site, name), pooled)
            origins[at] = count * pooled
    ways[ALL] = terrain.ground.ways[ALL]
    loads = demand(spec, origins, terrain.selectivities, uplink_row_bytes(spec, topology))
    return Ground(spec, topology, ways, loads)


def _renamed(way: Route, site: str, name: str) -> Route:
    """Links of a gateway that is one of many alike, or an example of others, are its own."""
    wires = []
    for wire in way.wires:
        below, _, above = wire.id.partition(">")
        wires.append(
            replace(wire, id=f"{name if below == site else below}>{name if above == site else above}")
        )
    return Route(way.path, way.spots, tuple(wires), way.actuators, way.group)


def _pooled(way: Route, gateways: int) -> Route:
    """The route with that many gateways as one."""
    if gateways == 1:
        return way
    spot = way.spots[GATEWAY]
    kind = spot.node_class.model_copy(update={"cpus": spot.node_class.cpus * gateways})
    spots = {**way.spots, GATEWAY: replace(spot, node_class=kind, memory_bytes=spot.memory_bytes * gateways)}
    wires = tuple(
        replace(
            w, link=w.link.model_copy(update={"bandwidth_bit_per_s": w.link.bandwidth_bit_per_s * gateways})
        )
        if w.lower == GATEWAY
        else w
        for w in way.wires
    )
    return Route(way.path, spots, wires, way.actuators, way.group)
