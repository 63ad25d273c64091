"""One uplink with its gateway, and the rows that tests send through it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from ganglion.connectors.coap import Settings
from ganglion.core.batch import Batch
from ganglion.core.schema import Field, Schema, f32, i16
from ganglion.device.uplink import StreamUplink
from tests.device.gateways import QUICK, Deafening, Gateway, HastyClock, rows_of, run, until

ORIGIN = "gw1-relay-00"
SCHEMA = Schema((Field("rms", f32, "A"), Field("wave", i16[2])))
WIDE = Schema((Field("wave", i16[100]),))
HOUR_NS = 3_600_000_000_000


class Always(random.Random):
    """Chance that always draws the same number."""

    def __init__(self, number: float) -> None:
        super().__init__(1)
        self.number = number

    def random(self) -> float:
        return self.number


def rows(first: int, count: int, schema: Schema = SCHEMA) -> Batch:
    seq = first + np.arange(count, dtype=np.int64)
    columns: dict[str, Any] = {
        f.name: (seq.reshape(count, *(1,) * len(f.type.shape)) + np.zeros(f.type.shape)).astype(f.type.numpy)
        for f in schema.fields
    }
    return Batch("level", ORIGIN, seq, seq * 1_000_000, columns)


class Device:
    """One uplink that runs, its gateway, and what it was told to be acknowledged."""

    def __init__(self, urgent: bool = False, schema: Schema = SCHEMA, chance: float = 0.5) -> None:
        self.urgent = urgent
        self.schema = schema
        self.chance = chance
        self.acknowledged: list[Batch] = []
        self.offered: list[Batch] = []
        self.gateway = Gateway({"level": schema})
        self.endpoint: Deafening
        self.uplink: StreamUplink
        self.running: asyncio.Future[None]

    async def open(self, how: Settings = QUICK, address: tuple[str, int] | None = None) -> None:
        await self.gateway.open()
        self.endpoint = await Deafening.open(handler=None, random=random.Random(3), settings=how)
        self.uplink = StreamUplink(
            "level",
            ORIGIN,
            self.schema,
            self.urgent,
            self.endpoint,
            address or self.gateway.address,
            HastyClock(),
            self.acknowledged.append,
            Always(self.chance),
        )

    def start(self) -> None:
        self.running = asyncio.ensure_future(self.uplink.run())

    def offer(self, *batches: Batch) -> None:
        for batch in batches:
            self.offered.append(batch)
            self.uplink.offer(batch)

    async def end(self) -> None:
        self.uplink.close()
        await self.running

    async def all_taken(self) -> None:
        await until(lambda: len(self.all_acknowledged) == len(self.all_rows))

    async def close(self) -> None:
        if hasattr(self, "running"):
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)
        await self.endpoint.close()
        await self.gateway.close()

    @property
    def all_rows(self) -> list[tuple[str, int, int]]:
        return [row for batch in self.offered for row in rows_of(batch)]

    @property
    def all_acknowledged(self) -> list[tuple[str, int, int]]:
        return [row for batch in self.acknowledged for row in rows_of(batch)]


def play(story: Callable[[Device], Awaitable[None]], device: Device, how: Settings = QUICK) -> Device:
    async def whole() -> Device:
        await device.open(how)
        try:
            await story(device)
        finally:
            await device.close()
        return device

    return run(whole())
