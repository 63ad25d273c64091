"""Creates or updates a site's streams: journal, outbox with the consumer its parent draws from, inbox.

The requests are plain JSON of the JetStream API because the client library does not know sources that use a consumer
made beforehand. That consumer is the point: the parent finds it again after any outage within seconds, where a
source that makes its own takes half a minute (docs/adr/0003).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ganglion.core.errors import MessagingError
from ganglion.core.units import NS_PER_MS, NS_PER_S
from ganglion.host.ports import Clock
from ganglion.messaging.answers import NO_CONSUMER, ApiRefused
from ganglion.messaging.bus import Bus
from ganglion.messaging.subjects import (
    BULK,
    LANES,
    OUTBOX_PREFIX,
    URGENT,
    Lane,
    deliver,
    inbox,
    journal,
    outbox,
)

ADOPT_RETRY_NS = 100 * NS_PER_MS
INCARNATION_BITS = 20
"""An outbox made a second later begins this many bits further on: it may hold a million messages for each second."""
UNACKNOWLEDGED_MAX = 1000
"""Messages on their way to the parent before it must have stored some."""
STORED = "stored"
"""Marks a consumer of whose messages the parent has stored some."""
FIRST_WINDOW = 1
"""The same, of an outbox whose parent has not stored anything yet: see `provision`."""


@dataclass(frozen=True, slots=True)
class Caps:
    """Byte caps of a site's streams; at a cap, appending raises ``messaging.full`` and nothing old is dropped.

    The server reserves them: their sum must not exceed the server's ``store_max_bytes``.
    """

    journal_max_bytes: int
    outbox_max_bytes: int
    inbox_max_bytes: int
    replicas: int = 1
    """How many servers of a cluster store each stream."""

    @property
    def sum_bytes(self) -> int:
        return self.journal_max_bytes + self.outbox_max_bytes + self.inbox_max_bytes


class StreamApi(Protocol):
    """The administrative side of a message server."""

    async def ask(
        self, subject: str, request: Mapping[str, Any], *, domain: str | None = None
    ) -> dict[str, Any]:
        """The answer of ``$JS.API.<subject>``, of another site's server when ``domain`` names it.

        Raises `MessagingError`; `answers.ApiRefused` carries the server's own error code.
        """


class SiteBus(Bus, StreamApi, Protocol):
    """Both sides of a site's message server."""


async def provision(
    api: StreamApi,
    site: str,
    caps: Caps,
    *,
    children: Collection[str] = (),
    adopt_later: bool = False,
    born_s: int = 0,
    urgent: bool = False,
) -> int:
    """Makes the streams of ``site`` be as described, whatever was there; data in them stays.

    Returns what lies below the number of the outbox's first message: 0, or for an outbox that had to be made when the
    wall clock said ``born_s`` seconds, ``born_s << INCARNATION_BITS``. A parent goes on after the last number it has
    seen of a child. A child whose disk was replaced would otherwise count from 1 again, and its parent would skip as
    many messages as it has had before. Nor may such an outbox have more than one message on its way until the parent
    has stored one: consumers count what they deliver, and a parent that has not noticed yet that this one is new (it
    takes seconds) drops as many as the old one had delivered, goes on with the next, and acknowledges all of them.
    `Pacer` makes the window larger.

    The inbox draws from exactly these children, who may be unreachable: what they owe flows once they are back. With
    ``adopt_later`` children that were never drawn from are left to `adopt_children`. ``urgent``: some of the flow's
    streams are drawn before others; a lane for them that is there already stays. Raises ``messaging.refused``, for
    example when the caps exceed what the server may store, and ``messaging.unavailable``.
    """
    await _stream(api, _plain(journal(site), ["j.>"], caps.journal_max_bytes, caps.replicas))
    offset = await _outbox(api, site, caps, born_s)
    if urgent:
        await make_uplink(api, site, URGENT, offset)
    await make_uplink(api, site, BULK, offset)
    if adopt_later:
        children = sorted({child for child, _ in await _adopted(api, site)} & set(children))
    await _inbox(api, site, caps, children, urgent=urgent)
    return offset


async def adopt_children(
    api: StreamApi, site: str, caps: Caps, children: Sequence[str], clock: Clock, *, urgent: bool = False
) -> None:
    """Adds each child as soon as it answers; returns when the inbox draws from all of them.

    A source that is made while its child is away is tried again only every 5 s; one made when the child answers flows
    at once. Children drawn from already are not touched: the server remembers how far it is with each only as long as
    it stays configured. Servers that do not answer are asked again, for ever.
    """
    while True:
        try:
            adopted = {child for child, _ in await _adopted(api, site)}
            ready = [c for c in children if c not in adopted and await reaches(api, c)]
            if ready:
                await _inbox(api, site, caps, sorted(adopted | set(ready)), urgent=urgent)
            if adopted.issuperset(children):
                return
        except MessagingError as error:
            if error.code != "messaging.unavailable":
                raise
        await clock.sleep_ns(ADOPT_RETRY_NS)


async def refill(api: StreamApi, child: str) -> None:
    """Makes a child send again all that its outbox still holds, in order, before what is new.

    For a parent that was restored from an older backup. What the parent's server still knows it skips by number, and
    engines skip rows they have had; what the child gave back before stays lost. Raises ``messaging.no-stream`` when
    the child cannot be reached, ``messaging.refused`` by servers older than 2.14.
    """
    state = (await api.ask(f"STREAM.INFO.{outbox(child)}", {}, domain=child))["state"]
    for lane in LANES:
        try:
            await api.ask(f"CONSUMER.INFO.{outbox(child)}.{lane.consumer}", {}, domain=child)
        except ApiRefused as refusal:
            if lane == BULK or refusal.number != NO_CONSUMER:
                raise
            continue
        reset = f"CONSUMER.RESET.{outbox(child)}.{lane.consumer}"
        await api.ask(reset, {"seq": max(1, int(state["first_seq"]))}, domain=child)


async def set_window(api: StreamApi, site: str, lane: Lane, messages: int) -> None:
    """How many of a lane's messages may be on their way before the parent must have stored some (at least 1)."""
    assert messages >= 1
    wanted = _uplink(site, lane)
    wanted["config"]["max_ack_pending"] = messages
    wanted["config"]["metadata"] = {STORED: "yes"}
    await api.ask(f"CONSUMER.CREATE.{outbox(site)}.{lane.consumer}.{lane.filter}", wanted)


def untouched(offset: int, info: Mapping[str, Any]) -> bool:
    """True while a parent has stored nothing of an outbox that was made when it may have known another.

    ``offset``: what `provision` gave; ``info``: what the server says of a lane's consumer. One that was made to begin
    anew (`refill`) is not untouched: its window was set before.
    """
    marked = STORED in (info["config"].get("metadata") or {})
    return not marked and 0 < offset >= int(info["ack_floor"]["stream_seq"])


async def drop_uplink(api: StreamApi, site: str, lane: Lane) -> None:
    """Removes that consumer: a parent that hears nothing of it for a while begins anew once it is back."""
    await api.ask(f"CONSUMER.DELETE.{outbox(site)}.{lane.consumer}", {})


async def reaches(api: StreamApi, child: str) -> bool:
    """True when the child's server answers across the link and is provisioned."""
    try:
        await api.ask(f"CONSUMER.INFO.{outbox(child)}.{BULK.consumer}", {}, domain=child)
    except MessagingError:
        return False
    return True


async def _adopted(api: StreamApi, site: str) -> set[tuple[str, str]]:
    """The children the inbox draws from now, and by which of their consumers."""
    try:
        info = await api.ask(f"STREAM.INFO.{inbox(site)}", {})
    except MessagingError as error:
        if error.code == "messaging.no-stream":
            return set()
        raise
    sources = info["config"].get("sources") or ()
    return {(source["name"].removeprefix(OUTBOX_PREFIX), source["consumer"]["name"]) for source in sources}


async def _inbox(api: StreamApi, site: str, caps: Caps, children: Collection[str], *, urgent: bool) -> None:
    config = _plain(inbox(site), [], caps.inbox_max_bytes, caps.replicas)
    kept = await _adopted(api, site)
    config["sources"] = [
        _source(child, lane)
        for child in sorted(children)
        for lane in LANES
        if lane == BULK or urgent or (child, lane.consumer) in kept
    ]
    await _stream(api, config)


async def _outbox(api: StreamApi, site: str, caps: Caps, born_s: int) -> int:
    subjects = sorted(lane.filter for lane in LANES)
    config = _plain(outbox(site), subjects, caps.outbox_max_bytes, caps.replicas)
    try:
        info = await api.ask(f"STREAM.INFO.{outbox(site)}", {})
    except MessagingError as error:
        if error.code != "messaging.no-stream":
            raise
        if born_s:
            config["first_seq"] = (born_s << INCARNATION_BITS) + 1
        info = await api.ask(f"STREAM.CREATE.{outbox(site)}", config)
    else:
        if first := info["config"].get("first_seq"):
            config["first_seq"] = first  # it cannot be changed, and must be said again
        await _stream(api, config)
    offset = int(info["config"].get("first_seq") or 1) - 1
    return offset if int(info["state"]["last_seq"]) >= offset else 0


def _plain(name: str, subjects: list[str], size_max_bytes: int, replicas: int) -> dict[str, Any]:
    return {
        "name": name,
        "subjects": subjects,
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_bytes": size_max_bytes,
        "max_age": 0,  # the clock of a gateway may be wrong by years: only bytes limit
        "num_replicas": replicas,
    }


def _uplink(site: str, lane: Lane) -> dict[str, Any]:
    return {
        "stream_name": outbox(site),
        "config": {
            "name": lane.consumer,
            "durable_name": lane.consumer,
            "filter_subject": lane.filter,
            "deliver_subject": deliver(site, lane),
            "ack_policy": "flow_control",
            "flow_control": True,
            "idle_heartbeat": NS_PER_S,
            "max_ack_pending": UNACKNOWLEDGED_MAX,
        },
    }


def _source(child: str, lane: Lane) -> dict[str, Any]:
    return {
        "name": outbox(child),
        "external": {"api": f"$JS.{child}.API", "deliver": ""},
        "consumer": {"name": lane.consumer, "deliver_subject": deliver(child, lane)},
        # The sender is stamped here, from the link: a child cannot write in another's name.
        "subject_transforms": [{"src": ">", "dest": f"in.{child}.>"}],
    }


async def _stream(api: StreamApi, config: dict[str, Any]) -> None:
    # Asked first, because creating a stream that is there already is refused when its cap could not be reserved twice.
    try:
        info = await api.ask(f"STREAM.INFO.{config['name']}", {})
    except MessagingError as error:
        if error.code != "messaging.no-stream":
            raise
        await api.ask(f"STREAM.CREATE.{config['name']}", config)
        return
    if not _holds(info["config"], config):
        await api.ask(f"STREAM.UPDATE.{config['name']}", config)


async def make_uplink(api: StreamApi, site: str, lane: Lane, offset: int) -> None:
    """Makes the consumer by which a parent draws a lane, if it is not there as it should be."""
    wanted = _uplink(site, lane)
    try:
        info = await api.ask(f"CONSUMER.INFO.{outbox(site)}.{lane.consumer}", {})
    except ApiRefused as refusal:
        if refusal.number != NO_CONSUMER:
            raise
        info = None
    if offset if info is None else untouched(offset, info):
        wanted["config"]["max_ack_pending"] = FIRST_WINDOW
    if info is not None and _holds(info["config"], wanted["config"]):
        return
    await api.ask(f"CONSUMER.CREATE.{outbox(site)}.{lane.consumer}.{lane.filter}", wanted)


def _holds(found: Any, wanted: Any) -> bool:
    """True when nothing needs to be written: a site that starts on a full disk must come up, for its reflexes.

    The server adds what we did not say, and leaves out what is nought.
    """
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(_holds(found.get(k), v) for k, v in wanted.items())
    if isinstance(wanted, list):
        same = isinstance(found, list) and len(found) == len(wanted)
        return same and all(map(_holds, found, wanted)) if wanted else not found
    return found == wanted or not (found or wanted)
