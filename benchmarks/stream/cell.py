"""One cell: a peer started afresh, a cold phase, a pause, a measured phase, and what came of every row."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.stream import processes, profile, readings
from benchmarks.stream.broker import Broker
from benchmarks.stream.direct_feed import DirectBroker
from benchmarks.stream.peers import Peer
from benchmarks.stream.verdict import Answers, judged

READY_S = 90.0
DRAIN_S = 60.0
SAMPLE_S = 0.25
MAKING_ROWS_PER_S = 120_000
"""How many packets are made in a second, at the least, on a busy machine."""


@dataclass(frozen=True)
class Case:
    """What is measured: ``rate`` rows per second, or `readings.MAX` or `DIRECT`; at most ``rows_max`` of them."""

    rate: int
    seconds: float
    rows_max: int
    profile: Path | None = None
    """Where stacks of the engine's first process during the measured phase go."""


@dataclass
class Samples:
    """Memory of the engine's processes, taken while it works."""

    resident_mb: list[float] = field(default_factory=list)
    at_ns: list[int] = field(default_factory=list)
    meters: list[dict[str, Any]] = field(default_factory=list)


class Sampler(threading.Thread):
    """Looks at the engine's memory, and at its own meters, every so often."""

    def __init__(self, peer: Peer, every_s: float = SAMPLE_S) -> None:
        super().__init__(daemon=True)
        self.samples = Samples()
        self._peer = peer
        self._every_s = every_s
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self._every_s):
            self.samples.resident_mb.append(processes.resident_mb(self._peer.pid))
            self.samples.at_ns.append(time.monotonic_ns())
            self.samples.meters.append(self._peer.meters())

    def end(self) -> Samples:
        self._ended.set()
        self.join()
        return self.samples


def measured(peer: Peer, case: Case, work: Path, directory: Path, seed: int) -> dict[str, Any]:
    """The figures of one cell. Raises `TimeoutError` or `RuntimeError` when it cannot be run."""
    broker = DirectBroker(directory) if case.rate == readings.DIRECT else Broker(directory)
    try:
        began = time.monotonic()
        peer.start(work, directory, broker.port)
        processes.wait_for(
            lambda: peer.ready() and broker.subscribed(peer.pattern),
            READY_S,
            f"{peer.name} did not become ready",
        )
        ready_s = time.monotonic() - began
        parts = readings.phases(case.rate, case.seconds, case.rows_max)
        making_s = sum(p.count for p in parts) / MAKING_ROWS_PER_S + 3
        base_ms = (int((time.time() + making_s) * 1000) // 1000 + 1) * 1000
        plan = {"phases": [asdict(p) for p in parts], "base_ms": base_ms, "seed": seed,
                "topic": peer.topic, "pattern": peer.pattern}  # fmt: skip
        load = broker.load(plan)
        load.prepared(making_s + 60)
        idle = processes.memory(peer.pid)
        # The plan's beginning by the wall clock, told to the sender by the monotonic one.
        start_ns = time.monotonic_ns() + max(0, base_ms * 1_000_000 - time.time_ns())
        load.begin(start_ns)
        warm_ns = start_ns + parts[1].start_ms * 1_000_000
        time.sleep(max(0.0, (warm_ns - time.monotonic_ns()) / 1e9 - 0.02))
        broker_cpu, programs = processes.cpu_s(broker.process.pid), processes.cpu_by_program(peer.pid)
        cpu, idle_warm, sampler = processes.cpu_s(peer.pid), processes.memory(peer.pid), Sampler(peer)
        sampler.start()
        if case.profile is not None:
            profile.record(peer.pid, case.seconds, work, case.profile)
        load.sent(case.seconds + DRAIN_S)
        load.heard_at = time.monotonic()
        drained = load.drained(peer.wait_s, DRAIN_S)
        samples, busy = sampler.end(), processes.memory(peer.pid)
        cpu, broker_cpu = processes.cpu_s(peer.pid) - cpu, processes.cpu_s(broker.process.pid) - broker_cpu
        meters, after = peer.meters(), processes.cpu_by_program(peer.pid)
        sent, heard = load.end()
        rows = readings.readings(parts, base_ms, seed)
        found = judged(rows, Answers.of(peer, heard), sent, start_ns, peer)
        return {
            "ready_s": ready_s,
            "drained": drained,
            "memory_ready": idle,
            "memory_after_cold": idle_warm,
            "memory_busy": busy | {"rss_mb": max([*samples.resident_mb, busy["rss_mb"]])},
            "cpu_us_per_event": cpu / parts[1].count * 1e6,
            "cpu_us_by_program": {
                n: (s - programs.get(n, 0.0)) / parts[1].count * 1e6 for n, s in after.items()
            },
            "broker_cpu_us_per_event": broker_cpu / parts[1].count * 1e6,
            "meters": meters,
            **found,
        }
    finally:
        peer.stop()
        broker.stop()
