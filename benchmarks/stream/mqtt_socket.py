"""As much of MQTT 3.1.1 as a load maker and its listener need: plain sockets, QoS 0, packets made beforehand."""

from __future__ import annotations

import socket
from collections.abc import Iterator

CONNECT, CONNACK, PUBLISH, PUBACK = 0x10, 0x20, 0x30, 0x40
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 0x80, 0x90, 0xA0, 0xB0
PINGREQ, PINGRESP, DISCONNECT = 0xC0, 0xD0, 0xE0
READ_BYTES = 1 << 18


def length(size: int) -> bytes:
    """The remaining length, 7 bits to a byte (MQTT 3.1.1, 2.2.3)."""
    out = bytearray()
    while True:
        size, low = size >> 7, size & 127
        out.append(low | (128 if size else 0))
        if not size:
            return bytes(out)


def publish(topic: bytes, payload: bytes) -> bytes:
    """A PUBLISH packet of QoS 0."""
    return b"\x30" + length(2 + len(topic) + len(payload)) + len(topic).to_bytes(2, "big") + topic + payload


def text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()


class Packets:
    """The packets in what a socket gives."""

    def __init__(self) -> None:
        self._held = b""

    def split(self, got: bytes) -> Iterator[tuple[int, bytes]]:
        """(first byte, body) of the packets that are whole by now; the rest is held for the next time."""
        data = self._held + got if self._held else got
        at, end = 0, len(data)
        try:
            while at + 1 < end:
                size = shift = 0
                place = at + 1
                while place < end:
                    byte = data[place]
                    size |= (byte & 127) << shift
                    shift += 7
                    place += 1
                    if byte < 128:
                        break
                else:
                    return  # not even the length is whole
                if place + size > end:
                    return
                first, at = data[at], place + size
                yield first, data[place:at]
        finally:  # whoever stops in the middle finds the rest next time
            self._held = data[at:]


class Connection:
    """A clean session at a broker of this machine."""

    def __init__(self, port: int, client: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = text("MQTT") + b"\x04\x02" + (0).to_bytes(2, "big") + text(client)
        self.socket.sendall(b"\x10" + length(len(body)) + body)
        self._packets = Packets()
        self._await(CONNACK)

    def subscribe(self, pattern: str) -> None:
        """Returns when the broker has it."""
        body = b"\x00\x01" + text(pattern) + b"\x00"
        self.socket.sendall(b"\x82" + length(len(body)) + body)
        self._await(SUBACK)

    def _await(self, kind: int) -> None:
        while True:
            for first, _ in self.packets():
                if first & 0xF0 == kind:
                    return

    def packets(self) -> Iterator[tuple[int, bytes]]:
        """(first byte, body) of what has come by now; waits for some bytes. Raises `ConnectionError` at the end."""
        got = self.socket.recv(READ_BYTES)
        if not got:
            raise ConnectionError("the broker closed the connection")
        return self._packets.split(got)

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """(topic, payload) of the messages of QoS 0 that have come by now; waits for some bytes."""
        for first, body in self.packets():
            if first & 0xF0 == PUBLISH:
                topic_end = 2 + int.from_bytes(body[:2], "big")
                yield body[2:topic_end], body[topic_end:]

    def close(self) -> None:
        self.socket.close()
