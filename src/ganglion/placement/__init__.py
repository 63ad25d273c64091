"""Placement: flow + topology -> a `Plan` with a certificate, or the smallest set of rules that clash.

`plan` chooses a tier for every stage on every path so that no rule is broken and the month costs least; `why`
says for one stage what each other tier would cost or which rules forbid it; `report`, `why_text` print both.
"""

from ganglion.placement.explain import Option, Why, why
from ganglion.placement.plan import LinkUse, Loop, Money, NodeUse, Placement, Plan
from ganglion.placement.planner import plan
from ganglion.placement.render import report, why_text
from ganglion.placement.rules import Rule

__all__ = [
    "LinkUse",
    "Loop",
    "Money",
    "NodeUse",
    "Option",
    "Placement",
    "Plan",
    "Rule",
    "Why",
    "plan",
    "report",
    "why",
    "why_text",
]
