"""`plan`: cheapest month first, then the fastest reflexes, then the lowest tiers; or the rules that clash."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from ganglion.core.errors import FlowError, PlacementInfeasible
from ganglion.core.topology import Topology
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import TIERS, WhereStage
from ganglion.placement import figures, solver
from ganglion.placement.aggregates import aggregates
from ganglion.placement.blocks import GAP_MAX
from ganglion.placement.clash import block_ground, face_ground, fits, infeasible
from ganglion.placement.decompose import FleetSolution, NoBlock, NoColumns, solve_fleet
from ganglion.placement.demand import Key, demand
from ganglion.placement.expansion import Expansion, written_out
from ganglion.placement.figures import Ground
from ganglion.placement.formulation import Formulation, Terms, build
from ganglion.placement.measured import uplink_row_bytes
from ganglion.placement.objective import QUANTITIES, Objective, parse_objective
from ganglion.placement.plan import Plan, Summary
from ganglion.placement.routes import RANKS, routes
from ganglion.placement.solver import NoSolver, OutOfBudget, Row, Solution, as_row, solve
from ganglion.placement.standing import Standing
from ganglion.placement.terrain import Terrain, survey

TIE = 1e-6
"""Plans that differ by less in a level of the objective (or by a billionth of its sum) tie in it."""


EXACT_COLUMNS_MAX = 1_000
"""Up to so many columns the whole is one program for HiGHS; beyond, it is decomposed (docs/adr/0018)."""


def plan(
    spec: FlowSpec,
    topology: Topology,
    *,
    pins: Mapping[str, str] | None = None,
    selectivities: Mapping[str, float] | None = None,
    objective: str | None = None,
    gap_max: float = GAP_MAX,
) -> Plan:
    """The best placement that obeys every rule.

    ``pins``: stage id -> tier it must run at; ``selectivities``: where-stage id -> share of rows in [0, 1],
    in place of the flow's; ``objective``: in place of the flow's, see `parse_objective`; ``gap_max``: a certified gap
    (part of what is decided, 0 to 1) that is small enough for a fleet; small topologies are proved.
    Raises `PlacementInfeasible`
    ``placement.infeasible`` with a smallest set of rules that clash, ``placement.no-devices`` or
    ``placement.budget``, and for a wrong argument `FlowError` ``flow.unknown-stage``, ``flow.tier``,
    ``flow.selectivity``, ``flow.objective`` or ``flow.gap``.
    """
    pins, selectivities = dict(pins or {}), dict(selectivities or {})
    _check_arguments(spec, pins, selectivities)
    _check_gap(gap_max)
    wanted = parse_objective(objective or spec.objective, topology.currency)
    _check_devices(topology)
    _check_objective(topology, wanted)
    if exact_columns(spec, topology) <= EXACT_COLUMNS_MAX and not solver.missing():
        try:
            return _exact(spec, topology.expanded(), pins, selectivities, wanted)
        except PlacementInfeasible as error:
            if error.code != "placement.budget":
                raise
    terrain = survey(spec, topology, pins, selectivities, wanted)
    solution = solved(terrain, pins, gap_max)
    return fleet_plan(solution, pins, selectivities)


def exact_columns(spec: FlowSpec, topology: Topology) -> int:
    """About how many columns the whole as one program would have."""
    alike = topology.alike()
    paths = sum(alike[gateway] for group in topology.devices.values() for gateway in group.gateways)
    return (paths + 1) * len(spec.stages) * (2 * len(RANKS) - 1)


def solved(terrain: Terrain, pins: Mapping[str, str], gap_max: float = GAP_MAX) -> FleetSolution:
    """The fleet's solution; raises `PlacementInfeasible` ``placement.infeasible`` or ``placement.budget``."""
    try:
        return solve_fleet(terrain, gap_max)
    except (NoColumns, NoBlock) as error:
        if solver.missing():
            raise _unexplained(terrain, error) from error
        ground = obstacle(terrain, error)
        if fits(ground, pins):
            raise without_a_set(terrain, error) from error
        raise infeasible(terrain.spec, ground, pins) from error
    except OutOfBudget as error:
        raise out_of_budget(error) from error


def standing(
    spec: FlowSpec,
    topology: Topology,
    *,
    pins: Mapping[str, str] | None = None,
    selectivities: Mapping[str, float] | None = None,
    objective: str | None = None,
) -> Standing:
    """A fleet's plan to be repaired as the fleet changes; arguments and errors as of `plan`."""
    pins, selectivities = dict(pins or {}), dict(selectivities or {})
    _check_arguments(spec, pins, selectivities)
    wanted = parse_objective(objective or spec.objective, topology.currency)
    _check_devices(topology)
    _check_objective(topology, wanted)
    terrain = survey(spec, topology, pins, selectivities, wanted)
    return Standing(solved(terrain, pins), selectivities, pins)


def _unexplained(terrain: Terrain, error: NoColumns | NoBlock) -> PlacementInfeasible:
    """Nothing fits; which rules clash only a program says."""
    if isinstance(error, NoBlock) and not error.certain:
        return out_of_budget(OutOfBudget("of too many columns those that were listed let a gateway not fit"))
    where = f"devices of {error.path}" if isinstance(error, NoColumns) else "all gateways at once"
    if isinstance(error, NoBlock):
        block = terrain.fleet.blocks[error.block]
        site = block.edge or terrain.topology.cloud
        where = f"all gateways under {site}" if error.kind is None else f"{block.kinds[error.kind].site}"
    return PlacementInfeasible(
        "placement.infeasible",
        f"no placement of flow {terrain.spec.name} obeys every rule for {where}",
        why=f"which rules clash is not known: {solver.missing()}",
        next_step="install highspy, and ask again",
    )


def without_a_set(terrain: Terrain, error: NoColumns | NoBlock) -> PlacementInfeasible:
    """Nothing fits, or was found to, but the program that would name the smallest set of rules is too large."""
    if isinstance(error, NoColumns) or not error.certain:
        return out_of_budget(OutOfBudget("no column that was priced lets a gateway fit"))
    edge = terrain.fleet.blocks[error.block].edge
    return PlacementInfeasible(
        "placement.infeasible",
        f"no placement of flow {terrain.spec.name} lets all gateways under {edge} fit it at once",
        why=f"cpu, memory or bandwidth of {edge} runs out whatever they do (at some prices of those, the cheapest "
        "choices cost more than any can)",
        next_step=f"give {edge} more of them, or its gateways, so that they send it less",
    )


def obstacle(terrain: Terrain, error: NoColumns | NoBlock) -> Ground:
    """The part of a fleet on which nothing fits."""
    if isinstance(error, NoColumns):
        return face_ground(terrain, error.path)
    return block_ground(terrain, error.block, error.kind)


def fleet_plan(solution: FleetSolution, pins: Mapping[str, str], selectivities: Mapping[str, float]) -> Plan:
    """The plan that a fleet's solution says."""
    expansion = Expansion(solution, selectivities)
    terrain = solution.terrain
    quantities = dict(zip(QUANTITIES, solution.sums[: len(QUANTITIES)].tolist(), strict=True))
    fleet = terrain.fleet
    summary = Summary(expansion.tiers(), expansion.loops(), quantities, fleet.gateways, fleet.devices)
    return Plan(
        terrain.spec.name,
        terrain.spec.digest,
        terrain.topology.currency,
        expansion.money(),
        solution.gap,
        solver.name(),
        pins,
        selectivities,
        terrain.objective.text,
        summary,
        expansion.detail,
        expansion.assignment,
        lambda: aggregates(expansion),
    )


def _exact(
    spec: FlowSpec,
    topology: Topology,
    pins: Mapping[str, str],
    selectivities: Mapping[str, float],
    objective: Objective,
) -> Plan:
    ground = lay_out(spec, topology, selectivities)
    formulation = build(ground, pins)
    solution = best(formulation, objective)
    if solution is None:
        raise infeasible(spec, ground, pins)
    ranks = formulation.ranks(solution.values)
    assert ranks.keys() == ground.loads.keys()
    return exact_plan(ground, ranks, solution, (formulation, objective), pins, selectivities)


def exact_plan(
    ground: Ground,
    ranks: Mapping[Key, int],
    solution: Solution,
    made: tuple[Formulation, Objective],
    pins: Mapping[str, str],
    selectivities: Mapping[str, float],
) -> Plan:
    """The plan that chosen ranks are."""
    formulation, objective = made
    spec, topology = ground.spec, ground.topology
    tiers: dict[str, dict[str, int]] = {}
    counts = {path.id: path.count for path in topology.paths()}
    for (stage, path), rank in ranks.items():
        tally = tiers.setdefault(stage, {})
        tally[TIERS[rank]] = tally.get(TIERS[rank], 0) + counts.get(path, sum(counts.values()))
    quantities = {
        name: sum(value * solution.values[column] for column, value in terms.items())
        for name, terms in formulation.quantities.items()
    }
    gateways = len({path.gateway for path in topology.paths()})
    loops = figures.loops(ground, ranks)
    return Plan(
        spec.name,
        spec.digest,
        topology.currency,
        figures.money(ground, ranks),
        solution.gap,
        solver.name(),
        pins,
        selectivities,
        objective.text,
        Summary(tiers, loops, quantities, gateways, sum(counts.values())),
        lambda: written_out(ground, ranks),
        lambda node: figures.assignments(ground, ranks)[node],
    )


def _check_objective(topology: Topology, objective: Objective) -> None:
    grams = [topology.carbon(site) for site in topology.sites]
    if any("carbon_kg" in level for level in objective.levels) and not any(grams):
        raise FlowError(
            "flow.objective",
            f"the objective {objective.text!r} counts carbon, and the topology has none",
            why="carbon_g_per_kwh is 0 at every site",
            next_step="set carbon_g_per_kwh in the topology, or of its sites",
        )


def _check_devices(topology: Topology) -> None:
    if not any(group.count for group in topology.devices.values()):
        raise PlacementInfeasible(
            "placement.no-devices",
            "no gateway has a device",
            why="a flow begins at devices",
            next_step="add a device group to the topology",
        )


def lay_out(spec: FlowSpec, topology: Topology, selectivities: Mapping[str, float]) -> Ground:
    """The flow on the topology, before anything is decided."""
    ways = routes(topology)
    origins = {path.id: path.count for path in topology.paths()}
    loads = demand(spec, origins, selectivities, uplink_row_bytes(spec, topology))
    return Ground(spec, topology, ways, loads)


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


def _check_gap(gap_max: float) -> None:
    if not 0 <= gap_max <= 1:
        raise FlowError(
            "flow.gap",
            f"a gap of {gap_max:g} was asked for",
            why="it is a part of what is decided, from 0 to 1",
            next_step="ask for e.g. 0.01, or leave it out",
        )


def best(
    formulation: Formulation, objective: Objective, held: Sequence[int] = (), *, first_only: bool = False
) -> Solution | None:
    """Lexicographic: each next level is minimised without giving up the ones before.

    ``held``: columns that stay 0. None when nothing obeys every rule; raises ``placement.budget``.
    """
    levels = [formulation.level(weights) for weights in objective.levels]
    zero = [*formulation.zeros(formulation.rules), *held]
    try:
        found = solve(formulation.program, levels[0], zero=zero)
    except OutOfBudget as error:
        raise out_of_budget(error) from error
    if found is None or first_only:
        return found
    gap = found.gap
    rows = list(formulation.program.rows)
    for kept, costs in itertools.pairwise(levels):
        value = sum(value * found.values[column] for column, value in kept.items())
        rows.append(_at_most(kept, found, max(TIE, 1e-9 * value)))
        try:
            better = solve(formulation.program, costs, zero=zero, rows=rows)
        except OutOfBudget:
            break
        if better is None:  # the bound is at the edge of the solver's tolerance: what we have is as good
            break
        found = better
    return Solution(found.values, found.objective, gap)


def _at_most(held: Terms, found: Solution, slack: float) -> Row:
    limit = sum(value * found.values[column] for column, value in held.items()) + slack
    scale = max(limit, 1.0)
    return as_row({c: v / scale for c, v in held.items()}, high=limit / scale)


def needs_solver(question: str) -> None:
    """Raises ``placement.solver`` where HiGHS cannot be used."""
    if reason := solver.missing():
        raise _no_solver(question, reason)


def _no_solver(question: str, reason: str) -> PlacementInfeasible:
    return PlacementInfeasible(
        "placement.solver",
        f"{question} needs a mixed-integer program",
        why=reason,
        next_step="install highspy; plans themselves are made without it",
    )


def out_of_budget(error: OutOfBudget) -> PlacementInfeasible:
    """The error ``placement.budget``; ``placement.solver`` where there is no solver."""
    if isinstance(error, NoSolver):
        return _no_solver("this", str(error))
    return PlacementInfeasible(
        "placement.budget",
        "the solver found no placement within its budget",
        why=f"it stopped: {error}",
        next_step="pin some stages, or plan fewer gateways at once",
    )
