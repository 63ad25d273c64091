"""A site in two worker processes on a real server: one is killed in the middle, and nobody downstream can tell."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ganglion.agent.config import NodeConfig, WorkerConfig
from ganglion.agent.shared import SEGMENTS, Shared
from ganglion.agent.streams import BusOutbox
from ganglion.core.batch import Batch
from ganglion.core.wire import encode
from ganglion.engine.durable import Durable
from ganglion.flow.assignment import Assignment
from ganglion.flow.load import load_flow
from ganglion.host.system import system_host
from ganglion.kernels.loading import load
from ganglion.messaging import partitions, subjects
from ganglion.messaging.provision import Caps
from tests.agent.sharing import by_origin, outbox
from tests.engine.stores import MemoryDisk, MemoryJournal, MemoryOutbox, SteppedClock
from tests.integration.conftest import REPOSITORY
from tests.messaging.sites import NatsSites, pair, until

FLOW = REPOSITORY / "benchmarks" / "scaleout" / "job"
ORIGINS = [f"gw1-relay-{n:02d}" for n in range(12)]
CAPS = Caps(1 << 20, 16 << 20, 64 << 20)
OWED = subjects.outbox("down")


def messages(rng: np.random.Generator, count: int) -> list[tuple[str, bytes]]:
    """Frames of origins in turn, in messages of 40 rows."""
    made = []
    for number in range(count):
        origin = ORIGINS[number % len(ORIGINS)]
        seq = number // len(ORIGINS) * 40 + np.arange(40, dtype=np.int64)
        waves = rng.normal(0, 900, (40, 3, 64)).astype(np.int16)
        batch = Batch("waves", origin, seq, seq * 100_000_000, {"frame": waves})
        made.append((origin, encode(batch)))
    return made


def rows_by_origin(content: bytes) -> dict[str, list[tuple[object, ...]]]:
    found: defaultdict[str, list[tuple[object, ...]]] = defaultdict(list)
    for record in pa.ipc.open_stream(content):
        for row in record.to_pylist():
            found[row["origin"]].append(tuple(row.values()))
    return dict(found)


class Story:
    """The site "up" with its child "down", its worker processes, and what one engine alone makes of the same."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spec = load_flow(FLOW)
        here = frozenset({"gw1-relay"})
        runs = {s.id: here for s in self.spec.stages if s.inputs}
        exports = {"tens": here, "restless": here}
        self.assignment = Assignment("up", "up", "edge", self.spec.digest, runs, exports)
        kernels, folds = self.spec.kernels(set(runs)), self.spec.folds(set(runs))
        self.libraries = load(kernels, root / "kernels", folds)

    async def alone(self, payloads: list[bytes]) -> tuple[object, Mapping[str, object]]:
        journal, sent, disk = MemoryJournal(list(payloads)), MemoryOutbox(), MemoryDisk()
        engine = Durable(
            self.spec,
            self.assignment,
            journal,
            sent,
            disk=disk,
            clock=SteppedClock(),
            gather=False,
            libraries=self.libraries,
        )
        running = asyncio.ensure_future(engine.run())
        await asyncio.wait(
            {running, asyncio.ensure_future(engine.caught_up.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        running.cancel()
        await asyncio.wait({running})
        await engine.checkpoint()
        sinks = {name: rows_by_origin(disk.files[sink.path]) for name, sink in engine.sinks.items()}
        return by_origin(sent.messages), sinks

    async def worker(self, index: int, port: int):
        node = NodeConfig(
            self.assignment,
            FLOW,
            port,
            0,
            "nats-leaf://above",
            {"down": ("gw1-relay",)},
            0,
            (),
            self.root / "kernels",
            processes=2,
        )
        config = WorkerConfig(node, index)
        host = system_host(self.root / "workers" / config.name)
        path = host.disk.root / "config.json"
        path.write_text(json.dumps(config.to_json()))
        return await host.processes.start(
            [sys.executable, "-m", "ganglion.agent", str(path)], log=host.disk.root / "log.txt"
        )

    def kept(self, sink: str) -> dict[str, list[tuple[object, ...]]]:
        """A sink's rows by origin, wherever they are."""
        found: defaultdict[str, list[tuple[object, ...]]] = defaultdict(list)
        for worker, name, path, size_bytes, _ in json.loads((self.root / "node" / SEGMENTS).read_bytes()):
            if name == sink:
                content = (self.root / "workers" / worker / path).read_bytes()[:size_bytes]
                for origin, rows in rows_by_origin(content).items():
                    found[origin] += rows
        return dict(found)


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are killed by their id")
def test_a_killed_worker_is_taken_over_and_nothing_is_lost_repeated_or_reordered(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(partitions, "STATE_BYTES_MAX", 32 << 20)  # these servers may not store more
    asyncio.run(killed(Story(tmp_path), messages(rng, 600)))


async def killed(story: Story, made: list[tuple[str, bytes]]) -> None:
    expected, sinks = await story.alone([payload for _, payload in made])
    async with pair(NatsSites, story.root, CAPS) as (sites, up, down):
        host = system_host(story.root / "node")
        await partitions.provision_partitions(up, "up")
        site = Shared(up, "up", BusOutbox(up, subjects.outbox("up"), host.clock), lambda _seq: None, host)
        looking = asyncio.create_task(site.run())
        port = int(sites.server("up").url.rpartition(":")[2])
        doomed, other = await asyncio.gather(story.worker(0, port), story.worker(1, port))
        try:
            await send(down, made[:200])
            await until(lambda: all_saved_by(site, {"up-w0", "up-w1"}))
            await send(down, made[200:300])
            os.kill(doomed.pid, signal.SIGKILL)
            assert await doomed.wait() == -signal.SIGKILL
            await send(down, made[300:])
            await until(lambda: done(site, len(made), story))
            assert other.alive()
            assert await other.stop(30 * 10**9) == 0
        finally:
            other.kill()
            doomed.kill()
            looking.cancel()
            await asyncio.wait({looking})
        await site.checkpoint()
        assert await outbox(up) == expected
        assert site.progress.duplicated_rows == site.progress.bad_messages == 0
        assert {s: story.kept(s) for s in sinks} == sinks
        assert all(sinks.values())


async def send(bus, some):
    for start in range(0, len(some), len(ORIGINS)):
        batch = some[start : start + len(ORIGINS)]
        await asyncio.gather(
            *(bus.append(OWED, subjects.outbox_subject("waves", o), payload) for o, payload in batch)
        )


async def all_saved_by(site, workers):
    return set(site.owners()) == workers


async def done(site, count, story):
    rows = site.counts().get("in:waves")
    return site.progress.input_seq == count and rows is not None and rows.rows == 40 * count
