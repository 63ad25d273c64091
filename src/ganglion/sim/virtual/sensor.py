"""Devices of a world that know nothing of us: they publish readings as JSON to an MQTT broker, QoS 1."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ganglion.connectors.mqtt.client import Client
from ganglion.connectors.mqtt.packets import V3, Publish
from ganglion.connectors.mqtt.settings import Settings
from ganglion.connectors.mqtt.topics import Pattern, fill
from ganglion.core.batch import Batch
from ganglion.core.errors import ConnectorError
from ganglion.core.topology_mqtt import Route
from ganglion.core.units import NS_PER_MS, NS_PER_S
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import SourceStage, Stage
from ganglion.sim.virtual.broker import VirtualBroker
from ganglion.sim.virtual.device import CALM_MAX, SPIKE
from ganglion.sim.virtual.machine import Life
from ganglion.sim.virtual.scenario import Workload

BOOT_NUMBERS = 1 << 20
"""A device numbers its readings from its boot's first number on, so that none comes twice."""
ODD_SHARE = 0.1
"""Of whole numbers and truth values: how many are not 0."""
NS_OF = {"s": NS_PER_S, "ms": NS_PER_MS, "us": 1_000, "ns": 1}
WITHIN_NS = 10**18
"""For ever: a reading that nobody has acknowledged is sent again with each connection."""
LOOK_S = 0.1
CLOSES_AFTER_NS = 1200 * NS_PER_S
"""After the end of what all devices measure, and then again."""


class VirtualSensor:
    """Runs one device through its lives, on a machine of its own."""

    def __init__(
        self,
        origin: str,
        name: str,
        route: Route,
        source: SourceStage,
        workload: Workload,
        broker: VirtualBroker,
        on_acknowledged: Callable[[Batch], None],
    ) -> None:
        self.origin = origin
        self.stop = asyncio.Event()
        self.closing: set[int] = set()
        """Numbers of readings that are in no window that is ever closed."""
        self._name = name
        self._route = route
        self._source = source
        self._workload = workload
        self._broker = broker
        self._on_acknowledged = on_acknowledged
        self._topic = "/".join(name if level[:1] in "+{" else level for level in route.topic.split("/"))
        self._waiting = 0

    async def run(self, life: Life) -> None:
        """One life: counts its boot on disk, measures until told to stop, and waits for what is not acknowledged."""
        boot = int(life.disk.read("boot") or b"0") + 1
        life.disk.replace("boot", str(boot).encode())
        self._waiting = 0
        settings = Settings("127.0.0.1", self._broker.port, V3, self.origin)
        chance = life.chances.stream("mqtt")
        client = Client(settings, str, _nobody, life.clock, chance)
        running = asyncio.ensure_future(client.run())
        try:
            # A broker acknowledges what nobody has subscribed to yet, and forgets it.
            while not self._broker.listens_to(self._topic):  # noqa: ASYNC110 # virtual time: looking costs nothing
                await asyncio.sleep(LOOK_S)
            await asyncio.sleep(self._source.every_ns * chance.random() / 1e9)
            number = await self._measure(life, client, boot * BOOT_NUMBERS)
            self._close(life, client, number)
            while self._waiting:  # noqa: ASYNC110 # virtual time: looking costs nothing
                await asyncio.sleep(LOOK_S)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _measure(self, life: Life, client: Client, number: int) -> int:
        values = life.chances.stream("waves")
        share = min(1.0, self._source.every_ns / self._workload.spikes_every)
        left = 0
        due_ns = life.clock.monotonic_ns()
        while not self.stop.is_set():
            if left == 0 and values.random() < share:
                left = self._workload.spike_frames
            wave = SPIKE if left else round(values.random() * 16) / 16 * CALM_MAX
            left = max(0, left - 1)
            odd = values.random() < ODD_SHARE
            row = {
                f.name: wave if f.type.dtype.startswith("f") else odd if f.type.dtype == "bool" else int(odd)
                for f in self._source.schema.fields
            }
            self._publish(life, client, number, life.clock.wall_ns() // NS_PER_MS, row)
            number += 1
            due_ns += self._source.every_ns
            await life.clock.sleep_until_ns(due_ns)
        return number

    def _close(self, life: Life, client: Client, number: int) -> None:
        """Two last readings, in the same windows at all devices: nothing else tells that a device like this has ended.

        The first lets windows over all devices close that hold readings of some only, and the second the first's.
        """
        begin_ns = life.clock.wall_ns() - life.clock.monotonic_ns()
        first_ns = begin_ns + self._workload.lasts + CLOSES_AFTER_NS
        calm = {f.name: 0 for f in self._source.schema.fields}
        self.closing.add(number + 1)
        for place, time_ns in enumerate((first_ns, first_ns + CLOSES_AFTER_NS)):
            self._publish(life, client, number + place, time_ns // NS_PER_MS, calm)

    def _publish(self, life: Life, client: Client, number: int, time_ms: int, row: dict[str, Any]) -> None:
        route = self._route
        assert route.time is not None
        assert route.sequence is not None
        time = time_ms * NS_PER_MS // NS_OF[route.time.unit]
        said: dict[str, Any] = {route.time.field: time, route.sequence: number}
        if "{" not in route.device:
            said[route.device] = self._name
        said |= {route.fields.get(name, name): value for name, value in row.items()}
        batch = _batch(self._source, route, self.origin, said)

        def done(arrived: bool) -> None:
            self._waiting -= 1
            if arrived and life.alive:
                self._on_acknowledged(batch)

        try:
            client.publish(self._topic, json.dumps(said).encode(), qos=1, within_ns=WITHIN_NS, done=done)
            self._waiting += 1
        except ConnectorError:
            pass  # too many wait: this reading is never taken by anybody, and nobody says it was


def reading_of(
    spec: FlowSpec, routes: Sequence[Route], paths: Sequence[str]
) -> Callable[[Publish], Batch | None]:
    """What reads a message as `VirtualSensor` writes it: the batch of its reading, None for what is none.

    ``paths``: of the gateway, of which each route's group has one.
    """
    patterns = [(Pattern(r.topic), r, next(p for p in paths if p.endswith(f"-{r.devices}"))) for r in routes]

    def read(message: Publish) -> Batch | None:
        for pattern, route, path in patterns:
            levels = pattern.match(message.topic)
            if levels is not None:
                said = json.loads(message.payload)
                name = fill(route.device, levels) if "{" in route.device else said[route.device]
                return _batch(spec[route.stream], route, f"{path}-{name}", said)
        return None

    return read


def _batch(source: Stage, route: Route, origin: str, said: dict[str, Any]) -> Batch:
    assert route.time is not None
    assert route.sequence is not None
    time_ns = said[route.time.field] * NS_OF[route.time.unit]
    columns = {
        f.name: np.array([said[route.fields.get(f.name, f.name)]], f.type.numpy) for f in source.schema.fields
    }
    numbers = np.array([said[route.sequence]], np.int64), np.array([time_ns], np.int64)
    return Batch(source.id, origin, *numbers, columns)


async def _nobody(_published: Any) -> None:
    """Devices listen to nothing."""
