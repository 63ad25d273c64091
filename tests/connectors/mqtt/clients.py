"""A client of ours that runs while a test does."""

import asyncio
import random
from contextlib import asynccontextmanager

from ganglion.connectors.mqtt.client import Client
from ganglion.connectors.mqtt.connection import AT_ONCE
from ganglion.host.system import SystemClock


@asynccontextmanager
async def running(settings, deliver, *, pace=AT_ONCE, resolve=lambda t: t, decoder=None):
    client = Client(settings, resolve, deliver, SystemClock(), random.Random(1), pace=pace)
    client.decoder = decoder
    task = asyncio.ensure_future(client.run())
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)
