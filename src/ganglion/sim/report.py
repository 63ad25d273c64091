"""The report of a run, as JSON: what was measured, judged and predicted."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ganglion.core.topology import Topology
from ganglion.flow.spec import FlowSpec
from ganglion.placement import Plan
from ganglion.placement.prediction import predict
from ganglion.sim import accuracy
from ganglion.sim.accuracy import Reports
from ganglion.sim.check import Tally, detection, percentiles, tally
from ganglion.sim.evidence import Command, Evidence
from ganglion.sim.ledgers import ledgers
from ganglion.sim.relay import LinkBytes
from ganglion.sim.settings import Settings
from ganglion.sim.world import CutRecord

FORMAT = 1


def build(
    settings: Settings,
    spec: FlowSpec,
    topology: Topology,
    plan: Plan,
    evidence: Evidence,
    *,
    cuts: list[CutRecord],
    links: Mapping[str, LinkBytes],
    played_s: float,
    devices_why: str,
    restarts: Mapping[str, int],
    reports: Reports = MappingProxyType({}),
) -> dict[str, Any]:
    """The report of a stopped run; see docs/reference/report.md for every field."""
    tallies = tally(spec, evidence)
    islanded = [c for c in evidence.commands if _islanded(c, topology, cuts)]
    free = [c for c in evidence.commands if not _islanded(c, topology, cuts)]
    found = detection(evidence.shots, evidence.commands)
    readings = _readings(tallies, evidence)
    raw = sum(d["raw_bytes"] for d in evidence.device_hosts)
    missed = _missed(spec, evidence, topology, cuts)
    deadline_ns = min((a.within_ns for a in spec.reflexes), default=0)
    problems = _problems(readings, missed, tallies)
    return {
        "format": FORMAT,
        "ok": not problems,
        "problems": problems,
        "flow": spec.name,
        "flow_digest": spec.digest,
        "devices": sum(p.count for p in topology.paths()),
        "gateways": len({p.gateway for p in topology.paths()}),
        "played_s": round(played_s, 3),
        "data": str(settings.data_dir) if settings.data_dir else f"generated, seed {settings.seed}",
        "reaction_ms": percentiles([c.reaction_ns for c in evidence.commands]),
        "reaction_ms_islanded": percentiles([c.reaction_ns for c in islanded]),
        "reaction_ms_connected": percentiles([c.reaction_ns for c in free]),
        "over_deadline": sum(c.reaction_ns > deadline_ns for c in evidence.commands),
        "reflexes_missed": missed["all"],
        "reflexes_missed_islanded": missed["islanded"],
        "repeated_commands": evidence.repeated_commands,
        "detection": found.to_json(),
        "readings": {**readings, "streams": [t.to_json() for t in tallies]},
        "bytes": _bytes(raw, evidence, links),
        "heal_to_drained_s": _drained(cuts),
        "cuts": [
            {"site": c.site, "cut_s": round((c.healed_ns - c.cut_ns) / 1e9, 3), "backlog": c.backlog}
            for c in cuts
        ],
        "restarts": dict(restarts),
        "partitions": {node: r["partitions"] for node, r in evidence.nodes.items() if r.get("partitions")},
        "prediction": accuracy.headline(plan, evidence, links, raw, played_s),
        "accuracy": _accuracy(spec, topology, plan, evidence, reports, played_s),
        "device_ledgers": ledgers(topology, evidence.device_hosts, played_s),
        "stages": _stages(evidence),
        "kernels_ran_as": _by_stage(evidence, "kernels"),
        "kernel_builds": _by_stage(evidence, "kernel_builds"),
        "devices_ran_as": {
            kind: sum(d["ran_as"][kind] for d in evidence.device_hosts)
            for kind in ("board", "qemu", "firmware", "python")
        },
        "devices_not_boards_because": devices_why,
    }


def _islanded(command: Command, topology: Topology, cuts: list[CutRecord]) -> bool:
    """True when any link above the command's gateway was cut when it arrived."""
    gateway = command.origin.split("-", 1)[0]
    above = topology.chain(gateway)
    return any(c.site in above and c.cut_ns <= command.arrived_ns < (c.healed_ns or 1 << 62) for c in cuts)


def _readings(tallies: list[Tally], evidence: Evidence) -> dict[str, int]:
    """Totals over streams and uses. A row with two uses is published, and must be received, twice."""
    nodes = evidence.nodes.values()
    stages = [s for n in nodes for s in n["stages"].values()]
    devices = [s for d in evidence.device_hosts for s in d["streams"].values()]
    repeated = sum(n["duplicated_rows"] for n in nodes)
    return {
        "published": sum(t.published for t in tallies),
        "received": sum(t.received for t in tallies),
        "lost": sum(t.lost for t in tallies),
        "duplicated": sum(t.duplicated for t in tallies) + repeated,
        "altered": sum(t.altered for t in tallies),
        "out_of_order": sum(t.out_of_order for t in tallies) + sum(n["out_of_order_rows"] for n in nodes),
        "late": sum(s["late"] for s in stages),
        "dropped": sum(s["dropped"] for s in stages),
        "bad": sum(s["bad"] for s in stages) + sum(n["bad_messages"] for n in nodes),
        "shed": sum(s["shed"] for s in devices),
        "shed_as_declared": sum(t.shed for t in tallies),
        "unsent": sum(s["offered"] - s["acknowledged"] - s["shed"] - s["refused"] for s in devices),
        "refused": sum(s["refused"] for s in devices),
        "retransmitted": sum((n["ingest"] or {}).get("duplicated_rows", 0) for n in nodes),
    }


def _missed(spec: FlowSpec, evidence: Evidence, topology: Topology, cuts: list[CutRecord]) -> dict[str, int]:
    """Decided trips without a command at the actuator: in all, and those decided while islanded."""
    arrived = {(c.origin, c.seq) for c in evidence.commands}
    missed = islanded = 0
    for act in spec.reflexes:
        for (stream, origin), rows in evidence.acknowledged.items():
            if stream != act.inputs[0]:
                continue
            for seq in rows:
                if (origin, seq) not in arrived:
                    missed += 1
                    islanded += _seq_islanded(origin, seq, evidence, topology, cuts)
        decided = sum(n["stages"].get(act.inputs[0], {}).get("out", 0) for n in evidence.nodes.values())
        if decided:  # the decision itself runs above the devices: only its count is known
            missed += max(0, decided - len(arrived))
    return {"all": missed, "islanded": islanded}


def _seq_islanded(
    origin: str, seq: int, evidence: Evidence, topology: Topology, cuts: list[CutRecord]
) -> bool:
    for shot in evidence.shots:
        if shot.origin == origin and shot.first_seq <= seq < shot.end_seq:
            at = Command("", origin, seq, shot.inception_ns, shot.inception_ns)
            return _islanded(at, topology, cuts)
    return bool(cuts)


def _problems(readings: Mapping[str, int], missed: Mapping[str, int], tallies: list[Tally]) -> list[str]:
    """What makes a run fail; empty when it is sound."""
    problems = [
        f"{t.stream} -> {t.use}: {t.lost} lost, {t.duplicated} duplicated, {t.out_of_order} out of order, "
        f"{t.altered} altered"
        for t in tallies
        if not t.sound
    ]
    if readings["dropped"] or readings["shed"] or readings["refused"] or readings["unsent"]:
        problems.append(
            f"{readings['dropped']} rows dropped as too old, {readings['shed']} shed by devices, "
            f"{readings['refused']} refused by gateways, {readings['unsent']} never acknowledged"
        )
    if readings["out_of_order"] and not any(t.out_of_order for t in tallies):
        problems.append(f"{readings['out_of_order']} rows reached a node out of order")
    if readings["duplicated"] and not any(t.duplicated for t in tallies):
        problems.append(f"{readings['duplicated']} rows reached a node twice (and were taken once)")
    if missed["all"]:
        problems.append(f"{missed['all']} reflexes missed, {missed['islanded']} of them while islanded")
    return problems


def _bytes(raw: int, evidence: Evidence, links: Mapping[str, LinkBytes]) -> dict[str, Any]:
    uplink = {name: used.up for name, used in links.items()}
    first_hop = sum(up for name, up in uplink.items() if name.split(">")[0] in _gateways(evidence))
    return {
        "raw": raw,
        "device_payload": sum(
            s["payload_bytes"] for d in evidence.device_hosts for s in d["streams"].values()
        ),
        "uplink": uplink,
        "downlink": {name: used.down for name, used in links.items()},
        "gateway_uplinks_share_of_raw": round(first_hop / raw, 6) if raw else None,
    }


def _gateways(evidence: Evidence) -> set[str]:
    return {d["name"].removeprefix("devices-") for d in evidence.device_hosts}


def _drained(cuts: list[CutRecord]) -> dict[str, float | None]:
    """The longest time per site; None when it never drained."""
    drained: dict[str, float | None] = {}
    for cut in cuts:
        seconds = cut.heal_to_drained_s
        known = drained.get(cut.site, 0.0)
        drained[cut.site] = None if seconds is None or known is None else round(max(seconds, known), 3)
    return drained


def _accuracy(
    spec: FlowSpec, topology: Topology, plan: Plan, evidence: Evidence, reports: Reports, played_s: float
) -> dict[str, Any]:
    """What the plan said of loops, stages, nodes and streams beside what was measured."""
    prediction = predict(spec, topology, plan)
    steps = accuracy.steps(evidence)
    return {
        "loop_ms": accuracy.loop(prediction, steps, evidence),
        "loop_steps_ms": steps,
        "stages": accuracy.stages(prediction, evidence, played_s),
        "nodes": accuracy.nodes(prediction, topology, evidence, reports, played_s),
        "streams": accuracy.streams(prediction, evidence, topology, played_s),
    }


def _by_stage(evidence: Evidence, field: str) -> dict[str, list[str]]:
    """Per stage, what all nodes and devices said in this field: the ways in which its kernel ran, or its builds."""
    total: dict[str, set[str]] = {}
    for report in [*evidence.device_hosts, *evidence.nodes.values()]:
        for stage, said in report[field].items():
            total.setdefault(stage, set()).update([said] if isinstance(said, str) else said)
    return {stage: sorted(found) for stage, found in total.items()}


def _stages(evidence: Evidence) -> dict[str, dict[str, int]]:
    """Rows through each stage, summed over the nodes and devices that run it."""
    total: dict[str, dict[str, int]] = {}
    for report in [*evidence.device_hosts, *evidence.nodes.values()]:
        for stage, counts in report["stages"].items():
            if stage.startswith("in:"):
                continue
            into = total.setdefault(stage, dict.fromkeys(counts, 0))
            for name, value in counts.items():
                into[name] += value
    return total
