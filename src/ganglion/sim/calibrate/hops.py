"""What messages take on each node class, and what data makes of streams: read from the report of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import orjson

from ganglion.core.calibration import HopFigures, Spread, StageFigures, StreamFigures
from ganglion.core.errors import DataError
from ganglion.core.topology import Topology
from ganglion.flow.digests import stream_digest, work_digest
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import TIERS, WhereStage
from ganglion.placement.demand import BATCH_FIELD_BYTES, BATCH_PAYLOAD_HEAD_BYTES
from ganglion.sim.calibrate.stages import spread
from ganglion.sim.report import FORMAT

Report = Mapping[str, Any]
SHARE_MIN = 1e-12
CALLS_MIN = 3
"""Fewer calls in a run say nothing."""
ROWS_MIN = 50
"""Fewer rows say nothing of their bytes: marks of a stream's end are messages too."""


def read_report(path: Path, spec: FlowSpec) -> Report:
    """A report of this very flow, as `ganglion run --report` writes it.

    Raises `DataError` ``calibrate.report`` for anything else.
    """
    try:
        report = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise _unusable(path, str(error)) from error
    if not isinstance(report, dict) or report.get("format") != FORMAT or "accuracy" not in report:
        raise _unusable(path, "it is not a report of this version's ganglion run")
    if report.get("flow_digest") != spec.digest:
        raise _unusable(path, f"it is of another flow than {spec.name} is now")
    return report


def _unusable(path: Path, why: str) -> DataError:
    return DataError(
        "calibrate.report",
        f"{path} cannot be used",
        why=why,
        next_step="make one: ganglion run FLOW_DIR --report FILE",
    )


def streams(report: Report, spec: FlowSpec, *, shares: bool) -> dict[str, StreamFigures]:
    """Stream -> bytes of its rows in uplinks' messages and, if ``shares``, which part of its rows a `where` let pass.

    A stream without a row in the run is missing: nothing was seen of it.
    """
    found: dict[str, StreamFigures] = {}
    sent: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for entry in report["accuracy"]["streams"]:
        for i, name in enumerate(("rows", "messages", "payload_bytes")):
            sent[entry["stream"]][i] += entry[name]
    for stage in spec.stages:
        rows, messages, payload = sent[stage.id]
        head = BATCH_PAYLOAD_HEAD_BYTES + BATCH_FIELD_BYTES * len(stage.schema.fields)
        row_bytes = (payload - messages * head) / rows if rows >= ROWS_MIN else 0.0
        share = _share(report, stage) if shares and isinstance(stage, WhereStage) else None
        if row_bytes > 0 or share is not None:
            found[stage.id] = StreamFigures(
                digest=stream_digest(spec, stage.id),
                share=share,
                row_bytes=round(row_bytes, 3) if row_bytes > 0 else None,
            )
    return found


def _share(report: Report, stage: WhereStage) -> float | None:
    counts = report["stages"].get(stage.id)
    return max(SHARE_MIN, counts["out"] / counts["rows"]) if counts and counts["rows"] else None


def hops(report: Report, spec: FlowSpec, topology: Topology) -> dict[str, HopFigures]:
    """Class -> what its messages take, beyond what the run's plan said of its stages."""
    steps = report["accuracy"]["loop_steps_ms"]
    computing = _computing(report, spec, topology)
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for group in topology.devices.values():
        found[group.class_name] |= {
            "wake_ns": _step(steps, "wake"),
            "send_ns": _step(steps, "send", less_ns=computing["device"]),
            "receive_ns": _step(steps, "down"),
            "obey_ns": _step(steps, "obey"),
        }
    for site in topology.sites.values():
        if site.tier == "gateway":
            found[site.node.class_name] |= {
                "receive_ns": _step(steps, "up"),
                "react_ns": _step(steps, "react", less_ns=computing["gateway"]),
            }
    for name, parts in _parts(report, topology).items():
        found[name] |= parts
    return {name: HopFigures(**parts) for name, parts in found.items()}


def settled(
    stages: Mapping[str, StageFigures], report: Report, spec: FlowSpec, nodes: Container[str]
) -> dict[str, StageFigures]:
    """The stages' figures with each call as it was in the run, on these nodes, where there were enough of them.

    A process that does much else between two calls finds its caches cold; timed alone, a stage never shows that.
    """
    found = dict(stages)
    per_call: dict[str, list[float]] = defaultdict(list)
    for row in report["accuracy"]["stages"]:
        figure = found.get(work_digest(spec, row["stage"]))
        took = row["ns_per_row"]["measured"]
        if figure is None or figure.row_ns is None or took is None or row["node"] not in nodes:
            continue
        if row["rows"] / row["rows_per_call"] >= CALLS_MIN:
            beyond_rows = (took - figure.row_ns.median) * row["rows_per_call"]
            per_call[work_digest(spec, row["stage"])].append(max(0.0, beyond_rows))
    for digest, calls in per_call.items():
        found[digest] = found[digest].model_copy(update={"call_ns": spread(calls)})
    return found


def _step(steps: Mapping[str, Any], name: str, less_ns: float = 0.0) -> Spread | None:
    step = steps.get(name)
    if step is None:
        return None
    low, middle, high = (max(0.0, step[p] * 1e6 - less_ns) for p in ("p5", "typical", "p95"))
    return Spread(median=round(middle), low=round(low), high=round(high), count=step["count"])


def _computing(report: Report, spec: FlowSpec, topology: Topology) -> dict[str, float]:
    """What the plan said of one reflex's stages, by tier: it is within the steps that were measured."""
    chain = {x for act in spec.reflexes[:1] for x in (*spec.ancestors(act.id), act.id)}
    path = topology.paths()[0]
    total: dict[str, float] = dict.fromkeys(TIERS, 0.0)
    for row in report["accuracy"]["stages"]:
        for tier, node in path.nodes.items():
            if row["node"] == node and row["stage"] in chain:
                total[tier] += row["ns_per_row"]["predicted"]
    return total


def _parts(report: Report, topology: Topology) -> dict[str, dict[str, Any]]:
    classes = {topology.node_id(s): site.node.class_name for s, site in topology.sites.items()}
    groups = {f"device:{p.id}": topology.devices[p.group].class_name for p in topology.paths()}
    measured: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    frames: dict[str, float] = {}
    for row in report["accuracy"]["nodes"]:
        name = classes.get(row["node"]) or groups[row["node"]]
        for key, value in row["measured_parts"].items():
            measured[name][key].append(value)
        if row["node"] in groups:
            frames[name] = row["stages_ns_per_frame"]
    found: dict[str, dict[str, Any]] = {}
    for name, parts in measured.items():
        found[name] = {}
        if parts["message_ns"]:
            found[name]["message_ns"] = spread(parts["message_ns"])
        if parts["frame_ns"]:
            found[name]["frame_ns"] = spread([max(0.0, f - frames[name]) for f in parts["frame_ns"]])
        if parts["own"]:
            found[name]["own_cpus"] = round(sum(parts["own"]) / len(parts["own"]), 6)
    return found
