"""Origins in parts, so that several processes can share their work (ADR 0026)."""

from __future__ import annotations

from functools import lru_cache
from itertools import count

PARTITIONS = 16
"""Into how many parts origins are divided, everywhere and for ever: so many processes may share a site's work."""


@lru_cache(maxsize=100_000)
def partition_of(origin: str) -> int:
    """0 to `PARTITIONS` - 1: 32-bit FNV-1a of the origin as subjects have it, as nats-server's ``partition()``."""
    number = 2166136261
    for byte in origin.replace(".", "%2E").encode():
        number = (number ^ byte) * 16777619 & 0xFFFFFFFF
    return number % PARTITIONS


def home(index: int, processes: int) -> list[int]:
    """The partitions of the ``index``-th of ``processes`` while all of them are up."""
    return list(range(index, PARTITIONS, processes))


@lru_cache(maxsize=PARTITIONS)
def block_name(partition: int) -> str:
    """What stands for the origins of a block whose rows are all of one partition: a name of that partition."""
    return next(name for n in count() if partition_of(name := f"many-{n}") == partition)
