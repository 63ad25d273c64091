"""One more process at a site: rows a second of a keyed job, with one worker process and with two, in turn.

python benchmarks/scaleout/run.py [--quick] [--json FILE] [--messages N]

An edge site's inbox on a real nats-server (fsync of every append) is filled with frames of 64 origins, about 32 KB a
message. Then one or two worker processes, as `ganglion run` starts them for ``processes: N``, run a job on all of it:
harmonics by a compiled kernel, a rule with state per origin, a filter, windows of ten seconds per origin; checkpoints
and the outbox are on, and every row counts once. The rate is taken from the moment when all workers are at it until
all of the input was taken; a run ends when all of it is in checkpoints. Nothing is pinned: workers, their server and
whatever else the machine does share its cores. Repeats alternate (1, 2, 1, 2, ...); quoted are medians with their
range, the ratio within each pair, the processor time of the workers per row, and how long they were ready to run and
had no processor: where that is much, the machine was not theirs, and the ratio says nothing. The outboxes of all runs
must hold the same rows. One JSON line is appended to benchmarks/results/scaleout.jsonl.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ganglion.agent.config import NodeConfig, WorkerConfig
from ganglion.core.batch import Batch
from ganglion.core.errors import MessagingError
from ganglion.core.partition import PARTITIONS
from ganglion.core.wire import decode, encode
from ganglion.flow.assignment import Assignment
from ganglion.flow.load import load_flow
from ganglion.host.system import system_host
from ganglion.kernels.loading import load
from ganglion.messaging import nats, pins, subjects
from ganglion.messaging.partitions import consumer
from ganglion.messaging.provision import Caps, provision
from ganglion.messaging.server import ServerSettings, SiteServer
from ganglion.sim.processes import Keeper

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results" / "scaleout.jsonl"
FLOW = Path(__file__).parent / "job"
SITE, NODE, PATH = "edge1", "edge1", "gw1-relay"
ORIGINS, ROWS = 64, 150
CAPS = Caps(1 << 20, 256 << 20, 1 << 30)
PROCESSES = (1, 2)


def frames(chance: np.random.Generator, origin: str, number: int) -> Batch:
    """One message of an origin: noisy three-phase waves, in integers as a recorder gives them."""
    angle = 2 * np.pi * (np.arange(64) / 64 + chance.random()) + np.array([[0], [2.1], [4.2]])
    waves = 1000 * np.sin(angle) * chance.uniform(0.9, 1.1, (ROWS, 1, 1)) + chance.normal(
        0, 20, (ROWS, 3, 64)
    )
    seq = number * ROWS + np.arange(ROWS, dtype=np.int64)
    return Batch("waves", origin, seq, seq * 16_667_000, {"frame": waves.astype(np.int16)})


class Bench:
    """A site's server with its inbox filled, and what runs on it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._spec = load_flow(FLOW)
        here = frozenset({PATH})
        self._assignment = Assignment(
            NODE,
            SITE,
            "edge",
            self._spec.digest,
            dict.fromkeys(self._stages(), here),
            {"restless": here, "tens": here},
        )
        self._host = system_host(root / "server")
        self._port = self._host.ports.free()
        settings = ServerSettings(SITE, self._port, CAPS.sum_bytes + (256 << 20), None, None)
        self._server = SiteServer(settings, self._host)
        self.rows = 0

    def _stages(self) -> list[str]:
        return [s.id for s in self._spec.stages if s.inputs and s.id not in ("alarms", "trends")]

    async def start(self, messages: int) -> None:
        """Starts the server and fills the inbox."""
        await self._server.start()
        self._bus = await nats.connect(self._server.url)
        await provision(self._bus, SITE, CAPS)
        inbox = subjects.inbox(SITE)
        config = (await self._bus.ask(f"STREAM.INFO.{inbox}", {}))["config"]
        await self._bus.ask(f"STREAM.UPDATE.{inbox}", config | {"subjects": ["in.>"]})
        chance = np.random.default_rng(7)
        for number in range(messages // ORIGINS):
            items = [frames(chance, f"{PATH}-{n:02d}", number) for n in range(ORIGINS)]
            await asyncio.gather(
                *(
                    self._bus.append(inbox, subjects.inbox_subject("gw1", "waves", i.origin), encode(i))
                    for i in items
                )
            )
        self.rows = messages * ROWS
        state = await self._bus.state(inbox)
        print(f"inbox: {messages} messages of {state.size_bytes // messages} bytes, {self.rows} frames")
        kernels = self._spec.kernels(set(self._stages()))
        await asyncio.to_thread(load, kernels, self._root / "kernels", self._spec.folds(set(self._stages())))

    async def forget(self) -> None:
        """The input is as nobody had ever read it."""
        for partition in range(PARTITIONS):
            await self._try(f"CONSUMER.DELETE.{subjects.inbox(SITE)}.{consumer(partition)}")
        await self._try(f"STREAM.DELETE.{subjects.state(SITE)}")
        outbox = subjects.outbox(SITE)
        await self._bus.purge(outbox, (await self._bus.state(outbox)).last_seq)

    async def _try(self, subject: str) -> None:
        try:
            await self._bus.ask(subject, {})
        except MessagingError as error:
            if error.code not in ("messaging.no-stream", "messaging.refused"):
                raise

    async def run(self, processes: int, number: int) -> dict[str, Any]:
        """The figures of one run."""
        await self.forget()
        root = self._root / f"run-{number}"
        host = system_host(root)
        keeper = Keeper(host)
        # A first-level site below nothing keeps no outbox: the address only says that there is a parent.
        node = NodeConfig(
            self._assignment, FLOW, self._port, 0, "nats-leaf://127.0.0.1:1", {"gw1": (PATH,)}, 0, (),
            self._root / "kernels", processes=max(2, processes),
        )  # fmt: skip
        if processes == 1:
            node = NodeConfig(
                **{f: getattr(node, f) for f in NodeConfig.__dataclass_fields__} | {"processes": 1}
            )
        kept = []
        for index in range(processes):
            worker = WorkerConfig(node, index)
            kept.append(await keeper.start(worker.name, root / worker.name, worker.to_json(), restart=False))
        try:
            for one in kept:
                await keeper.until_ready(one)
            await self._until(lambda: all(_rows(k) > 0 for k in kept), keeper)
            began_ns, before = host.clock.monotonic_ns(), sum(_rows(k) for k in kept)
            cpu_before, queued_before = sum(_cpu_ns(k) for k in kept), sum(_queued_ns(k) for k in kept)
            await self._until(lambda: sum(_rows(k) for k in kept) >= self.rows, keeper)
            took_s = (host.clock.monotonic_ns() - began_ns) / 1e9
            cpu_ns = sum(_cpu_ns(k) for k in kept) - cpu_before
            queued_ns = sum(_queued_ns(k) for k in kept) - queued_before
            await self._saved()
        finally:
            await keeper.stop_all()
        done = self.rows - before
        return {
            "processes": processes,
            "rows_per_s": done / took_s,
            "measured_s": took_s,
            "cpu_us_per_row": cpu_ns / 1e3 / done,
            "cores_busy": cpu_ns / 1e9 / took_s,
            "cores_waited_for": queued_ns / 1e9 / took_s,
            "outbox": await self._outbox_digest(),
        }

    async def _until(self, condition: Any, keeper: Keeper) -> None:
        while not condition():
            keeper.check()
            await asyncio.sleep(0.02)

    async def _saved(self) -> None:
        """Returns when all of the input is in checkpoints."""
        for partition in range(PARTITIONS):
            while True:
                found = await pins.standing(self._bus, subjects.inbox(SITE), consumer(partition))
                if not found.owed:
                    break
                await asyncio.sleep(0.05)

    async def _outbox_digest(self) -> str:
        """Of all rows that were put out, whoever did it and in whatever messages."""
        outbox = subjects.outbox(SITE)
        last = (await self._bus.state(outbox)).last_seq
        digests: dict[tuple[str, str], Any] = {}
        async for message in self._bus.read(outbox, 0):
            item = decode(message.payload)
            assert isinstance(item, Batch)
            digest = digests.setdefault((item.stream, item.origin), hashlib.sha256())
            for seq, row in zip(item.seq.tolist(), item.row_digests(), strict=True):
                digest.update(f"{seq}:{row};".encode())
            if message.seq == last:
                break
        whole = sorted((*key, digest.hexdigest()) for key, digest in digests.items())
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]

    async def close(self) -> None:
        """Ends the server."""
        await self._bus.close()
        await self._server.stop()


def _rows(kept: Any) -> int:
    report = kept.report()
    parts = report["partitions"].values() if report else ()
    return sum(p["stages"].get("in:waves", {}).get("rows", 0) for p in parts)


def _cpu_ns(kept: Any) -> int:
    report = kept.report()
    return int(report["process_cpu_ns"]) if report else 0


def _queued_ns(kept: Any) -> int:
    """How long its thread was ready to run and did not: other programs had the processors (Linux; else 0)."""
    path = Path(f"/proc/{kept.process.pid}/schedstat")
    return int(path.read_text().split()[1]) if path.exists() else 0


async def measure(root: Path, messages: int, repeats: int) -> list[dict[str, Any]]:
    """All runs, in the order in which they were made."""
    bench = Bench(root)
    runs: list[dict[str, Any]] = []
    try:
        await bench.start(messages)
        for repeat in range(repeats):
            for processes in PROCESSES:
                found = await bench.run(processes, len(runs))
                runs.append(found)
                print(
                    f"  {repeat + 1}: {processes} process{'es' if processes > 1 else ''}: "
                    f"{found['rows_per_s']:,.0f} rows/s over {found['measured_s']:.1f} s, "
                    f"{found['cpu_us_per_row']:.1f} us of a processor per row, {found['cores_busy']:.2f} cores busy, "
                    f"{found['cores_waited_for']:.2f} waited for",
                    flush=True,
                )
    finally:
        await bench.close()
    return runs


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians with their range, and the ratios of each pair."""
    found: dict[str, Any] = {}
    for processes in PROCESSES:
        mine = [r for r in runs if r["processes"] == processes]
        for name in ("rows_per_s", "cpu_us_per_row", "cores_busy", "cores_waited_for"):
            values = sorted(r[name] for r in mine)
            found[f"{name}_{processes}"] = [statistics.median(values), values[0], values[-1]]
    ratios = sorted(b["rows_per_s"] / a["rows_per_s"] for a, b in zip(runs[::2], runs[1::2], strict=True))
    found["two_to_one"] = [statistics.median(ratios), ratios[0], ratios[-1]]
    return found


def main() -> None:
    """Runs, prints, appends the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short repeat")
    parser.add_argument("--json", metavar="FILE", help="also write the medians to FILE")
    parser.add_argument("--messages", type=int, help="how many the inbox is filled with, a multiple of 64")
    options = parser.parse_args()
    messages, repeats = (640, 1) if options.quick else (3200, 5)
    messages = options.messages or messages
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        runs = asyncio.run(measure(Path(scratch), messages, repeats))
    if len({r["outbox"] for r in runs}) != 1:
        raise SystemExit(f"the runs did not put out the same rows: {[r['outbox'] for r in runs]}")
    medians = summary(runs)
    for name, (median, low, high) in medians.items():
        print(f"{name:20} {median:12,.2f}   [{low:,.2f} .. {high:,.2f}]")
    result = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "load_before": load_before,
        "rows": messages * ROWS,
        "origins": ORIGINS,
        "medians": medians,
        "runs": runs,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    if options.json:
        Path(options.json).write_text(json.dumps(medians, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
