"""Plans and explanations as plain text for people."""

from __future__ import annotations

from collections.abc import Sequence

from ganglion.core.units import format_bytes, format_duration
from ganglion.flow.spec import FlowSpec, describe
from ganglion.flow.stages import TIERS
from ganglion.placement.explain import Option, Why
from ganglion.placement.plan import Loop, Plan

_ROWS_MAX = 40
GATEWAYS_LISTED_MAX = 200
"""A plan of more is told by numbers of devices."""
_DESCRIPTION_CHARS_MAX = 48


def report(plan: Plan, spec: FlowSpec) -> str:
    """The whole plan: stages, reflexes, links, nodes, money, certificate."""
    head = f"plan of flow {plan.flow}"
    if plan.objective != "money":
        head += f", objective: {plan.objective}"
    if plan.summary.gateways > GATEWAYS_LISTED_MAX:
        return (
            "\n\n".join(
                p for p in (head, _tiers(plan, spec), _reflexes(plan.summary.loops), _money(plan)) if p
            )
            + "\n"
        )
    parts = [head, _stages(plan, spec), _reflexes(plan.loops), _links(plan), _nodes(plan), _money(plan)]
    return "\n\n".join(p for p in parts if p) + "\n"


def why_text(why: Why) -> str:
    """One line per other tier: what it would cost, or which rules forbid it."""
    lines = [f"{why.stage} runs at {_where(why.now)}{_loop(why.loops)}; instead"]
    rows = [[o.tier, _verdict(o, why.currency)] for o in why.options]
    return "\n".join([*lines, _table(rows)]) + "\n"


def _stages(plan: Plan, spec: FlowSpec) -> str:
    rows = [["stage", "runs at", "node", "what it does"]]
    for stage in spec.stages:
        tiers = plan.tier_of(stage.id)
        nodes = [plan.node_of(stage.id, path) for path in tiers]
        rows.append([stage.id, _where(tiers), _some(nodes), _short(describe(stage))])
    return _table(rows)


def _tiers(plan: Plan, spec: FlowSpec) -> str:
    """Of a fleet: for how many devices each stage runs at which tier."""
    rows = [["stage", *TIERS, "what it does"]]
    for stage in spec.stages:
        tiers = plan.summary.tiers.get(stage.id, {})
        numbers = [f"{tiers[t]:,}" if t in tiers else "-" for t in TIERS]
        rows.append([stage.id, *numbers, _short(describe(stage))])
    where = f"{plan.summary.devices:,} devices at {plan.summary.gateways:,} gateways; for how many a stage runs where:"
    return f"{where}\n{_table(rows)}"


def _short(text: str) -> str:
    return text if len(text) <= _DESCRIPTION_CHARS_MAX else text[: _DESCRIPTION_CHARS_MAX - 3] + "..."


def _reflexes(loops: Sequence[Loop]) -> str:
    if not loops:
        return ""
    rows = [["reflex", "path", "predicted", "deadline"]]
    rows += [[x.act, x.path, format_duration(x.predicted_ns), format_duration(x.deadline_ns)] for x in loops]
    return _table(rows)


def _links(plan: Plan) -> str:
    rows = [["link", "bytes/day", "raw frames/day", "of raw", "of bandwidth", f"{plan.currency}/month"]]
    for x in plan.links:
        raw = f"{x.bytes_per_day / x.raw_bytes_per_day:.2%}" if x.raw_bytes_per_day else "-"
        sizes = [format_bytes(x.bytes_per_day), format_bytes(x.raw_bytes_per_day)]
        rows.append([x.link, *sizes, raw, f"{x.share:.2%}", f"{x.money_per_month:.2f}"])
    return _table(rows)


def _nodes(plan: Plan) -> str:
    rows = [["node", "cpus busy", "of", "memory", "of"]]
    for x in plan.nodes:
        memory = [format_bytes(x.memory_bytes), format_bytes(x.memory_bytes_max)]
        rows.append([x.node, f"{x.cpus:.4f}", f"{x.cpus_max:g}", *memory])
        if x.flash_bytes is not None and x.flash_bytes_max is not None:
            flash = f"{format_bytes(x.flash_bytes)} of {format_bytes(x.flash_bytes_max)}"
            rows[-1][-1] += f", flash {flash}"
    return _table(rows)


def _money(plan: Plan) -> str:
    m = plan.money
    parts = f"links {m.links:.2f}, energy {m.energy:.2f}, cpu {m.cpu:.2f}, nodes {m.nodes:.2f}"
    if plan.proved:
        sure = f"proved optimal ({plan.solver}): no placement that obeys the rules costs less"
        if plan.objective != "money":
            sure = f"proved optimal ({plan.solver}): no placement that obeys the rules is better in {plan.objective}"
    else:
        sure = f"not proved: the best may be {max(plan.gap, 1e-6):.3g} of it cheaper, and no more ({plan.solver})"
    q = plan.summary.quantities
    spent = f"for what is decided: {q['kwh']:.4g} kWh, {q['carbon_kg']:.4g} kg CO2e per month"
    return f"{m.total:.2f} {plan.currency} per month: {parts}\n{spent}\n{sure}"


def _verdict(option: Option, currency: str) -> str:
    if not option.allowed:
        return "no: " + "\n    and ".join(str(r) for r in option.forbidden_by)
    if option.tie:
        cost = "costs the same (a tie; faster reflexes, then lower tiers decided)"
    else:
        cost = f"{option.money_more_per_month:+.2f} {currency}/month"
        if abs(option.money_more_per_month) < 0.005:
            cost = f"{option.money_more_per_month:+.2g} {currency}/month"
        if not option.certain:
            cost += " (no more than the certificates leave open)"
    return f"{cost}{_loop(option.loops)}, {option.kwh_more_per_month:+.3g} kWh"


def _loop(loops: Sequence[Loop]) -> str:
    return f", loop {format_duration(max(x.predicted_ns for x in loops))}" if loops else ""


def _where(tiers: dict[str, str]) -> str:
    distinct = dict.fromkeys(tiers.values())
    if len(distinct) == 1:
        return next(iter(distinct))
    return ", ".join(f"{tier} ({_some([p for p, t in tiers.items() if t == tier])})" for tier in distinct)


def _some(names: Sequence[str]) -> str:
    few = list(dict.fromkeys(names))
    return ", ".join(few) if len(few) <= 3 else f"{', '.join(few[:2])} and {len(few) - 2} more"


def _table(rows: list[list[str]]) -> str:
    """Columns of equal width, two spaces apart; the last one may be ragged. A long table is cut, and says so."""
    if len(rows) > _ROWS_MAX + 1:
        more = f"... and {len(rows) - 1 - _ROWS_MAX} more (--json has all)"
        return _table(rows[: _ROWS_MAX + 1]) + f"\n  {more}"
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = ("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]) for row in rows)
    return "\n".join("  " + line.rstrip() for line in lines)
