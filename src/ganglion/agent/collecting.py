"""Python's collector, kept out of the way of a reflex: it runs when nothing comes in, or at last when it must.

A collection stops everything; of all that a running node has made it takes tens of milliseconds. What was made before
the node was ready is set aside for good. Reference counting frees nearly all that comes after, so there is little to
collect, and it can wait for a moment in which no row came.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

from ganglion.core.units import NS_PER_MS, NS_PER_S
from ganglion.host.ports import Clock

LOOK_EVERY_NS = 20 * NS_PER_MS
WORTH_OBJECTS = 5_000
"""Containers made and not freed since the last collection, below which there is no point."""
OVERDUE_OBJECTS = 100_000
WHOLE_EVERY_NS = 60 * NS_PER_S
"""How often old objects are looked at too."""


@dataclass(slots=True)
class Collected:
    """Collections since the node was ready; ``forced``: those that could not wait for a lull."""

    count: int = 0
    forced: int = 0
    ns: int = 0
    ns_most: int = 0


class Collecting:
    """Takes over from the automatic collector while `run` runs. ``work``: grows whenever something comes in."""

    def __init__(self, clock: Clock, work: Callable[[], int]) -> None:
        self.collected = Collected()
        self._clock = clock
        self._work = work

    async def run(self) -> None:
        """Collects at lulls, for ever; afterwards collections are automatic again."""
        gc.collect()
        gc.freeze()
        gc.disable()
        whole_ns, worked = self._clock.monotonic_ns(), self._work()
        try:
            while True:
                await self._clock.sleep_ns(LOOK_EVERY_NS)
                lull, worked = self._work() == worked, self._work()
                objects = gc.get_count()[0]
                if objects < WORTH_OBJECTS or not (lull or objects >= OVERDUE_OBJECTS):
                    continue
                began_ns = self._clock.monotonic_ns()
                whole = lull and began_ns - whole_ns >= WHOLE_EVERY_NS
                gc.collect(2 if whole else 1)
                whole_ns = began_ns if whole else whole_ns
                self._count(self._clock.monotonic_ns() - began_ns, forced=not lull)
        finally:
            gc.enable()
            gc.unfreeze()

    def _count(self, took_ns: int, *, forced: bool) -> None:
        done = self.collected
        done.count += 1
        done.forced += forced
        done.ns += took_ns
        done.ns_most = max(done.ns_most, took_ns)
