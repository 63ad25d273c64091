"""As much of an MQTT 3.1.1 client as the benchmark needs: QoS 1 both ways, over asyncio streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90
QOS_1 = 0x02


def _length(size: int) -> bytes:
    out = bytearray()
    while True:
        size, digit = divmod(size, 128)
        out.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(out)


def _text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


class Client:
    """One session; ``received`` is called with each payload that comes."""

    def __init__(self, received: Callable[[bytes], None] = lambda _payload: None) -> None:
        self._received = received
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._number = 0

    async def connect(self, port: int, name: str) -> None:
        """A session that the broker keeps."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        body = _text("MQTT") + bytes([4, 0]) + (0).to_bytes(2, "big") + _text(name)
        self._send(CONNECT, body)
        kind, answer = await self._packet()
        assert kind == CONNACK and answer[1] == 0, answer
        self._reading = asyncio.create_task(self._read())

    def _send(self, kind: int, body: bytes) -> None:
        self._writer.write(bytes([kind]) + _length(len(body)) + body)

    async def _packet(self) -> tuple[int, bytes]:
        kind = (await self._reader.readexactly(1))[0]
        size = shift = 0
        while True:
            digit = (await self._reader.readexactly(1))[0]
            size |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                break
        return kind, await self._reader.readexactly(size)

    async def _read(self) -> None:
        while True:
            kind, body = await self._packet()
            if kind & 0xF0 == PUBLISH:
                at = 2 + int.from_bytes(body[:2], "big")
                if kind & 0x06:
                    self._send(PUBACK, body[at : at + 2])
                    at += 2
                self._received(body[at:])
            elif kind in (PUBACK, SUBACK):
                waiting = self._waiting.pop(int.from_bytes(body[:2], "big"), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)

    def _next(self) -> tuple[int, asyncio.Future[None]]:
        self._number = self._number % 65_535 + 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = future
        return self._number, future

    async def publish(self, topic: str, payload: bytes) -> None:
        """Returns when the broker has acknowledged it."""
        number, future = self._next()
        self._send(PUBLISH | QOS_1, _text(topic) + number.to_bytes(2, "big") + payload)
        await self._writer.drain()
        await future

    async def subscribe(self, topics: str) -> None:
        """With QoS 1."""
        number, future = self._next()
        self._send(SUBSCRIBE, number.to_bytes(2, "big") + _text(topics) + b"\x01")
        await future

    async def close(self) -> None:
        """Breaks the connection; the session stays."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._writer.close()
