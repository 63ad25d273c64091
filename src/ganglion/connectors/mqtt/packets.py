"""Control packets of MQTT 3.1.1 (level 4) and 5 (level 5) that a client sends and receives, as bytes and back.

OASIS MQTT 3.1.1 and 5.0, section 3 of each. Subscriptions ask for QoS 0 or 1, so the packets of QoS 2 do not occur; nor
do wills and extended authentication.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from ganglion.connectors.mqtt.faults import malformed
from ganglion.connectors.mqtt.properties import (
    Cursor,
    Properties,
    encode_blob,
    encode_properties,
    encode_text,
    encode_varint,
)

V3, V5 = 4, 5
"""Protocol levels of MQTT 3.1.1 and 5."""
FAILURE = 0x80
"""Reason codes from here on say no (MQTT 5, section 2.4); 3.1.1 has only this one in a SUBACK."""


class Kind(IntEnum):
    """Packet types (section 2.1.2)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    SUBSCRIBE = 8
    SUBACK = 9
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


@dataclass(frozen=True, slots=True)
class Connect:
    """A client's first packet. ``keep_alive_s`` 0: none. ``clean``: forget an earlier session."""

    level: int
    client_id: str
    clean: bool
    keep_alive_s: int
    user: str | None = None
    password: bytes | None = None
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Connack:
    """The broker's answer; ``reason`` 0 is yes."""

    session_present: bool
    reason: int
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Publish:
    """A message; ``packet_id`` is 0 for QoS 0."""

    topic: str
    payload: bytes
    qos: int = 0
    packet_id: int = 0
    retain: bool = False
    repeated: bool = False
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Puback:
    """A QoS 1 message was taken over."""

    packet_id: int
    reason: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Filters with their options: QoS in the two lowest bits, of MQTT 5 also retain handling."""

    packet_id: int
    filters: tuple[tuple[str, int], ...]
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Suback:
    """One reason for each filter: the QoS granted, or `FAILURE` and above."""

    packet_id: int
    reasons: tuple[int, ...]
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pingreq:
    """Are you there?"""


@dataclass(frozen=True, slots=True)
class Pingresp:
    """I am."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The last packet, of a client or of an MQTT 5 broker."""

    reason: int = 0
    properties: Properties = field(default_factory=dict)


Packet = Connect | Connack | Publish | Puback | Subscribe | Suback | Pingreq | Pingresp | Disconnect


def encode(packet: Packet, level: int) -> bytes:
    """The bytes of a packet; raises ``mqtt.size`` for what the protocol cannot carry."""
    five = level == V5
    match packet:
        case Connect():
            return _framed(Kind.CONNECT << 4, _connect_body(packet))
        case Connack():
            head = bytes((packet.session_present, packet.reason))
            return _framed(Kind.CONNACK << 4, head + _properties(packet.properties, five=five))
        case Publish():
            return _publish(packet, five=five)
        case Puback():
            reason = _reason(packet.reason, packet.properties, five=five)
            return _framed(Kind.PUBACK << 4, _id(packet.packet_id) + reason)
        case Subscribe():
            filters = b"".join(encode_text(f) + bytes((options,)) for f, options in packet.filters)
            properties = _properties(packet.properties, five=five)
            return _framed(Kind.SUBSCRIBE << 4 | 2, _id(packet.packet_id) + properties + filters)
        case Suback():
            properties = _properties(packet.properties, five=five)
            return _framed(Kind.SUBACK << 4, _id(packet.packet_id) + properties + bytes(packet.reasons))
        case Pingreq():
            return b"\xc0\x00"
        case Pingresp():
            return b"\xd0\x00"
        case Disconnect():
            return _framed(Kind.DISCONNECT << 4, _reason(packet.reason, packet.properties, five=five))


def _framed(head: int, body: bytes) -> bytes:
    return bytes((head,)) + encode_varint(len(body)) + body


def _id(packet_id: int) -> bytes:
    assert 1 <= packet_id <= 0xFFFF, packet_id
    return packet_id.to_bytes(2, "big")


def _properties(properties: Properties, *, five: bool) -> bytes:
    assert five or not properties
    return encode_properties(properties) if five else b""


def _reason(reason: int, properties: Properties, *, five: bool) -> bytes:
    """Reason and properties may be left out where they say nothing (section 3.4.2.1)."""
    if not five or (reason == 0 and not properties):
        return b""
    return bytes((reason,)) + (encode_properties(properties) if properties else b"")


def _connect_body(packet: Connect) -> bytes:
    flags = packet.clean << 1 | (packet.password is not None) << 6 | (packet.user is not None) << 7
    parts = [
        encode_text("MQTT"),
        bytes((packet.level, flags)),
        packet.keep_alive_s.to_bytes(2, "big"),
        _properties(packet.properties, five=packet.level == V5),
        encode_text(packet.client_id),
    ]
    if packet.user is not None:
        parts.append(encode_text(packet.user))
    if packet.password is not None:
        parts.append(encode_blob(packet.password))
    return b"".join(parts)


def _publish(packet: Publish, *, five: bool) -> bytes:
    head = Kind.PUBLISH << 4 | packet.repeated << 3 | packet.qos << 1 | packet.retain
    body = encode_text(packet.topic)
    if packet.qos:
        body += _id(packet.packet_id)
    return _framed(head, body + _properties(packet.properties, five=five) + packet.payload)


def decode(head: int, body: bytes, level: int) -> Packet:
    """The packet with this first byte and these bytes after its length; raises ``mqtt.packet``.

    ``level`` is that of the connection; a CONNECT says its own.
    """
    try:
        kind = Kind(head >> 4)
    except ValueError:
        raise malformed(f"packets of type {head >> 4} do not occur here") from None
    if kind is Kind.PUBLISH:
        return decode_publish(head, body, level)
    if head & 0x0F != (2 if kind is Kind.SUBSCRIBE else 0):
        raise malformed(f"{kind.name} with flags {head & 0x0F:#x}")
    cursor, five = Cursor(body), level == V5
    packet: Packet
    if kind is Kind.CONNECT:
        packet = _decode_connect(cursor)
    elif kind is Kind.CONNACK:
        packet = _decode_connack(cursor, five=five)
    elif kind is Kind.PUBACK:
        packet = Puback(_decode_id(cursor), *_decode_reason(cursor, five=five))
    elif kind is Kind.SUBSCRIBE:
        packet = _decode_subscribe(cursor, five=five)
    elif kind is Kind.SUBACK:
        packet = _decode_suback(cursor, five=five)
    elif kind is Kind.DISCONNECT:
        packet = Disconnect(*_decode_reason(cursor, five=five))
    else:
        packet = Pingreq() if kind is Kind.PINGREQ else Pingresp()
    cursor.finish()
    return packet


def _decode_id(cursor: Cursor) -> int:
    number = cursor.number(2)
    if number == 0:
        raise malformed("a packet identifier is 0")
    return number


def _decode_reason(cursor: Cursor, *, five: bool) -> tuple[int, Properties]:
    if not five or cursor.at == cursor.end:
        return 0, {}
    reason = cursor.number(1)
    return reason, cursor.properties() if cursor.at < cursor.end else {}


def _decode_connect(cursor: Cursor) -> Connect:
    if cursor.text() != "MQTT":
        raise malformed("it is not of MQTT")
    level, flags = cursor.number(1), cursor.number(1)
    if level not in (V3, V5):
        raise malformed(f"protocol level {level} is neither 3.1.1 nor 5")
    if flags & 0x3D:
        raise malformed("it has a will or a reserved flag")
    keep_alive_s = cursor.number(2)
    properties = cursor.properties() if level == V5 else {}
    client_id = cursor.text()
    user = cursor.text() if flags & 0x80 else None
    password = cursor.blob() if flags & 0x40 else None
    return Connect(level, client_id, bool(flags & 2), keep_alive_s, user, password, properties)


def _decode_connack(cursor: Cursor, *, five: bool) -> Connack:
    present, reason = cursor.number(1), cursor.number(1)
    if present > 1:
        raise malformed(f"CONNACK with flags {present:#x}")
    # A broker that knows no MQTT 5 refuses in the form of 3.1.1: without properties.
    properties = cursor.properties() if five and cursor.at < cursor.end else {}
    return Connack(bool(present), reason, properties)


def decode_publish(head: int, body: bytes, level: int) -> Publish:
    """As `decode`, for a PUBLISH; the topic is checked."""
    cursor = Cursor(body)
    qos = head >> 1 & 3
    if qos > 1:
        raise malformed(f"a message of QoS {qos}, which nobody asked for")
    if qos == 0 and head & 8:
        raise malformed("a repeated message of QoS 0")
    topic = cursor.text()
    if not topic or "+" in topic or "#" in topic:
        raise malformed(f"a message to the topic {topic[:80]!r}")
    packet_id = _decode_id(cursor) if qos else 0
    properties = cursor.properties() if level == V5 else {}
    return Publish(topic, cursor.rest(), qos, packet_id, bool(head & 1), bool(head & 8), properties)


def _decode_subscribe(cursor: Cursor, *, five: bool) -> Subscribe:
    packet_id = _decode_id(cursor)
    properties = cursor.properties() if five else {}
    filters = []
    while cursor.at < cursor.end:
        name = cursor.text()
        filters.append((name, cursor.number(1)))
    if not filters:
        raise malformed("SUBSCRIBE without a filter")
    return Subscribe(packet_id, tuple(filters), properties)


def _decode_suback(cursor: Cursor, *, five: bool) -> Suback:
    packet_id = _decode_id(cursor)
    properties = cursor.properties() if five else {}
    return Suback(packet_id, tuple(cursor.rest()), properties)
