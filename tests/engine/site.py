"""What a durable engine runs on, and how it is started, stopped and killed, over and over."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa

from ganglion.engine.durable import CHECKPOINT_EVERY_NS, Durable
from ganglion.flow.assignment import Assignment
from tests.engine.flows import SPEC
from tests.engine.stores import Lifetime, MemoryDisk, MemoryJournal, MemoryOutbox, SteppedClock


class Site:
    """Journal, outbox and disk, which outlive the engine. ``entries_per_checkpoint`` None: time stands still."""

    def __init__(
        self,
        payloads: list[bytes | None],
        assignment: Assignment,
        *,
        gather: bool = True,
        entries_per_checkpoint: int | None = None,
        top: bool = False,
    ) -> None:
        self.spec = SPEC
        self.assignment = assignment
        self.gather = gather
        self.journal = MemoryJournal(list(payloads))
        self.outbox = MemoryOutbox()
        self.disk = MemoryDisk()
        self.clock = SteppedClock()
        self.pace(entries_per_checkpoint)
        self.checkpointed: list[int] = []
        self.engine: Durable | None = None
        self._top = top

    def pace(self, entries_per_checkpoint: int | None) -> None:
        """How often checkpoints become due from now on."""
        self.clock.step_ns = (
            -(-CHECKPOINT_EVERY_NS // entries_per_checkpoint) if entries_per_checkpoint else 0
        )

    @property
    def started_engine(self) -> Durable:
        """The engine of the newest run."""
        assert self.engine is not None
        return self.engine

    def started(self, life: Lifetime | None = None) -> Durable:
        """A new process: nothing is left of the one before but what it wrote."""
        self.journal.life = self.outbox.life = self.disk.life = life or Lifetime()
        self.engine = Durable(
            self.spec,
            self.assignment,
            self.journal,
            None if self._top else self.outbox,
            disk=self.disk,
            clock=self.clock,
            gather=self.gather,
            on_checkpoint=self.checkpointed.append,
        )
        return self.engine

    async def run(self, life: Lifetime | None = None) -> None:
        """Takes all there is, stops and saves; raises what ends the engine before that."""
        engine = self.started(life)
        running = asyncio.ensure_future(engine.run())
        await _first(running, engine.caught_up.wait())
        await _cancelled(running)
        await engine.checkpoint()

    async def run_until_stuck(self) -> None:
        """Stops an engine whose outbox does not answer, and asks it to save what it can."""
        engine = self.started()
        running = asyncio.ensure_future(engine.run())
        await _first(running, self.outbox.stuck.wait())
        await _cancelled(running)
        await engine.checkpoint()

    async def run_with(self, later: list[bytes | None]) -> None:
        """Input comes one by one after the engine has caught up; ends without a word when all of it is saved."""
        saved = asyncio.Event()
        wanted = len(self.journal.payloads) + len(later)
        engine = self.started()
        engine._on_checkpoint = lambda seq: saved.set() if seq == wanted else None
        running = asyncio.ensure_future(engine.run())
        await _first(running, engine.caught_up.wait())
        for payload in later:
            self.journal.add(payload)
            await asyncio.sleep(0)
        await _first(running, saved.wait())
        await _cancelled(running)


async def _first(running: asyncio.Future[None], event: Any) -> None:
    waiting = asyncio.ensure_future(event)
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if running.done():
        running.result()


async def _cancelled(running: asyncio.Future[None]) -> None:
    running.cancel()
    await asyncio.wait({running})
    if not running.cancelled():
        running.result()


def sink_rows(site: Site, name: str) -> list[tuple[Any, ...]]:
    """The rows in a sink's file, in order: (name, origin, seq, time_ns, values)."""
    content = site.disk.files.get(site.started_engine.sinks[name].path, b"")
    rows = []
    for record in pa.ipc.open_stream(content):
        rows += [(name, *row.values()) for row in record.to_pylist()]
    return rows
