"""Devices of a world: the emulated device that also runs outside, with frames drawn from a seed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from ganglion.core.batch import Batch
from ganglion.device.emulated import EmulatedDevice
from ganglion.device.player import Shot
from ganglion.flow.assignment import Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import SourceStage
from ganglion.host.ports import Chance
from ganglion.sim.virtual.machine import Life
from ganglion.sim.virtual.scenario import Workload

CALM_MAX = 1.0
SPIKE = 8.0


class Waves:
    """In a player's place: calm frames within +/- `CALM_MAX`, and spikes of `SPIKE` that come by chance.

    Samples are small multiples of 1/16, so sums of them are exact whatever the order.
    """

    def __init__(self, source: SourceStage, workload: Workload, chance: Chance) -> None:
        kind = source.schema.fields[0].type
        self._shape = kind.shape
        self._dtype = kind.numpy
        self._chance = chance
        self._spike_chance = min(1.0, source.every_ns / workload.spikes_every)
        self._spike_frames = workload.spike_frames
        self._left = 0

    def next_frame(self) -> Any:
        """The next frame in the source's stored dtype."""
        if self._left == 0 and self._chance.random() < self._spike_chance:
            self._left = self._spike_frames
        top = SPIKE if self._left else round(self._chance.random() * 16) / 16 * CALM_MAX
        self._left = max(0, self._left - 1)
        return np.full(self._shape, top, self._dtype)

    def take_finished(self) -> list[Shot]:
        """No recordings are played here."""
        return []


class VirtualDevice:
    """Runs one device through its lives, on a machine of its own."""

    def __init__(
        self,
        origin: str,
        spec: FlowSpec,
        assignment: Assignment,
        workload: Workload,
        gateway: tuple[str, int],
        actuators: frozenset[str],
        on_acknowledged: Callable[[Batch], None],
    ) -> None:
        self.origin = origin
        self._spec = spec
        self._assignment = assignment
        self._workload = workload
        self._gateway = gateway
        self._actuators = actuators
        self._on_acknowledged = on_acknowledged
        self.stop = asyncio.Event()
        self.device: EmulatedDevice | None = None

    async def run(self, life: Life) -> None:
        """One life: counts its boot on disk, measures until told to stop, then sends what is left."""
        boot = int(life.disk.read("boot") or b"0") + 1
        life.disk.replace("boot", str(boot).encode())
        waves = Waves(self._spec.sources[0], self._workload, life.chances.stream("waves"))
        device = self.device = EmulatedDevice(
            self.origin,
            self._spec,
            self._assignment,
            waves,  # type: ignore[arg-type] # it only draws frames
            boot=boot,
            clock=life.clock,
            actuators=self._actuators,
            on_acknowledged=lambda batch: self._acknowledged(life, batch),
        )
        await device.open(self._gateway, life.chances.stream("coap"))
        try:
            phase_ns = int(life.chances.stream("phase").random() * self._spec.sources[0].every_ns)
            await device.play(life.clock.monotonic_ns() + phase_ns, self.stop)
        finally:
            await device.close()

    def _acknowledged(self, life: Life, batch: Batch) -> None:
        if life.alive:
            self._on_acknowledged(batch)
