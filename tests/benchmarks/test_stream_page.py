"""The page of the stream benchmark: each rate from the newest full run that measured it."""

from __future__ import annotations

import json

import pytest

from benchmarks.stream import bars, page
from benchmarks.stream.readings import DIRECT, MAX

OURS, THEIRS = bars.OURS, bars.THEIRS
FIRST, SECOND, THIRD = "2026-01-01T00:00:00+00:00", "2026-02-02T00:00:00+00:00", "2026-03-03T00:00:00+00:00"


def cell(run, rate, peer, achieved, *, repeat=0, quick=False, load=0.5, version="1"):
    return {
        "run": run, "quick": quick, "repeat": repeat, "peer": peer, "what": "an engine", "durable": True, "rate": rate,
        "seconds": 10.0, "python": "3", "cpu": "a processor", "cpus": 2, "load": load, "versions": {peer: version},
        "offered_per_s": 1.5 * achieved, "achieved_per_s": achieved, "cpu_us_per_event": 1e6 / achieved,
        "latency_ms": {"p50": 1.0, "p99": 2.0}, "cold_ms": {"p99": 3.0}, "memory_ready": {"rss_mb": 80.0},
        "memory_busy": {"rss_mb": 90.0}, "lost": 0, "correct": True, "drained": True, "disturbed": False,
    }  # fmt: skip


def written(tmp_path, rows):
    results, where = tmp_path / "results.jsonl", tmp_path / "page.md"
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    marks = [page.BEGIN.format(k) + "\nold\n" + page.END.format(k) for k in ("cell", "late", "soak")]
    where.write_text("above\n" + "\nbetween\n".join(marks) + "\nbelow\n")
    page.write(results, where)
    once = where.read_text()
    page.write(results, where)
    assert where.read_text() == once
    return once


def section(text, title):
    return text.split(f"**{title}")[1].split("\n**")[0].split("\n| peer | versions")[0]


@pytest.fixture
def rows():
    first = [
        cell(FIRST, rate, peer, achieved, repeat=repeat)
        for repeat in range(2)
        for rate in (5_000, 20_000, MAX)
        for peer, achieved in ((OURS, 40_000 + 4 * repeat), (THEIRS, 20_000))
    ]
    second = [
        cell(SECOND, rate, peer, achieved, load=4.0, version="2")
        for rate, peer, achieved in (
            (20_000, OURS, 19_000), (DIRECT, OURS, 300_000), (DIRECT, THEIRS, 60_000)
        )
    ]  # fmt: skip
    return [*first, *second, cell(THIRD, 5_000, OURS, 7, quick=True)]


def test_each_rate_comes_from_the_newest_full_run_that_measured_it(rows, tmp_path):
    text = written(tmp_path, rows)
    assert text.startswith("above\n")
    assert text.count("\nold\n") == 2  # of the kinds that were not run
    older, newer, direct = (section(text, t) for t in ("5,000", "20,000", "Fed directly"))
    assert ("2026-01-01" in older, "2026-02-02" in older, "quiet" in older) == (True, False, True)
    assert f"| {THEIRS} | 30,000" in older
    assert f"| {OURS} | 60,003 (60,000 .. 60,006) | 40,002 (40,000 .. 40,004)" in older
    assert ("2026-01-01" in newer, "2026-02-02" in newer, "loaded" in newer) == (False, True, True)
    assert "19,000" in newer
    assert THEIRS not in newer
    assert "2 repeats" in older
    assert "1 repeats" in direct
    assert text.index("**20,000") < text.index("**As fast as the broker") < text.index("**Fed directly")
    assert "2026-03-03" not in text
    assert f"| {OURS} | {OURS} 1; {OURS} 2 |" in text


def test_bars_compare_within_a_run_only(rows, tmp_path):
    text = written(tmp_path, rows)
    found = {
        line.split(" | ")[0]: line for line in text.splitlines() if " | met | " in line or "MISSED" in line
    }
    times = f"durable: at least {bars.TIMES_NODE_RED} times Node-RED's"
    through = found[f"| throughput through the broker, {times}"]
    assert "| MISSED | 2.00 (2.00 .. 2.00) times, 40,002" in through
    assert "; offered 60,003 (60,000 .. 60,006), so 3.00 (3.00 .. 3.00) times at most" in through
    assert "| met | 5.00 (5.00 .. 5.00) times, 300,000" in found[f"| throughput fed directly, {times}"]
    cpu = "| processor time per reading at {} below a third of Node-RED's"
    assert "0.20 (0.20 .. 0.20) times" in found[cpu.format("direct")]
    assert "0.50 (0.50 .. 0.50) times" in found[cpu.format("max")]
    assert cpu.format("20,000/s") + " | not measured | not measured |" in text


def test_one_run_is_told_once(rows, tmp_path):
    text = written(tmp_path, [row for row in rows if row["run"] == FIRST])
    assert text.count("2026-01-01") == 1
    assert text.index("2026-01-01") < text.index("**5,000")
    assert "| throughput fed directly, durable: at least 2.7 times Node-RED's | not measured |" in text
