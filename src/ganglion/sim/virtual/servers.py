"""Message servers as processes of virtual machines, and the leaf links between them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from ganglion.core.units import NS_PER_MS
from ganglion.host.ports import Chance
from ganglion.messaging.bus import Stored
from ganglion.messaging.memory import Link, MemoryServer, Store
from ganglion.sim.virtual.network import Network
from ganglion.sim.virtual.paths import Life

RECONNECT_S = (0.25, 1.2)
"""From a path that is whole again to a leaf connection: the configured retry, and what JetStream adds (measured)."""
SYNC_EVERY_S = 120.0
"""nats-server's default where the configuration does not say ``sync_interval: always``."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What `messaging.server.render` says to a server, read back from its text."""

    site: str
    port: int
    leaf_port: int
    parent_port: int
    store_max_bytes: int
    sync_always: bool

    @staticmethod
    def read(text: str) -> Configuration:
        """A number that is missing is 0."""

        def number(expression: str) -> int:
            found = re.search(expression, text)
            return int(found.group(1)) if found else 0

        name = re.search(r"^server_name: (.*)$", text, re.MULTILINE)
        assert name is not None, "a server without a name"
        return Configuration(
            json.loads(name.group(1)),
            number(r'(?m)^listen: "[^"]*:(\d+)"'),
            number(r'(?m)^ +listen: "[^"]*:(\d+)"'),
            number(r'url: "[^"]*:(\d+)"'),
            number(r"max_file_store: (\d+)"),
            re.search(r"(?m)^ *sync_interval: always$", text) is not None,
        )


class Servers:
    """The servers that run now, by port, and the links that their configurations ask for."""

    def __init__(self, network: Network) -> None:
        self.on_stored: Callable[[str, Stored], None] = lambda _site, _message: None
        self._network = network
        self._running: dict[int, ServerProcess] = {}
        self._leaves: dict[int, ServerProcess] = {}

    def at(self, port: int) -> MemoryServer | None:
        """Who listens on a port for clients."""
        process = self._running.get(port)
        return process.server if process is not None else None

    def pace(self, life: Life, chance: Chance) -> ServerPace:
        """For a client beside its server."""
        return ServerPace(self._network, life, chance)

    def started(self, process: ServerProcess) -> None:
        """A server listens: for its clients, for its children, and to its parent."""
        self._running[process.configuration.port] = process
        if process.configuration.leaf_port:
            self._leaves[process.configuration.leaf_port] = process
        self.relink()

    def ended(self, process: ServerProcess) -> None:
        """A server is gone; its children have no connection any more."""
        self._running.pop(process.configuration.port, None)
        self._leaves.pop(process.configuration.leaf_port, None)
        for other in tuple(self._running.values()):
            if other.server is not None and other.server.uplink is not None:
                uplink = other.server.uplink
                if uplink.parent is process.server:
                    other.server.uplink = None

    def relink(self) -> None:
        """Servers that have no connection to their parent begin to make one."""
        for process in tuple(self._running.values()):
            parent = self.parent_of(process)
            if parent is not None and process.server is not None and process.server.uplink is None:
                process.connect(parent, process.life.chances.stream(f"leaf/{self._network.now_ns()}"))

    def parent_of(self, process: ServerProcess) -> ServerProcess | None:
        """The running server its configuration points to."""
        return self._leaves.get(process.configuration.parent_port)

    def parted(self, one: str, other: str) -> None:
        """A path between two machines was cut: their leaf connection breaks."""
        for process in tuple(self._running.values()):
            link = process.server.uplink if process.server is not None else None
            parent = self.parent_of(process)
            if (
                link is not None
                and parent is not None
                and {process.life.name, parent.life.name} == {one, other}
            ):
                link.cut()

    def healed(self, one: str, other: str) -> None:
        """The path is whole again: the connection comes back a little later."""
        for process in tuple(self._running.values()):
            parent = self.parent_of(process)
            if parent is not None and {process.life.name, parent.life.name} == {one, other}:
                process.reconnect(process.life.chances.stream(f"heal/{self._network.now_ns()}"))


class ServerPace:
    """`Pace` of one client or one link, after what was measured on real servers (sync always)."""

    def __init__(self, network: Network, life: Life, chance: Chance, parent: str = "") -> None:
        self._network = network
        self._life = life
        self._parent = parent
        self._chance = chance

    def request_ns(self, size_bytes: int) -> int:
        written_ns = int(self._chance.uniform(NS_PER_MS // 5, 4 * NS_PER_MS)) + size_bytes * 20
        return self._life.disk_slowness * written_ns

    def answer_ns(self) -> int:
        return int(self._chance.uniform(NS_PER_MS // 20, NS_PER_MS // 2))

    def link_ns(self, child: str, size_bytes: int) -> int:
        return self._network.path(self._life.name, self._parent).weather.delay_ns(self._chance, size_bytes)


class ServerProcess:
    """`Process`: a message server that came up after a moment and runs until it is killed or its machine is."""

    def __init__(self, text: str, life: Life, store: Store, servers: Servers, network: Network) -> None:
        self.configuration = Configuration.read(text)
        self.life = life
        self.pid = 1_000_000 + network.free_port()
        self.server: MemoryServer | None = None
        self._store = store
        self._servers = servers
        self._network = network
        self._ended = asyncio.Event()

    async def run(self, start_s: float) -> None:
        """Starts, and serves until it ends."""
        await asyncio.sleep(start_s)
        if self._ended.is_set() or not self.life.alive:
            return
        configuration = self.configuration
        self.server = MemoryServer(
            configuration.site,
            self._store,
            store_max_bytes=configuration.store_max_bytes,
            sync_always=configuration.sync_always,
        )
        self.server.on_append = self.life.touch
        greeting = b"INFO " + json.dumps({"server_name": configuration.site}).encode() + b"\r\n"
        self._network.listen(self.life, configuration.port, greeting)
        if configuration.leaf_port:
            self._network.listen(self.life, configuration.leaf_port, greeting)
        self._servers.started(self)
        while not configuration.sync_always and self.alive():
            await asyncio.sleep(SYNC_EVERY_S)
            if self.alive():
                self._store.sync()

    def connect(self, parent: ServerProcess, chance: Chance) -> None:
        """Makes the leaf connection, unless the path is parted; then it is made when that heals."""
        assert self.server is not None and parent.server is not None
        pace = ServerPace(self._network, self.life, chance, parent.life.name)
        link = Link(self.server, parent.server, pace)
        link.on_stored = self._servers.on_stored
        link.cut()
        if self._network.path(self.life.name, parent.life.name).whole:
            self.reconnect(chance)

    def reconnect(self, chance: Chance) -> None:
        """The connection is up after a moment, if both ends and the path still are."""
        link = self.server.uplink if self.server is not None else None
        if link is None:
            return
        asyncio.get_running_loop().call_later(chance.uniform(*RECONNECT_S), self._up, link)

    def _up(self, link: Link) -> None:
        if self.server is None or self.server.uplink is not link or not self.alive():
            return
        parent = self._servers.parent_of(self)
        if (
            parent is not None
            and parent.alive()
            and self._network.path(self.life.name, parent.life.name).whole
        ):
            link.heal()

    @property
    def serves(self) -> bool:
        """True once it has started, until it ends."""
        return self.server is not None and self.alive()

    def alive(self) -> bool:
        return not self._ended.is_set()

    async def wait(self) -> int:
        await self._ended.wait()
        return -9

    async def stop(self, grace_ns: int) -> int:
        self.kill()
        return 0

    def kill(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        if self.server is not None:
            self.server.stop()
            self._network.unlisten(self.configuration.port)
            self._network.unlisten(self.configuration.leaf_port)
            if self.server.uplink is not None:
                self.server.uplink.detach()
            self._servers.ended(self)
