"""A tree of sites of the twin, with faults as method calls: cut, heal, stop, start."""

from __future__ import annotations

from collections.abc import Sequence

from ganglion.messaging.memory.bus import MemoryBus
from ganglion.messaging.memory.links import Link
from ganglion.messaging.memory.pace import Pace
from ganglion.messaging.memory.server import MemoryServer
from ganglion.messaging.memory.store import Store
from ganglion.messaging.provision import Caps, provision


class MemorySites:
    """Sites, their servers, and the links between a child and its parent."""

    def __init__(self, pace: Pace | None = None, *, store_reserve_bytes: int = 64 << 20) -> None:
        self._servers: dict[str, MemoryServer] = {}
        self._pace = pace
        self._reserve_bytes = store_reserve_bytes

    async def add(
        self, site: str, caps: Caps, *, parent: str | None = None, children: Sequence[str] = ()
    ) -> MemoryBus:
        """A provisioned site, linked to ``parent`` (which must be there already) unless that is None."""
        assert site not in self._servers
        store_max_bytes = caps.sum_bytes + self._reserve_bytes
        server = self._servers[site] = MemoryServer(site, Store(), store_max_bytes=store_max_bytes)
        if parent is not None:
            Link(server, self._servers[parent], self._pace)
        bus = self.bus(site)
        await provision(bus, site, caps, children=children)
        if server.uplink is not None:
            server.uplink.resume()
        return bus

    def bus(self, site: str) -> MemoryBus:
        """Another connection to a site's server."""
        server = self._servers[site]
        return MemoryBus(lambda: server, self._pace)

    def server(self, site: str) -> MemoryServer:
        """The site's server."""
        return self._servers[site]

    def cut(self, child: str) -> None:
        """The link from ``child`` to its parent lets nothing through."""
        self._link(child).cut()

    def heal(self, child: str) -> None:
        """The link works again; what waited moves."""
        self._link(child).heal()

    def stop(self, site: str) -> None:
        """The site's server is killed; its store is kept."""
        self._servers[site].stop()

    def start(self, site: str) -> None:
        """The site's server runs again."""
        server = self._servers[site]
        server.start()
        for link in (server.uplink, *server.downlinks):
            if link is not None:
                link.resume()

    def _link(self, child: str) -> Link:
        link = self._servers[child].uplink
        assert link is not None, f"{child} has no parent"
        return link
