"""A site whose streams several servers store together: what each is told, and how its agent sees them.

People run these servers on machines of their own (docs/how-to/grow-a-hub.md); the agent starts and ends none of them.
Of three servers any one may die, and of five still one without a doubt: every stream is stored three times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ganglion.core.errors import MessagingError
from ganglion.core.units import NS_PER_MS, NS_PER_S
from ganglion.host.ports import Clock
from ganglion.messaging.greeting import answers

REPLICAS = 3
ROUTE_PORT = 6222
GREETED_WITHIN_NS = 30 * NS_PER_S
_POLL_NS = 250 * NS_PER_MS


@dataclass(frozen=True, slots=True)
class Place:
    """Where one server is reached: by its site's agent, by children and by the other servers, at ``host``.

    An IPv6 address stands in brackets.
    """

    name: str
    host: str
    port: int
    leaf_port: int
    route_port: int = ROUTE_PORT


@dataclass(frozen=True, slots=True)
class Member:
    """One server of a cluster.

    ``name`` is its own among all servers of the tree. It listens at the address ``host`` and takes the other members,
    ``routes`` (``host:port`` each), on ``route_port``. ``certificate``, ``certificate_key`` and ``authority``: the
    files that prove members to each other, of an authority that signs for nobody else; None: whoever reaches the
    port is one.
    """

    name: str
    host: str
    route_port: int
    routes: tuple[str, ...]
    certificate: Path | None = None
    certificate_key: Path | None = None
    authority: Path | None = None


def member(places: Sequence[Place], number: int, listen: str, keys: Path | None) -> Member:
    """The server at ``places[number]``, listening at the address ``listen``; ``keys``: what `Authority.equip` made."""
    own = places[number]
    routes = tuple(f"{p.host}:{p.route_port}" for p in places if p is not own)
    if keys is None:
        return Member(own.name, listen, own.route_port, routes)
    files = (keys / "routes.crt", keys / "routes.key", keys / "routes-authority.crt")
    return Member(own.name, listen, own.route_port, routes, *files)


@dataclass(frozen=True, slots=True)
class Replicas:
    """Who stores a stream: the server that leads ("" for none, or where there is one server only), and who lags.

    ``behind``: servers that do not have everything yet, or have not been heard of for a while.
    """

    leader: str = ""
    behind: tuple[str, ...] = ()


class ClusterServers:
    """The servers of a site as its agent sees them: it waits for them, and goes to whichever answers.

    It has the face of `SiteServer`, and nothing to start or end: ``pid`` is None and ``restarts`` stays 0.
    """

    pid = None
    restarts = 0

    def __init__(self, site: str, urls: Sequence[str], clock: Clock) -> None:
        self.urls = tuple(urls)
        self._site = site
        self._clock = clock
        self._stopped = asyncio.Event()

    @property
    def url(self) -> str:
        """Where this site's own processes connect: all of them, with commas between."""
        return ",".join(self.urls)

    @property
    def log(self) -> str:
        """Where the servers write what happens to them: on their own machines."""
        return "server.log"

    async def start(self) -> None:
        """Returns when one of the servers greets; raises ``messaging.cluster-away`` when none does in 30 s."""
        until_ns = self._clock.monotonic_ns() + GREETED_WITHIN_NS
        while not await answers(self.url):
            if self._clock.monotonic_ns() > until_ns:
                raise MessagingError(
                    "messaging.cluster-away",
                    f"none of the {len(self.urls)} message servers of {self._site} answers",
                    why=f"nobody greets at {', '.join(self.urls)}",
                    next_step="start them, or correct servers: in the topology",
                )
            await self._clock.sleep_ns(_POLL_NS)

    async def run(self) -> None:
        """Until stopped: whoever runs the servers keeps them running."""
        await self._stopped.wait()

    def restart(self) -> None:
        """Whoever runs the servers restarts them: nobody here has a reason to ask (`agent.supervisor.HANDS_OFF`)."""
        raise AssertionError("these servers are not ours")

    async def stop(self) -> None:
        """`run` returns."""
        self._stopped.set()

    async def look(self) -> Mapping[str, bool]:
        """Host and port of each server -> whether it greets."""
        greeted = await asyncio.gather(*(answers(url) for url in self.urls))
        return dict(zip((urlsplit(url).netloc for url in self.urls), greeted, strict=True))
