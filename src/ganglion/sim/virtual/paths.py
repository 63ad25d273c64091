"""Paths between the machines of a world: how they behave, and what a life of a machine is to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ganglion.core.units import NS_PER_MS
from ganglion.host.ports import Chance
from ganglion.sim.virtual.chance import SeededChances

Address = tuple[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Weather:
    """How a path behaves. Chances are per datagram, ``rate_bytes_per_s`` 0 means as fast as any."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_min_ns: int = NS_PER_MS // 5
    delay_max_ns: int = 2 * NS_PER_MS
    rate_bytes_per_s: int = 0

    def delay_ns(self, chance: Chance, size_bytes: int) -> int:
        """The time one message takes."""
        delay_ns = int(chance.uniform(self.delay_min_ns, self.delay_max_ns))
        if self.rate_bytes_per_s:
            delay_ns += size_bytes * 1_000_000_000 // self.rate_bytes_per_s
        return delay_ns


@dataclass(slots=True)
class Path:
    """Between two machines, in both directions. ``parted`` counts the faults that hold it cut.

    ``storms``: what faults have made of it, the newest last.
    """

    calm: Weather
    parted: int = 0
    storms: list[Weather] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return self.parted == 0

    @property
    def weather(self) -> Weather:
        return self.storms[-1] if self.storms else self.calm


class Life(Protocol):
    """One start of a machine."""

    name: str
    alive: bool
    chances: SeededChances

    @property
    def disk_slowness(self) -> int:
        """How many times slower than usual the disk is now."""

    def touch(self) -> None:
        """The outside was touched."""
