"""Watches a site's message server and disk, and starts the server again when only that helps.

Three things were seen from which a nats-server does not come back by itself: a link that is not made again although
the parent can be reached, streams that refuse to write after the disk was full once, and a process that hangs. A
restart loses nothing, since every acknowledged message is on disk; it is done with growing pauses, in case it is
the parent who refuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ganglion.agent.config import NodeConfig
from ganglion.agent.health import DISK_FULL_BYTES, Observed, StreamUse
from ganglion.core.errors import HostError, MessagingError
from ganglion.core.units import NS_PER_S
from ganglion.host.ports import Clock, Disk, Host
from ganglion.messaging import subjects
from ganglion.messaging.bus import Bus
from ganglion.messaging.cluster import ClusterServers, Replicas
from ganglion.messaging.greeting import answers
from ganglion.messaging.janitor import Janitor
from ganglion.messaging.server import SiteServer

EVERY_NS = NS_PER_S


@dataclass(frozen=True, slots=True)
class Patience:
    """How long something must last before the server is started again, and the pauses between restarts."""

    silent_ns: int = 10 * NS_PER_S
    refused_ns: int = 3 * NS_PER_S
    freed_ns: int = 0
    unlinked_ns: int = 20 * NS_PER_S
    pause_first_ns: int = 20 * NS_PER_S
    pause_max_ns: int = 600 * NS_PER_S


NEVER_NS = 1 << 62
HANDS_OFF = Patience(NEVER_NS, NEVER_NS, NEVER_NS, NEVER_NS)
"""For a node whose message servers are run by others."""
LINK_ONLY = Patience(silent_ns=NEVER_NS, refused_ns=NEVER_NS, freed_ns=NEVER_NS)
"""For a node whose `ServerWatch` restarts servers that do not answer or write."""


class Diagnosis:
    """Decides when to restart: pure, from observations and their times."""

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._since: dict[str, int] = {}
        self._disk_was_full = False
        self._pause_ns = self._patience.pause_first_ns
        self._restarted_ns: int | None = None

    def judge(self, seen: Observed, now_ns: int) -> str:
        """Why the server must be started again now; "" when it need not."""
        patience = self._patience
        full = seen.disk_free_bytes < DISK_FULL_BYTES
        freed = self._disk_was_full and not full
        # Kept for a restart that it is to cause; where it causes none, nothing would ever take it back.
        self._disk_was_full = full or (self._disk_was_full and patience.freed_ns < NEVER_NS)
        causes = {
            "it does not answer": (not seen.answers, patience.silent_ns),
            f"it does not write though there is room ({seen.refused})": (
                bool(seen.refused) and not full,
                patience.refused_ns,
            ),
            "its link to the parent is gone though the parent answers": (
                seen.answers and seen.drawn is False and bool(seen.uplink_answers),
                patience.unlinked_ns,
            ),
            "its disk was full, and there is room again": (freed, patience.freed_ns),
        }
        lasting = [
            cause
            for cause, (holds, least_ns) in causes.items()
            if self._lasted_ns(cause, now_ns, holds=holds) >= least_ns and holds
        ]
        self._since = {c: t for c, t in self._since.items() if c in causes}
        if not any(holds for holds, _ in causes.values()):
            self._calm(now_ns)
        if not lasting or full or self._too_soon(now_ns):
            return ""
        if self._restarted_ns is not None:
            self._pause_ns = min(2 * self._pause_ns, patience.pause_max_ns)
        self._restarted_ns = now_ns
        self._since.clear()
        self._disk_was_full = False
        return lasting[0]

    def _lasted_ns(self, cause: str, now_ns: int, *, holds: bool) -> int:
        if not holds:
            self._since.pop(cause, None)
            return -1
        return now_ns - self._since.setdefault(cause, now_ns)

    def _too_soon(self, now_ns: int) -> bool:
        return self._restarted_ns is not None and now_ns - self._restarted_ns < self._pause_ns

    def _calm(self, now_ns: int) -> None:
        """Pauses are short again once all has been well for the longest of them."""
        if self._restarted_ns is not None and now_ns - self._restarted_ns >= self._patience.pause_max_ns:
            self._restarted_ns, self._pause_ns = None, self._patience.pause_first_ns


class Server(Protocol):
    """What is watched: the part of `SiteServer` in use."""

    restarts: int

    @property
    def log(self) -> str: ...

    def restart(self) -> None:
        """Ends the process, so that it is started again."""


class Watched(Bus, Protocol):
    """A bus that also tells whether a parent draws from an outbox, and which servers of a cluster have a stream."""

    async def drawn(self, stream: str) -> bool: ...

    async def replicas(self, stream: str) -> Replicas: ...


class Supervisor:
    """``caps``: streams and their byte caps; ``outbox`` is one of them, "" at the top of the tree.

    ``uplink_answers`` asks the parent's port. ``troubles`` tells what the site's own writers were last told.
    ``repair`` makes missing streams and consumers again; it is called when some are missing. ``look_at_servers``: of a
    site with several message servers, asks each.
    """

    def __init__(
        self,
        site: str,
        server: Server,
        bus: Watched,
        disk: Disk,
        clock: Clock,
        *,
        caps: Mapping[str, int],
        outbox: str,
        uplink_answers: Callable[[], Awaitable[bool]],
        troubles: Callable[[], tuple[str, ...]],
        repair: Callable[[], Awaitable[object]],
        patience: Patience | None = None,
        look_at_servers: Callable[[], Awaitable[Mapping[str, bool]]] | None = None,
    ) -> None:
        self.seen = Observed(site, server.log)
        self.cause = ""
        self.shed: Callable[[], Mapping[str, int]] = dict
        """Rows per stream that were shed here since the process started."""
        self._site = site
        self._server = server
        self._bus = bus
        self._disk = disk
        self._clock = clock
        self._caps = caps
        self._outbox = outbox
        self._uplink_answers = uplink_answers
        self._troubles = troubles
        self._repair = repair
        self._diagnosis = Diagnosis(patience)
        self._look_at_servers = look_at_servers

    async def run(self) -> None:
        """Goes on for ever."""
        while True:
            await self._clock.sleep_ns(EVERY_NS)
            self.seen = await self.look()
            if cause := self._diagnosis.judge(self.seen, self._clock.monotonic_ns()):
                self.cause = cause
                self._server.restart()
            elif self.seen.missing:
                try:
                    await self._repair()
                except MessagingError:
                    continue  # it is still missing: the next look tells, and tries again

    async def look(self) -> Observed:
        """One observation; whatever does not answer is part of it."""
        missing: list[str] = []
        behind: set[str] = set()
        clustered = self._look_at_servers is not None
        streams: dict[str, StreamUse] = {}
        silent: list[str] = []
        drawn, backlog = (False, 0) if self._outbox else (None, 0)
        for name, cap in self._caps.items():
            try:
                state = await self._bus.state(name)
                streams[name] = StreamUse(state.size_bytes, cap)
                if clustered:
                    behind.update((await self._bus.replicas(name)).behind)
                if name == self._outbox:
                    drawn = await self._bus.drawn(name)
                    if not drawn:  # numbers of an outbox begin far beyond 0 (`provision`)
                        done = max(await self._bus.delivered(name), state.first_seq - 1)
                        backlog = state.last_seq - done
            except MessagingError as error:
                if error.code == "messaging.unavailable":
                    silent.append(name)
                    if not clustered:  # what one server does not answer for one stream it does for none
                        break
                    continue
                missing.append(f"the uplink consumer of {name}" if name in streams else name)
        answers, uplink = len(silent) < (len(self._caps) if clustered else 1), None
        if drawn is False and answers:
            uplink = await self._uplink_answers()
        try:
            free = await asyncio.to_thread(self._disk.free_bytes)
        except HostError:
            free = 0
        return Observed(
            self._site,
            self._server.log,
            answers=answers,
            drawn=drawn,
            uplink_answers=uplink,
            backlog=backlog,
            streams=streams,
            missing=tuple(missing),
            refused=next((t for t in self._troubles() if _is_stuck(t)), ""),
            disk_free_bytes=free,
            server_restarts=self._server.restarts,
            last_cause=self.cause,
            shed=self.shed(),
            servers=await self._servers(well=not silent and not behind),
            leaderless=tuple(silent) if clustered else (),
            behind=tuple(sorted(behind)),
        )

    async def _servers(self, *, well: bool) -> Mapping[str, bool] | None:
        """Which of several servers are there. Each that is asked logs a connection without a word, so not always."""
        if self._look_at_servers is None:
            return None
        if well and self.seen.servers is not None:
            return dict.fromkeys(self.seen.servers, True)
        return await self._look_at_servers()


def _is_stuck(trouble: str) -> bool:
    """A server that was asked to write and would not; a full stream is not its fault."""
    return trouble.startswith("[messaging.refused]")


def supervised(
    config: NodeConfig,
    server: SiteServer | ClusterServers,
    bus: Watched,
    host: Host,
    janitor: Janitor,
    repair: Callable[[], Awaitable[object]],
) -> Supervisor:
    """The supervisor of a node whose `ServerWatch` sees to servers that do not answer or write."""
    site, limits = config.site, config.limits
    return Supervisor(
        site,
        server,
        bus,
        host.disk,
        host.clock,
        caps={
            subjects.journal(site): limits.journal_bytes_max,
            subjects.outbox(site): limits.outbox_bytes_max,
            subjects.inbox(site): limits.inbox_bytes_max,
        },
        outbox=subjects.outbox(site) if config.parent_url else "",
        uplink_answers=lambda: answers(config.parent_url),
        troubles=lambda: (janitor.trouble,),
        repair=repair,
        patience=LINK_ONLY if isinstance(server, SiteServer) else HANDS_OFF,
        look_at_servers=server.look if isinstance(server, ClusterServers) else None,
    )
