"""What is wrong with a site, as conditions with stable codes: worked out from what was observed, and nothing else.

The agent, the command line and whatever shows a site to people share these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["info", "warning", "critical"]

FILLING_PART = 0.8
FULL_PART = 0.98
DISK_LOW_BYTES = 64 << 20
DISK_FULL_BYTES = 4 << 20
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is not as it should be. ``command`` is what to run next, by hand."""

    code: str
    severity: Severity
    text: str
    command: str

    def to_json(self) -> dict[str, str]:
        """One object of a report's ``health``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class StreamUse:
    """How full a stream is; ``cap_bytes`` at least 1."""

    size_bytes: int
    cap_bytes: int

    @property
    def part(self) -> float:
        return self.size_bytes / self.cap_bytes


@dataclass(frozen=True, slots=True)
class Observed:
    """A site at one moment. ``drawn`` and ``uplink_answers`` are None at the top of the tree.

    ``answers``: the message server does. ``drawn``: the parent draws from the outbox. ``uplink_answers``: the
    parent's port greets, whether or not the link is up. ``missing``: streams and consumers that are not there.
    ``refused``: what the server last said when it would not write, though there is room. ``shed``: rows per stream.
    ``servers``: of a site with several message servers, each one's address and whether it greets; None for a site
    with one. ``leaderless``: streams for which none of those answers. ``behind``: servers that do not hold all of
    some stream yet.
    """

    site: str
    server_log: str
    answers: bool = True
    drawn: bool | None = None
    uplink_answers: bool | None = None
    backlog: int = 0
    streams: Mapping[str, StreamUse] | None = None
    missing: tuple[str, ...] = ()
    refused: str = ""
    disk_free_bytes: int = 1 << 62
    server_restarts: int = 0
    last_cause: str = ""
    shed: Mapping[str, int] | None = None
    servers: Mapping[str, bool] | None = None
    leaderless: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()


def conditions(seen: Observed) -> list[Condition]:
    """Everything worth telling, the gravest first; empty when all is well."""
    found = [*_server(seen), *_uplink(seen), *_streams(seen), *_shed(seen), *_disk(seen)]
    return sorted(found, key=lambda c: SEVERITIES.index(c.severity))


def _cluster(seen: Observed, servers: Mapping[str, bool]) -> list[Condition]:
    """Most of the servers must be there to acknowledge anything, and all of them to bear another death."""
    away = sorted(address for address, greets in servers.items() if not greets)
    start = f"nats-server -c server.conf  # on {', '.join(away or sorted(servers))}"
    names, many = ", ".join(away), len(servers)
    if 2 * len(away) >= many:
        text = f"{len(away)} of the {many} message servers of {seen.site} are away ({names}): nothing is acknowledged"
        return [Condition("health.cluster-no-quorum", "critical", text, start)]
    found = []
    if seen.leaderless:
        names_led = ", ".join(seen.leaderless)
        text = f"no message server of {seen.site} leads {names_led}: nothing is acknowledged there"
        found.append(
            Condition("health.cluster-no-leader", "critical", text, "tail -n 20 server.log  # on each")
        )
    if away:
        text = f"{names} of {seen.site} is away: the others hold everything, and cannot spare another"
        found.append(Condition("health.cluster-member-away", "warning", text, start))
    elif seen.behind:
        behind = ", ".join(seen.behind)
        text = f"{behind} does not hold everything yet: no other message server of {seen.site} can be spared"
        command = f"tail -n 20 server.log  # on {behind}"
        found.append(Condition("health.cluster-member-behind", "warning", text, command))
    return found


def _server(seen: Observed) -> list[Condition]:
    if seen.servers is not None:
        return _cluster(seen, seen.servers)
    log = f"tail -n 20 {seen.server_log}"
    found = []
    if not seen.answers:
        found.append(
            Condition(
                "health.server-away",
                "critical",
                "the message server does not answer: reflexes go on, and nothing is acknowledged",
                log,
            )
        )
    if seen.refused and seen.disk_free_bytes >= DISK_FULL_BYTES:
        found.append(
            Condition(
                "health.server-stuck", "critical", f"the message server does not write: {seen.refused}", log
            )
        )
    if seen.server_restarts:
        cause = f", last because {seen.last_cause}" if seen.last_cause else ""
        found.append(
            Condition(
                "health.server-restarted",
                "info",
                f"the message server was started again {seen.server_restarts} times{cause}",
                log,
            )
        )
    return found


def _uplink(seen: Observed) -> list[Condition]:
    if seen.drawn is not False or not seen.answers:
        return []
    if seen.uplink_answers:
        return [
            Condition(
                "health.uplink-refused",
                "critical",
                f"the parent answers but does not draw from {seen.site}: {seen.backlog} messages wait",
                f"ganglion site list AUTHORITY  # was {seen.site} revoked? then: tail -n 20 {seen.server_log}",
            )
        ]
    return [
        Condition(
            "health.uplink-away",
            "warning",
            f"{seen.site} is an island: its parent cannot be reached, {seen.backlog} messages wait",
            f"tail -n 20 {seen.server_log}",
        )
    ]


def _streams(seen: Observed) -> list[Condition]:
    found = [
        Condition(
            "health.stream-missing",
            "critical",
            f"{name} is not there: nothing moves through it",
            f"tail -n 20 {seen.server_log}",
        )
        for name in seen.missing
    ]
    for name, use in sorted((seen.streams or {}).items()):
        if use.part >= FILLING_PART:
            full = use.part >= FULL_PART
            found.append(
                Condition(
                    "health.stream-full" if full else "health.stream-filling",
                    "critical" if full else "warning",
                    f"{name} holds {use.size_bytes} of {use.cap_bytes} bytes"
                    + (": what comes now is refused, and counted" if full else ""),
                    "heal the uplink, or raise the site's caps",
                )
            )
    return found


def _shed(seen: Observed) -> list[Condition]:
    return [
        Condition(
            "health.backlog-shed",
            "warning",
            f"{rows} rows of {stream} were shed by {seen.site} since it started, as the flow declares",
            "heal the uplink, or raise the stream's budget in the flow or the site's caps",
        )
        for stream, rows in sorted((seen.shed or {}).items())
    ]


def _disk(seen: Observed) -> list[Condition]:
    if seen.disk_free_bytes >= DISK_LOW_BYTES:
        return []
    full = seen.disk_free_bytes < DISK_FULL_BYTES
    return [
        Condition(
            "health.disk-full" if full else "health.disk-low",
            "critical" if full else "warning",
            f"{seen.disk_free_bytes >> 10} KB are left on the disk of {seen.site}"
            + (": nothing can be acknowledged until there is room" if full else ""),
            f"df -h {seen.server_log}",
        )
    ]


def read_conditions(value: Any) -> list[Condition]:
    """The conditions of a report's ``health``; raises KeyError or TypeError for another form."""
    found = [Condition(**{k: c[k] for k in Condition.__dataclass_fields__}) for c in value]
    for c in found:
        if c.severity not in SEVERITIES or not all(isinstance(t, str) for t in (c.code, c.text, c.command)):
            raise TypeError(f"{str(c.code)[:40]!r} is no condition")
    return found
