"""A UDP relay between devices and a gateway that loses, repeats and delays datagrams, as radio does."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Radio:
    """Chances per datagram: ``lost``, ``repeated`` (once more, at once or up to ``late_s`` later)."""

    lost: float = 0.0
    repeated: float = 0.0
    late_s: float = 0.3


class DatagramRelay:
    """Listens on a port of its own; each peer gets a socket of its own towards the gateway."""

    def __init__(self, target: tuple[str, int], chance: random.Random, radio: Radio) -> None:
        self.repeated = self.lost = 0
        self._target = target
        self._chance = chance
        self._radio = radio
        self._lines: dict[tuple[str, int], asyncio.DatagramTransport] = {}
        self._opening: set[asyncio.Task[None]] = set()

    async def open(self) -> int:
        loop = asyncio.get_running_loop()
        self._door, _ = await loop.create_datagram_endpoint(
            lambda: _Receiver(self._from_device), local_addr=("127.0.0.1", 0)
        )
        return int(self._door.get_extra_info("sockname")[1])

    def close(self) -> None:
        for task in self._opening:
            task.cancel()
        for line in (self._door, *self._lines.values()):
            line.close()

    def _from_device(self, data: bytes, peer: tuple[str, int]) -> None:
        task = asyncio.ensure_future(self._up(data, peer))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _up(self, data: bytes, peer: tuple[str, int]) -> None:
        if peer not in self._lines:
            line, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Receiver(lambda answer, _: self._pass(self._door, answer, peer)),
                remote_addr=self._target,
            )
            self._lines[peer] = line
        self._pass(self._lines[peer], data, None)

    def _pass(self, line: asyncio.DatagramTransport, data: bytes, peer: tuple[str, int] | None) -> None:
        if self._chance.random() < self._radio.lost:
            self.lost += 1
            return
        line.sendto(data, peer)
        if self._chance.random() < self._radio.repeated:
            self.repeated += 1
            later = self._chance.random() * self._radio.late_s
            asyncio.get_running_loop().call_later(later, _send, line, data, peer)


def _send(line: asyncio.DatagramTransport, data: bytes, peer: tuple[str, int] | None) -> None:
    if not line.is_closing():
        line.sendto(data, peer)


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, receive) -> None:
        self._receive = receive

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._receive(data, addr)

    def error_received(self, exc: Exception) -> None:
        """The gateway is down: to a device that is silence."""
