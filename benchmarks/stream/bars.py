"""The bars of the stream path, met or missed, from a run of each rate: nothing here is decided by hand."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from benchmarks.stream.readings import DIRECT, MAX
from benchmarks.stream.table import cells, rate_name, values

OURS, THEIRS = "ganglion-durable", "node-red"
TIMES_NODE_RED = 2.7
P99_MS = {5_000: 5.0, 20_000: 10.0}
CPU_SHARE = 1 / 3
CPU_RATES = (1_000, 5_000, 20_000, 45_000, MAX, DIRECT)
RSS_MB = 128.0


@dataclass(frozen=True)
class Bar:
    """``met`` None: not measured in this run."""

    name: str
    met: bool | None
    found: str


def of(rows: list[dict[str, Any]]) -> list[Bar]:
    """Every bar, over all repeats; the rows of a rate are of one run."""
    found = cells(rows)
    bars = [_throughput(found, rate) for rate in (MAX, DIRECT)]
    for rate, limit in P99_MS.items():
        bars.append(_p99(found, rate, limit))
    bars += [_cpu(found, rate) for rate in CPU_RATES]
    ours = [r for (_, peer), repeats in found.items() if peer == OURS for r in repeats]
    bars += [_memory(ours), _lost(ours)]
    failed = [r for r in rows if "failed" in r and r["peer"] == OURS]
    if failed:
        bars.append(
            Bar(
                "every cell of ganglion-durable ran",
                False,
                f"{len(failed)} failed: {failed[0]['failed'][:120]}",
            )
        )
    return bars


def paired(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]], path: str, their_path: str | None = None
) -> list[float]:
    """The ratio ours : theirs within each repeat that has both, by one path or theirs by another."""
    by_repeat = {r["repeat"]: r for r in theirs}
    ratios = []
    for row in ours:
        other = by_repeat.get(row["repeat"])
        if other is not None:
            a, b = values([row], path), values([other], their_path or path)
            if a and b and b[0] > 0:
                ratios.append(a[0] / b[0])
    return ratios


def _spread(numbers: list[float], form: str) -> str:
    low, high = format(min(numbers), form), format(max(numbers), form)
    return f"{format(statistics.median(numbers), form)} ({low} .. {high})"


THROUGHPUT = {MAX: "through the broker", DIRECT: "fed directly"}


def _throughput(found: dict[tuple[int, str], list[dict[str, Any]]], rate: int) -> Bar:
    name = f"throughput {THROUGHPUT[rate]}, durable: at least {TIMES_NODE_RED} times Node-RED's"
    ours, theirs = found.get((rate, OURS), []), found.get((rate, THEIRS), [])
    ratios = paired(ours, theirs, "achieved_per_s")
    if not ratios:
        return Bar(name, None, "not measured")
    rates = values(ours, "achieved_per_s")
    text = f"{_spread(ratios, '.2f')} times, {_spread(rates, ',.0f')} readings/s"
    if rate == MAX:
        offered = _spread(values(ours, "offered_per_s"), ",.0f")
        most = paired(ours, theirs, "offered_per_s", "achieved_per_s")
        text += f"; offered {offered}, so {_spread(most, '.2f')} times at most"
    return Bar(name, statistics.median(ratios) >= TIMES_NODE_RED, text)


def _p99(found: dict[tuple[int, str], list[dict[str, Any]]], rate: int, limit: float) -> Bar:
    name = f"alarm p99 at {rate:,}/s below {limit:g} ms"
    numbers = values(found.get((rate, OURS), []), "latency_ms/p99")
    if not numbers:
        return Bar(name, None, "not measured")
    return Bar(name, statistics.median(numbers) < limit, f"{_spread(numbers, '.2f')} ms")


def _cpu(found: dict[tuple[int, str], list[dict[str, Any]]], rate: int) -> Bar:
    at = f"{rate_name(rate)}/s" if rate > 0 else rate_name(rate)
    name = f"processor time per reading at {at} below a third of Node-RED's"
    ours, theirs = found.get((rate, OURS), []), found.get((rate, THEIRS), [])
    ratios = paired(ours, theirs, "cpu_us_per_event")
    if not ratios:
        return Bar(name, None, "not measured")
    text = f"{_spread(ratios, '.2f')} times, {_spread(values(ours, 'cpu_us_per_event'), '.1f')} us"
    return Bar(name, statistics.median(ratios) < CPU_SHARE, text)


def _memory(ours: list[dict[str, Any]]) -> Bar:
    name = f"gateway's resident memory (agent and server) at most {RSS_MB:g} MB"
    numbers = values(ours, "memory_busy/rss_mb")
    if not numbers:
        return Bar(name, None, "not measured")
    return Bar(name, max(numbers) <= RSS_MB, f"at most {max(numbers):.0f} MB, {_spread(numbers, '.0f')}")


def _lost(ours: list[dict[str, Any]]) -> Bar:
    name = "nothing lost, every window and alarm correct"
    if not ours:
        return Bar(name, None, "not measured")
    lost, wrong = sum(r["lost"] for r in ours), sum(not r["correct"] for r in ours)
    return Bar(name, not lost and not wrong, f"{lost} lost, {wrong} of {len(ours)} cells not correct")


WORDS = {True: "met", False: "MISSED", None: "not measured"}


def text(bars: list[Bar]) -> str:
    """One line each."""
    return "\n".join(f"{WORDS[b.met]:<13} {b.name}: {b.found}" for b in bars)
