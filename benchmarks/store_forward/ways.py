"""Three ways from a site to its parent: ours, plain JetStream sourcing, and a Mosquitto bridge."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.store_forward.mqtt import Client
from ganglion.core.errors import MessagingError
from ganglion.host.system import system_host
from ganglion.messaging import nats
from ganglion.messaging.janitor import Janitor
from ganglion.messaging.pacing import Pacer
from ganglion.messaging.provision import Caps, adopt_children, provision
from ganglion.messaging.server import ServerSettings, SiteServer
from ganglion.messaging.subjects import BULK, URGENT, inbox, outbox, outbox_subject
from ganglion.sim.relay import Relay

CAPS = Caps(1 << 20, 1 << 30, 1 << 30)
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
LOOK_S = 0.02


class Arrivals:
    """What came to the parent: the newest message that it has stored, and all of them, to be judged."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.highest = -1
        self.urgent = 0

    def newest(self, number: int) -> None:
        """The parent has stored this one."""
        self.highest = max(self.highest, number)

    def judged(self, sent: int) -> dict[str, int]:
        """Messages lost, doubled, out of order, of so many sent."""
        unique = set(self.numbers)
        order = sum(b < a for a, b in zip(self.numbers, self.numbers[1:], strict=False))
        return {"lost": sent - len(unique), "doubled": len(self.numbers) - len(unique), "out_of_order": order}


class Ours:
    """The configuration that nodes run: two lanes through durable consumers, janitor, pacer."""

    name = "ganglion"

    def __init__(self, root: Path, arrivals: Arrivals, payload_bytes: int) -> None:
        self._root = root
        self._arrivals = arrivals
        self._payload_bytes = payload_bytes
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Both servers, linked, and somebody who asks the parent what it has."""
        up, down = system_host(self._root / "up"), system_host(self._root / "down")
        leaf, most = up.ports.free(), CAPS.sum_bytes + (64 << 20)
        self.relay = Relay("uplink", leaf)
        url = f"nats-leaf://127.0.0.1:{await self.relay.open()}"
        self.servers = [
            SiteServer(ServerSettings("up", up.ports.free(), most, leaf), up),
            SiteServer(ServerSettings("down", down.ports.free(), most, None, url), down),
        ]
        for server in self.servers:
            await server.start()
        self.up, self.down = [await nats.connect(s.url) for s in self.servers]
        await self._provision()
        self._tasks.append(asyncio.create_task(self._look()))

    async def _provision(self) -> None:
        await provision(self.down, "down", CAPS, urgent=True)
        clock = system_host(self._root).clock
        await provision(self.up, "up", CAPS, children=["down"], adopt_later=True, urgent=True)
        await adopt_children(self.up, "up", CAPS, ["down"], clock, urgent=True)
        janitor = Janitor(self.down, clock, source=inbox("down"), outbox=outbox("down"))
        pacer = Pacer(self.down, "down", clock, {BULK: self._payload_bytes, URGENT: 32}.__getitem__)
        self._tasks += [asyncio.create_task(janitor.run()), asyncio.create_task(pacer.run())]

    async def append(self, number: int) -> None:
        """Returns when the message is on the site's disk."""
        payload = b"%012d" % number + bytes(self._payload_bytes - 12)
        await self.down.append(outbox("down"), outbox_subject("s", "o"), payload)

    async def append_urgent(self, number: int) -> None:
        """The same for what must not wait."""
        await self.down.append(outbox("down"), outbox_subject("u", "o", URGENT), b"%032d" % number)

    async def _look(self) -> None:
        """Asks for the newest of each lane. To read all meanwhile would take the processors that the servers need."""
        while True:
            await asyncio.sleep(LOOK_S)
            for lane in (URGENT, BULK):
                found = await self.up.newest(inbox("up"), f"in.*.{lane.prefix}.>")
                if found is not None and lane == URGENT:
                    self._arrivals.urgent = int(found.payload) + 1
                elif found is not None:
                    self._arrivals.newest(int(found.payload[:12]))

    async def read(self) -> None:
        """Reads all that the parent has, from the beginning."""
        last = (await self.up.state(inbox("up"))).last_seq
        async for message in self.up.read(inbox("up"), 0):
            if f".{URGENT.prefix}." not in message.subject:
                self._arrivals.numbers.append(int(message.payload[:12]))
            if message.seq >= last:
                return

    async def close(self) -> None:
        """Ends all of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for bus in (self.up, self.down):
            await bus.close()
        for server in reversed(self.servers):
            await server.stop()
        await self.relay.close()


class PlainSourcing(Ours):
    """The same servers; the parent makes a consumer of its own on a stream with limits, as in NATS's manual."""

    name = "plain sourcing"

    async def _provision(self) -> None:
        plain = {"storage": "file", "retention": "limits", "discard": "new", "max_bytes": 1 << 30}
        stream = {"name": outbox("down"), "subjects": ["out.>", "urgent.>"], **plain, "num_replicas": 1}
        await self.down.ask(f"STREAM.CREATE.{outbox('down')}", stream)
        source = {
            "name": outbox("down"),
            "external": {"api": "$JS.down.API", "deliver": ""},
            "subject_transforms": [{"src": ">", "dest": "in.down.>"}],
        }
        inbox_ = {"name": inbox("up"), "subjects": [], "sources": [source], **plain, "num_replicas": 1}
        while True:
            with contextlib.suppress(MessagingError):
                await self.up.ask(f"STREAM.INFO.{outbox('down')}", {}, domain="down")
                break
            await asyncio.sleep(0.1)
        await self.up.ask(f"STREAM.CREATE.{inbox('up')}", inbox_)


class MosquittoBridge:
    """Two brokers and a bridge with persistent sessions; what waits is saved once a second, as `autosave_interval` 1.

    A broker acknowledges before it has saved, so this is not fsync'd; with `autosave_on_changes` each message would
    save the whole queue.
    """

    name = "mosquitto bridge"

    def __init__(self, root: Path, arrivals: Arrivals, payload_bytes: int) -> None:
        self._root = root
        self._arrivals = arrivals
        self._payload_bytes = payload_bytes

    async def start(self) -> None:
        """Both brokers, bridged, and a subscriber at the parent."""
        assert MOSQUITTO is not None
        host = system_host(self._root)
        up, down = host.ports.free(), host.ports.free()
        self.relay = Relay("uplink", up)
        bridge = await self.relay.open()
        self.processes = [
            broker(self._root / "up", up),
            broker(self._root / "down", down, bridge=bridge),
        ]
        self._hub = Client(self._came)
        self._site = Client()
        for client, port in ((self._hub, up), (self._site, down)):
            for _ in range(100):
                try:
                    await client.connect(port, f"bench-{port}")
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        await self._hub.subscribe("s/#")
        await asyncio.sleep(1)

    def _came(self, payload: bytes) -> None:
        self._arrivals.newest(int(payload[:12]))
        self._arrivals.numbers.append(int(payload[:12]))

    async def read(self) -> None:
        """Its subscriber has been told of each."""

    async def append(self, number: int) -> None:
        """Returns when the site's broker has acknowledged it."""
        await self._site.publish("s/o", b"%012d" % number + bytes(self._payload_bytes - 12))

    async def append_urgent(self, number: int) -> None:
        """There is one queue."""

    async def close(self) -> None:
        """Ends all of it."""
        for client in (self._hub, self._site):
            await client.close()
        for process in self.processes:
            process.terminate()
            process.wait(30)
        await self.relay.close()


def broker(directory: Path, port: int, *, bridge: int | None = None) -> subprocess.Popen[bytes]:
    """A Mosquitto that keeps what it queues; ``bridge``: the port of its parent."""
    directory.mkdir(parents=True)
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "user root",
        "persistence true",
        f"persistence_location {directory}/",
        "autosave_interval 1",
        "max_queued_messages 0",
        "log_dest none",
    ]
    if bridge is not None:
        lines += [
            "connection up",
            f"address 127.0.0.1:{bridge}",
            f"remote_clientid bridge-{port}",
            "topic # out 1",
            "cleansession false",
            "notifications false",
            "restart_timeout 1",
            "keepalive_interval 5",
        ]
    (directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    assert MOSQUITTO is not None
    return subprocess.Popen([MOSQUITTO, "-c", str(directory / "mosquitto.conf")], stderr=subprocess.DEVNULL)


WAYS: list[type[Ours | PlainSourcing | MosquittoBridge]] = [Ours, PlainSourcing]
if MOSQUITTO is not None:
    WAYS.append(MosquittoBridge)


async def settled(condition: Callable[[], bool], patience_s: float) -> float | None:
    """Seconds until it holds; None when it does not within ``patience_s``."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > patience_s:
            return None
        await asyncio.sleep(0.005)
    return time.monotonic() - began
