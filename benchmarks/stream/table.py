"""Cells as lines and tables: medians over the repeats, with the smallest and the largest."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.stream.readings import DIRECT, MAX

RATE_NAMES = {MAX: "max", DIRECT: "direct"}


def rate_name(rate: int) -> str:
    return RATE_NAMES.get(rate) or f"{rate:,}"


def _ascending(rate: int) -> tuple[bool, int]:
    """The rates in numbers first, then max and direct."""
    return rate <= 0, abs(rate)


def line(row: dict[str, Any]) -> str:
    """One cell for the terminal."""
    head = f"{row['repeat'] + 1}  {rate_name(row['rate']):>6}  {row['peer']:<20}"
    if "failed" in row:
        return f"{head} failed: {row['failed'][:150]}"
    latency = row["latency_ms"]
    p50, p99 = latency.get("p50", float("nan")), latency.get("p99", float("nan"))
    lost = f"lost {row['lost']}" + ("" if row["correct"] else "  NOT CORRECT")
    lost += "" if row["drained"] else "  not drained in time"
    lost += "  disturbed: the load maker fell behind" if row["disturbed"] else ""
    rate = f"{row['achieved_per_s']:>8,.0f}/s of {row['offered_per_s']:>8,.0f}"
    alarms = f"alarm p50 {p50:8.2f} p99 {p99:8.2f} ms ({latency['samples']})"
    cost = f"cpu {row['cpu_us_per_event']:6.1f} us  rss {row['memory_busy']['rss_mb']:5.0f} MB"
    return f"{head} {rate}  {alarms}  {cost}  {lost}"


def cells(rows: list[dict[str, Any]]) -> dict[tuple[int, str], list[dict[str, Any]]]:
    """(rate, peer) -> its repeats, without those that failed; rates ascending, then max, then direct."""
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    order = sorted(rows, key=lambda r: _ascending(r["rate"]))
    for row in order:
        if "failed" not in row:
            found.setdefault((row["rate"], row["peer"]), []).append(row)
    return found


def figure(row: dict[str, Any], path: str) -> float | None:
    """A number by its path: ``latency_ms.p99``."""
    value: Any = row
    for part in path.split("/"):
        value = value.get(part) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None


def values(rows: list[dict[str, Any]], path: str) -> list[float]:
    return [v for r in rows if (v := figure(r, path)) is not None]


def spread(rows: list[dict[str, Any]], path: str, form: str) -> str:
    """``median (min .. max)``; a dash where nothing was measured."""
    found = values(rows, path)
    if not found:
        return "-"
    middle = format(statistics.median(found), form)
    if len(found) == 1:
        return middle
    return f"{middle} ({format(min(found), form)} .. {format(max(found), form)})"


COLUMNS = (
    ("offered/s", "offered_per_s", ",.0f"),
    ("achieved/s", "achieved_per_s", ",.0f"),
    ("alarm p50 ms", "latency_ms/p50", ".2f"),
    ("alarm p99 ms", "latency_ms/p99", ".2f"),
    ("cold p99 ms", "cold_ms/p99", ".1f"),
    ("CPU us/event", "cpu_us_per_event", ".1f"),
    ("RSS ready MB", "memory_ready/rss_mb", ".0f"),
    ("RSS busy MB", "memory_busy/rss_mb", ".0f"),
)


def verdict(repeats: list[dict[str, Any]]) -> str:
    """Whether all rows came out right, over the repeats."""
    lost, disturbed = sum(r["lost"] for r in repeats), sum(r["disturbed"] for r in repeats)
    if all(r["correct"] for r in repeats):
        return f"correct; {disturbed} of {len(repeats)} disturbed" if disturbed else "correct"
    late = sum(not r["drained"] for r in repeats)
    if late:
        return f"{late} of {len(repeats)} had not answered all a minute later"
    wrong = sum(
        r.get("windows", {}).get("wrong_count", 0) + r.get("windows", {}).get("wrong_mean", 0)
        for r in repeats
    )
    missing = sum(r.get("windows", {}).get("missing", 0) for r in repeats)
    alarms = sum(r["alarms"]["missing"] for r in repeats)
    return f"not correct: {lost} rows lost, {missing} windows missing, {wrong} wrong, {alarms} alarms missing"


def summary(rows: list[dict[str, Any]]) -> str:
    """The table for the terminal."""
    lines = [f"{'rate':>7}  {'peer':<20}" + "".join(title.rjust(27) for title, _, _ in COLUMNS)]
    for (rate, peer), repeats in cells(rows).items():
        parts = "".join(spread(repeats, path, form).rjust(27) for _, path, form in COLUMNS)
        lines.append(f"{rate_name(rate):>7}  {peer:<20}{parts}  {verdict(repeats)}")
    return "\n".join(lines)
