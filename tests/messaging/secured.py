"""A tree of sites with identities, on real servers, for the tests of security."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ganglion.host.private import PrivateDirectory
from ganglion.host.system import system_host
from ganglion.messaging import nats
from ganglion.messaging.provision import provision
from ganglion.messaging.security.authority import Authority
from ganglion.messaging.security.identity import SiteIdentity
from ganglion.messaging.server import ServerSettings, SiteServer
from tests.messaging.sites import CAPS


class SecuredTree:
    """``hub`` with the gateways ``gwa`` and ``gwb``, each with the identity the authority gave it."""

    def __init__(self, root: Path):
        self.root = root
        self.host = system_host(root / "authority-host")
        self.authority = Authority(PrivateDirectory(root / "authority"), self.host.clock)
        self.servers: dict[str, SiteServer] = {}
        self.buses: dict[str, nats.NatsBus] = {}
        self.ports: dict[str, int] = {}
        self.leaf_port = self.host.ports.free()

    def identity(self, site):
        return SiteIdentity(PrivateDirectory(self.root / "identities" / site), site)

    def join(self, site):
        self.authority.join(site, PrivateDirectory(self.root / "identities" / site))

    async def start(self, children=("gwa", "gwb")):
        self.authority.init("tree")
        for site in ("hub", *children):
            self.join(site)
        await self.add("hub", children=children)
        for child in children:
            await self.add(child)
        return self

    async def add(self, site, children=()):
        host = system_host(self.root / "sites" / site)
        self.ports[site] = host.ports.free()
        settings = ServerSettings(
            site,
            self.ports[site],
            CAPS.sum_bytes + (64 << 20),
            self.leaf_port if site == "hub" else None,
            None if site == "hub" else f"tls://127.0.0.1:{self.leaf_port}",
            self.identity(site).trust(),
        )
        server = self.servers[site] = SiteServer(settings, host)
        await server.start()
        bus = self.buses[site] = await nats.connect(
            server.url, access=self.identity(site).access(), answer_within_ns=2_000_000_000
        )
        await provision(bus, site, CAPS, children=children)
        return bus

    async def close(self):
        for bus in self.buses.values():
            await bus.close()
        for server in self.servers.values():
            await server.stop()


@contextlib.asynccontextmanager
async def secured(root, children=("gwa", "gwb")):
    """A started tree that is always closed."""
    tree = SecuredTree(root)
    try:
        yield await tree.start(children)
    finally:
        await tree.close()
