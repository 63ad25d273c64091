"""Properties of MQTT 5 packets (section 2.2.2), and the primitive forms all packets are made of (section 1.5)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from ganglion.connectors.mqtt.faults import malformed, too_large

VARINT_MAX = 268_435_455
TEXT_BYTES_MAX = 65_535


class Property(IntEnum):
    """Identifiers of section 2.2.2.2."""

    PAYLOAD_FORMAT = 0x01
    MESSAGE_EXPIRY_S = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION_DATA = 0x09
    SUBSCRIPTION_IDENTIFIER = 0x0B
    SESSION_EXPIRY_S = 0x11
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEP_ALIVE_S = 0x13
    AUTHENTICATION_METHOD = 0x15
    AUTHENTICATION_DATA = 0x16
    REQUEST_PROBLEM = 0x17
    REQUEST_RESPONSE = 0x19
    RESPONSE_INFORMATION = 0x1A
    SERVER_REFERENCE = 0x1C
    REASON = 0x1F
    RECEIVE_MAX = 0x21
    TOPIC_ALIAS_MAX = 0x22
    TOPIC_ALIAS = 0x23
    QOS_MAX = 0x24
    RETAIN_AVAILABLE = 0x25
    USER = 0x26
    PACKET_BYTES_MAX = 0x27
    WILDCARDS_AVAILABLE = 0x28
    SUBSCRIPTION_IDENTIFIERS_AVAILABLE = 0x29
    SHARED_AVAILABLE = 0x2A


_U8, _U16, _U32, _VARINT, _TEXT, _BYTES, _PAIR = range(7)
_FORMS = {
    Property.PAYLOAD_FORMAT: _U8,
    Property.MESSAGE_EXPIRY_S: _U32,
    Property.CONTENT_TYPE: _TEXT,
    Property.RESPONSE_TOPIC: _TEXT,
    Property.CORRELATION_DATA: _BYTES,
    Property.SUBSCRIPTION_IDENTIFIER: _VARINT,
    Property.SESSION_EXPIRY_S: _U32,
    Property.ASSIGNED_CLIENT_ID: _TEXT,
    Property.SERVER_KEEP_ALIVE_S: _U16,
    Property.AUTHENTICATION_METHOD: _TEXT,
    Property.AUTHENTICATION_DATA: _BYTES,
    Property.REQUEST_PROBLEM: _U8,
    Property.REQUEST_RESPONSE: _U8,
    Property.RESPONSE_INFORMATION: _TEXT,
    Property.SERVER_REFERENCE: _TEXT,
    Property.REASON: _TEXT,
    Property.RECEIVE_MAX: _U16,
    Property.TOPIC_ALIAS_MAX: _U16,
    Property.TOPIC_ALIAS: _U16,
    Property.QOS_MAX: _U8,
    Property.RETAIN_AVAILABLE: _U8,
    Property.USER: _PAIR,
    Property.PACKET_BYTES_MAX: _U32,
    Property.WILDCARDS_AVAILABLE: _U8,
    Property.SUBSCRIPTION_IDENTIFIERS_AVAILABLE: _U8,
    Property.SHARED_AVAILABLE: _U8,
}
_SIZES = {_U8: 1, _U16: 2, _U32: 4}
REPEATABLE = frozenset({Property.USER, Property.SUBSCRIPTION_IDENTIFIER})
"""Their values are tuples; every other property may stand once."""

Properties = Mapping[Property, Any]


class Cursor:
    """Reads the parts of one packet's body; every method raises ``mqtt.packet`` when there is too little of it."""

    __slots__ = ("at", "content", "end")

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0
        self.end = len(content)

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        start, self.at = self.at, self.at + size
        if self.at > self.end:
            raise malformed(f"it ends {self.at - self.end} bytes early")
        return self.content[start : self.at]

    def number(self, size: int) -> int:
        """A big-endian unsigned integer."""
        return int.from_bytes(self.take(size), "big")

    def varint(self) -> int:
        """A variable byte integer (section 1.5.5), in its shortest form."""
        value = 0
        for place in range(4):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                if place and not byte:
                    raise malformed("a length is not written in its shortest form")
                return value
        raise malformed("a length has more than four bytes")

    def blob(self) -> bytes:
        """Binary data with its length before it."""
        return self.take(self.number(2))

    def text(self) -> str:
        """UTF-8 with its length before it; no U+0000 and no surrogates (section 1.5.4)."""
        try:
            text = self.blob().decode()
        except UnicodeDecodeError as error:
            raise malformed(f"a text is not UTF-8: {error.reason}") from error
        if "\0" in text:
            raise malformed("a text holds U+0000")
        return text

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.end - self.at)

    def finish(self) -> None:
        """Raises ``mqtt.packet`` unless everything was read."""
        if self.at != self.end:
            raise malformed(f"{self.end - self.at} bytes follow its end")

    def properties(self) -> dict[Property, Any]:
        """The properties that stand here, with their length before them."""
        size = self.varint()
        if size == 0:
            return {}
        part = Cursor(self.take(size))
        found: dict[Property, Any] = {}
        while part.at < part.end:
            number = part.varint()
            try:
                name = Property(number)
            except ValueError:
                raise malformed(f"there is no property {number:#x}") from None
            value = part.value(_FORMS[name])
            if name in REPEATABLE:
                found[name] = (*found.get(name, ()), value)
            elif name in found:
                raise malformed(f"property {name.name} stands twice")
            else:
                found[name] = value
        return found

    def value(self, form: int) -> Any:
        """One property's value."""
        if form in _SIZES:
            return self.number(_SIZES[form])
        if form == _VARINT:
            return self.varint()
        if form == _TEXT:
            return self.text()
        return self.blob() if form == _BYTES else (self.text(), self.text())


def encode_varint(value: int) -> bytes:
    """A variable byte integer; raises ``mqtt.size`` above 268,435,455."""
    if value > VARINT_MAX:
        raise too_large("a packet", value, VARINT_MAX)
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_blob(content: bytes) -> bytes:
    """Bytes with their length before them; raises ``mqtt.size`` above 65,535."""
    if len(content) > TEXT_BYTES_MAX:
        raise too_large("a text", len(content), TEXT_BYTES_MAX)
    return len(content).to_bytes(2, "big") + content


def encode_text(text: str) -> bytes:
    """A text as `Cursor.text` reads it."""
    assert "\0" not in text
    return encode_blob(text.encode())


def encode_properties(properties: Properties) -> bytes:
    """Properties with their length before them, in the order given."""
    parts = []
    for name, value in properties.items():
        values = value if name in REPEATABLE else (value,)
        parts += [encode_varint(name) + _encode_value(_FORMS[name], one) for one in values]
    body = b"".join(parts)
    return encode_varint(len(body)) + body


def _encode_value(form: int, value: Any) -> bytes:
    if form in _SIZES:
        number: int = value
        return number.to_bytes(_SIZES[form], "big")
    if form == _VARINT:
        return encode_varint(value)
    if form == _TEXT:
        return encode_text(value)
    return encode_blob(value) if form == _BYTES else encode_text(value[0]) + encode_text(value[1])
