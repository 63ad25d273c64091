"""One TCP connection to a broker, from CONNECT to its end: reads whole socket reads, acknowledges what is safe."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ganglion.connectors.mqtt.decoding import Decoder
from ganglion.connectors.mqtt.faults import malformed
from ganglion.connectors.mqtt.packets import (
    FAILURE,
    V5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Suback,
    Subscribe,
    encode,
)
from ganglion.connectors.mqtt.properties import Property
from ganglion.connectors.mqtt.reading import Published, Reader, Resolve
from ganglion.connectors.mqtt.settings import Settings
from ganglion.core.errors import ConnectorError, GanglionError

TOGETHER_MAX = 4096
"""Messages handed over at once, when more than one socket read waits."""
SUBSCRIBE_ID = 0xFFFF
"""Packet identifier of the subscription; messages of ours stay below it."""
NEW_ONLY = 0x10
"""MQTT 5: what the broker keeps of a topic is wanted only by a subscription that is new (section 3.8.3.1)."""

REFUSALS_V3 = {
    1: "it does not speak this version of MQTT",
    2: "it does not accept the client identifier",
    3: "it is not available",
    4: "user or password are wrong",
    5: "the user is not authorised",
}
REFUSALS_V5 = {
    0x84: "it does not speak this version of MQTT",
    0x85: "it does not accept the client identifier",
    0x86: "user or password are wrong",
    0x87: "the user is not authorised",
    0x88: "it is not available",
    0x89: "it is busy",
    0x8A: "this client is banned",
    0x8E: "another client has taken over the identifier",
    0x93: "more messages were in flight than it takes",
    0x97: "a quota is used up",
    0x9B: "it does not support that QoS",
}

Safe = Awaitable[None]
Deliver = Callable[[Published], Awaitable[Safe | None]]
"""Takes messages, waiting for room; gives what is done when they are safe (None: they are)."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When messages are read and handed over.

    ``rest_ns``: how long the socket is left alone after each read; ``hold_ns``: how soon after others messages are
    handed over at the earliest, if they are ``patient``.
    """

    rest_ns: int = 0
    hold_ns: int = 0
    patient: Callable[[Published], bool] = lambda _published: False


AT_ONCE = Pace()


class Owner(Protocol):
    """Who a connection belongs to; every method is called on the event loop and returns at once."""

    def opened(self, connection: Connection, answer: Connack) -> None:
        """The broker said yes, and subscriptions are on their way."""

    def acknowledged(self, packet: Puback) -> None:
        """A message of ours has arrived."""


@dataclass(slots=True)
class _Unsettled:
    """Messages of one socket read that are not known to be safe yet; ``safe`` is known once they were handed over."""

    published: Published
    size_bytes: int
    safe: Safe | None = None


class Connection(asyncio.Protocol):
    """``lost`` gives the reason when the connection is gone; it is used once."""

    def __init__(
        self,
        settings: Settings,
        resolve: Resolve,
        deliver: Deliver,
        owner: Owner,
        pace: Pace,
        decoder: Decoder | None = None,
    ) -> None:
        self.lost: asyncio.Future[GanglionError] = asyncio.get_running_loop().create_future()
        self.received_bytes = 0
        self.acknowledged = 0
        self.subscribed = False
        self.paused = False
        self.pauses = 0
        self._pace = pace
        self._resting = False
        self._held: asyncio.TimerHandle | None = None
        self._handed_over_s = -math.inf
        self._settings = settings
        self._deliver = deliver
        self._owner = owner
        self._reader = Reader(settings.level, resolve, settings.packet_bytes_max, decoder)
        self._transport: asyncio.Transport | None = None
        self._answered = False
        self._arrived: deque[_Unsettled] = deque()
        self._unsettled: deque[_Unsettled] = deque()
        self._arrived_messages = 0
        self._unsettled_bytes = 0
        self._due = asyncio.Event()
        self._handed_over = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = self._settings
        properties = {}
        if settings.level == V5:
            properties = {
                Property.SESSION_EXPIRY_S: settings.session_expiry_s,
                Property.RECEIVE_MAX: settings.in_flight_max,
                Property.PACKET_BYTES_MAX: settings.packet_bytes_max,
            }
        self.send(
            Connect(
                settings.level,
                settings.client_id,
                clean=False,
                keep_alive_s=settings.keep_alive_s,
                user=settings.user,
                password=settings.password,
                properties=properties,
            )
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(_gone(str(exc) if exc else "it closed the connection"))

    def fail(self, error: GanglionError) -> None:
        """Ends the connection for this reason; only the first counts."""
        if not self.lost.done():
            self.lost.set_result(error)
        if self._transport is not None:
            self._transport.abort()

    def send(self, packet: Packet) -> None:
        """Writes a packet at once."""
        self.write(encode(packet, self._settings.level))

    def write(self, content: bytes) -> None:
        """Writes bytes at once."""
        if self._transport is not None:
            self._transport.write(content)

    @property
    def unsent_bytes(self) -> int:
        """What the broker has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        try:
            published, others = self._reader.feed(data)
            for packet in others:
                self._take(packet)
            if published.packet_ids or len(published):
                if not self._answered:
                    raise malformed("a message came before the answer to CONNECT")
                self._arrive(published, len(data))
        except ConnectorError as error:
            self.fail(error)

    def _arrive(self, published: Published, size_bytes: int) -> None:
        self._arrived.append(_Unsettled(published, size_bytes))
        self._arrived_messages += len(published)
        self._unsettled_bytes += size_bytes
        if self._pace.patient(published) and self._arrived_messages < TOGETHER_MAX:
            if self._held is None:  # a pace, no delay: after a pause it is over already
                at_s = self._handed_over_s + self._pace.hold_ns / 1e9
                self._held = asyncio.get_running_loop().call_at(at_s, self._due.set)
        else:
            self._due.set()
        if self._unsettled_bytes > self._settings.unsettled_bytes_max and not self.paused:
            # The broker feels it: its socket fills up, or its window of unacknowledged messages.
            assert self._transport is not None
            if not self._resting:
                self._transport.pause_reading()
            self.paused = True
            self.pauses += 1
            self._due.set()
        elif self._pace.rest_ns:
            self._rest()

    def _take(self, packet: Packet) -> None:
        match packet:
            case Connack():
                self._opened(packet)
            case Suback():
                self._subscribed(packet)
            case Puback():
                self._owner.acknowledged(packet)
            case Pingresp():
                pass
            case Disconnect():
                raise _gone(
                    REFUSALS_V5.get(packet.reason) or f"it said goodbye with reason {packet.reason:#x}"
                )
            case _:
                raise malformed(f"a broker sent {type(packet).__name__.upper()}")

    def _opened(self, answer: Connack) -> None:
        if self._answered:
            raise malformed("a second answer to CONNECT")
        five = self._settings.level == V5
        if answer.reason:
            # A broker of 3.1.1 answers MQTT 5 in its own numbers.
            why = (REFUSALS_V5 if five else REFUSALS_V3).get(answer.reason) or REFUSALS_V3.get(answer.reason)
            raise ConnectorError(
                "mqtt.refused",
                f"the MQTT broker at {self._settings.host}:{self._settings.port} refused the connection",
                why=f"{why or 'it gave no known reason'} ({answer.reason:#x})",
                next_step="correct version, user, password_file or client_id under mqtt in topology.yaml",
            )
        self._answered = True
        wanted = self._settings.subscriptions
        if wanted:
            options = NEW_ONLY if five else 0
            self.send(Subscribe(SUBSCRIBE_ID, tuple((name, qos | options) for name, qos in wanted)))
        else:
            self.subscribed = True
        self._owner.opened(self, answer)

    def _subscribed(self, answer: Suback) -> None:
        wanted = self._settings.subscriptions
        if answer.packet_id != SUBSCRIBE_ID or len(answer.reasons) != len(wanted):
            raise malformed("an answer to a subscription nobody asked for")
        for (name, qos), reason in zip(wanted, answer.reasons, strict=True):
            if reason >= FAILURE or reason < qos:
                raise ConnectorError(
                    "mqtt.subscription",
                    f"the MQTT broker did not grant the subscription to {name} with QoS {qos}",
                    why=f"it answered {reason:#x}",
                    next_step="let the gateway's user read that topic, or lower the route's qos",
                )
        self.subscribed = True

    async def deliver(self) -> None:
        """Hands over what arrives, in order, as fast as it is taken; ends only by being cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._due.wait()
            self._due.clear()
            self._handed_over_s = loop.time()
            if self._held is not None:
                self._held.cancel()
                self._held = None
            while self._arrived:
                first = self._together()
                try:
                    first.safe = await self._deliver(first.published)
                except GanglionError as error:
                    self.fail(error)
                    return
                if first.published.packet_ids:
                    self._unsettled.append(first)
                    self._handed_over.set()
                else:  # nobody waits for an answer, and who took it has its own limit
                    self._let_go(first.size_bytes)

    async def hand_over_held(self) -> None:
        """Hands over what waited for others when the connection ended, if nobody sends it again.

        ``deliver`` does not run any more.
        """
        while self._arrived:
            left = self._together().published
            if not left.packet_ids:
                await self._deliver(left)

    def _together(self) -> _Unsettled:
        """What arrived first, with what came after, up to a limit."""
        first = self._arrived.popleft()
        while self._arrived and len(first.published) < TOGETHER_MAX:
            more = self._arrived.popleft()
            first.published.extend(more.published)
            first.size_bytes += more.size_bytes
        self._arrived_messages -= len(first.published)
        return first

    def _rest(self) -> None:
        """A broker writes each message by itself; to be woken for each costs ten times what taking them together does.
        Those that come first were never held up.
        """
        if self._resting or self._transport is None:
            return
        self._resting = True
        self._transport.pause_reading()
        asyncio.get_running_loop().call_later(self._pace.rest_ns / 1e9, self._read_on)

    def _read_on(self) -> None:
        self._resting = False
        if not self.paused and self._transport is not None:
            self._transport.resume_reading()

    async def settle(self) -> None:
        """Acknowledges what is safe, in the order in which it came (MQTT-4.6.0-2); ends only by being cancelled."""
        while True:
            while not self._unsettled:
                self._handed_over.clear()
                await self._handed_over.wait()
            first = self._unsettled.popleft()
            if first.safe is not None:
                try:
                    await first.safe
                except GanglionError as error:
                    # Not safe, so not acknowledged: the broker gives it again to the next connection.
                    self.fail(error)
                    return
            packet_ids = first.published.packet_ids
            self.write(_pubacks(packet_ids))
            self.acknowledged += len(packet_ids)
            self._let_go(first.size_bytes)

    def _let_go(self, size_bytes: int) -> None:
        self._unsettled_bytes -= size_bytes
        if self.paused and self._unsettled_bytes <= self._settings.unsettled_bytes_max // 2:
            assert self._transport is not None
            self.paused = False
            if not self._resting:
                self._transport.resume_reading()

    def ping(self) -> None:
        """Asks whether the broker is there."""
        self.send(Pingreq())

    def close(self) -> None:
        """Says goodbye; the broker keeps the session."""
        if self._transport is not None and not self._transport.is_closing():
            self.send(Disconnect())
            self._transport.close()


def _pubacks(packet_ids: list[int]) -> bytes:
    packets = np.empty((len(packet_ids), 2), ">u2")
    packets[:, 0] = 0x4002
    packets[:, 1] = packet_ids
    return packets.tobytes()


def _gone(why: str) -> ConnectorError:
    return ConnectorError(
        "mqtt.closed",
        "the connection to the MQTT broker ended",
        why=why,
        next_step="look at the broker's log; the gateway connects again by itself",
    )
