"""How a node ends: also before it has begun, and on a disk that is full."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from ganglion.core.units import NS_PER_S
from ganglion.host.ports import Clock

T = TypeVar("T")
LAST_CHECKPOINT_NS_MAX = 5 * NS_PER_S
"""How long the end of a node waits for room on its disk, or for a server."""


class Saving(Protocol):
    """An engine whose state can be kept."""

    async def checkpoint(self) -> None:
        """Returns when all that was taken is safe."""


async def before(limit: Awaitable[object], doing: Awaitable[T]) -> tuple[T] | None:
    """What ``doing`` gives; None when ``limit`` came first. What was not done then is cancelled, and has ended."""
    task = asyncio.ensure_future(doing)
    limiting = asyncio.ensure_future(limit)
    try:
        await asyncio.wait({task, limiting}, return_when=asyncio.FIRST_COMPLETED)
        return (task.result(),) if task.done() else None
    finally:
        for one in (task, limiting):
            one.cancel()
        await asyncio.wait({task, limiting})


async def first(running: asyncio.Task[None], *events: asyncio.Event) -> None:
    """Waits for one of the events, or for what runs to end (which its task group then reports)."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait({running, *waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


async def last_checkpoint(engine: Saving, clock: Clock) -> bool:
    """False when it could not be made in time: then the one before stays, and the next start goes on from there."""
    return await before(clock.sleep_ns(LAST_CHECKPOINT_NS_MAX), engine.checkpoint()) is not None
