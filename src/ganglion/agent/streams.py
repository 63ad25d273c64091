"""The engine's journal and outbox on a site's message bus."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ganglion.core.block import MANY, Block
from ganglion.core.errors import MessagingError
from ganglion.core.wire import End, Item, encode_several
from ganglion.engine.durable import Entry
from ganglion.engine.exporter import MESSAGE_TARGET_BYTES
from ganglion.host.ports import Clock
from ganglion.messaging import subjects
from ganglion.messaging.bus import Bus, Stored

T = TypeVar("T")
RETRY_NS = 200_000_000
TICK_STREAM = "tick"
RECENT_BYTES_MAX = 16 << 20
"""What is remembered of appended entries that were not read yet."""
FETCHED_AHEAD_MAX = 64
PASSING_ENTRIES_MAX = 10_000
PASSING_BYTES_MAX = 64 << 20
"""What a journal that keeps nothing holds while the engine waits, for a full outbox for one."""
LOOK_AFTER_NS = 5_000_000_000
_ROW_BYTES = 20  # number, time and origin


@dataclass(slots=True)
class JournalCounts:
    """How entries came to their reader: remembered, or fetched; ``refetched``: did not fit to be remembered."""

    remembered: int = 0
    fetched: int = 0
    refetched: int = 0


@dataclass(frozen=True, slots=True)
class _Recent:
    entry: Entry
    size_bytes: int
    rows: int
    at_ns: int


async def answered(call: Callable[[], Awaitable[T]], clock: Clock) -> T:
    """What the call gives once the server answers: one that is restarting is waited out.

    For questions, and for what may be done twice.
    """
    while True:
        try:
            return await call()
        except MessagingError as error:
            if error.code != "messaging.unavailable":
                raise
        await clock.sleep_ns(RETRY_NS)


class _Putting(ABC):
    """What both kinds of journal do with items."""

    encodes = True
    """Somebody may want an entry's bytes."""
    keeps = True
    """An entry that was appended outlives this process."""

    @abstractmethod
    async def append(self, subject: str, payload: bytes, items: tuple[Item, ...] | None) -> None:
        """Returns when the entry is safe; ``items``: what it holds, None is a tick. Raises as `Bus.append`."""

    async def put(self, items: Sequence[Item]) -> None:
        """Appends items, which were checked, as one entry: what an `Intake` needs."""
        first = items[0]
        origin = MANY if len(items) > 1 or isinstance(first, Block) else first.origin
        subject = subjects.journal_subject(first.stream, origin)
        await self.append(subject, encode_several(items) if self.encodes else b"", tuple(items))

    async def tick(self, site: str) -> None:
        """Appends a tick."""
        await self.append(subjects.journal_subject(TICK_STREAM, site), b"", None)


class BusJournal(_Putting):
    """Input of the engine: a gateway's JOURNAL, or the IN stream of a site with children.

    What this process appended itself is remembered until it is read, so that it need not be fetched and decoded again.
    The server is asked for all else: what was there before, what did not fit, what was appended without an answer.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        clock: Clock,
        watch: Callable[[str, bool], None] = lambda _stream, _ok: None,
    ) -> None:
        self.on_read: Callable[[], None] = lambda: None
        self.counts = JournalCounts()
        self._bus = bus
        self._stream = stream
        self._clock = clock
        self._watch = watch
        self._recent: dict[int, _Recent] = {}
        self._recent_bytes = 0
        self._unread_rows = 0
        self._read_seq = 0
        self._end_seq: int | None = None
        """The number of the newest entry, if nobody but us can have appended since we know; else None."""
        self._news = asyncio.Event()
        self._fetching: asyncio.Queue[Stored | Exception | None] | None = None

    async def append(self, subject: str, payload: bytes, items: tuple[Item, ...] | None) -> None:
        try:
            seq = await self._bus.append(self._stream, subject, payload)
        except MessagingError as error:
            self._watch(self._stream, error.code != "messaging.unavailable")
            self._end_seq = None  # it may be there, or not
            self._tell()
            raise
        self._watch(self._stream, True)
        self._end_seq = max(seq, self._end_seq or 0)
        self._remember(Entry(seq, payload if items is not None else None, items), len(payload))
        self._tell()

    def _remember(self, entry: Entry, payload_bytes: int) -> None:
        if entry.seq <= self._read_seq:
            return  # the server was faster with the entry than with its answer
        rows = [i for i in entry.items or () if not isinstance(i, End)]
        size_bytes = payload_bytes + sum(r.size_bytes + _ROW_BYTES * len(r) for r in rows)
        if self._recent_bytes + size_bytes > RECENT_BYTES_MAX:
            self.counts.refetched += 1
            return
        kept = _Recent(entry, size_bytes, sum(map(len, rows)), self._clock.monotonic_ns())
        self._recent[entry.seq] = kept
        self._recent_bytes += kept.size_bytes
        self._unread_rows += kept.rows

    @property
    def unread_rows(self) -> int:
        """Rows that this process appended and has not read."""
        return self._unread_rows

    def age_ns(self, now_ns: int) -> int:
        """How long the oldest entry that is remembered has waited to be read."""
        return max(0, now_ns - next(iter(self._recent.values())).at_ns) if self._recent else 0

    async def read(self, after_seq: int) -> AsyncIterator[Entry]:
        seq = self._read_seq = after_seq
        while True:
            while (entry := self._take(seq + 1)) is not None:
                seq = self._read_seq = entry.seq
                self.counts.remembered += 1
                yield entry
            if self._end_seq == seq:
                await self._wait(seq)
                continue
            queue = self._fetching = asyncio.Queue(FETCHED_AHEAD_MAX)
            pump = asyncio.ensure_future(self._pump(seq, queue))
            try:
                while self._end_seq != seq and seq + 1 not in self._recent:
                    found = await queue.get()
                    if isinstance(found, Exception):
                        raise found
                    if found is not None:
                        seq = self._read_seq = found.seq
                        self.counts.fetched += 1
                        yield self._entry(found)
            finally:
                self._fetching = None
                pump.cancel()
                await asyncio.wait({pump})

    async def _pump(self, after_seq: int, queue: asyncio.Queue[Stored | Exception | None]) -> None:
        """Fetches into ``queue``, whose reader must be able to wait for other things too."""
        messages = self._bus.read(self._stream, after_seq)
        try:
            async for stored in messages:
                await queue.put(stored)
        except Exception as error:  # noqa: BLE001  # it is the reader's
            await queue.put(error)
        finally:
            if isinstance(messages, AsyncGenerator):
                await messages.aclose()

    def _entry(self, stored: Stored) -> Entry:
        for passed in [s for s in self._recent if s < stored.seq]:
            self._take(passed)
        if (known := self._take(stored.seq)) is not None:
            return known
        tick = stored.subject.startswith(f"j.{TICK_STREAM}.")
        return Entry(stored.seq, None if tick else stored.payload, child=subjects.sender(stored.subject))

    def _tell(self) -> None:
        """What is known of the stream's end has changed: a waiting reader looks again."""
        self._news.set()
        if self._fetching is not None and self._fetching.empty():
            self._fetching.put_nowait(None)

    def _take(self, seq: int) -> Entry | None:
        found = self._recent.pop(seq, None)
        if found is None:
            return None
        self._recent_bytes -= found.size_bytes
        self._unread_rows -= found.rows
        self.on_read()
        return found.entry

    async def _wait(self, seq: int) -> None:
        """Until something was appended; now and then the server is asked, should somebody else have done so."""
        self._news.clear()
        try:
            async with asyncio.timeout(LOOK_AFTER_NS / 1e9):
                await self._news.wait()
        except TimeoutError:
            if (await answered(lambda: self._bus.state(self._stream), self._clock)).last_seq != seq:
                self._end_seq = None

    async def last_seq(self) -> int:
        return (await answered(lambda: self._bus.state(self._stream), self._clock)).last_seq


class PassingJournal(_Putting):
    """A journal that keeps nothing, for nodes that are told not to: entries go to the engine, and are gone with it.

    Numbers go on from where the engine begins to read. While the engine takes nothing only so many wait; `append`
    raises ``messaging.full`` for more, as a journal on a full disk does.
    """

    def __init__(self, clock: Clock) -> None:
        self.on_read: Callable[[], None] = lambda: None
        self.counts = JournalCounts()
        self.encodes = self.keeps = False
        self._clock = clock
        self._waiting: deque[_Recent] = deque()
        self._waiting_bytes = 0
        self._unread_rows = 0
        self._seq: int | None = None
        self._begun = asyncio.Event()
        self._news = asyncio.Event()

    async def append(self, subject: str, payload: bytes, items: tuple[Item, ...] | None) -> None:
        await self._begun.wait()
        assert self._seq is not None
        rows = [i for i in items or () if not isinstance(i, End)]
        size_bytes = len(payload) + sum(r.size_bytes + _ROW_BYTES * len(r) for r in rows)
        entries, held_bytes = len(self._waiting), self._waiting_bytes
        if entries >= PASSING_ENTRIES_MAX or (entries and held_bytes + size_bytes > PASSING_BYTES_MAX):
            raise MessagingError(
                "messaging.full",
                f"{entries} entries of {held_bytes} bytes wait for the engine already",
                why="it takes less than comes in, or waits for room in the outbox",
                next_step="ganglion health RUN_DIR tells what waits; with a journal on disk more could",
            )
        self._seq += 1
        entry = Entry(self._seq, payload if items is not None else None, items)
        taken = _Recent(entry, size_bytes, sum(map(len, rows)), self._clock.monotonic_ns())
        self._waiting.append(taken)
        self._waiting_bytes += taken.size_bytes
        self._unread_rows += taken.rows
        self._news.set()

    @property
    def unread_rows(self) -> int:
        """Rows that were not read yet."""
        return self._unread_rows

    def age_ns(self, now_ns: int) -> int:
        """How long the oldest entry has waited to be read."""
        return max(0, now_ns - self._waiting[0].at_ns) if self._waiting else 0

    async def read(self, after_seq: int) -> AsyncIterator[Entry]:
        self._seq = after_seq
        self._begun.set()
        while True:
            while self._waiting:
                taken = self._waiting.popleft()
                self._waiting_bytes -= taken.size_bytes
                self._unread_rows -= taken.rows
                self.counts.remembered += 1
                self.on_read()
                yield taken.entry
            self._news.clear()
            await self._news.wait()

    async def last_seq(self) -> int | None:
        return self._seq


async def ticking(
    journal: BusJournal | PassingJournal,
    holds: Callable[[], bool],
    site: str,
    clock: Clock,
    every_ns: int,
    first: float,
) -> None:
    """Time enters the engine as journal messages, so that a replay sees it pass in the same place.

    ``holds``: whether anything waits for a tick. ``first``: the share of ``every_ns`` to begin with: gateways that were
    started together must not all flush at once, for ever.
    """
    await clock.sleep_ns(int(every_ns * first))
    while True:
        await clock.sleep_ns(every_ns)
        if holds():
            try:
                await journal.tick(site)
            except MessagingError:
                continue  # the server is restarting or full: the next tick will do


class BusOutbox:
    """Output of the engine: appends the n-th message exactly as number n, however often a server restarts.

    ``offset``: what the stream's own numbers have beyond that, see `messaging.provision`. ``urgent``: the streams
    that go before others.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        clock: Clock,
        watch: Callable[[str, bool], None] = lambda _stream, _ok: None,
        offset: int = 0,
        urgent: frozenset[str] = frozenset(),
    ) -> None:
        self.trouble = ""
        self._urgent = urgent
        self._mean_bytes: dict[subjects.Lane, float] = {}
        self._watch = watch
        self._offset = offset
        self._bus = bus
        self._stream = stream
        self._clock = clock

    def _lane(self, stream: str) -> subjects.Lane:
        return subjects.URGENT if stream in self._urgent else subjects.BULK

    def mean_bytes(self, lane: subjects.Lane) -> float:
        """About how large a lane's newest messages are; as large as messages get while none is known."""
        return self._mean_bytes.get(lane, MESSAGE_TARGET_BYTES)

    def seq(self, ordinal: int) -> int:
        """The number that the server gives to the n-th message."""
        return self._offset + ordinal

    async def last_ordinal(self) -> int:
        state = await answered(lambda: self._bus.state(self._stream), self._clock)
        return state.last_seq - self._offset

    async def delivered(self) -> int:
        """How many messages the parent has safely on disk."""
        return max(0, await self._bus.delivered(self._stream) - self._offset)

    async def append(self, ordinal: int, stream: str, origin: str, payload: bytes) -> None:
        while True:
            try:
                await self._bus.append(
                    self._stream,
                    subjects.outbox_subject(stream, origin, self._lane(stream)),
                    payload,
                    expect_last=self._offset + ordinal - 1,
                )
                self.trouble = ""
                self._watch(self._stream, True)
                lane = self._lane(stream)
                self._mean_bytes[lane] = self.mean_bytes(lane) * 0.9 + len(payload) * 0.1
                return
            except MessagingError as error:
                self.trouble = str(error)
                self._watch(self._stream, error.code not in ("messaging.unavailable", "messaging.no-stream"))
                if error.code == "messaging.fence":
                    # An append whose acknowledgement was lost is already there; anything else is a second writer.
                    if await self.last_ordinal() >= ordinal:
                        return
                    raise
                # A server that shut its streams says that there are none: they come back when it starts anew.
                if error.code not in ("messaging.full", "messaging.unavailable", "messaging.no-stream"):
                    raise
            await self._clock.sleep_ns(RETRY_NS)
