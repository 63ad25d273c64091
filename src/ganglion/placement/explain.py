"""`why`: for one stage, what every other tier would cost, or which rules forbid it. Each is re-solved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ganglion.core.topology import Topology
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import TIERS
from ganglion.placement.clash import clash, fits
from ganglion.placement.decompose import NoBlock, NoColumns, solve_fleet
from ganglion.placement.formulation import build
from ganglion.placement.objective import parse_objective
from ganglion.placement.plan import Loop, Plan
from ganglion.placement.planner import (
    EXACT_COLUMNS_MAX,
    TIE,
    exact_columns,
    fleet_plan,
    lay_out,
    needs_solver,
    obstacle,
    out_of_budget,
    plan,
    without_a_set,
)
from ganglion.placement.rules import Rule, pin_rule
from ganglion.placement.solver import OutOfBudget
from ganglion.placement.terrain import survey


@dataclass(frozen=True, slots=True)
class Option:
    """The stage at another tier, all else placed anew as well as it can be.

    Either ``forbidden_by`` names a smallest set of rules that forbid it, or the figures say what it costs beyond the
    plan and ``loops`` how long the reflexes would take. ``tie``: it is as good in the objective's first level.
    ``certain``: the difference is larger than what the two plans' certificates leave open.
    """

    tier: str
    forbidden_by: tuple[Rule, ...] = ()
    money_more_per_month: float = 0.0
    kwh_more_per_month: float = 0.0
    carbon_kg_more_per_month: float = 0.0
    loops: tuple[Loop, ...] = ()
    tie: bool = False
    certain: bool = True

    @property
    def allowed(self) -> bool:
        return not self.forbidden_by


@dataclass(frozen=True, slots=True)
class Why:
    """Where ``stage`` runs in the plan (path, or for large fleets number of devices -> tier), and each other tier."""

    stage: str
    now: dict[str, str]
    currency: str
    loops: tuple[Loop, ...]
    options: tuple[Option, ...]

    def to_json(self) -> dict[str, Any]:
        """``options``: tier, allowed, and either ``forbidden_by`` or money, energy, carbon, loops and tie."""
        return {
            "stage": self.stage,
            "now": dict(self.now),
            "currency": self.currency,
            "loops": [asdict(x) for x in self.loops],
            "options": [_option_json(o) for o in self.options],
        }


def why(spec: FlowSpec, topology: Topology, plan_: Plan, stage: str) -> Why:
    """Explains a stage of a plan of this flow and topology.

    Raises ``flow.unknown-stage``, ``placement.solver``, and as `plan` where a tier's plan cannot be found, or which
    rules forbid it.
    """
    stage = spec[stage].id
    needs_solver("why a stage is where it is")
    if exact_columns(spec, topology) <= EXACT_COLUMNS_MAX:
        now = plan_.tier_of(stage)
    else:
        now = {f"{n:,} devices": tier for tier, n in plan_.summary.tiers.get(stage, {}).items()}
    others = [t for t in TIERS if set(now.values()) != {t}]
    options = tuple(_option(spec, topology, plan_, stage, tier) for tier in others)
    return Why(stage, now, plan_.currency, plan_.summary.loops, options)


def _option(spec: FlowSpec, topology: Topology, plan_: Plan, stage: str, tier: str) -> Option:
    pins = {**plan_.pins, stage: tier}
    pin = pin_rule(stage, tier)
    if exact_columns(spec, topology) <= EXACT_COLUMNS_MAX:
        formulation = build(lay_out(spec, topology.expanded(), plan_.selectivities), pins)
        if not formulation.feasible(formulation.rules):
            return Option(tier, tuple(r for r in clash(formulation, keep={pin}) if r != pin))
        other = plan(spec, topology, pins=pins, selectivities=plan_.selectivities, objective=plan_.objective)
    else:
        objective = parse_objective(plan_.objective, topology.currency)
        terrain = survey(spec, topology, pins, plan_.selectivities, objective)
        try:
            other = fleet_plan(solve_fleet(terrain), pins, plan_.selectivities)
        except OutOfBudget as error:
            raise out_of_budget(error) from error
        except (NoColumns, NoBlock) as error:
            ground = obstacle(terrain, error)
            if fits(ground, pins):  # then all of its rules would be called the smallest set that clashes
                raise without_a_set(terrain, error) from error
            formulation = build(ground, pins)
            return Option(tier, tuple(r for r in clash(formulation, keep={pin}) if r != pin))
    return _difference(tier, plan_, other)


def _difference(tier: str, plan_: Plan, other: Plan) -> Option:
    more = worth(other) - worth(plan_)
    size = max(abs(worth(plan_)), abs(worth(other)))
    # Money is compared as a whole: what is paid whatever is decided is the same on both sides.
    tie = abs(more) <= 2 * max(TIE, 1e-9 * max(size, plan_.money.total))
    was, now = plan_.summary.quantities, other.summary.quantities
    return Option(
        tier,
        (),
        0.0 if tie and _by_money(plan_) else other.money.total - plan_.money.total,
        now["kwh"] - was["kwh"],
        now["carbon_kg"] - was["carbon_kg"],
        other.summary.loops,
        tie,
        abs(more) >= (plan_.gap + other.gap) * size,
    )


def worth(plan_: Plan) -> float:
    """The first level of the plan's objective, of what is decided."""
    level: Mapping[str, float] = parse_objective(plan_.objective, plan_.currency).levels[0]
    return sum(weight * plan_.summary.quantities[name] for name, weight in level.items())


def _by_money(plan_: Plan) -> bool:
    return parse_objective(plan_.objective, plan_.currency).by_money


def _option_json(option: Option) -> dict[str, Any]:
    if not option.allowed:
        rules = [asdict(r) for r in option.forbidden_by]
        return {"tier": option.tier, "allowed": False, "forbidden_by": rules}
    return {
        "tier": option.tier,
        "allowed": True,
        "money_more_per_month": float(f"{option.money_more_per_month:.9g}"),
        "kwh_more_per_month": float(f"{option.kwh_more_per_month:.9g}"),
        "carbon_kg_more_per_month": float(f"{option.carbon_kg_more_per_month:.9g}"),
        "tie": option.tie,
        "certain": option.certain,
        "loops": [asdict(x) for x in option.loops],
    }
