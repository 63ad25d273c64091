"""A plan repaired after a change: only touched paths are placed anew, and what cannot be reached stays as it is.

For topologies that are one exact program; large fleets have `ganglion.placement.standing`. The scope grows only when
nothing fits: the paths whose own way changed, then those at the same gateways, then all under the same edge sites,
then all that can be reached.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from ganglion.core.errors import PlacementInfeasible
from ganglion.core.topology import Topology
from ganglion.flow.assignment import ALL
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import TIERS
from ganglion.placement.demand import Key
from ganglion.placement.figures import Ground
from ganglion.placement.formulation import build
from ganglion.placement.objective import parse_objective
from ganglion.placement.plan import Plan
from ganglion.placement.planner import best, exact_plan, lay_out
from ganglion.placement.routes import EDGE, GATEWAY, Route

SCOPES = ("path", "gateway", "edge", "all")


@dataclass(frozen=True, slots=True)
class StageMove:
    """A stage of a path goes from one node to another; None: it is new there, or its path is no more."""

    stage: str
    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Repair:
    """The plan as it would be, and what that moves. ``scope``: how far it was placed anew, see `SCOPES`.

    ``held``: paths that cannot be reached and stay as they are. The plan's gap is to the best that leaves them there
    and is proved only for scope ``all``: for a narrower one it counts what was not tried.
    """

    plan: Plan
    moves: tuple[StageMove, ...]
    scope: str
    held: tuple[str, ...]


def repair(
    spec: FlowSpec,
    topology: Topology,
    before: Plan,
    after: Topology,
    *,
    unreachable: Collection[str] = (),
) -> Repair:
    """The plan ``before`` (made for ``topology``) on the topology ``after``, where sites may be unreachable.

    Raises `PlacementInfeasible` ``placement.infeasible`` when nothing fits that leaves unreachable paths alone.
    """
    old, new = topology.expanded(), after.expanded()
    was = {(p.stage, p.path): TIERS.index(p.tier) for p in before.placements}
    ground = lay_out(spec, new, before.selectivities)
    ways = lay_out(spec, old, before.selectivities).ways
    counts = {p.id: p.count for p in old.paths()}
    now = {p.id: p.count for p in new.paths()}
    held = tuple(
        path
        for path, way in ground.ways.items()
        if path in ways and any(s.site in unreachable for s in way.spots.values())
    )
    touched = {
        path
        for path, way in ground.ways.items()
        if path not in held and (not _same(way, ways.get(path)) or counts.get(path) != now.get(path))
    }
    objective = parse_objective(before.objective, new.currency)
    formulation = build(ground, before.pins)
    for scope, free in _scopes(ground, touched, held):
        zeros = [
            column
            for (stage, path, rank), column in formulation.seats.items()
            if path not in free and (stage, path) in was and was[stage, path] != rank
        ]
        solution = best(formulation, objective, zeros)
        if solution is None:
            continue
        ranks = formulation.ranks(solution.values)
        lowest = None if scope == "all" else best(formulation, objective, [], first_only=True)
        if lowest is not None:
            value = sum(
                formulation.level(objective.levels[0]).get(c, 0.0) * v for c, v in enumerate(solution.values)
            )
            gap = max(0.0, value - lowest.objective) / max(abs(value), 1e-12)
            solution = replace(solution, gap=gap if gap > 1e-9 else 0.0)
        plan = exact_plan(
            ground, ranks, solution, (formulation, objective), before.pins, before.selectivities
        )
        return Repair(plan, tuple(_moves(before, plan)), scope, held)
    raise PlacementInfeasible(
        "placement.infeasible",
        f"nothing fits after the change while {', '.join(held) or 'nothing'} stays as it is",
        why="the rules clash on the changed topology",
        next_step="see which: ganglion plan FLOW_DIR on the changed topology",
    )


def _same(way: Route, before: Route | None) -> bool:
    return before is not None and way.spots == before.spots and way.wires == before.wires


def _scopes(ground: Ground, touched: set[str], held: Collection[str]) -> Iterator[tuple[str, set[str]]]:
    """Ever more paths that are placed anew; those merged over all only with all."""
    free = set(touched)
    yield "path", set(free)
    for scope, rank in (("gateway", GATEWAY), ("edge", EDGE)):
        sites = {ground.ways[p].spots[rank].site for p in free if rank in ground.ways[p].spots}
        free |= {
            p
            for p, way in ground.ways.items()
            if p not in held and p != ALL and rank in way.spots and way.spots[rank].site in sites
        }
        yield scope, set(free)
    yield "all", {p for p in ground.ways if p not in held}


def _moves(before: Plan, after: Plan) -> Iterator[StageMove]:
    was: Mapping[Key, str] = {(p.stage, p.path): p.node for p in before.placements}
    now: Mapping[Key, str] = {(p.stage, p.path): p.node for p in after.placements}
    for key in {**was, **now}:
        if was.get(key) != now.get(key):
            yield StageMove(*key, was.get(key), now.get(key))
