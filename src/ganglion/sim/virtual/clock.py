"""`Clock` on virtual time."""

from __future__ import annotations

import asyncio

from ganglion.core.units import NS_PER_S
from ganglion.sim.virtual.loop import VirtualTime

EPOCH_NS = 1_700_000_000 * NS_PER_S
"""What the wall clocks of the world show when it begins: 2023-11-14 22:13:20 UTC."""


class VirtualClock:
    """One machine's clocks.

    ``skew_ns``: how far its wall clock is off; ``offset_ns``: what its monotonic clock showed at the beginning.
    """

    def __init__(self, time: VirtualTime, *, offset_ns: int = 0) -> None:
        self.skew_ns = 0
        self.offset_ns = offset_ns
        self._time = time

    def wall_ns(self) -> int:
        return EPOCH_NS + self._time.now_ns + self.skew_ns

    def cpu_ns(self) -> int:
        """Computing takes no time here."""
        return 0

    def process_cpu_ns(self) -> int:
        return 0

    def monotonic_ns(self) -> int:
        return self._time.now_ns + self.offset_ns

    async def sleep_until_ns(self, monotonic_ns: int) -> None:
        await self.sleep_ns(monotonic_ns - self.monotonic_ns())
        while (left_ns := monotonic_ns - self.monotonic_ns()) > 0:
            await self.sleep_ns(left_ns)

    async def sleep_ns(self, duration_ns: int) -> None:
        await asyncio.sleep(max(0, duration_ns) / NS_PER_S)
