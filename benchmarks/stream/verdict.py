"""What came of every row: alarms and their latency, windows against the plain reference, losses, the rate achieved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.stream.readings import Readings

if TYPE_CHECKING:
    from benchmarks.stream.peers import Peer

BEHIND_MS = 50.0
"""A cell whose load maker fell further behind its schedule, at the 99th percentile, was disturbed by other programs."""
RELATIVE = 1e-6
"""How far a mean may be off: a mean of numbers kept in 32 bits is within it."""
PERCENTILES = (50, 99, 99.9)


@dataclass
class Answers:
    """All that a peer said, read: first arrivals of alarms; the newest revision of windows and when it came."""

    alarms: dict[tuple[str, int], int] = field(default_factory=dict)
    repeated: int = 0
    windows: dict[tuple[str, int], tuple[int, int, float]] = field(default_factory=dict)
    window_ns: dict[tuple[str, int], int] = field(default_factory=dict)
    messages: int = 0
    received: int = 0
    unreadable: int = 0

    @staticmethod
    def of(peer: Peer, heard: list[tuple[int, bytes, bytes]]) -> Answers:
        """Reads what was heard, in the order in which it came."""
        found = Answers(messages=len(heard))
        for at_ns, topic, payload in heard:
            try:
                alarms, windows = peer.alarms(topic, payload), peer.results(topic, payload)
            except (ValueError, KeyError, TypeError, IndexError):
                found.unreadable += 1
                continue
            if alarms:
                found.received = max(found.received, peer.received(payload))
            for alarm in alarms:
                found.repeated += alarm in found.alarms
                found.alarms.setdefault(alarm, at_ns)
            for sensor, start, revision, count, mean in windows:
                key = (sensor, start)
                held = found.windows.get(key)
                # A peer without revisions that gives a window twice is taken by its last word.
                if held is None or revision >= held[0]:
                    found.windows[key] = (revision, count, mean)
                    found.window_ns[key] = at_ns
        return found


def spread_ms(values_ns: list[int]) -> dict[str, float]:
    """Percentiles in milliseconds; the largest too."""
    if not values_ns:
        return {"samples": 0}
    values = np.array(values_ns) / 1e6
    found = {f"p{p:g}": float(np.percentile(values, p)) for p in PERCENTILES}
    return {"samples": len(values_ns), **found, "max": float(values.max())}


def judged(rows: Readings, answers: Answers, sent: Any, start_ns: int, peer: Peer) -> dict[str, Any]:
    """The figures of a cell from what was sent and what was heard."""
    sent_ns = sent["sent_ns"]
    latencies: dict[int, list[int]] = {0: [], 1: []}
    last_row, last_ns = -1, 0
    for key, row in rows.alarm_rows.items():
        at_ns = answers.alarms.get(key)
        if at_ns is not None:
            latencies[int(rows.phase[row])].append(at_ns - int(sent_ns[row]))
            if rows.phase[row] == 1 and row > last_row:
                last_row, last_ns = row, at_ns
    first = rows.first_of(1)
    warm_start_ns = int(sent_ns[first])
    behind_ms = sent["behind_ns"][rows.phase == 1] / 1e6
    last_sent_ns = int(sent_ns[first + rows.count_of(1) - 1])
    alarms = rows.alarm_rows
    found: dict[str, Any] = {
        "rows": rows.count_of(1),
        "offered_per_s": rows.count_of(1) / max(1e-9, (last_sent_ns - warm_start_ns) / 1e9),
        "behind_ms": {"p99": float(np.percentile(behind_ms, 99)), "max": float(behind_ms.max())},
        "disturbed": bool(np.percentile(behind_ms, 99) > BEHIND_MS),
        "latency_ms": spread_ms(latencies[1]),
        "cold_ms": spread_ms(latencies[0]),
        "alarms": {
            "expected": len(alarms),
            "missing": sum(k not in answers.alarms for k in alarms),
            "false": sum(k not in alarms for k in answers.alarms),
            "repeated": answers.repeated,
        },
        "unreadable": answers.unreadable,
    }
    by_alarms = (last_row - first + 1) / ((last_ns - warm_start_ns) / 1e9) if last_row >= 0 else 0.0
    rates = [by_alarms]
    if peer.windows:
        windows = compared(rows, answers)
        found["windows"] = windows
        warm_ns = [
            answers.window_ns[k] for k in rows.windows if k in answers.window_ns and k[1] >= rows.ts_ms[first]
        ]
        found["window_lag_ms"] = spread_ms(
            [
                answers.window_ns[k] - start_ns - (k[1] + 1000 - rows.base_ms) * 1_000_000
                for k in rows.windows
                if k in answers.window_ns and k[1] >= rows.ts_ms[first]
            ]
        )
        if warm_ns:
            took_s = (max(warm_ns) - warm_start_ns) / 1e9 - peer.wait_s
            rates.append(rows.count_of(1) * (1 - windows["missing_share"]) / max(1e-9, took_s))
        else:
            rates.append(0.0)
    found["achieved_by"] = {"alarms": by_alarms, **({"windows": rates[1]} if peer.windows else {})}
    # What is not saturated answers a little after the last row was sent: it kept up with what was offered.
    found["achieved_per_s"] = min(*rates, found["offered_per_s"])
    lost = found["alarms"]["missing"] + (found["windows"]["lost_rows"] if peer.windows else 0)
    if answers.received:  # told with an alarm; the last row of the measured phase is one
        lost += max(0, first + rows.count_of(1) - answers.received)
    found["lost"] = lost
    found["correct"] = bool(
        not lost and not found["alarms"]["false"] and not answers.unreadable
        and (not peer.windows or found["windows"]["correct"])
    )  # fmt: skip
    return found


def compared(rows: Readings, answers: Answers) -> dict[str, Any]:
    """Windows against the plain reference: the same windows, the same counts, means within `RELATIVE`."""
    expected = rows.windows
    missing = wrong_count = wrong_mean = lost_rows = extra_rows = 0
    worst = 0.0
    for key, (count, mean) in expected.items():
        got = answers.windows.get(key)
        if got is None:
            missing += 1
            lost_rows += count
            continue
        if got[1] != count:
            wrong_count += 1
            lost_rows += max(0, count - got[1])
            extra_rows += max(0, got[1] - count)
            continue
        off = abs(got[2] - mean) / abs(mean)
        worst = max(worst, off)
        wrong_mean += off > RELATIVE
    flush_from = int(rows.ts_ms[rows.phase == -1].min()) // 1000 * 1000
    extra = sum(k not in expected and k[1] < flush_from for k in answers.windows)
    total = sum(count for count, _ in expected.values())
    return {
        "expected": len(expected),
        "missing": missing,
        "wrong_count": wrong_count,
        "wrong_mean": wrong_mean,
        "extra": extra,
        "lost_rows": lost_rows,
        "extra_rows": extra_rows,
        "missing_share": lost_rows / total,
        "worst_mean": worst,
        "correct": not (missing or wrong_count or wrong_mean or extra),
    }
