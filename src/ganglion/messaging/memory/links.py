"""A leaf link: the parent's inbox draws from the child's outbox through its consumer, exactly once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ganglion.messaging.bus import Stored
from ganglion.messaging.memory.pace import Instant, Pace, later
from ganglion.messaging.memory.store import stored_bytes
from ganglion.messaging.subjects import BULK, LANES, LOCAL_SUBJECTS, inbox, outbox

if TYPE_CHECKING:
    from ganglion.messaging.memory.server import MemoryServer
    from ganglion.messaging.memory.store import Consumer, Stream

CHUNK_MESSAGES_MAX = 256
CHUNK_BYTES_MAX = 64_000
"""Messages that move in one step of the twin, so that a backlog does not cost a step each."""


class Link:
    """Between a child's server and its parent's, as the child's configuration has it.

    ``unacknowledged_max``: messages on their way before the parent must have acknowledged some. A break loses what is
    on its way, both data and acknowledgements; the next draw begins after what the parent has stored.
    """

    def __init__(self, child: MemoryServer, parent: MemoryServer, pace: Pace | None = None) -> None:
        self.child = child
        self.parent = parent
        self.on_stored: Callable[[str, Stored], None] = lambda _parent, _message: None
        self._pace = pace or Instant()
        self._whole = True
        self._epoch = 0
        self._arrives_ns = 0
        self._outbox, self._inbox = outbox(child.site), inbox(parent.site)
        self._keys = {lane.consumer: f"{self._outbox}/{lane.consumer}" for lane in LANES}
        child.uplink = self
        parent.downlinks.append(self)

    @property
    def up(self) -> bool:
        """True while messages may cross."""
        return self._whole and self.child.running and self.parent.running

    @property
    def bound(self) -> bool:
        """True while the parent draws from the child's outbox."""
        return self.up and BULK.consumer in self._lanes()

    def broken(self) -> None:
        """The connection is gone, and with it what was on its way."""
        self._epoch += 1
        for consumer in self._consumers().values():
            consumer.rewind(consumer.floor)

    def cut(self) -> None:
        """Lets nothing through from here on."""
        self._whole = False
        self.broken()

    def heal(self) -> None:
        """The connection is made again; the parent says where it wants to go on."""
        self._whole = True
        self.resume()

    def resume(self) -> None:
        """Begins to draw after what is acknowledged; without a connection nothing happens."""
        for _, _, consumer in (self._lanes() if self.up else {}).values():
            consumer.rewind(consumer.floor)
            consumer.told = False
        self.child.wake()
        self.pump()

    def detach(self) -> None:
        """The child's server is no more."""
        self.broken()
        self.parent.downlinks.remove(self)

    def _consumers(self) -> dict[str, Consumer]:
        """The outbox's consumers by name, the urgent one first."""
        held = self.child.store.consumers
        found = {name: held.get((self._outbox, name)) for name in self._keys}
        return {name: consumer for name, consumer in found.items() if consumer is not None}

    def _lanes(self) -> dict[str, tuple[Stream, Stream, Consumer]]:
        """(outbox, inbox, consumer) of the lanes that the parent is configured to draw and the child to give."""
        if self.parent.shut or self.child.shut:
            return {}
        source = self.child.store.streams.get(self._outbox)
        target = self.parent.store.streams.get(self._inbox)
        if source is None or target is None:
            return {}
        given = self._consumers().items()
        return {n: (source, target, c) for n, c in given if self._keys[n] in target.sourced}

    def pump(self) -> None:
        """Sends what may be sent now, of each lane in turn."""
        moved = True
        while moved and self.up:
            moved = False
            for name, (source, target, consumer) in self._lanes().items():
                chunk = self._chunk(source, target, consumer)
                if chunk:
                    moved = True
                    consumer.sent_seq = consumer.looked_seq = chunk[-1].seq
                    consumer.under_way += len(chunk)
                    delay_ns = self._pace.link_ns(self.child.site, sum(map(stored_bytes, chunk)))
                    self._in_order(delay_ns, self._arrive, consumer.generation, name, chunk)

    def _in_order(self, delay_ns: int, call: Callable[..., None], *args: Any) -> None:
        """Later, but never before what was sent earlier: a link is one connection."""
        if delay_ns <= 0:
            call(*args)
            return
        now_ns = round(asyncio.get_running_loop().time() * 1e9)
        self._arrives_ns = max(now_ns + delay_ns, self._arrives_ns + 1)
        later(self._arrives_ns - now_ns, call, *args)

    def _chunk(self, source: Stream, target: Stream, consumer: Consumer) -> list[Stored]:
        """The next messages; none while the window is used up or the inbox is full."""
        most = min(int(consumer.config["max_ack_pending"]) - consumer.under_way, CHUNK_MESSAGES_MAX)
        chunk: list[Stored] = []
        size_bytes = 0
        if most <= 0:
            return chunk
        for message in source.beyond(max(consumer.sent_seq, consumer.looked_seq), consumer.filter):
            if len(chunk) >= most or size_bytes >= CHUNK_BYTES_MAX:
                break
            if not chunk and (target.broken or not target.fits(self._stamped(message))):
                return chunk
            chunk.append(message)
            size_bytes += stored_bytes(message)
        if not chunk:
            consumer.looked_seq = source.last_seq
        return chunk

    def _arrive(self, generation: int, name: str, chunk: list[Stored]) -> None:
        lane = self._lanes().get(name)
        if lane is None or generation != lane[2].generation:
            return
        key = self._keys[name]
        _, target, consumer = lane
        for message in chunk:
            if message.seq <= target.sourced[key]:
                continue  # drawn again after a break
            stamped = self._stamped(message)
            if (
                not self.parent.take(target)
                or target.add(stamped.subject, stamped.payload, stamped.headers) is None
            ):
                # What does not fit is asked for again when there is room; nothing behind it may come first.
                consumer.rewind(target.sourced[key])
                break
            target.sourced[key] = message.seq
            self.on_stored(self.parent.site, stamped)
        if self.parent.shut:
            return
        self.parent.stored(target)
        delay_ns = self._pace.link_ns(self.child.site, 0)
        later(delay_ns, self._acknowledged, consumer.generation, name, target.sourced[key])
        if self.parent.uplink is not None:
            self.parent.uplink.pump()

    def _acknowledged(self, generation: int, name: str, seq: int) -> None:
        lane = self._lanes().get(name)
        if lane is not None and generation == lane[2].generation:
            source, _, consumer = lane
            consumer.acknowledge(seq, source)
            self.pump()

    def _stamped(self, message: Stored) -> Stored:
        """As the parent stores it: the sender is told by the link, not by the message."""
        source = self._source()
        (transform,) = source["subject_transforms"]
        assert transform["src"] == ">" and transform["dest"].endswith(".>")
        subject = transform["dest"].removesuffix(">") + message.subject
        origin = f"{self._outbox} {message.seq} > {transform['dest']} {message.subject}"
        return Stored(
            message.seq, subject, message.payload, {**message.headers, "Nats-Stream-Source": origin}
        )

    def _source(self) -> Mapping[str, Any]:
        sources = self.parent.store.streams[self._inbox].config["sources"]
        found: Mapping[str, Any] = next(s for s in sources if s["name"] == self._outbox)
        return found

    def spread(self, subject: str, payload: bytes, came_from: MemoryServer) -> None:
        """Takes a plain message across, unless it is of a subject that every site has for itself."""
        if not self.up or any(subject.startswith(s.removesuffix(">")) for s in LOCAL_SUBJECTS):
            return
        other = self.parent if came_from is self.child else self.child
        delay_ns = self._pace.link_ns(self.child.site, len(payload))
        later(delay_ns, self._spread_on, self._epoch, other, subject, payload)

    def _spread_on(self, epoch: int, server: MemoryServer, subject: str, payload: bytes) -> None:
        if epoch != self._epoch or not server.running:
            return
        server.publish(subject, payload)
        for link in (server.uplink, *server.downlinks):
            if link is not None and link is not self:
                link.spread(subject, payload, server)
