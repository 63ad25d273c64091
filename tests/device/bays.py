"""One emulated device with its gateway and the recording that it plays."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ganglion.connectors.coap import Code, Endpoint, Response
from ganglion.core.batch import Batch
from ganglion.core.packing import pack
from ganglion.device.emulated import EmulatedDevice
from ganglion.flow.assignment import Assignment
from tests.device.gateways import Gateway, HastyClock, bay, run, until
from tests.device.recordings import player, recording

PATH = "gw1-relay"
ORIGIN = "gw1-relay-03"
BOOT = 6
SPEC = bay()
LIMIT_A = 100
OFFSET_NS = 10**18
PERIOD_NS = 2_000_000

RAW: Mapping[str, tuple[str, ...]] = {"runs": (), "exports": ("frames",)}
MEASURES: Mapping[str, tuple[str, ...]] = {"runs": ("level",), "exports": ("level",)}
DECIDES: Mapping[str, tuple[str, ...]] = {
    "runs": ("level", "trips", "breaker_open"),
    "exports": ("level", "trips"),
}


COUNTS: Mapping[str, tuple[str, ...]] = {"runs": ("level", "hours"), "exports": ("hours",)}


class SteadyClock(HastyClock):
    """Whoever asks for both clocks, the wall first, gets one instant."""

    instant_ns: int | None = None

    def wall_ns(self) -> int:
        self.instant_ns = super().monotonic_ns()
        return self.instant_ns + OFFSET_NS

    def monotonic_ns(self) -> int:
        instant_ns, self.instant_ns = self.instant_ns, None
        return instant_ns or super().monotonic_ns()


def assigned(stages: Mapping[str, tuple[str, ...]], path: str = PATH) -> Assignment:
    runs, exports = ({s: frozenset({path}) for s in stages[part]} for part in ("runs", "exports"))
    return Assignment("gw1-relay", "gw1", "device", SPEC.digest, runs, exports)


class Bay:
    """A device that plays, its gateway, and what it acknowledged."""

    def __init__(self, folder: Path, stages: Mapping[str, tuple[str, ...]]) -> None:
        self.events = recording(folder)
        self.acknowledged: list[Batch] = []
        self.gateway = Gateway(
            {s.id: s.schema for s in SPEC.stages if s.id in ("frames", "level", "trips", "hours")}
        )
        self.stop = asyncio.Event()
        self.clock = SteadyClock()
        self.device = EmulatedDevice(
            ORIGIN,
            SPEC,
            assigned(stages),
            player(self.events),
            boot=BOOT,
            clock=self.clock,
            actuators=frozenset({"breaker"}),
            on_acknowledged=self.acknowledged.append,
        )
        self.peer: Endpoint

    async def open(self) -> None:
        await self.gateway.open()
        await self.device.open(self.gateway.address, random.Random(4))
        self.peer = await Endpoint.open(handler=None, random=random.Random(5))

    def start(self, in_ns: int = 0) -> asyncio.Future[None]:
        return asyncio.ensure_future(self.device.play(self.clock.monotonic_ns() + in_ns, self.stop))

    async def play(self, frames: int) -> None:
        """Plays at least so many frames and sends everything."""
        playing = self.start()
        await until(lambda: self.device.frames >= frames or playing.done())
        self.stop.set()
        await playing

    async def command(self, payload: Any, path: str = "a/breaker", method: int = Code.PUT) -> Response:
        content = payload if isinstance(payload, bytes) else pack(payload)
        return await self.peer.request(self.device.address, method, path, content)

    async def close(self) -> None:
        await self.peer.close()
        await self.device.close()
        await self.gateway.close()

    def frames(self) -> list[np.ndarray]:
        """The frames that were measured, from a player of our own."""
        same = player(self.events)
        return [same.next_frame() for _ in range(self.device.frames)]

    def peaks(self) -> list[float]:
        return [float(np.max(np.abs(f))) * 0.5 for f in self.frames()]


def scenario(
    folder: Path, stages: Mapping[str, tuple[str, ...]], story: Callable[[Bay], Awaitable[None]]
) -> Bay:
    async def whole() -> Bay:
        device = Bay(folder, stages)
        await device.open()
        try:
            await story(device)
        finally:
            await device.close()
        return device

    return run(whole())
