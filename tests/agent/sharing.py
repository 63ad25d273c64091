"""An edge site whose input is shared: a child's messages, the engine that shares nothing, and what both must make."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ganglion.agent.config import NodeConfig, WorkerConfig
from ganglion.agent.workers import Worker
from ganglion.core.wire import End, encode
from ganglion.host.ports import Host
from ganglion.messaging import subjects
from tests.engine.flows import SPEC, assignment
from tests.engine.site import Site, sink_rows
from tests.engine.streams import rows_of

ORIGINS = [f"gw1-relay-{n:02d}" for n in range(14)]
EDGE = assignment("up", "level trips incident incidents tens tens_kept", "tens trips")
IN, OUT = subjects.inbox("up"), subjects.outbox("up")
OWED = subjects.outbox("down")


def history(rng: np.random.Generator, count: int, origins: list[str] = ORIGINS) -> list[tuple[str, bytes]]:
    """(origin, message) of frames whose levels trip now and then; every origin's last message is its end."""
    seqs: defaultdict[str, int] = defaultdict(int)
    times: defaultdict[str, int] = defaultdict(lambda: 1000)
    messages = []
    for _ in range(count):
        origin = origins[rng.integers(len(origins))]
        rows = int(rng.integers(1, 5))
        times[origin] += int(rng.integers(1, 20))
        at = times[origin] + np.arange(rows)
        frames = rng.integers(-2, 9, size=(rows, 2)).astype(np.float32)
        messages.append((origin, encode(rows_of("frames", origin, seqs[origin], at.tolist(), frame=frames))))
        seqs[origin] += rows
        times[origin] += rows
    return [*messages, *((o, encode(End("frames", o))) for o in origins)]


def by_origin(messages: list[tuple[str, str, bytes]]) -> dict[str, list[tuple[str, bytes]]]:
    """(stream, payload) of each origin, in order."""
    found: dict[str, list[tuple[str, bytes]]] = {}
    for stream, origin, payload in messages:
        found.setdefault(origin, []).append((stream, payload))
    return found


def alone(messages: list[tuple[str, bytes]]) -> tuple[dict[str, Any], list[Any]]:
    """What one engine makes of it: the outbox by origin, and the rows of its sinks."""
    site = Site([payload for _, payload in messages], EDGE, gather=False)
    asyncio.run(site.run())
    rows = [row for name in ("incidents", "tens_kept") for row in sink_rows(site, name)]
    return by_origin(site.outbox.messages), sorted(rows, key=_place)


def _place(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return row[0], row[1], row[2]


async def send(bus: Any, messages: list[tuple[str, bytes]]) -> None:
    """The child owes it to its parent, in order."""
    for origin, payload in messages:
        await bus.append(OWED, subjects.outbox_subject("frames", origin), payload)


async def outbox(bus: Any) -> dict[str, list[tuple[str, bytes]]]:
    """What the shared site has sent, by origin, whoever wrote it."""
    last = (await bus.state(OUT)).last_seq
    messages: list[tuple[str, str, bytes]] = []
    if last:
        async with contextlib.aclosing(bus.read(OUT, 0)) as read:
            async for m in read:
                address = subjects.parse(m.subject)
                messages.append((address.stream, address.origin, m.payload))
                if m.seq == last:
                    break
    return by_origin(messages)


def config(index: int, processes: int = 2, port: int = 0) -> WorkerConfig:
    node = NodeConfig(
        EDGE,
        Path("flow"),
        port,
        0,
        "nats-leaf://above",
        {"down": ("gw1-relay",)},
        0,
        (),
        Path("kernels"),
        processes=processes,
    )
    return WorkerConfig(node, index)


class Team:
    """Workers of a site in this process; each has its own disk and its own connection."""

    def __init__(self, sites: Any, host: Any) -> None:
        self._sites = sites
        self._host = host
        self._running: dict[int, tuple[Worker, asyncio.Task[None], Any]] = {}

    def start(self, index: int) -> Worker:
        made: Host = self._host(self._sites, index)
        buses: list[Any] = []

        async def connect(_url: str, _name: str) -> Any:
            buses.append(await self._sites.bus("up"))
            return buses[0]

        worker = Worker(config(index), made, connect=connect, load_kernels=lambda *_: {}, flow=SPEC)
        self._running[index] = worker, asyncio.ensure_future(worker.run()), buses
        return worker

    async def kill(self, index: int) -> None:
        """Ends it where it stands: nothing is saved, nothing is told to anybody."""
        worker, task, buses = self._running.pop(index)

        async def nothing(*_: Any) -> None:
            pass

        setattr(worker, "_give_back", nothing)  # noqa: B010 # it has no time for that
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for bus in buses:
            await bus.close()

    async def stop(self) -> None:
        for worker, _, _ in self._running.values():
            worker.stop()
        for _, task, _ in self._running.values():
            await task

    def check(self) -> None:
        for _, task, _ in self._running.values():
            if task.done():
                task.result()
