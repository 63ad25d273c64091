"""Where readings come into a gateway by the thousand: reflex first, then the journal, one append for all that waits.

A connector hands over blocks. The reflex runs at once, in memory; then rows wait, bounded, for the group commit: a task
that appends everything that waits as one journal entry, when the entry before it is on disk. A row that comes after a
pause, or for which somebody awaits an answer, is appended at once; others once in `PACE_NS`, for an entry of few rows
costs what one of many does (ADR 0031). Who hands over more than may wait is made to wait: its socket is not read
meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.agent.numbering import Lines
from ganglion.core.batch import Columns, Int64s, check_columns
from ganglion.core.block import Block, Int32s, Rows
from ganglion.core.errors import MessagingError
from ganglion.core.packing import pack, unpack
from ganglion.core.wire import ITEMS_MAX, End, Item
from ganglion.engine.graph import Graph
from ganglion.flow.assignment import path_of
from ganglion.host.ports import Clock

PENDING_ROWS_MAX = 50_000
PENDING_BYTES_MAX = 8 << 20
"""What may wait for the disk, column bytes; a single block may be larger, alone."""
COMMIT_ROWS_MAX = 4_096
"""Rows of one journal entry: whoever reads it computes all of it before a reflex gets its turn."""
COMMIT_BYTES_MAX = 512 << 10
PACE_NS = 32_000_000
"""From one commit's beginning to the next's, while nobody awaits an answer and what waits is no full entry."""
SPARSE = 4
"""Names are left out of an entry that has fewer rows than one for so many of them."""
RETRY_NS = 200_000_000

Append = Callable[[Sequence[Item]], Awaitable[None]]
"""Puts items into the journal as one entry; returns when it is safe on disk. Raises `MessagingError`."""

OnAct = Callable[[str, Rows, int], None]
"""(act stage, the rows that ask for it, when they came: monotonic ns) -> the command is sent, without waiting."""


@dataclass(slots=True)
class IntakeCounts:
    """What came in and what was made of it, since the process started. Times in nanoseconds of the monotonic clock."""

    blocks: int = 0
    rows: int = 0
    row_bytes: int = 0
    refused_rows: int = 0
    repeated_rows: int = 0
    commits: int = 0
    commit_rows_most: int = 0
    commit_ns: int = 0
    commit_ns_most: int = 0
    retries: int = 0
    waits: int = 0
    waited_ns: int = 0
    stored_rows: int = 0


@dataclass(slots=True)
class _Pending:
    item: Block | End
    stored: asyncio.Future[None]
    received_ns: int
    size_bytes: int
    rises: bool
    """All its numbers are above those taken before: it may become one block with them."""


class Intake:
    """Takes rows of many origins. One per gateway, for all connectors; `run` commits what they bring.

    ``reflex``: the reflex part of the node's graph; ``last_seq``: (stream, origin) -> the highest number the journal
    has (-1: none); ``elsewhere``: rows that count as waiting though they are on disk, those the engine has yet to take
    (who lowers it calls `made_room`).
    """

    def __init__(
        self,
        reflex: Graph,
        append: Append,
        *,
        streams: frozenset[str],
        paths: frozenset[str],
        last_seq: Callable[[str, str], int],
        clock: Clock,
        on_act: OnAct,
        elsewhere: Callable[[], int] = lambda: 0,
    ) -> None:
        self.counts = IntakeCounts()
        self.streams = streams
        self.trouble = ""
        self._reflex = reflex
        self._append = append
        self._paths = paths
        self._last_seq = last_seq
        self._clock = clock
        self._on_act = on_act
        self._elsewhere = elsewhere
        self._schemas = {stream: reflex.spec[stream].schema for stream in streams}
        self._lines: dict[str, Lines] = {}
        self._waiting: deque[_Pending] = deque()
        self._waiting_rows = 0
        self._waiting_bytes = 0
        self._news = asyncio.Event()
        self._due = asyncio.Event()
        self._began_ns: int | None = None
        self._room = asyncio.Event()
        self._turn = asyncio.Lock()
        self._committing: list[_Pending] = []

    # ------------------------------------------------------------------------------ what connectors call

    def admits(self, origin: str) -> bool:
        """True when rows of ``origin`` belong to this gateway; `take` leaves the others out, and counts them."""
        return path_of(origin) in self._paths

    async def take(self, block: Block, *, awaited: bool = False) -> asyncio.Future[None]:
        """Runs the reflex on ``block`` at once, waits for room, and returns a future: done when its rows are on disk.

        ``awaited``: somebody waits for that, so it is not to be put off for the sake of fewer commits.
        Raises `DataError` as `Block.check` does; the stream is one of ``streams``. Rows of origins that are not
        admitted are counted and left out. A connector that awaits each `take` before it reads on keeps its
        rows' order and is slowed down when the disk is.
        """
        received_ns = self._clock.monotonic_ns()
        assert block.stream in self.streams, block.stream
        block.check(self._schemas[block.stream])
        ours = self._admitted(block, self._of(block.stream).places(block.origins, self.admits))
        if ours is None:
            return self._done()
        fresh = self._fresh(ours)
        if fresh is not None:
            self._react(fresh, received_ns)
        return await self._put(ours, received_ns, rises=fresh is ours, awaited=awaited)

    async def take_unnumbered(
        self,
        stream: str,
        origins: tuple[str, ...],
        origin_index: Int32s,
        time_ns: Int64s,
        columns: Columns,
        *,
        awaited: bool = False,
    ) -> asyncio.Future[None]:
        """`take` for rows whose origins do not number them: the gateway counts, per stream and origin.

        The arrays are those of a `Block`. Numbers go on over restarts, and none is given twice. Keep ``origins`` the
        same tuple from call to call: what is known of it is remembered. Raises ``batch.schema``.
        """
        received_ns = self._clock.monotonic_ns()
        assert stream in self.streams, stream
        check_columns(stream, columns, len(time_ns), self._schemas[stream])
        lines = self._of(stream)
        at = lines.places(origins, self.admits)
        ours = self._admitted(Block(stream, origins, origin_index, time_ns, time_ns, columns), at)
        if ours is None:
            return self._done()
        groups = ours.groups
        places, counts = at[groups.present], groups.ends - groups.starts
        firsts = lines.next_seq[places]
        lines.next_seq[places] = afters = firsts + counts
        lines.reflexed[places] = afters - 1
        seq = np.empty(len(ours), np.int64)
        seq[groups.order] = np.repeat(firsts - groups.starts, counts) + np.arange(len(ours))
        block = Block(stream, origins, ours.origin_index, seq, ours.time_ns, ours.columns).grouped_as(ours)
        self._react(block, received_ns)
        return await self._put(block, received_ns, rises=True, awaited=awaited)

    async def end(self, stream: str, origin: str) -> asyncio.Future[None]:
        """No more rows of ``stream`` come from ``origin``: its windows need not wait for it. As `take` otherwise."""
        assert stream in self.streams, stream
        if not self.admits(origin):
            return self._done()
        return await self._put(End(stream, origin), self._clock.monotonic_ns(), rises=True, awaited=False)

    # ---------------------------------------------------------------------------------- what a node calls

    def take_over(self, state: dict[str, Any]) -> None:
        """Puts the reflex where the durable engine is: call it before the first `take`."""
        self._reflex.restore(unpack(pack(state)))  # a copy: the engine goes on changing its own

    def made_room(self) -> None:
        """What ``elsewhere`` gives has become less."""
        self._room.set()

    @property
    def waiting_rows(self) -> int:
        """Rows taken that are not on disk yet."""
        return self._waiting_rows

    @property
    def waiting_bytes(self) -> int:
        return self._waiting_bytes

    def age_ns(self, now_ns: int) -> int:
        """How long the oldest row that is not on disk has waited; 0 when none waits."""
        oldest = self._committing or self._waiting
        return max(0, now_ns - oldest[0].received_ns) if oldest else 0

    async def run(self) -> None:
        """Appends what waits, for ever; a server that is away or full is waited out."""
        while True:
            if not self._waiting:
                self._news.clear()
                await self._news.wait()
            await self._pace()
            await self._commit()

    async def drained(self) -> None:
        """Returns when everything taken so far is on disk; `run` must be running."""
        while self._waiting or self._committing:
            self._due.set()
            last = (self._waiting or self._committing)[-1]
            await asyncio.wait({last.stored})

    # ------------------------------------------------------------------------------------------- inside

    def _of(self, stream: str) -> Lines:
        lines = self._lines.get(stream)
        if lines is None:
            lines = self._lines[stream] = Lines(lambda origin: self._last_seq(stream, origin))
        return lines

    def _admitted(self, block: Block, at: npt.NDArray[np.intp]) -> Block | None:
        """Counts a block, and leaves out rows of origins that have no place in the arrays (``at``: -1)."""
        counts = self.counts
        counts.blocks += 1
        counts.rows += len(block)
        counts.row_bytes += block.size_bytes
        if at.min() >= 0:
            return block
        ours = at[block.origin_index] >= 0
        counts.refused_rows += len(block) - int(ours.sum())
        return block.take(ours) if ours.any() else None

    def _react(self, block: Block, received_ns: int) -> None:
        """The reflex: before any await, on rows no reflex has seen."""
        for emission in self._reflex.push(block):
            assert not isinstance(emission.item, End)
            self._on_act(emission.stage, emission.item, received_ns)

    def _fresh(self, block: Block) -> Block | None:
        """The rows that come for the first time, or after those that did: the block itself when all do."""
        lines = self._of(block.stream)
        at = lines.places(block.origins, self.admits)
        groups = block.groups
        places = at[groups.present]
        firsts, lasts = block.seq[groups.order[groups.starts]], block.seq[groups.order[groups.ends - 1]]
        seen = lines.reflexed[places]
        lines.reflexed[places] = np.maximum(seen, lasts)
        if (firsts > seen).all():
            return block
        before = np.full(len(block.origins), -1, np.int64)
        before[groups.present] = seen
        fresh = block.seq > before[block.origin_index]
        self.counts.repeated_rows += len(block) - int(fresh.sum())
        return block.take(fresh) if fresh.any() else None

    async def _put(
        self, item: Block | End, received_ns: int, *, rises: bool, awaited: bool
    ) -> asyncio.Future[None]:
        rows, size_bytes = (len(item), item.size_bytes) if isinstance(item, Block) else (0, 0)
        if self._turn.locked() or not self._has_room(rows, size_bytes):
            await self._wait_for_room(rows, size_bytes)
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Pending(item, stored, received_ns, size_bytes, rises))
        self._waiting_rows += rows
        self._waiting_bytes += size_bytes
        self._news.set()
        if awaited or self._waiting_rows >= COMMIT_ROWS_MAX or self._waiting_bytes >= COMMIT_BYTES_MAX:
            self._due.set()
        return stored

    async def _wait_for_room(self, rows: int, size_bytes: int) -> None:
        """One after the other, in the order in which they came."""
        began_ns = self._clock.monotonic_ns()
        self.counts.waits += 1
        async with self._turn:
            while not self._has_room(rows, size_bytes):
                self._room.clear()
                await self._room.wait()
        self.counts.waited_ns += self._clock.monotonic_ns() - began_ns

    def _has_room(self, rows: int, size_bytes: int) -> bool:
        held = self._waiting_rows + self._elsewhere()
        if not held and not self._waiting_bytes:
            return True
        return held + rows <= PENDING_ROWS_MAX and self._waiting_bytes + size_bytes <= PENDING_BYTES_MAX

    async def _pace(self) -> None:
        """Returns when the next commit is due."""
        if self._began_ns is not None and not self._due.is_set():
            left_ns = self._began_ns + PACE_NS - self._clock.monotonic_ns()
            if left_ns > 0:
                timer = asyncio.get_running_loop().call_later(left_ns / 1e9, self._due.set)
                await self._due.wait()
                timer.cancel()
        self._due.clear()
        self._began_ns = self._clock.monotonic_ns()

    async def _commit(self) -> None:
        group = self._committing = self._next_group()
        began_ns = self._clock.monotonic_ns()
        items = _merged(group)
        while True:
            try:
                await self._append(items)
                break
            except MessagingError as error:
                # Repeated after an unknown outcome, rows may stand in the journal twice; the engine takes each once.
                if error.code not in ("messaging.unavailable", "messaging.full", "messaging.no-stream"):
                    raise
                self.trouble = str(error)
                self.counts.retries += 1
            await self._clock.sleep_ns(RETRY_NS)
        self.trouble = ""
        self._count(group, self._clock.monotonic_ns() - began_ns)
        self._committing = []
        for pending in group:
            if not pending.stored.done():
                pending.stored.set_result(None)
        self._room.set()

    def _next_group(self) -> list[_Pending]:
        group: list[_Pending] = []
        rows = size_bytes = 0
        while self._waiting and len(group) < ITEMS_MAX:
            following = self._waiting[0]
            more = len(following.item) if isinstance(following.item, Block) else 0
            if group and (
                rows + more > COMMIT_ROWS_MAX or size_bytes + following.size_bytes > COMMIT_BYTES_MAX
            ):
                break
            group.append(self._waiting.popleft())
            rows, size_bytes = rows + more, size_bytes + following.size_bytes
        if self._waiting:
            self._due.set()  # an entry is full: the next is not put off
        return group

    def _count(self, group: list[_Pending], took_ns: int) -> None:
        rows = sum(len(p.item) for p in group if isinstance(p.item, Block))
        self._waiting_rows -= rows
        self._waiting_bytes -= sum(p.size_bytes for p in group)
        counts = self.counts
        counts.commits += 1
        counts.stored_rows += rows
        counts.commit_rows_most = max(counts.commit_rows_most, rows)
        counts.commit_ns += took_ns
        counts.commit_ns_most = max(counts.commit_ns_most, took_ns)

    def _done(self) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


def _merged(group: list[_Pending]) -> list[Item]:
    """Blocks of one stream become one, unless an end mark lies between them or numbers come again."""
    merged: list[list[Block] | End] = []
    growing: dict[str, list[Block]] = {}
    for pending in group:
        item = pending.item
        if isinstance(item, End):
            growing.pop(item.stream, None)
            merged.append(item)
        elif pending.rises and item.stream in growing:
            growing[item.stream].append(item)
        else:
            growing[item.stream] = [item]
            merged.append(growing[item.stream])
    return [m if isinstance(m, End) else _whole(m) for m in merged]


def _whole(blocks: list[Block]) -> Block:
    whole = Block.concat(blocks)
    # What is known of a set of origins is remembered by the set: it stays the same as long as most of it is used.
    return whole if SPARSE * len(whole) >= len(whole.origins) else whole.compact()
