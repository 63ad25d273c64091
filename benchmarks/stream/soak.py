"""A soak: one engine, one rate, for a long time; memory, queue age, disk and latency must be flat.

A series is flat when its rise stays within a bound: Theil-Sen's slope (the median of the slopes between all pairs)
over the samples after the first tenth, carried over the time they span. The bounds stand in `SERIES`; disk may also
rise and fall below its cap, so its largest value of the last half is held to that of the first.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stream import processes, readings, verdict
from benchmarks.stream.broker import Broker
from benchmarks.stream.cell import READY_S
from benchmarks.stream.peers import Peer, peers
from benchmarks.stream.verdict import Answers

RATE = 20_000
SAMPLE_S = 1.0
BUCKET_S = 10.0
SAMPLES_MAX = 400
KEPT_SAMPLES_MAX = 120
KEPT = ".arrows"
"""Files of sinks: rows that the flow asked to keep. They grow as it says, and are told, not judged."""
BEHIND_S_MAX = 120.0
BEHIND_MS = 1_000.0
"""A soak whose load maker fell further behind once was disturbed by other programs."""
SERIES = {
    "rss_mb": ("MB", 4.0, 0.03),
    "queue_age_ms": ("ms", 50.0, 0.5),
    "window_lag_ms": ("ms", 50.0, 0.5),
    "latency_p50_ms": ("ms", 0.5, 0.2),
    "latency_p99_ms": ("ms", 2.0, 0.5),
    "disk_mb": ("MB", 16.0, 0.05),
}
"""Unit, and the bound on the rise: so much, or such a share of the median, whichever is more."""


def theil_sen(times_s: Any, values: Any) -> float:
    """The median of the slopes between all pairs, per second."""
    step = max(1, len(values) // SAMPLES_MAX)
    t, v = np.asarray(times_s)[::step], np.asarray(values)[::step]
    i, j = np.triu_indices(len(t), 1)
    return float(np.median((v[j] - v[i]) / (t[j] - t[i])))


def judged_series(name: str, times_s: list[float], values: list[float]) -> dict[str, Any]:
    """One series against its bound."""
    unit, least, share = SERIES[name]
    t, v = np.array(times_s), np.array(values)
    use = t >= t[0] + (t[-1] - t[0]) / 10
    t, v = t[use], v[use]
    quarter = max(1, len(v) // 4)
    bound = max(least, share * float(np.median(v)))
    rise = theil_sen(t, v) * float(t[-1] - t[0])
    flat = rise <= bound
    if name == "disk_mb":
        half = len(v) // 2
        flat = flat or float(v[half:].max()) <= float(v[:half].max()) + bound
    return {
        "unit": unit, "first": float(np.median(v[:quarter])), "last": float(np.median(v[-quarter:])),
        "max": float(v.max()), "rise": rise, "bound": bound, "flat": bool(flat), "samples": len(v),
    }  # fmt: skip


def thinned(values: list[float]) -> list[float | None]:
    """At most `KEPT_SAMPLES_MAX` of them, evenly, so that a line of results stays readable."""
    step = max(1, -(-len(values) // KEPT_SAMPLES_MAX))
    return [None if math.isnan(v) else round(v, 3) for v in values[::step]]


def disk_mb(directory: Path) -> tuple[float, float]:
    """What the files below a directory occupy, in 10^6 bytes: what has to stay bounded, and rows a sink keeps."""
    total = kept = 0
    for folder, _, files in os.walk(directory):
        for file in files:
            if file.endswith(KEPT):
                kept += os.stat(f"{folder}/{file}").st_blocks * 512  # noqa: PTH116 # many of them
                continue
            try:
                total += os.stat(f"{folder}/{file}").st_blocks * 512  # noqa: PTH116 # many of them
            except OSError:
                continue
    return total / 1e6, kept / 1e6


def run(options: argparse.Namespace, seconds: float, results: Path, facts: dict[str, Any]) -> None:
    """Runs the soak of every chosen peer, prints and writes down the verdict; exit status 1 when one is not flat."""
    names = options.peers.split(",") if options.peers else ["ganglion-durable"]
    rate = int(options.rates) if (options.rates or "").isdecimal() else 0 if options.rates else RATE
    if rate < 100:
        raise SystemExit(
            f"{options.rates!r} is no rate to soak at\nnext: give one number from 100: --rates 20000"
        )
    chosen = [p for p in peers() if p.name in names]
    if len(chosen) != len(names):
        raise SystemExit(
            f"there is no peer like that in {names}\nknown: {', '.join(p.name for p in peers())}"
        )
    started = datetime.now(UTC).isoformat(timespec="seconds")
    good = True
    for peer in chosen:
        why = peer.missing(options.work)
        if why:
            print(f"skipped {peer.name}: {why}")
            continue
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory(prefix="stream-soak-") as scratch:
            try:
                found = soaked(peer, rate, seconds, options.work, Path(scratch))
            except (TimeoutError, RuntimeError, ConnectionError) as error:
                log = Path(scratch) / "engine.log"
                said = log.read_text(errors="replace")[-500:] if log.exists() else ""
                print(f"{peer.name} failed: {error}\n{said}")
                good = False
                continue
        row = {"kind": "soak", "run": started, "quick": options.quick, "peer": peer.name, "what": peer.what, **facts,
               "load": load, "versions": peer.versions(options.work), **found}  # fmt: skip
        print(text(row))
        out = options.json or results
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        good = good and row["flat"] and row["correct"]
    if not options.quick and options.json is None:
        from benchmarks.stream import page
        from benchmarks.stream.run import PAGE

        page.write(results, PAGE)
    raise SystemExit(0 if good else 1)


def soaked(peer: Peer, rate: int, seconds: float, work: Path, directory: Path) -> dict[str, Any]:
    """Samples of a soak, and what came of them."""
    broker = Broker(directory)
    samples: dict[str, list[float]] = {
        "at_s": [],
        "rss_mb": [],
        "disk_mb": [],
        "kept_mb": [],
        "queue_age_ms": [],
    }
    try:
        peer.start(work, directory, broker.port)
        processes.wait_for(
            lambda: peer.ready() and broker.subscribed(peer.pattern),
            READY_S,
            f"{peer.name} did not become ready",
        )
        length = max(1, int(seconds))
        plan: dict[str, Any] = {"rate": rate, "seconds": length, "base_ms": (int(time.time()) + 3) * 1000,
                "seed": readings.SEED, "topic": peer.topic}  # fmt: skip
        load = broker.load(plan, kind="soak")
        load.prepared(30)
        start_ns = time.monotonic_ns() + max(0, plan["base_ms"] * 1_000_000 - time.time_ns())
        cpu = processes.cpu_s(peer.pid)
        load.begin(start_ns)
        end_ns = start_ns + length * 1_000_000_000
        while time.monotonic_ns() < end_ns and peer.ready():
            time.sleep(SAMPLE_S)
            samples["at_s"].append((time.monotonic_ns() - start_ns) / 1e9)
            programs = processes.resident_by_program(peer.pid)
            samples["rss_mb"].append(sum(programs.values()))
            for name, own in programs.items():
                samples.setdefault(f"rss_mb {name}", []).append(own)
            disk, kept = disk_mb(directory)
            samples["disk_mb"].append(disk)
            samples["kept_mb"].append(kept)
            age = peer.meters().get("queue_age_ms")
            samples["queue_age_ms"].append(float("nan") if age is None else float(age))
        load.sent(max(BEHIND_S_MAX, seconds / 2))  # on a busy machine the sender may be late
        load.heard_at = time.monotonic()
        load.drained(peer.wait_s, 120)
        cpu = processes.cpu_s(peer.pid) - cpu
        sent, heard = load.end()
        return {
            "rate": rate, "minutes": length / 60, "cpu_us_per_event": cpu / (rate * length) * 1e6,
            "meters": peer.meters(), **outcome(plan, samples, sent, Answers.of(peer, heard), peer),
        }  # fmt: skip
    finally:
        peer.stop()
        broker.stop()


def outcome(
    plan: dict[str, Any], samples: dict[str, list[float]], sent: Any, answers: Answers, peer: Peer
) -> dict[str, Any]:
    """Losses, windows, and each series against its bound."""
    lost = missing = wrong = false = 0
    latencies: dict[int, list[float]] = {}
    expected: set[tuple[str, int]] = set()
    lags: dict[int, list[float]] = {}
    for second in range(plan["seconds"]):
        rows = readings.second(plan["rate"], plan["base_ms"], second, plan["seed"])
        for index in np.flatnonzero(rows.hot).tolist():
            key = (readings.name(int(rows.sensor[index])), int(rows.ts_ms[index]))
            expected.add(key)
            at_ns = answers.alarms.get(key)
            if at_ns is None:
                missing += 1
            else:
                sent_ns = int(sent["sent_ns"][second, int(rows.ts_ms[index]) % 1000])
                latencies.setdefault(int(second // BUCKET_S), []).append((at_ns - sent_ns) / 1e6)
        for sensor, (count, mean) in enumerate(zip(*rows.means(), strict=True)):
            window = (readings.name(sensor), plan["base_ms"] + second * 1000)
            got = answers.windows.get(window)
            if got is not None:
                lag_ns = answers.window_ns[window] - int(sent["start_ns"]) - (second + 1) * 1_000_000_000
                lags.setdefault(int(second // BUCKET_S), []).append(lag_ns / 1e6)
            if peer.windows and count and (got is None or got[1] != count):
                lost += count - (got[1] if got else 0)
                wrong += 1
            elif peer.windows and count and got is not None:
                wrong += abs(got[2] - mean) > verdict.RELATIVE * abs(mean)
    false = sum(k not in expected for k in answers.alarms)
    times = samples["at_s"]
    series = {n: judged_series(n, times, samples[n]) for n in ("rss_mb", "disk_mb") if len(times) > 4}
    ages = [(t, a) for t, a in zip(times, samples["queue_age_ms"], strict=True) if not math.isnan(a)]
    if len(ages) > 4:
        series["queue_age_ms"] = judged_series("queue_age_ms", *map(list, zip(*ages, strict=True)))
    middles = [(b + 0.5) * BUCKET_S for b in sorted(latencies)]
    if len(middles) > 4:
        for share in (50, 99):
            values = [float(np.percentile(latencies[b], share)) for b in sorted(latencies)]
            series[f"latency_p{share}_ms"] = judged_series(f"latency_p{share}_ms", middles, values)
    if len(lags) > 4:
        worst = [float(np.percentile(lags[b], 99)) for b in sorted(lags)]
        series["window_lag_ms"] = judged_series(
            "window_lag_ms", [(b + 0.5) * BUCKET_S for b in sorted(lags)], worst
        )
    every = [v for bucket in latencies.values() for v in bucket]
    return {
        "latency_ms": {f"p{p:g}": float(np.percentile(every, p)) for p in verdict.PERCENTILES} if every else {},
        "behind_ms": float(sent["behind_ns"].max() / 1e6), "alarms": len(expected), "alarms_missing": missing,
        "alarms_false": false, "windows_wrong": int(wrong), "lost": int(lost + missing),
        "correct": not (lost or missing or wrong or false), "series": series,
        "samples": {name: thinned(values) for name, values in samples.items()},
        "kept_mb": samples["kept_mb"][-1] if samples["kept_mb"] else 0.0,
        "disturbed": float(sent["behind_ns"].max() / 1e6) > BEHIND_MS,
        "flat": bool(series) and all(one["flat"] for one in series.values()),
    }  # fmt: skip


def text(row: dict[str, Any]) -> str:
    """The soak for the terminal."""
    latency = row["latency_ms"]
    cost = f"{row['cpu_us_per_event']:.1f} us a reading"
    head = f"{row['peer']}: {row['minutes']:.1f} minutes at {row['rate']:,}/s, {cost}"
    times = f"alarm p50 {latency.get('p50', 0):.2f} p99 {latency.get('p99', 0):.2f} ms"
    lines = [f"{head}, {times}; sender at most {row['behind_ms']:.0f} ms behind"]
    for name, one in row["series"].items():
        quarters = f"first quarter {one['first']:9.3f}  last {one['last']:9.3f}  most {one['max']:9.3f}"
        rise = f"rise {one['rise']:+9.3f} {one['unit']} (bound {one['bound']:.3f})"
        lines.append(f"  {name:<16} {quarters}  {rise}  {'flat' if one['flat'] else 'NOT FLAT'}")
    lines.append(f"  the sink's rows took {row['kept_mb']:.1f} MB, which the flow keeps")
    alarms = f"{row['alarms_missing']} of {row['alarms']} alarms missing, {row['alarms_false']} too many"
    words = ["flat" if row["flat"] else "NOT FLAT", "correct" if row["correct"] else "NOT CORRECT"]
    if row["disturbed"]:
        words.append("disturbed: the load maker fell behind, so latency and lag say nothing")
    lines.append(f"  lost {row['lost']}, {row['windows_wrong']} windows wrong, {alarms}: {', '.join(words)}")
    return "\n".join(lines)
