"""Where an engine keeps its checkpoints."""

from __future__ import annotations

import asyncio
from typing import Protocol

from ganglion.host.ports import Disk
from ganglion.host.threads import to_its_end

CHECKPOINT = "checkpoint.cbor"


class Checkpoints(Protocol):
    """Where an engine's newest checkpoint is kept."""

    async def load(self) -> bytes | None:
        """The newest, None when there is none."""

    async def save(self, content: bytes) -> None:
        """Returns when it is safe in place of the one before; raises `HostError` when it cannot be kept now."""


class CheckpointFile:
    """`Checkpoints` in one file of a disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    async def load(self) -> bytes | None:
        return await asyncio.to_thread(self._disk.read, CHECKPOINT)

    async def save(self, content: bytes) -> None:
        await to_its_end(self._disk.replace, CHECKPOINT, content)
