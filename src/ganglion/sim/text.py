"""The report of a run as text, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ganglion.core.units import format_bytes
from ganglion.sim.ledgers import ledger_lines
from ganglion.sim.sharing import sharing_lines

CALLS_FEW = 30
"""A stage with fewer calls in a run is said to have so many: what they took together says little of one."""


def text(report: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = [
        _headline(report),
        "",
        "reaction, frame complete -> command at the actuator (ms)",
        f"  {'':12}{'p50':>9}{'p99':>9}{'max':>9}{'count':>8}",
    ]
    for title, key in (
        ("all", "reaction_ms"),
        ("connected", "reaction_ms_connected"),
        ("islanded", "reaction_ms_islanded"),
    ):
        row = report[key]
        cells = "".join(
            f"{'-' if row[k] is None else format(row[k], '.2f'):>9}" for k in ("p50", "p99", "max")
        )
        lines.append(f"  {title:12}{cells}{row['count']:>8}")
    lines.append(
        f"  over the deadline: {report['over_deadline']}, missed: {report['reflexes_missed']}, "
        f"missed while islanded: {report['reflexes_missed_islanded']}"
    )
    lines += ["", *_detection(report["detection"]), "", *_readings(report["readings"])]
    lines += ["", *_bytes(report["bytes"]), "", *_cuts(report), "", *_prediction(report)]
    lines += ["", *ledger_lines(report["device_ledgers"], report["played_s"])]
    lines += ["", *_kernels(report["kernels_ran_as"])]
    lines += sharing_lines(report["partitions"])
    if why := report["devices_not_boards_because"]:
        lines.append(f"devices: not on emulated boards: {why}")
    lines += ["", "OK" if report["ok"] else "NOT OK: " + "; ".join(report["problems"])]
    return "\n".join(lines) + "\n"


def _detection(found: Mapping[str, Any]) -> list[str]:
    recall = "-" if found["recall"] is None else f"{found['recall']:.3f}"
    line = (
        f"detection: {found['detected']} of {found['events']} faults (recall {recall}), "
        f"{found['false_trips']} false trips over {found['non_faults']} other events"
    )
    rows = [f"  missed: {m['event']} (row {m['row']}) at {m['origin']}" for m in found["missed"][:5]]
    return [line, *rows]


def _readings(readings: Mapping[str, Any]) -> list[str]:
    lines = [
        "readings",
        f"  {'stream':12}{'to':30}{'published':>10}{'received':>10}{'lost':>7}{'twice':>7}{'order':>7}",
    ]
    lines += [
        f"  {s['stream']:12}{s['use']:30}{s['published']:>10}{s['received']:>10}{s['lost']:>7}"
        f"{s['duplicated']:>7}{s['out_of_order']:>7}"
        for s in readings["streams"]
    ]
    rest = ("late", "dropped", "bad", "shed", "refused", "unsent", "retransmitted")
    lines.append("  " + ", ".join(f"{k} {readings[k]}" for k in rest))
    return lines


def _bytes(used: Mapping[str, Any]) -> list[str]:
    lines = [
        f"bytes: raw frames {format_bytes(used['raw'])}, device payload {format_bytes(used['device_payload'])}"
    ]
    lines += [f"  {name}: {format_bytes(up)} up" for name, up in used["uplink"].items()]
    if used["gateway_uplinks_share_of_raw"] is not None:
        lines.append(f"  gateway uplinks carry {used['gateway_uplinks_share_of_raw']:.1%} of the raw bytes")
    return lines


def _cuts(report: Mapping[str, Any]) -> list[str]:
    if not report["cuts"]:
        return ["no cuts"]
    return [
        f"cut of {c['site']} for {c['cut_s']:.1f} s: {c['backlog']} messages owed at the heal, "
        f"drained {report['heal_to_drained_s'][c['site']]} s after it"
        for c in report["cuts"]
    ]


def _prediction(report: Mapping[str, Any]) -> list[str]:
    found = report["accuracy"]
    head = f"{'predicted and measured':54}{'predicted':>12}{'measured':>12}{'off by':>9}"
    lines = [f"{head}  measured, with 95 % confidence; agrees: within a tenth"]
    lines += [_row(name, pair) for name, pair in report["prediction"].items()]
    lines += [_row(f"  {part} ms", pair) for part, pair in found["loop_ms"].items()]
    for stage in found["stages"]:
        if stage["ns_per_row"]["measured"] is not None:
            note = "" if stage["figures"] in ("measured", "counted") else f" ({stage['figures']})"
            note += f" ({stage['calls']} calls)" if stage["calls"] < CALLS_FEW else ""
            lines.append(_row(f"cpu ns/row {stage['stage']} at {stage['node']}{note}", stage["ns_per_row"]))
    lines += [_row(f"cpus of {n['node']}", n["cpus"]) for n in found["nodes"]]
    return lines


def _row(name: str, pair: Mapping[str, Any]) -> str:
    predicted, measured = (
        "-" if pair[k] is None else format(pair[k], ".4g") for k in ("predicted", "measured")
    )
    error = "-" if pair["error"] is None else f"{pair['error']:+.1%}"
    line = f"  {name:52}{predicted:>12}{measured:>12}{error:>9}"
    if "interval" in pair:
        low, high = pair["interval"]
        line += f"  {low:.4g} .. {high:.4g}, {'agrees' if pair['agrees'] else 'does not agree'}"
    return line


def _kernels(ran_as: Mapping[str, list[str]]) -> list[str]:
    ways = {
        "compiled": "compiled, in builds that gave the reference's bytes on hostile frames",
        "board": "on boards, in images that gave the reference's bytes on hostile frames",
        "board-untried": "on boards, in images that were not tried on hostile frames",
        "numpy": "in NumPy, not bit-exact across machines: no compiler that keeps the bits was found",
    }
    lines = []
    for way, how in ways.items():
        if stages := [s for s, used in ran_as.items() if way in used]:
            lines.append(f"kernels: {', '.join(stages)} ran {how}")
    return lines


def _headline(report: Mapping[str, Any]) -> str:
    kinds = {
        "board": "on emulated Cortex-M",
        "qemu": "on Cortex-M boards in QEMU",
        "firmware": "running the flow's firmware",
        "python": "in Python",
    }
    kind = " and ".join(f"{n} {kinds[k]}" for k, n in report["devices_ran_as"].items() if n)
    where = f"{report['devices']} devices ({kind}) at {report['gateways']} gateways"
    return f"{report['flow']}: {where}, played {report['played_s']:.1f} s of {report['data']}"
