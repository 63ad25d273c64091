"""`ganglion plan`: the plan, why it is so, what would change it, what simpler policies come to, and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ganglion.core.errors import GanglionError
from ganglion.core.topology import Topology
from ganglion.core.units import format_duration
from ganglion.flow.spec import FlowSpec
from ganglion.placement import (
    GAP_MAX,
    Cut,
    Plan,
    Repair,
    changed,
    compare,
    crowded,
    parse_objective,
    picture,
    plan,
    repair,
    report,
    rollout,
    survey,
    why,
    why_text,
    worth,
)
from ganglion.placement.measured import shares
from ganglion.placement.origins import origins
from ganglion.sim.sharing import check_processes, homes, sharing_lines

SMALL_GATEWAYS_MAX = 200
"""A plan of more is told without its moves, stage by stage."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about a plan: at most one of ``why`` (a stage, or ``all``), ``what_if`` and ``compare``."""

    why: str | None
    what_if: str | None
    compare: str | None
    svg: Path | None


def answer(
    spec: FlowSpec,
    topology: Topology,
    pins: Mapping[str, str],
    objective: str | None,
    question: Question,
    *,
    gap_max: float = GAP_MAX,
) -> tuple[str, Any]:
    """The answer as text and as JSON; with ``svg`` the picture is written too. Raises ``cli.plan-question``."""
    asked = [q for q in (question.why, question.what_if, question.compare) if q is not None]
    if len(asked) > 1:
        raise GanglionError(
            "cli.plan-question",
            "a plan is asked one thing at a time",
            why="--why, --what-if and --compare have answers of their own",
            next_step="give one of them",
        )
    known = shares(spec, topology)
    chosen = plan(spec, topology, pins=pins, selectivities=known, objective=objective, gap_max=gap_max)
    written_out = topology if chosen.summary.gateways > SMALL_GATEWAYS_MAX else topology.expanded()
    check_processes(spec, written_out, chosen)
    if question.svg is not None:
        _write(question.svg, picture(chosen, spec, topology))
    if question.why is not None:
        return _why(spec, topology, chosen, question.why)
    if question.what_if is not None:
        return _what_if(spec, topology, chosen, question.what_if)
    if question.compare is not None:
        return _compare(spec, topology, chosen, question.compare)
    if chosen.summary.gateways > SMALL_GATEWAYS_MAX:
        return report(chosen, spec), chosen.summary_json()
    made, shared = origins(spec, written_out), homes(written_out)
    lines = "".join(f"{line}\n" for line in (*sharing_lines(shared), ""))
    text = report(chosen, spec) + "\n" + (lines if shared else "") + made.text()
    found = {"figures": made.to_json()} | ({"partitions": shared} if shared else {})
    return text, chosen.to_json() | found


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise GanglionError(
            "cli.svg",
            f"the picture cannot be written to {path}",
            why=error.strerror or str(error),
            next_step="name another file with --svg",
        ) from error


def _why(spec: FlowSpec, topology: Topology, chosen: Plan, stage: str) -> tuple[str, Any]:
    names = [s.id for s in spec.stages] if stage == "all" and "all" not in spec else [stage]
    reasons = [why(spec, topology, chosen, name) for name in names]
    values = [r.to_json() for r in reasons]
    return "\n".join(why_text(r) for r in reasons), values if len(values) > 1 else values[0]


def _what_if(spec: FlowSpec, topology: Topology, chosen: Plan, change: str) -> tuple[str, Any]:
    cut: tuple[str, ...] = ()
    try:
        after = changed(topology, change)
    except Cut as error:
        after, cut = topology, error.sites
    small = chosen.summary.gateways <= SMALL_GATEWAYS_MAX
    anew = plan(spec, after, pins=chosen.pins, selectivities=chosen.selectivities, objective=chosen.objective)
    mended = repair(spec, topology, chosen, after, unreachable=cut) if small else None
    lines = [f"if {change}:"]
    if cut:
        lines += [
            f"  {_some(cut)} cannot be reached: what runs there stays, and nothing that passes there moves",
            "  reflexes go on, they need no uplink; rows wait in the outboxes until it heals",
        ]
    lines += [f"  {line}" for line in _differences(chosen, anew)] if not cut else []
    steps: list[Any] = []
    if mended is not None:
        order = rollout(
            spec, chosen.assignments(), mended.plan.assignments(), full=crowded(chosen, mended.plan)
        )
        steps = [{"phase": s.phase, "node": s.node} for s in order]
        lines += _repair_lines(chosen, mended, steps)
    value = {
        "change": change,
        "unreachable": list(cut),
        "money_per_month": {"before": chosen.money.total, "after": anew.money.total},
        "certificate": {"gap": anew.gap, "proved": anew.proved},
        "moves": [asdict(m) for m in mended.moves] if mended else None,
        "steps": steps if mended else None,
        "tiers": {s: dict(t) for s, t in anew.summary.tiers.items()},
        "loops": [asdict(x) for x in anew.summary.loops],
    }
    return "\n".join(lines) + "\n", value


def _differences(was: Plan, now: Plan) -> list[str]:
    """Money, slowest loop, and the stages that run elsewhere in the best plan after the change."""
    more = now.money.total - was.money.total
    lines = [f"{more:+.2f} {was.currency}/month: {was.money.total:.2f} -> {now.money.total:.2f}"]
    if not now.proved:
        lines[0] += f" (not proved: the best may be {now.gap:.3g} of what is decided cheaper)"
    if was.summary.loops and now.summary.loops:
        slow = [max(p.summary.loops, key=lambda x: x.predicted_ns).predicted_ns for p in (was, now)]
        lines.append(f"slowest reflex: {format_duration(slow[0])} -> {format_duration(slow[1])}")
    for stage, tiers in now.summary.tiers.items():
        before = was.summary.tiers.get(stage, {})
        if dict(before) != dict(tiers):
            lines.append(f"{stage}: {_tally(before)} -> {_tally(tiers)}")
    return lines


def _tally(tiers: Mapping[str, int]) -> str:
    return ", ".join(f"{tier} ({n:,})" for tier, n in tiers.items()) or "-"


def _repair_lines(was: Plan, mended: Repair, steps: list[Any]) -> list[str]:
    if not mended.moves:
        return ["  repair: nothing moves"]
    more = mended.plan.money.total - was.money.total
    lines = [
        f"  repair ({mended.scope} by {mended.scope}): {len(mended.moves)} moves, {more:+.2f} {was.currency}/month"
    ]
    lines += [f"    {m.stage} of {m.path}: {m.before or '-'} -> {m.after or '-'}" for m in mended.moves[:20]]
    if len(mended.moves) > 20:
        lines.append(f"    and {len(mended.moves) - 20} more (--json has all)")
    order = ", ".join(f"{s['node']} ({s['phase']})" for s in steps[:12])
    lines.append(f"  applied in the order: {order}{' ...' if len(steps) > 12 else ''}")
    return lines


def _compare(spec: FlowSpec, topology: Topology, chosen: Plan, policies: str) -> tuple[str, Any]:
    objective = parse_objective(chosen.objective, topology.currency)
    terrain = survey(spec, topology, chosen.pins, chosen.selectivities, objective)
    best = worth(chosen)
    found = [compare(terrain, name.strip()) for name in policies.split(",")]
    unit = f"{topology.currency}/month" if objective.by_money else objective.text.partition(",")[0]
    head = f"this plan: {best:.4f} {unit} of what is decided"
    lines = [head + (", proved" if chosen.proved else f", at most {chosen.gap:.3g} of it above the best")]
    for outcome in found:
        if outcome.unplaced:
            verdict = f"no plan: nothing fits for {outcome.unplaced:,} of {outcome.devices:,} devices"
        else:
            verdict = f"{outcome.worth:.4f}, {_times(outcome.worth, best)}"
        lines.append(f"  {outcome.policy}: {verdict}")
    value = {"plan": best, "gap": chosen.gap, "policies": [asdict(o) for o in found]}
    return "\n".join(lines) + "\n", value


def _times(value: float, best: float) -> str:
    if best <= 0 or abs(value - best) <= 1e-6 * abs(best):
        return "as good as this plan"
    return f"{value / best:.3f} times this plan"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:4])} and {len(names) - 4} more"
