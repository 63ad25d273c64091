"""How true a plan was: each predicted figure beside the one that the run measured, with the relative error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ganglion.core.topology import Topology
from ganglion.core.units import SECONDS_PER_DAY
from ganglion.placement import Plan
from ganglion.placement.prediction import NodeCost, Prediction
from ganglion.sim.check import percentiles
from ganglion.sim.evidence import Command, Evidence
from ganglion.sim.intervals import Interval, median_interval, parts_intervals
from ganglion.sim.relay import LinkBytes

STEPS = ("wake", "send", "up", "react", "down", "obey")
"""A reaction's steps in their order, each from the end of the one before; see docs/reference/report.md."""
PARTS = {"device": ("wake", "send"), "link": ("up", "down"), "gateway": ("react",), "actuator": ("obey",)}
FRAME_WORKS = ("device:frame", "device:sent", "device:received", "device:poll")
AGREES = 0.1
Reports = Mapping[str, Mapping[str, Any]]
"""Moment (``up``, ``began``, ``ended``) -> node -> its report then."""


def pair(predicted: float | None, measured: float | None, interval: Interval | None = None) -> dict[str, Any]:
    """``error``: what the prediction was too high by, as a share of what was measured.

    ``interval``: of the measured value, with 95 % confidence; ``agrees``: whether the prediction is within a tenth of
    some value in it.
    """
    error = None
    if predicted is not None and measured:
        error = round((predicted - measured) / measured, 4)
    found: dict[str, Any] = {"predicted": _short(predicted), "measured": _short(measured), "error": error}
    if interval is not None and predicted is not None:
        low, high = interval
        found["interval"] = [_short(low), _short(high)]
        found["agrees"] = low * (1 - AGREES) <= predicted <= high * (1 + AGREES)
    return found


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def headline(
    plan: Plan, evidence: Evidence, links: Mapping[str, LinkBytes], raw: int, played_s: float
) -> dict[str, dict[str, Any]]:
    """Reaction, bytes of each uplink, raw bytes."""
    figures: dict[str, dict[str, Any]] = {}
    reaction = percentiles([c.reaction_ns for c in evidence.commands])["p50"]
    if plan.loops:
        predicted = max(loop.predicted_ns for loop in plan.loops) / 1e6
        times = median_interval([c.reaction_ns / 1e6 for c in evidence.commands])
        figures["reaction_ms_p50"] = pair(predicted, reaction, times)
    per_day = SECONDS_PER_DAY / played_s if played_s else 0.0
    for use in plan.links:
        if use.link in links:
            figures[f"bytes_per_day {use.link}"] = pair(use.bytes_per_day, links[use.link].up * per_day)
    raw_predicted = sum(u.raw_bytes_per_day for u in plan.links if u.link not in links)
    if raw_predicted:
        figures["raw_bytes_per_day"] = pair(raw_predicted, raw * per_day)
    return figures


def steps(evidence: Evidence) -> dict[str, dict[str, float | int]]:
    """Per step of a reaction, in ms: ``typical``, and ``p5 p95 count`` over the commands whose every step is known.

    ``typical`` is the mean over the middle fifth of these commands by their reaction, so that the steps add up to about
    the median reaction; their own medians would not, since one that takes long is seldom long in every step.
    """
    known = [found for command in evidence.commands if (found := _steps(command, evidence))]
    if not known:
        return {}
    known.sort(key=lambda found: sum(found.values()))
    edge = (len(known) - 1) * 2 // 5
    middle = known[edge : len(known) - edge]
    result: dict[str, dict[str, float | int]] = {}
    for name in STEPS:
        low, high = np.percentile([k[name] for k in known], (5, 95)) / 1e6
        typical = sum(k[name] for k in middle) / len(middle) / 1e6
        result[name] = {
            "p5": round(min(float(low), typical), 4),
            "typical": round(typical, 4),
            "p95": round(max(float(high), typical), 4),
            "count": len(known),
        }
    return result


def _steps(command: Command, evidence: Evidence) -> dict[str, int]:
    received_ns, commanded_ns = evidence.reactions.get(command.command_id, (0, 0))
    moments = (
        command.frame_done_ns,
        command.woke_ns,
        command.sent_ns,
        received_ns,
        commanded_ns,
        command.received_ns,
        command.arrived_ns,
    )
    if not all(moments):
        return {}
    return {name: moments[i + 1] - moments[i] for i, name in enumerate(STEPS)}


def loop(
    prediction: Prediction, measured: Mapping[str, Mapping[str, float | int]], evidence: Evidence
) -> dict[str, Any]:
    """The parts of a reaction, in ms: predicted for the slowest path, measured as sums of typical steps."""
    if not prediction.loops:
        return {}
    known = [
        {n: ns / 1e6 for n, ns in found.items()} for c in evidence.commands if (found := _steps(c, evidence))
    ]
    intervals = parts_intervals(known, PARTS)
    slowest = max(prediction.loops.values(), key=sum)
    return {
        part: pair(
            getattr(slowest, part) / 1e6,
            sum(measured[n]["typical"] for n in names) if measured else None,
            intervals.get(part),
        )
        for part, names in PARTS.items()
    }


def stages(prediction: Prediction, evidence: Evidence, played_s: float) -> list[dict[str, Any]]:
    """Every stage on every node: nanoseconds of a processor per row, and processors kept busy.

    Stages of firmware run within one call, so only the whole of a device is measured, see `nodes`. Each stage's first
    call on a node is apart: it loads what the others find loaded.
    """
    works = {node: report.get("works", {}) for node, report in evidence.nodes.items()}
    rows = []
    for stage in prediction.stages:
        work = works.get(stage.node, {}).get(stage.stage)
        per_row = work["cpu_ns"] / work["rows"] if work and work["rows"] else None
        busy = work["cpu_ns"] / 1e9 / played_s if work and played_s else None
        rows.append(
            {
                "stage": stage.stage,
                "node": stage.node,
                "figures": stage.origin,
                "rows": work["rows"] if work else None,
                "first_call_ns": work["first_ns"] if work else None,
                "calls": work["calls"] if work else None,
                "rows_per_call": round(work["rows"] / work["calls"], 2) if work and work["calls"] else None,
                "ns_per_row": pair(stage.row_ns, per_row),
                "cpus": pair(stage.cpus, busy),
            }
        )
    return rows


def nodes(
    prediction: Prediction, topology: Topology, evidence: Evidence, reports: Reports, played_s: float
) -> list[dict[str, Any]]:
    """Every node's whole: processors kept busy by its program, and what its messages and its idling take of them."""
    rows = []
    for node in prediction.nodes:
        measured = (
            _device(node.node, topology, evidence, played_s)
            if node.node.startswith("device:")
            else _node(node.node, reports)
        )
        parts = {"stages": node.stages_cpus, "messages": node.messages_cpus, "own": node.own_cpus}
        rows.append(
            {
                "node": node.node,
                "stages_ns_per_frame": _short(_per_frame(node, prediction)),
                "cpus": pair(node.cpus, measured.get("cpus")),
                "predicted_parts": {k: _short(v) for k, v in parts.items()},
                "measured_parts": {k: _short(v) for k, v in measured.items() if k != "cpus"},
            }
        )
    return rows


def _per_frame(node: NodeCost, prediction: Prediction) -> float | None:
    """Of a device: what its stages take of one frame together, as predicted."""
    if not node.node.startswith("device:"):
        return None
    return node.stages_cpus * 1e9 / prediction.frames_per_s


def _device(node: str, topology: Topology, evidence: Evidence, played_s: float) -> dict[str, float]:
    """Of each device: all paths of a gateway run in one process, so a gateway with several kinds gives their mean."""
    path = node.removeprefix("device:")
    gateway = next(p.gateway for p in topology.paths() if p.id == path)
    report = next((d for d in evidence.device_hosts if d["name"] == f"devices-{gateway}"), None)
    works = (report or {}).get("works", {})
    if report is None or not works or not played_s:
        return {}
    total_ns = sum(works[name]["cpu_ns"] for name in FRAME_WORKS if name in works)
    plain, sent = works.get("device:frame"), works.get("device:sent")
    found = {"cpus": total_ns / 1e9 / played_s / report["devices"]}
    messages = sum(s["messages"] for s in report["streams"].values())
    if plain and plain["calls"]:
        frame_ns = plain["cpu_ns"] / plain["calls"]
        found["frame_ns"] = frame_ns
        frames = plain["calls"] + (sent["calls"] if sent else 0)
        if messages:
            found["message_ns"] = max(0.0, total_ns - frames * frame_ns) / messages
    return found


def _node(node: str, reports: Reports) -> dict[str, float]:
    up, began, ended = (reports.get(at, {}).get(node) for at in ("up", "began", "ended"))
    if not (up and began and ended) or ended["at_ns"] <= began["at_ns"] or began["at_ns"] <= up["at_ns"]:
        return {}
    span_s = (ended["at_ns"] - began["at_ns"]) / 1e9
    busy_ns = ended["process_cpu_ns"] - began["process_cpu_ns"]
    own_ns = (began["process_cpu_ns"] - up["process_cpu_ns"]) / (began["at_ns"] - up["at_ns"]) * span_s * 1e9
    stages_ns = _stages_ns(ended) - _stages_ns(began)
    messages = _messages(ended) - _messages(began)
    found = {"cpus": busy_ns / 1e9 / span_s, "own": own_ns / 1e9 / span_s, "stages": stages_ns / 1e9 / span_s}
    found["messages_per_s"] = messages / span_s
    if messages:
        found["message_ns"] = max(0.0, busy_ns - own_ns - stages_ns) / messages
    return found


def _stages_ns(report: Mapping[str, Any]) -> int:
    return int(sum(w["cpu_ns"] for w in report["works"].values()))


def _messages(report: Mapping[str, Any]) -> int:
    """Messages that came in: from devices, or from the sites below."""
    return int(report["ingest"]["messages"] if report["ingest"] else report["input_seq"])


def streams(
    prediction: Prediction, evidence: Evidence, topology: Topology, played_s: float
) -> list[dict[str, Any]]:
    """Payload of every stream on every link between sites, and its rows: what nodes counted as they sent."""
    rows = []
    for stream in prediction.streams:
        below = stream.link.split(">")[0]
        if below not in topology.sites:
            continue
        sent = evidence.nodes[topology.node_id(below)].get("exported", {}).get(stream.stream)
        rows.append(
            {
                "stream": stream.stream,
                "link": stream.link,
                "bytes_per_s": pair(
                    stream.bytes_per_s, sent["payload_bytes"] / played_s if sent and played_s else None
                ),
                "messages_per_s": pair(
                    stream.messages_per_s, sent["messages"] / played_s if sent and played_s else None
                ),
                "rows": sent["rows"] if sent else 0,
                "messages": sent["messages"] if sent else 0,
                "payload_bytes": sent["payload_bytes"] if sent else 0,
            }
        )
    return rows
