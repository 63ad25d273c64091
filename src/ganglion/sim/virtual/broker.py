"""An MQTT broker of a world: what it has acknowledged outlives its program, as at one that keeps sessions on disk.

OASIS MQTT 3.1.1 and 5.0: sessions that are kept (section 3.1.2.4), QoS 0 and 1 (4.3), order (4.6), delivery again
after a connection has ended (4.4), and no more of QoS 1 under way than the client takes (5.0, 3.3.4).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace

from ganglion.connectors.mqtt.packets import (
    V3,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    encode,
)
from ganglion.connectors.mqtt.properties import Property
from ganglion.connectors.mqtt.reading import take
from ganglion.connectors.mqtt.topics import Pattern
from ganglion.core.errors import ConnectorError
from ganglion.sim.virtual.machine import Life

IN_FLIGHT_MAX = 20
"""Messages of QoS 1 to one client that wait for its answer, whatever more it would take."""
WAITING_MAX = 100_000


@dataclass(slots=True)
class Session:
    """What a broker keeps of a client: subscriptions, messages on their way and those that wait."""

    filters: dict[str, tuple[Pattern, int]] = field(default_factory=dict)
    waiting: deque[Publish] = field(default_factory=deque)
    flying: dict[int, Publish] = field(default_factory=dict)
    link: Link | None = None
    last_id: int = 0

    def qos_for(self, topic: str) -> int | None:
        """The highest QoS of the subscriptions that a topic matches; None when none does."""
        return max(
            (qos for pattern, qos in self.filters.values() if pattern.match(topic) is not None), default=None
        )

    def give(self, message: Publish) -> None:
        """A message for this client: QoS 0 only if it is there."""
        qos = self.qos_for(message.topic)
        if qos is None:
            return
        if min(qos, message.qos) == 0:
            if self.link is not None:
                self.link.send(Publish(message.topic, message.payload))
            return
        assert len(self.waiting) < WAITING_MAX
        self.waiting.append(Publish(message.topic, message.payload, 1))
        self.send_waiting()

    def resume(self, link: Link) -> None:
        """The client is back: what it has not answered goes out again, in its order, and is marked."""
        self.link = link
        for packet_id, message in self.flying.items():
            self.flying[packet_id] = replace(message, repeated=True)
            link.send(self.flying[packet_id])
        self.send_waiting()

    def send_waiting(self) -> None:
        """As many as may be under way."""
        while self.link is not None and self.waiting and len(self.flying) < self.link.window:
            while True:
                self.last_id = self.last_id % 0xFFFF + 1
                if self.last_id not in self.flying:
                    break
            message = self.flying[self.last_id] = replace(self.waiting.popleft(), packet_id=self.last_id)
            self.link.send(message)

    def answered(self, packet: Puback) -> None:
        self.flying.pop(packet.packet_id, None)
        self.send_waiting()


class VirtualBroker:
    """Listens at ``port`` through as many lives as it is given. ``sessions``: by client identifier."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sessions: dict[str, Session] = {}

    async def run(self, life: Life) -> None:
        """One life, until it is ended."""
        for session in self.sessions.values():
            session.link = None
        life.machine.network.serve(life, self.port, lambda: Link(self))
        await asyncio.get_running_loop().create_future()

    def take(self, message: Publish) -> None:
        """Gives a message to everyone who has subscribed to its topic."""
        for session in self.sessions.values():
            session.give(message)

    def listens_to(self, topic: str) -> bool:
        """Whether anybody gets what is published there."""
        return any(session.qos_for(topic) is not None for session in self.sessions.values())

    @property
    def owes(self) -> int:
        """Messages that somebody has not answered yet."""
        return sum(len(s.waiting) + len(s.flying) for s in self.sessions.values())


class Link(asyncio.Protocol):
    """A broker's end of one connection."""

    def __init__(self, broker: VirtualBroker) -> None:
        self.window = IN_FLIGHT_MAX
        self._broker = broker
        self._held = bytearray()
        self._level = V3
        self._client = ""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        session = self._broker.sessions.get(self._client)
        if session is not None and session.link is self:
            session.link = None

    def send(self, packet: Packet) -> None:
        assert self._transport is not None
        self._transport.write(encode(packet, self._level))

    def abort(self) -> None:
        assert self._transport is not None
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._held += data
        try:
            while (packet := take(self._held, self._level)) is not None:  # the first one says the level
                self._take(packet)
        except ConnectorError:
            self.abort()

    def _take(self, packet: Packet) -> None:
        session = self._broker.sessions.get(self._client)
        match packet:
            case Connect():
                self._open(packet)
            case Subscribe() if session is not None:
                session.filters |= {name: (Pattern(name), options & 1) for name, options in packet.filters}
                self.send(Suback(packet.packet_id, tuple(options & 1 for _, options in packet.filters)))
            case Publish():
                self._broker.take(packet)  # kept before it is acknowledged: both happen at once here
                if packet.qos:
                    self.send(Puback(packet.packet_id))
            case Puback() if session is not None:
                session.answered(packet)
            case Pingreq():
                self.send(Pingresp())
            case Disconnect():
                assert self._transport is not None
                self._transport.close()
            case _:
                self.abort()

    def _open(self, packet: Connect) -> None:
        self._level, self._client = packet.level, packet.client_id
        sessions = self._broker.sessions
        held = sessions.get(self._client)
        if held is not None and held.link is not None:
            held.link.abort()  # a client has one connection, its newest (3.1.4)
        present = held is not None and not packet.clean
        if held is None or packet.clean:
            held = sessions[self._client] = Session()
        self.window = min(IN_FLIGHT_MAX, packet.properties.get(Property.RECEIVE_MAX, IN_FLIGHT_MAX))
        self.send(Connack(present, 0))
        held.resume(self)
