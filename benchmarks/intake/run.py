"""The way of a reading through a gateway, without the socket: reflex, journal, windows, on one processor.

python benchmarks/intake/run.py [--quick] [--json FILE] [--rate N ...] [--turn-ms MS] [--profile]

The job of the stream benchmark: readings (temp, q) of 100 sensors in turn, ten for each millisecond of event time; bad
ones are dropped, an alarm is given above 100 degrees, mean and count are kept per sensor and second. Blocks are handed
to the intake as a connector does after decoding: as many rows as came in five milliseconds (``--turn-ms``), or 256 at
a time as fast as they are taken (``max``). Everything runs on the last processor of this process, the message server
too, whose journal syncs every write. Modes take turns: with the journal, and without.

Figures are medians over the rounds with their range. ``us_per_row``: processor time of this process and of the server,
all in. ``alarm_us``: from handing over a block to the alarm. ``stages``: processor time per row by stage, of the last
round. One JSON line per rate and mode is appended to benchmarks/results/intake.jsonl.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import os
import platform
import pstats
import statistics
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402 # the number of threads is read at import

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))
RESULTS = REPOSITORY / "benchmarks" / "results" / "intake.jsonl"

import ganglion as gg  # noqa: E402 # see above
from ganglion.agent.intake import Intake  # noqa: E402 # see above
from ganglion.agent.streams import BusJournal, PassingJournal  # noqa: E402 # see above
from ganglion.engine.durable import Durable  # noqa: E402 # see above
from ganglion.engine.graph import Graph  # noqa: E402 # see above
from ganglion.engine.meter import Meter  # noqa: E402 # see above
from ganglion.flow.assignment import Assignment  # noqa: E402 # see above
from ganglion.flow.spec import FlowSpec  # noqa: E402 # see above
from ganglion.host.system import system_host  # noqa: E402 # see above
from ganglion.kernels.loading import load  # noqa: E402 # see above
from ganglion.messaging import nats, subjects  # noqa: E402 # see above
from ganglion.messaging.janitor import Janitor  # noqa: E402 # see above
from ganglion.messaging.provision import Caps, provision  # noqa: E402 # see above
from ganglion.messaging.server import ServerSettings, SiteServer  # noqa: E402 # see above

SENSORS = 100
PATH = "gw1-room"
ORIGINS = tuple(f"{PATH}-{i:02d}" for i in range(SENSORS))
ROWS_AT_MOST = 256
CAP_BYTES = 256 << 20
EVENT_BEGAN_NS = 1_700_000_000_000_000_000


def job() -> FlowSpec:
    flow = gg.Flow("readings")
    row = gg.Row(temp=gg.f32, q=gg.i32, units={"temp": "degC"})
    readings = flow.source("readings", row, every="10ms")
    good = readings.where(lambda r: r.q == 0, id="good")
    good.where(lambda r: r.temp > 100, id="hot").act("alarm", "raise", within="50ms")
    good.window("1s", keep="10min").aggregate(mean=gg.mean("temp"), n=gg.count(), id="means").sink(
        "windows", at="gateway"
    )
    return flow.spec()


class Readings:
    """Rows in turn of all sensors, without end; one in 4,096 is hot."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self._temp = (20 + 0.1 * (np.arange(1 << 17) % SENSORS) + rng.normal(0, 1, 1 << 17)).astype(
            np.float32
        )
        self._temp[::4096] = 150
        self._q = (rng.random(1 << 17) < 0.1).astype(np.int32)
        self._q[::4096] = 0
        self._row = 0

    def take(self, rows: int) -> tuple[Any, ...]:
        """(origin index, event time, columns) of the next rows."""
        numbers = np.arange(self._row, self._row + rows)
        self._row += rows
        at = numbers & ((1 << 17) - 1)
        times = EVENT_BEGAN_NS + numbers // 10 * 1_000_000
        return (numbers % SENSORS).astype(np.int32), times, {"temp": self._temp[at], "q": self._q[at]}


class Round:
    """One gateway's life: fresh streams, engine and intake."""

    def __init__(self, bus: Any, host: Any, spec: FlowSpec, libraries: Any, *, durable: bool) -> None:
        runs = {s.id: frozenset({PATH}) for s in spec.stages if s.inputs}
        assignment = Assignment("gw1", "gw1", "gateway", spec.digest, runs, {})
        self.meter = Meter(host.clock.cpu_ns, 8)
        source = subjects.journal("gw1")
        janitor = Janitor(bus, host.clock, source=source, outbox=subjects.outbox("gw1"))
        self.journal = BusJournal(bus, source, host.clock) if durable else PassingJournal(host.clock)
        self.engine = Durable(
            spec,
            assignment,
            self.journal,
            None,
            disk=host.disk,
            clock=host.clock,
            gather=True,
            on_checkpoint=janitor.processed,
            libraries=libraries,
            meter=self.meter,
        )
        self.alarms: deque[int] = deque(maxlen=1 << 16)
        self.intake = Intake(
            Graph(spec, assignment, "reflex", libraries),
            self.journal.put,
            streams=frozenset({"readings"}),
            paths=frozenset({PATH}),
            last_seq=self.engine.progress.last_seq,
            clock=host.clock,
            on_act=self.act,
            elsewhere=lambda: self.journal.unread_rows,
        )
        self.caught_up = asyncio.Event()
        self.journal.on_read = self.read
        self.readings = Readings()
        self.tasks = [asyncio.ensure_future(t) for t in (self.engine.run(), self.intake.run(), janitor.run())]

    def read(self) -> None:
        self.intake.made_room()
        if not self.journal.unread_rows:
            self.caught_up.set()

    def act(self, _stage: str, rows: Any, received_ns: int) -> None:
        self.alarms.extend([time.monotonic_ns() - received_ns] * len(rows))

    async def feed(self, rate: int, seconds: float, turn_s: float) -> int:
        """Hands over rows at ``rate`` (0: as fast as they are taken); returns how many."""
        done, began = 0, time.monotonic()
        while (gone := time.monotonic() - began) < seconds:
            wanted = ROWS_AT_MOST if not rate else int(rate * gone) - done
            if wanted <= 0:
                await asyncio.sleep(turn_s)
                continue
            index, times, columns = self.readings.take(wanted)
            await self.intake.take_unnumbered("readings", ORIGINS, index, times, columns)
            done += wanted
            await asyncio.sleep(turn_s if rate else 0)
        return done

    async def settled(self) -> None:
        await self.intake.drained()
        self.caught_up.clear()
        if self.journal.unread_rows:
            await self.caught_up.wait()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        await self.engine.checkpoint()


def cpu_s(pid: int) -> float:
    """Processor seconds of another process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def measure(one: Round, rate: int, seconds: float, turn_s: float, server_pid: int) -> dict[str, Any]:
    """One cell, after a warm-up."""
    await one.feed(rate, min(1.0, seconds / 4), turn_s)
    await one.settled()
    one.alarms.clear()
    one.meter.works.clear()
    before = asdict(one.intake.counts)
    began, began_cpu, began_server = time.monotonic(), time.process_time(), cpu_s(server_pid)
    rows = await one.feed(rate, seconds, turn_s)
    await one.settled()
    took, cpu, server = (
        time.monotonic() - began,
        time.process_time() - began_cpu,
        cpu_s(server_pid) - began_server,
    )
    counts = {k: v - before[k] for k, v in asdict(one.intake.counts).items()}
    alarms = sorted(one.alarms)
    commits = max(1, counts["commits"])
    return {
        "rows_per_s": rows / took,
        "us_per_row": (cpu + server) * 1e6 / rows,
        "own_us_per_row": cpu * 1e6 / rows,
        "server_us_per_row": server * 1e6 / rows,
        "alarm_us_p50": statistics.median(alarms) / 1e3 if alarms else 0,
        "alarm_us_p99": alarms[int(0.99 * len(alarms))] / 1e3 if alarms else 0,
        "rows_per_commit": rows / commits,
        "commit_us": counts["commit_ns"] / commits / 1e3,
        "waited_share": counts["waited_ns"] / 1e9 / took,
        "rss_mb": rss_mb(os.getpid()),
        "server_rss_mb": rss_mb(server_pid),
        "stages": {n: (w.cpu_ns / w.rows / 1e3 if w.rows else 0) for n, w in one.meter.works.items()},
    }


async def rounds(arguments: argparse.Namespace, directory: Path) -> list[dict[str, Any]]:
    spec = job()
    libraries = load([], directory / "kernels", spec.folds({s.id for s in spec.stages}))
    found: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for number in range(arguments.rounds):
        for rate in arguments.rate:
            for durable in (True, False):
                host = system_host(directory / f"{number}-{rate}-{durable}", seed=1)
                server = SiteServer(ServerSettings("gw1", host.ports.free(), 4 * CAP_BYTES), host)
                await server.start()
                bus = await nats.connect(server.url)
                await provision(bus, "gw1", Caps(CAP_BYTES, CAP_BYTES, CAP_BYTES))
                one = Round(bus, host, spec, libraries, durable=durable)
                await one.engine.caught_up.wait()
                gc.freeze()
                assert server.pid is not None
                profile = cProfile.Profile() if arguments.profile else None
                if profile:
                    profile.enable()
                cell = await measure(one, rate, arguments.seconds, arguments.turn_ms / 1e3, server.pid)
                if profile:
                    profile.disable()
                    print(f"--- profile, rate {rate or 'max'}, durable {durable}")
                    pstats.Stats(profile).sort_stats("tottime").print_stats(arguments.profile_lines)
                found.setdefault((str(rate or "max"), durable), []).append(cell)
                await one.close()
                await bus.close()
                await server.stop()
    return [summary(rate, durable, cells) for (rate, durable), cells in found.items()]


def summary(rate: str, durable: bool, cells: list[dict[str, Any]]) -> dict[str, Any]:
    line: dict[str, Any] = {"rate": rate, "durable": durable, "rounds": len(cells)}
    for name in cells[0]:
        if name == "stages":
            line[name] = {k: round(v, 3) for k, v in cells[-1][name].items()}
            continue
        values = [c[name] for c in cells]
        line[name] = [round(v, 2) for v in (statistics.median(values), min(values), max(values))]
    return line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rate", type=int, nargs="*", default=[5_000, 20_000, 50_000, 0])
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn-ms", type=float, default=5)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--profile-lines", type=int, default=35)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 2.0
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    with tempfile.TemporaryDirectory() as scratch:
        lines = asyncio.run(rounds(arguments, Path(scratch)))
    facts = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, one processor of {os.cpu_count()}, Python {platform.python_version()}",
        "load": os.getloadavg()[0],
    }
    for line in lines:
        print(json.dumps(line))
    if not arguments.profile:
        with (arguments.json or RESULTS).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(facts | line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
