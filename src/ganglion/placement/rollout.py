"""In which order a plan's changes are applied, so that no reflex is without its whole chain at any moment.

First every node that changes gets what it had and what it will have, receivers before senders: a stage runs at its new
place, and its input comes there, before anything ends at the old one. Then each gets what it will have, receivers first
again: nobody stops sending what is still read. Where a node has no room for both, the stages that leave it and that no
reflex needs end first; their input waits in the outboxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ganglion.flow.assignment import ALL, Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import TIERS
from ganglion.placement.plan import Plan

_Table = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Step:
    """A node gets an assignment; None: it has none any more. ``phase``: ``room``, ``both`` or ``after``."""

    phase: str
    node: str
    assignment: Assignment | None


def rollout(
    spec: FlowSpec,
    before: Mapping[str, Assignment],
    after: Mapping[str, Assignment],
    *,
    full: frozenset[str] = frozenset(),
) -> list[Step]:
    """The steps from one plan's assignments to another's. ``full``: nodes without room for both, see `crowded`."""
    needed = {name for act in spec.reflexes for name in (*spec.ancestors(act.id), act.id)}
    changed = [n for n in {**before, **after} if before.get(n) != after.get(n)]
    changed.sort(key=lambda n: (-TIERS.index((after.get(n) or before[n]).tier), n))
    steps: list[Step] = []
    now = dict(before)
    for node in changed:
        if node in full and node in before and node in after:
            kept = _without(before[node], after[node], needed)
            if kept != now[node]:
                now[node] = kept
                steps.append(Step("room", node, kept))
    for node in changed:
        if node in after:
            both = _both(now[node], after[node]) if node in now else after[node]
            if both != now.get(node):
                now[node] = both
                steps.append(Step("both", node, both))
    steps += [Step("after", node, after.get(node)) for node in changed if now.get(node) != after.get(node)]
    return steps


def crowded(before: Plan, after: Plan) -> frozenset[str]:
    """The nodes that may have no room for what they run and what they will run at once."""
    was = {use.node: use for use in before.nodes}
    return frozenset(
        use.node
        for use in after.nodes
        if use.node in was
        and (
            was[use.node].memory_bytes + use.memory_bytes > use.memory_bytes_max
            or was[use.node].cpus + use.cpus > use.cpus_max
        )
    )


def _both(one: Assignment, other: Assignment) -> Assignment:
    return Assignment(
        other.node,
        other.site,
        other.tier,
        other.flow_digest,
        _joined(one.runs, other.runs),
        _joined(one.exports, other.exports),
    )


def _joined(one: _Table, other: _Table) -> dict[str, frozenset[str]]:
    return {k: one.get(k, frozenset()) | other.get(k, frozenset()) for k in {**one, **other}}


def _without(one: Assignment, after: Assignment, needed: set[str]) -> Assignment:
    """Without the stages that leave and that no reflex needs."""
    runs = {
        stage: paths if stage in needed else paths & after.runs.get(stage, frozenset())
        for stage, paths in one.runs.items()
    }
    return Assignment(
        one.node, one.site, one.tier, one.flow_digest, {k: v for k, v in runs.items() if v}, dict(one.exports)
    )


def broken_reflexes(spec: FlowSpec, assignments: Mapping[str, Assignment]) -> list[tuple[str, str]]:
    """(reflex, path) without its whole chain: each stage at the path's device or gateway, with its input there."""
    paths = {p for a in assignments.values() for ps in a.runs.values() for p in ps if p != ALL}
    found = []
    for act in spec.reflexes:
        chain = [s for s in spec.stages if s.id in spec.ancestors(act.id) or s.id == act.id]
        for path in sorted(paths):
            device = assignments.get(f"device:{path}")
            gateway = next((a for a in assignments.values() if a.tier == "gateway" and _at(a, path)), None)
            if device is None or gateway is None:
                found.append((act.id, path))
                continue
            # What is available where: a stage's rows at the device, and at the gateway when made or sent there.
            low: set[str] = set()
            high: set[str] = set()
            for stage in chain:
                at_device = path in device.runs.get(stage.id, ()) and low.issuperset(stage.inputs)
                at_gateway = path in gateway.runs.get(stage.id, ()) and high.issuperset(stage.inputs)
                if at_device:
                    low.add(stage.id)
                if at_gateway or (at_device and path in device.exports.get(stage.id, ())):
                    high.add(stage.id)
            if act.id not in high:
                found.append((act.id, path))
    return found


def _at(gateway: Assignment, path: str) -> bool:
    return path.rpartition("-")[0] == gateway.site
