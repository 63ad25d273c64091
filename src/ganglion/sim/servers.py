"""The several message servers of a site, on this machine, as whoever runs them would: each kept running."""

from __future__ import annotations

import asyncio
import contextlib

from ganglion.agent.config import Limits
from ganglion.agent.servers import store_bytes
from ganglion.host.ports import Host
from ganglion.host.private import PrivateDirectory
from ganglion.messaging.cluster import member
from ganglion.messaging.security.identity import SiteIdentity
from ganglion.messaging.server import ServerSettings, SiteServer
from ganglion.sim.layout import SitePorts, server_keys
from ganglion.sim.settings import Settings

LISTEN = "127.0.0.1"
POLL_NS = 10_000_000


class LocalCluster:
    """``servers``: name -> the server, which is started again whenever it ends, unless it is held down."""

    def __init__(self, settings: Settings, host: Host, site: str, ports: SitePorts, parent_url: str) -> None:
        self.servers: dict[str, SiteServer] = {}
        self._clock = host.clock
        self._keeping: dict[str, asyncio.Task[None]] = {}
        for number, place in enumerate(ports.places):
            keys = server_keys(settings, site, number)
            told = ServerSettings(
                site,
                place.port,
                store_bytes(Limits()),
                place.leaf_port,
                parent_url or None,
                SiteIdentity(PrivateDirectory(keys), site).trust(),
                member=member(ports.places, number, LISTEN, keys),
            )
            folder = settings.run_dir.resolve() / "servers" / place.name
            self.servers[place.name] = SiteServer(told, host, str(folder))

    async def start(self) -> None:
        """Returns when each of them greets."""
        for name in self.servers:
            await self.raise_up(name)

    async def hold_down(self, name: str) -> None:
        """SIGKILL; it stays away until it is raised."""
        server = self.servers[name]
        await self._let_go(name)
        server.restart()
        while server.pid is not None:
            await self._clock.sleep_ns(POLL_NS)

    async def raise_up(self, name: str) -> None:
        """Starts it and keeps it running; returns when it greets."""
        await self.servers[name].start()
        self._keeping[name] = asyncio.ensure_future(self.servers[name].run())

    async def close(self) -> None:
        """Ends all of them."""
        for name, server in self.servers.items():
            await self._let_go(name)
            await server.stop()

    async def _let_go(self, name: str) -> None:
        task = self._keeping.pop(name, None)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
