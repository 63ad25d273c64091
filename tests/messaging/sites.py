"""Real and simulated sites with the same faults, for the tests of this folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
from pathlib import Path

from ganglion.core.errors import MessagingError
from ganglion.host.ports import Host
from ganglion.host.system import system_host
from ganglion.messaging import nats
from ganglion.messaging.memory import MemorySites, Pace
from ganglion.messaging.pacing import Pacer
from ganglion.messaging.provision import Caps, adopt_children, provision
from ganglion.messaging.server import ServerSettings, SiteServer
from ganglion.messaging.subjects import inbox
from ganglion.sim.virtual.clock import VirtualClock
from ganglion.sim.virtual.loop import VirtualLoop
from ganglion.sim.virtual.loop import run as virtual_run
from tests.conftest import SEED

PATIENCE_S = 150
"""How long a test waits for what must happen; none asserts that it took less. nats-server now and then tries a source
again only after a minute, when servers were killed in the wrong moment."""


async def until(condition):
    """Returns once ``await condition()`` is true; a server that is away counts as not yet."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(MessagingError):
                if await condition():
                    return
            await asyncio.sleep(0.02)


async def take(messages, count):
    """The next ``count`` messages of a read; it stays open."""
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(messages) for _ in range(count)]


async def payloads(bus, stream):
    """Of all messages that a stream holds, none of which was removed."""
    return [m.payload for m in await take(bus.read(stream, 0), (await bus.state(stream)).last_seq)]


async def with_lanes(up, down, caps):
    """Gives a pair of sites an urgent lane, once the parent has adopted the child.

    The adoption that `add` begins knows of no lanes: if it ended after this, it would take one away again.
    """
    await provision(down, "down", caps, urgent=True)

    async def adopted():
        return bool((await up.ask(f"STREAM.INFO.{inbox('up')}", {}))["config"].get("sources"))

    await until(adopted)
    await provision(up, "up", caps, children=["down"], urgent=True)


@contextlib.contextmanager
def pacing(sites, bus):
    """The pacer of the child "down", which makes the window of a new outbox larger."""
    pacer = Pacer(bus, "down", sites.clock("down"), lambda _: 200, urgent=False, offset=sites.offsets["down"])
    task = asyncio.ensure_future(pacer.run())
    try:
        yield
    finally:
        task.cancel()


class Relay:
    """A TCP relay on the way to ``port`` that can be cut."""

    def __init__(self, port):
        self._target = port
        self._open = True
        self._writers = set()
        self._tasks = set()

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self):
        self._open = False
        for writer in self._writers:
            writer.transport.abort()

    def heal(self):
        self._open = True

    async def stop(self):
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        try:
            if not self._open:
                return
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
            pair = {writer, up_writer}
            self._writers |= pair
            await asyncio.gather(_pump(reader, up_writer), _pump(up_reader, writer))
            self._writers -= pair
        except OSError:
            pass
        finally:
            writer.transport.abort()


async def _pump(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


class NatsSites:
    """Sites with a nats-server each; a child reaches its parent through a relay."""

    def __init__(self, root: Path):
        self._root = root
        self._hosts: dict[str, Host] = {}
        self._servers: dict[str, SiteServer] = {}
        self._leaf_ports: dict[str, int] = {}
        self._relays: dict[str, Relay] = {}
        self._buses: list[nats.NatsBus] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.keep = False
        self._buses_of: dict[str, nats.NatsBus] = {}
        self.born_s = 0
        self.offsets: dict[str, int] = {}

    async def wipe(self, site, caps):
        """The site's server finds an empty disk; it is provisioned again, as at every start of an agent."""
        await self.stop(site)
        shutil.rmtree(self._root / site / "messaging" / "store")
        await self.start(site)
        self.born_s += 1
        self.offsets[site] = await provision(self._buses_of[site], site, caps, born_s=self.born_s)

    async def add(self, site, caps, *, parent=None, children=()):
        """A running, provisioned site; its children are adopted as they come."""
        host = self._hosts[site] = system_host(self._root / site)
        leaf_port = self._leaf_ports[site] = host.ports.free()
        url = None
        if parent is not None:
            relay = self._relays[site] = Relay(self._leaf_ports[parent])
            await relay.start()
            url = f"nats-leaf://127.0.0.1:{relay.port}"
        settings = ServerSettings(site, host.ports.free(), caps.sum_bytes + (64 << 20), leaf_port, url)
        server = self._servers[site] = SiteServer(settings, host)
        await server.start()
        if self.keep:
            self._tasks.append(asyncio.create_task(server.run()))
        bus = self._buses_of[site] = await self.bus(site)
        self.offsets[site] = await provision(
            bus, site, caps, children=children, adopt_later=True, born_s=self.born_s
        )
        if children:
            self._tasks.append(asyncio.create_task(adopt_children(bus, site, caps, children, host.clock)))
        return bus

    async def bus(self, site):
        bus = await nats.connect(self._servers[site].url, answer_within_ns=2_000_000_000)
        self._buses.append(bus)
        return bus

    def server(self, site):
        return self._servers[site]

    def clock(self, site):
        return self._hosts[site].clock

    def cut(self, child):
        self._relays[child].cut()

    def heal(self, child):
        self._relays[child].heal()

    async def stop(self, site):
        """SIGKILL; returns when it is gone or, when it is kept running, at once."""
        pid = self._servers[site].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while not self.keep and self._servers[site].pid is not None:
            await asyncio.sleep(0.01)

    async def start(self, site):
        await self._servers[site].start()

    async def close(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for bus in self._buses:
            await bus.close()
        for server in self._servers.values():
            await server.stop()
        for relay in self._relays.values():
            await relay.stop()


class SimulatedSites:
    """`NatsSites` without servers, where nothing takes any time."""

    keep = False

    def __init__(self, _root: Path, pace: Pace | None = None):
        self._sites = MemorySites(pace)

    async def add(self, site, caps, *, parent=None, children=()):
        return await self._sites.add(site, caps, parent=parent, children=children)

    async def bus(self, site):
        return self._sites.bus(site)

    def clock(self, _site):
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return VirtualClock(loop.virtual_time)

    def cut(self, child):
        self._sites.cut(child)

    def heal(self, child):
        self._sites.heal(child)

    async def stop(self, site):
        self._sites.stop(site)

    async def start(self, site):
        self._sites.start(site)

    async def close(self):
        pass


class _Unhurried:
    """Every doing takes between a tenth of a millisecond and a few of them."""

    def __init__(self, seed):
        self._chance = random.Random(seed)

    def request_ns(self, size_bytes):
        return int(self._chance.uniform(1e5, 5e6)) + size_bytes

    def answer_ns(self):
        return int(self._chance.uniform(1e5, 2e6))

    def link_ns(self, child, size_bytes):
        return int(self._chance.uniform(1e6, 4e6)) + size_bytes * 10


class UnhurriedSites(SimulatedSites):
    """The same, with drawn delays everywhere."""

    def __init__(self, root: Path):
        super().__init__(root, _Unhurried(SEED))


def run(make, story):
    """Runs ``await story()`` on the clock that fits the kind of sites: virtual for the twin, real for servers."""
    if make is NatsSites:
        asyncio.run(story())
    else:
        virtual_run(lambda _loop: story())


@contextlib.asynccontextmanager
async def pair(make, root, caps):
    """(sites, bus of "up", bus of "down"): a parent and its only child."""
    sites = make(root)
    try:
        parent = await sites.add("up", caps, children=["down"])
        yield sites, parent, await sites.add("down", caps, parent="up")
    finally:
        await sites.close()


CAPS = Caps(1 << 20, 1 << 20, 1 << 20)
