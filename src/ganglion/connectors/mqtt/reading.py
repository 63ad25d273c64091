"""Cuts what a socket gave into packets: readings by a fast way, everything else by `packets.decode`.

A reading is a PUBLISH whose topic was seen before. Nothing is made of it but two entries of lists, so that a core can
take hundreds of thousands a second; topics are looked up as bytes, and looked at only once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ganglion.connectors.mqtt.decoding import Decoded, Decoder
from ganglion.connectors.mqtt.faults import malformed
from ganglion.connectors.mqtt.packets import V5, Packet, Publish, decode, decode_publish
from ganglion.connectors.mqtt.properties import Cursor

TOPICS_MAX = 16_384
"""Topics that are remembered; beyond that all are forgotten and looked at again."""
TOPIC_BYTES_MAX = 1024
PACKET_BYTES_MAX = 1 << 20

Resolve = Callable[[str], Any]
"""What a topic stands for; anything."""


class Published:
    """Messages in the order in which they came: what their topics stand for, and their payloads.

    ``packet_ids``: of those of QoS 1, which wait for an acknowledgement. ``retained``: kept by the broker for whoever
    subscribes, so not news; they are not among the others, but acknowledged with them. ``decoded``: rows of messages
    that C has read, which are not among the others either, each with how many of those came before.
    """

    __slots__ = ("decoded", "packet_ids", "payloads", "repeated", "retained", "topics")

    def __init__(self) -> None:
        self.topics: list[Any] = []
        self.payloads: list[bytes] = []
        self.decoded: list[tuple[int, Decoded]] = []
        self.packet_ids: list[int] = []
        self.repeated = 0
        self.retained = 0

    def __len__(self) -> int:
        return len(self.payloads) + sum(len(rows) for _, rows in self.decoded)

    def extend(self, later: Published) -> None:
        """Takes in what came after."""
        ours = len(self.payloads)
        self.decoded += [(ours + before, rows) for before, rows in later.decoded]
        self.topics += later.topics
        self.payloads += later.payloads
        self.packet_ids += later.packet_ids
        self.repeated += later.repeated
        self.retained += later.retained


class Reader:
    """One connection's bytes. After an error nothing more can be read from it.

    ``decoder``: reads what is usual; the rest of a socket read, from the first message that is not, is read here.
    """

    def __init__(
        self,
        level: int,
        resolve: Resolve,
        packet_bytes_max: int = PACKET_BYTES_MAX,
        decoder: Decoder | None = None,
    ) -> None:
        self._level = level
        self._resolve = resolve
        self._decoder = decoder
        self._packet_bytes_max = packet_bytes_max
        self._topics: dict[bytes, Any] = {}
        self._pending = bytearray()
        self._needed = 2  # bytes of the packet that is not whole yet, as far as known

    def feed(self, data: bytes) -> tuple[Published, list[Packet]]:
        """The messages and other packets that are whole now; raises ``mqtt.packet``."""
        if self._pending:
            self._pending += data
            if len(self._pending) < self._needed:
                return Published(), []
            data = bytes(self._pending)
            self._pending.clear()
        published, others = Published(), list[Packet]()
        at = self._decode(self._decoder, data, published) if self._decoder is not None else 0
        try:
            left = self._cut(data, at, published, others)
        except IndexError:
            raise malformed("a message is shorter than its topic") from None
        if left < len(data):
            self._pending += data[left:]
        return published, others

    def _decode(self, decoder: Decoder, data: bytes, published: Published) -> int:
        five = self._level == V5
        found, packet_ids, at = decoder.decode(data, five=five, size_max=self._packet_bytes_max)
        published.decoded += [(0, rows) for rows in found]
        published.packet_ids += packet_ids
        return at

    def _cut(self, data: bytes, at: int, published: Published, others: list[Packet]) -> int:
        """Returns where the first packet from ``at`` on begins that is not whole; raises IndexError for a cut one."""
        end, five = len(data), self._level == V5
        known, size_max = self._topics, self._packet_bytes_max
        add_topic, add_payload, add_id = (
            published.topics.append,
            published.payloads.append,
            published.packet_ids.append,
        )
        while end - at >= 2:
            head, size, body = data[at], data[at + 1], at + 2
            if size > 0x7F:
                size, body = _length(data, at, end)
                if size < 0:
                    break
            if size > size_max:
                raise malformed(f"it has {size} bytes, at most {size_max} are taken")
            stop = body + size
            if stop > end:
                self._needed = stop - at
                return at
            if head == 0x30 or head == 0x32:  # noqa: PLR1714  # PUBLISH of QoS 0 or 1; twice as fast as `in`
                start = body + 2 + (data[body] << 8 | data[body + 1])
                topic = known.get(data[body:start])
                if topic is not None:
                    packet_id = -1
                    if head == 0x32:
                        packet_id = data[start] << 8 | data[start + 1]
                        start += 2
                    if five:
                        if data[start]:
                            cursor = Cursor(data[start:stop])
                            cursor.properties()
                            start += cursor.at
                        else:
                            start += 1
                    if start > stop:
                        raise malformed("a message is shorter than its topic")
                    if packet_id == 0:
                        raise malformed("a packet identifier is 0")
                    if packet_id > 0:
                        add_id(packet_id)
                    add_topic(topic)
                    add_payload(data[start:stop])
                    at = stop
                    continue
            if head >> 4 == 3:
                self._take(decode_publish(head, data[body:stop], self._level), published)
            else:
                others.append(decode(head, data[body:stop], self._level))
            at = stop
        self._needed = 2
        return at

    def _take(self, packet: Publish, published: Published) -> None:
        """A message that is not of the usual form: its topic is new, or it is retained or repeated."""
        if packet.qos:
            published.packet_ids.append(packet.packet_id)
        published.repeated += packet.repeated
        if packet.retain:
            published.retained += 1
            return
        content = packet.topic.encode()
        if len(content) > TOPIC_BYTES_MAX:
            raise malformed(f"a topic has {len(content)} bytes, at most {TOPIC_BYTES_MAX} are taken")
        key = len(content).to_bytes(2, "big") + content
        topic = self._topics.get(key)
        if topic is None:
            if len(self._topics) >= TOPICS_MAX:
                self._topics.clear()
            topic = self._topics[key] = self._resolve(packet.topic)
            assert topic is not None
        published.topics.append(topic)
        published.payloads.append(packet.payload)


def take(held: bytearray, level: int) -> Packet | None:
    """Takes the first packet out of bytes; None while it is not whole. Raises ``mqtt.packet``.

    For a side that looks at every packet by itself; a gateway has its `Reader`.
    """
    if len(held) < 2:
        return None
    size, body = held[1], 2
    if size > 0x7F:
        size, body = _length(held, 0, len(held))
    stop = body + size
    if size < 0 or stop > len(held):
        return None
    head, content = held[0], bytes(held[body:stop])
    del held[:stop]
    return decode(head, content, level)


def _length(data: bytes | bytearray, at: int, end: int) -> tuple[int, int]:
    """(remaining length, where the body begins) where the length has several bytes; (-1, 0): not all are there yet."""
    value = data[at + 1] & 0x7F
    for place in range(1, 4):
        if at + 1 + place >= end:
            return -1, 0
        byte = data[at + 1 + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if not byte:
                raise malformed("a length is not written in its shortest form")
            return value, at + 2 + place
    raise malformed("a length has more than four bytes")
