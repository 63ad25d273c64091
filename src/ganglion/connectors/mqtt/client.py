"""A client that stays connected to one broker: reads what it subscribed to, publishes at once, comes back by itself."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ganglion.connectors.mqtt.connection import AT_ONCE, SUBSCRIBE_ID, Connection, Deliver, Pace, Safe
from ganglion.connectors.mqtt.decoding import Decoder
from ganglion.connectors.mqtt.packets import FAILURE, Connack, Puback, Publish, encode
from ganglion.connectors.mqtt.properties import Property
from ganglion.connectors.mqtt.reading import Published, Resolve
from ganglion.connectors.mqtt.settings import Settings
from ganglion.core.errors import ConnectorError, GanglionError
from ganglion.host.ports import Chance, Clock

ANSWER_NS_MAX = 10_000_000_000
BACK_OFF_FIRST_NS = 100_000_000
BACK_OFF_NS_MAX = 15_000_000_000
STEADY_NS = 10_000_000_000
TICK_NS = 1_000_000_000


@dataclass(slots=True)
class ClientCounts:
    """What went through a client since its process started.

    ``repeated``: messages the broker marked as sent before; ``retained``: old ones it kept, which are skipped.
    """

    connections: int = 0
    messages: int = 0
    repeated: int = 0
    retained: int = 0
    acknowledged: int = 0
    published: int = 0
    publish_failed: int = 0
    pauses: int = 0


@dataclass(slots=True)
class _Sent:
    """A message of QoS 1 of ours on its way; ``done`` is told whether it arrived."""

    message: Publish
    until_ns: int
    done: Callable[[bool], None]
    tried: bool = False


class Client:
    """``run`` it as a task. ``trouble`` says in one line why there is no connection, "" when there is.

    ``decoder`` reads usual messages of the connections that are made from then on.
    """

    def __init__(
        self,
        settings: Settings,
        resolve: Resolve,
        deliver: Deliver,
        clock: Clock,
        chance: Chance,
        pace: Pace = AT_ONCE,
    ) -> None:
        self.counts = ClientCounts()
        self.trouble = "not connected yet"
        self.decoder: Decoder | None = None
        self._settings = settings
        self._resolve = resolve
        self._deliver_to = deliver
        self.pace = pace
        self._clock = clock
        self._chance = chance
        self._connection: Connection | None = None  # only while the broker said yes
        self._sent: dict[int, _Sent] = {}
        self._held: deque[int] = deque()  # of those, the ones beyond what the broker takes at once
        self._next_id = 0
        self._window = settings.sent_max
        self._packet_bytes_max = settings.packet_bytes_max
        self._keep_alive_s = settings.keep_alive_s

    @property
    def subscribed(self) -> bool:
        """True while connected and every subscription is granted."""
        return self._connection is not None and self._connection.subscribed

    async def run(self) -> None:
        """Connects, and again whenever the connection ends, with growing pauses, until cancelled."""
        back_off_ns = BACK_OFF_FIRST_NS
        while True:
            began_ns = self._clock.monotonic_ns()
            try:
                await self._once()
            except GanglionError as error:
                self.trouble = str(error)
            if self._clock.monotonic_ns() - began_ns >= STEADY_NS:
                back_off_ns = BACK_OFF_FIRST_NS
            # Gateways that lost the same broker do not all come back in the same moment.
            await self._clock.sleep_ns(int(back_off_ns * (0.5 + self._chance.random() / 2)))
            back_off_ns = min(2 * back_off_ns, BACK_OFF_NS_MAX)
            self._expire()

    async def _once(self) -> None:
        """One connection, from beginning to end; raises the reason of its end."""
        connection = await self._open()
        parts = (connection.deliver(), connection.settle(), self._watch(connection))
        tasks: list[asyncio.Task[None]] = [asyncio.ensure_future(part) for part in parts]
        try:
            ends: list[asyncio.Future[Any]] = [connection.lost, *tasks]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # a part ends by itself only when it failed the connection, or is broken
            error = await connection.lost
            tasks[0].cancel()
            await asyncio.wait(tasks[:1])
            await connection.hand_over_held()
            raise error
        finally:
            self._connection = None
            self.counts.acknowledged += connection.acknowledged
            self.counts.pauses += connection.pauses
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            connection.close()

    async def _open(self) -> Connection:
        settings = self._settings
        loop = asyncio.get_running_loop()
        connection = Connection(settings, self._resolve, self._deliver, self, self.pace, self.decoder)
        try:
            async with asyncio.timeout(ANSWER_NS_MAX / 1e9):
                await loop.create_connection(
                    lambda: connection, settings.host, settings.port, ssl=settings.tls
                )
        except (OSError, TimeoutError, UnicodeError) as error:  # the last for what is no host's name
            raise ConnectorError(
                "mqtt.unreachable",
                f"the MQTT broker at {settings.host}:{settings.port} cannot be reached",
                why=str(error) or "it did not answer",
                next_step="start the broker, or correct broker: under mqtt in topology.yaml",
            ) from error
        return connection

    async def _watch(self, connection: Connection) -> None:
        """Keeps the connection alive, and notices when the broker is silent."""
        heard_ns = pinged_ns = began_ns = self._clock.monotonic_ns()
        seen_bytes = 0
        while not connection.lost.done():
            await self._clock.sleep_ns(TICK_NS)
            now_ns = self._clock.monotonic_ns()
            self._expire()
            if connection.received_bytes != seen_bytes or connection.paused:
                seen_bytes, heard_ns = connection.received_bytes, now_ns
            waiting = now_ns - began_ns > ANSWER_NS_MAX and not connection.subscribed
            keep_alive_ns = self._keep_alive_s * 1_000_000_000
            if waiting or now_ns - heard_ns > keep_alive_ns + ANSWER_NS_MAX:
                connection.fail(_silent(self._settings))
            elif now_ns - pinged_ns >= keep_alive_ns // 2:
                pinged_ns = now_ns
                connection.ping()

    async def _deliver(self, published: Published) -> Safe | None:
        self.counts.messages += len(published)
        self.counts.repeated += published.repeated
        self.counts.retained += published.retained
        return await self._deliver_to(published) if len(published) else None

    def opened(self, connection: Connection, answer: Connack) -> None:
        """The connection stands: what was not acknowledged goes out again, marked where the broker may have it."""
        self.counts.connections += 1
        self.trouble = ""
        self._connection = connection
        properties, settings = answer.properties, self._settings
        self._window = min(settings.sent_max, properties.get(Property.RECEIVE_MAX, settings.sent_max))
        self._packet_bytes_max = properties.get(Property.PACKET_BYTES_MAX, settings.packet_bytes_max)
        self._keep_alive_s = properties.get(Property.SERVER_KEEP_ALIVE_S, settings.keep_alive_s)
        self._expire()
        self._held = deque(self._sent)
        for sent in self._sent.values():
            sent.message = replace(sent.message, repeated=answer.session_present and sent.tried)
        self._send_held()

    def acknowledged(self, packet: Puback) -> None:
        sent = self._sent.pop(packet.packet_id, None)
        if sent is not None:
            self._finish(sent, arrived=packet.reason < FAILURE)
        self._send_held()

    def _send_held(self) -> None:
        """As many as the broker takes without an answer, in their order."""
        connection = self._connection
        while connection is not None and self._held and len(self._sent) - len(self._held) < self._window:
            sent = self._sent.get(self._held.popleft())
            if sent is not None:
                sent.tried = True
                connection.send(sent.message)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        within_ns: int = ANSWER_NS_MAX,
        done: Callable[[bool], None] = lambda _arrived: None,
    ) -> None:
        """Writes a message to the broker before it returns.

        QoS 1: ``done`` is told True when the broker has it, False when it refused or ``within_ns`` are over; until then
        it goes out again with each new connection. Raises ``mqtt.offline`` (QoS 0 without a connection), ``mqtt.full``
        (too much is on its way) or ``mqtt.size``.
        """
        connection = self._connection
        if connection is None and qos == 0:
            raise _cannot(
                "offline", topic, self.trouble or "there is no connection", "it goes out when there is one"
            )
        if qos and len(self._sent) >= self._settings.sent_max:
            self._expire()
        if qos and len(self._sent) >= self._settings.sent_max:
            raise _cannot("full", topic, f"{len(self._sent)} wait for an answer", "look at the broker's log")
        if connection is not None and connection.unsent_bytes > self._settings.unsent_bytes_max:
            raise _cannot("full", topic, "the broker takes nothing", "look at the broker's log")
        message = Publish(topic, payload, qos, self._free_id() if qos else 0)
        content = encode(message, self._settings.level)
        if len(content) > self._packet_bytes_max:
            raise _cannot(
                "size",
                topic,
                f"it has {len(content)} bytes, the broker takes {self._packet_bytes_max}",
                "publish less at once",
            )
        if qos:
            self._sent[message.packet_id] = _Sent(message, self._clock.monotonic_ns() + within_ns, done)
            self._held.append(message.packet_id)
            self._send_held()
        elif connection is not None:
            self.counts.published += 1
            connection.write(content)

    def _free_id(self) -> int:
        while True:
            self._next_id = self._next_id % (SUBSCRIBE_ID - 1) + 1
            if self._next_id not in self._sent:
                return self._next_id

    def _expire(self) -> None:
        if not self._sent:
            return
        now_ns = self._clock.monotonic_ns()
        for packet_id, sent in tuple(self._sent.items()):
            if sent.until_ns < now_ns:
                del self._sent[packet_id]
                if packet_id in self._held:
                    self._held.remove(packet_id)
                self._finish(sent, arrived=False)

    def _finish(self, sent: _Sent, *, arrived: bool) -> None:
        self.counts.published += arrived
        self.counts.publish_failed += not arrived
        sent.done(arrived)


def _silent(settings: Settings) -> ConnectorError:
    return ConnectorError(
        "mqtt.silent",
        f"the MQTT broker at {settings.host}:{settings.port} does not answer",
        why="neither messages nor an answer to a ping came in time",
        next_step="look at the network and at the broker; the gateway connects again by itself",
    )


def _cannot(kind: str, topic: str, why: str, next_step: str) -> ConnectorError:
    return ConnectorError(f"mqtt.{kind}", f"nothing was published to {topic}", why=why, next_step=next_step)
