"""Placement: flow + topology -> a `Plan` with a certificate, or the smallest set of rules that clash.

`plan` chooses a tier for every stage on every path so that no rule is broken and the objective is as small as can be;
`why` says for one stage what each other tier would cost or which rules forbid it; `repair` and `Standing` mend a plan
after a change, `rollout` says in which order to apply it; `compare` says what simpler policies come to; `report`,
`why_text` and `picture` are for people. Small topologies are one exact program, large fleets are decomposed.
"""

from ganglion.placement.baselines import POLICIES, Outcome, compare
from ganglion.placement.blocks import GAP_MAX
from ganglion.placement.changes import Cut, changed
from ganglion.placement.explain import Option, Why, why, worth
from ganglion.placement.objective import Objective, parse_objective
from ganglion.placement.patches import Move, Patch
from ganglion.placement.picture import picture
from ganglion.placement.plan import LinkUse, Loop, Money, NodeUse, Placement, Plan
from ganglion.placement.planner import plan, standing
from ganglion.placement.render import report, why_text
from ganglion.placement.repair import Repair, StageMove, repair
from ganglion.placement.rollout import Step, broken_reflexes, crowded, rollout
from ganglion.placement.rules import Rule
from ganglion.placement.standing import Standing
from ganglion.placement.terrain import Terrain, survey

__all__ = [
    "GAP_MAX",
    "POLICIES",
    "Cut",
    "LinkUse",
    "Loop",
    "Money",
    "Move",
    "NodeUse",
    "Objective",
    "Option",
    "Outcome",
    "Patch",
    "Placement",
    "Plan",
    "Repair",
    "Rule",
    "StageMove",
    "Standing",
    "Step",
    "Terrain",
    "Why",
    "broken_reflexes",
    "changed",
    "compare",
    "crowded",
    "parse_objective",
    "picture",
    "plan",
    "repair",
    "report",
    "rollout",
    "standing",
    "survey",
    "why",
    "why_text",
    "worth",
]
