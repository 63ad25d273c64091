"""`why`: for one stage, what every other tier would cost, or which rules forbid it. Each is re-solved."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ganglion.core.topology import Topology
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import TIERS
from ganglion.placement.clash import clash
from ganglion.placement.formulation import build
from ganglion.placement.plan import Loop, Plan
from ganglion.placement.planner import TIE, lay_out, plan
from ganglion.placement.rules import Rule, pin_rule


@dataclass(frozen=True, slots=True)
class Option:
    """The stage at another tier, all else placed anew as well as it can be.

    Either ``forbidden_by`` names a smallest set of rules that forbid it, or ``money_more_per_month`` says
    what it costs beyond the plan and ``loops`` how long the reflexes would take. ``tie``: it costs the same.
    """

    tier: str
    forbidden_by: tuple[Rule, ...]
    money_more_per_month: float
    loops: tuple[Loop, ...]
    tie: bool

    @property
    def allowed(self) -> bool:
        return not self.forbidden_by


@dataclass(frozen=True, slots=True)
class Why:
    """Where ``stage`` runs in the plan (path -> tier), and each other tier."""

    stage: str
    now: dict[str, str]
    currency: str
    loops: tuple[Loop, ...]
    options: tuple[Option, ...]

    def to_json(self) -> dict[str, Any]:
        """``options``: tier, allowed, and either ``forbidden_by`` or money, loops and tie."""
        return {
            "stage": self.stage,
            "now": dict(self.now),
            "currency": self.currency,
            "loops": [asdict(x) for x in self.loops],
            "options": [_option_json(o) for o in self.options],
        }


def why(spec: FlowSpec, topology: Topology, plan_: Plan, stage: str) -> Why:
    """Explains a stage of a plan made of this flow and topology; raises ``flow.unknown-stage``."""
    now = plan_.tier_of(spec[stage].id)
    others = [t for t in TIERS if set(now.values()) != {t}]
    options = tuple(_option(spec, topology, plan_, stage, tier) for tier in others)
    return Why(stage, now, plan_.currency, plan_.loops, options)


def _option(spec: FlowSpec, topology: Topology, plan_: Plan, stage: str, tier: str) -> Option:
    pins = {**plan_.pins, stage: tier}
    formulation = build(lay_out(spec, topology, plan_.selectivities), pins)
    if not formulation.feasible(formulation.rules):
        pin = pin_rule(stage, tier)
        return Option(tier, tuple(r for r in clash(formulation, keep={pin}) if r != pin), 0.0, (), tie=False)
    other = plan(spec, topology, pins=pins, selectivities=plan_.selectivities)
    more = other.money.total - plan_.money.total
    tie = abs(more) <= 2 * max(TIE, 1e-9 * plan_.money.total)
    return Option(tier, (), 0.0 if tie else more, other.loops, tie)


def _option_json(option: Option) -> dict[str, Any]:
    if not option.allowed:
        rules = [asdict(r) for r in option.forbidden_by]
        return {"tier": option.tier, "allowed": False, "forbidden_by": rules}
    return {
        "tier": option.tier,
        "allowed": True,
        "money_more_per_month": float(f"{option.money_more_per_month:.9g}"),
        "tie": option.tie,
        "loops": [asdict(x) for x in option.loops],
    }
