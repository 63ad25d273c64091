"""`plan`: cheapest month first, then the fastest reflexes, then the lowest tiers; or the rules that clash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ganglion.core.errors import FlowError, PlacementInfeasible
from ganglion.core.topology import Topology
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import TIERS, WhereStage
from ganglion.placement import figures
from ganglion.placement.demand import Key, demand
from ganglion.placement.figures import Ground
from ganglion.placement.formulation import Formulation, Terms, build
from ganglion.placement.measured import uplink_row_bytes
from ganglion.placement.plan import Placement, Plan
from ganglion.placement.routes import routes
from ganglion.placement.rules import KINDS, Rule
from ganglion.placement.solver import NAME, OutOfBudget, Row, Solution, as_row, solve

MONEY_TIE = 1e-6
"""Plans whose months differ by less (or by a billionth of the sum) cost the same."""
LATENCY_TIE_MS = 1e-6


def plan(
    spec: FlowSpec,
    topology: Topology,
    *,
    pins: Mapping[str, str] | None = None,
    selectivities: Mapping[str, float] | None = None,
) -> Plan:
    """The best placement that obeys every rule.

    ``pins``: stage id -> tier it must run at; ``selectivities``: where-stage id -> share of rows in [0, 1],
    in place of the flow's. Raises `PlacementInfeasible` ``placement.infeasible`` with a smallest set of rules
    that clash, ``placement.no-devices``, ``placement.size`` or ``placement.budget``, and for a wrong argument
    `FlowError` ``flow.unknown-stage``, ``flow.tier`` or ``flow.selectivity``.
    """
    pins, selectivities = dict(pins or {}), dict(selectivities or {})
    _check_arguments(spec, pins, selectivities)
    ground = lay_out(spec, topology, selectivities)
    formulation = build(ground, pins)
    solution = _best(formulation)
    if solution is None:
        raise _infeasible(spec, clash(formulation))
    ranks = formulation.ranks(solution.values)
    assert ranks.keys() == ground.loads.keys()
    return Plan(
        spec.name,
        spec.digest,
        topology.currency,
        _placements(ground, ranks),
        figures.loops(ground, ranks),
        figures.links(ground, ranks),
        figures.nodes(ground, ranks),
        figures.money(ground, ranks),
        solution.gap,
        NAME,
        pins,
        selectivities,
        figures.assignments(ground, ranks),
    )


def lay_out(spec: FlowSpec, topology: Topology, selectivities: Mapping[str, float]) -> Ground:
    """The flow on the topology, before anything is decided; raises ``placement.no-devices``."""
    ways = routes(topology)
    origins = {path.id: path.count for path in topology.paths()}
    if not origins:
        raise PlacementInfeasible(
            "placement.no-devices",
            "no gateway has a device",
            why="a flow begins at devices",
            next_step="add a device group to the topology",
        )
    loads = demand(spec, origins, selectivities, uplink_row_bytes(spec, topology))
    return Ground(spec, topology, ways, loads)


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


def _check_arguments(spec: FlowSpec, pins: Mapping[str, str], selectivities: Mapping[str, float]) -> None:
    for stage_id, tier in pins.items():
        stage = spec[stage_id]
        if tier not in TIERS:
            raise FlowError(
                "flow.tier",
                f"{stage.id} is pinned to {tier!r}",
                why=f"tiers are {', '.join(TIERS)}",
                next_step="name one of those",
            )
    for stage_id, share in selectivities.items():
        if not isinstance(spec[stage_id], WhereStage) or not 0 <= share <= 1:
            raise FlowError(
                "flow.selectivity",
                f"{stage_id} is given selectivity {share}",
                why="only a where-stage has one, from 0 to 1",
                next_step="name a where-stage and the share of its rows that pass",
            )


def _best(formulation: Formulation) -> Solution | None:
    """Lexicographic: each next objective is minimised without giving up the ones before."""
    try:
        best = solve(formulation.program, formulation.money, zero=formulation.zeros(formulation.rules))
    except OutOfBudget as error:
        raise PlacementInfeasible(
            "placement.budget",
            "the solver found no placement within its budget",
            why=f"HiGHS stopped: {error}",
            next_step="pin some stages, or plan fewer gateways at once",
        ) from error
    if best is None:
        return None
    gap = best.gap
    rows = list(formulation.program.rows)
    steps = [
        (formulation.money, max(MONEY_TIE, 1e-9 * best.objective)),
        (formulation.latency_ms, LATENCY_TIE_MS),
    ]
    for (held, slack), costs in zip(steps, (formulation.latency_ms, formulation.height), strict=True):
        rows.append(_at_most(held, best, slack))
        try:
            better = solve(formulation.program, costs, zero=formulation.zeros(formulation.rules), rows=rows)
        except OutOfBudget:
            break
        if better is None:  # the bound is at the edge of the solver's tolerance: what we have is as good
            break
        best = better
    return Solution(best.values, best.objective, gap)


def _at_most(held: Terms, best: Solution, slack: float) -> Row:
    limit = sum(value * best.values[column] for column, value in held.items()) + slack
    scale = max(limit, 1.0)
    return as_row({c: v / scale for c, v in held.items()}, high=limit / scale)


def _placements(ground: Ground, ranks: Mapping[Key, int]) -> tuple[Placement, ...]:
    return tuple(
        Placement(stage, path, TIERS[rank], ground.ways[path].spots[rank].node)
        for (stage, path), rank in ranks.items()
    )


def _infeasible(spec: FlowSpec, rules: tuple[Rule, ...]) -> PlacementInfeasible:
    only = len(rules) == 1
    which = "this rule" if only else f"these {len(rules)} rules at once"
    return PlacementInfeasible(
        "placement.infeasible",
        f"no placement of flow {spec.name} obeys {which}: {'; '.join(str(r) for r in rules)}",
        why="no place is left even for this one" if only else "without any one of them there would be one",
        next_step=" - or: ".join(dict.fromkeys(r.lift for r in rules)),
    )
