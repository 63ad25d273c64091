"""One partition of a site's work on its message server: input, output and checkpoints, with one writer each.

Whoever is pinned to a partition writes a claim first, and each of its checkpoints expects to follow its own last word:
an owner that was taken for dead is refused. What goes to the outbox is numbered, and each number expects to follow the
one before. Both owners would write the same there, so it does not matter which of them does; each number is written
once (docs/adr/0026).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ganglion.agent.streams import RETRY_NS, answered
from ganglion.core.errors import HostError, MessagingError
from ganglion.core.packing import pack, unpack
from ganglion.core.partition import partition_of
from ganglion.engine.durable import Entry
from ganglion.host.ports import Clock, Disk
from ganglion.messaging import subjects
from ganglion.messaging.bus import Bus
from ganglion.messaging.pins import Pin, unpinned

ORDINAL = "Ganglion-Ordinal"
WORD = "Ganglion-Word"
PART_BYTES = 512 << 10
SMALL_BYTES = 32 << 10
"""A state up to this size goes into one message with what is said about it."""
SINKS_DIRECTORY = "partitions"


class PinnedJournal:
    """Input of an engine: one partition of the inbox, as long as we are pinned to it."""

    def __init__(self, bus: Bus, stream: str, pin: Pin, clock: Clock) -> None:
        self._bus = bus
        self._stream = stream
        self._pin = pin
        self._clock = clock

    async def read(self, after_seq: int) -> AsyncIterator[Entry]:
        last = after_seq
        async for stored in self._pin.read(after_seq):
            child = subjects.sender(stored.subject)
            yield Entry(stored.seq, stored.payload, after_seq=last, child=child)
            last = stored.seq

    async def last_seq(self) -> int:
        """Of the whole inbox."""
        return (await answered(lambda: self._bus.state(self._stream), self._clock)).last_seq


class PartitionOutbox:
    """Output of an engine: a partition's n-th message is written once, whoever writes it.

    ``urgent``: the streams that go before others.
    """

    def __init__(
        self, bus: Bus, stream: str, partition: int, clock: Clock, urgent: frozenset[str] = frozenset()
    ) -> None:
        self.trouble = ""
        self._urgent = urgent
        self._bus = bus
        self._stream = stream
        self._partition = partition
        self._among = subjects.outbox_partition(partition)
        self._clock = clock
        self._last_seq = 0
        self._last_ordinal = 0
        self._purged_seq = 0

    async def last_ordinal(self) -> int:
        newest = await answered(lambda: self._bus.newest(self._stream, self._among), self._clock)
        self._last_seq = newest.seq if newest else 0
        self._last_ordinal = int(newest.headers[ORDINAL]) if newest else 0
        return self._last_ordinal

    async def append(self, ordinal: int, stream: str, origin: str, payload: bytes) -> None:
        assert partition_of(origin) == self._partition, origin
        lane = subjects.URGENT if stream in self._urgent else subjects.BULK
        while ordinal > self._last_ordinal:
            assert ordinal == self._last_ordinal + 1, (ordinal, self._last_ordinal)
            try:
                self._last_seq = await self._bus.append(
                    self._stream,
                    subjects.outbox_subject(stream, origin, lane),
                    payload,
                    headers={ORDINAL: str(ordinal)},
                    expect_last=self._last_seq,
                    among=self._among,
                )
                self._last_ordinal = ordinal
                self.trouble = ""
                return
            except MessagingError as error:
                self.trouble = str(error)
                if error.code not in (
                    "messaging.fence",
                    "messaging.full",
                    "messaging.unavailable",
                    "messaging.no-stream",
                ):
                    raise
                if error.code == "messaging.fence":
                    # Ours, whose acknowledgement was lost, or another owner's, who computes the same.
                    await self.last_ordinal()
                    continue
            await self._clock.sleep_ns(RETRY_NS)

    async def purge(self, up_to_seq: int) -> None:
        """Gives disk back. The newest message stays: it tells the next owner how many there were."""
        up_to = min(up_to_seq, self._last_seq - 1)
        if up_to > self._purged_seq:
            await self._bus.purge(self._stream, up_to, self._among)
            self._purged_seq = up_to


@dataclass(slots=True)
class Saved:
    """What a partition's newest checkpoint says about it, beside the engine's own state.

    The state itself is ``content``, or ``parts`` messages called ``name`` from ``first_seq`` on. ``segments``: what
    earlier owners' sinks hold, as [worker, sink, path, bytes, rows] each; a file may hold more, which counts for
    nothing.
    """

    worker: str
    epoch: int
    name: str
    first_seq: int
    parts: int
    content: bytes
    segments: list[list[Any]]
    progress: dict[str, Any]


async def newest_saved(bus: Bus, site: str, partition: int) -> Saved | None:
    """Of a partition; None before its first checkpoint."""
    done = await bus.newest(subjects.state(site), subjects.state_subject(partition, "done"))
    return Saved(**unpack(done.payload)) if done is not None else None


class PartitionState:
    """`Checkpoints` of one partition in the site's state stream, by one owner. ``worker``: whose rows sinks keep."""

    def __init__(self, bus: Bus, site: str, partition: int, worker: str, clock: Clock) -> None:
        self.epoch = 0
        self.progress: Callable[[], dict[str, Any]] = dict
        self.segments: list[list[Any]] = []
        self.trouble = ""
        self._bus = bus
        self._site = site
        self._stream = subjects.state(site)
        self._partition = partition
        self._among = subjects.state_partition(partition)
        self._worker = worker
        self._clock = clock
        self._last_seq = 0
        self._words = 0

    @property
    def directory(self) -> str:
        """Where this owner keeps its sinks' rows, and no other owner ever writes."""
        return f"{SINKS_DIRECTORY}/{self._partition:02d}/{self.epoch}"

    async def claim(self) -> None:
        """From now on nobody who claimed before can save."""
        while True:
            newest = await answered(lambda: self._bus.newest(self._stream, self._among), self._clock)
            self._last_seq = newest.seq if newest else 0
            try:
                self.epoch = await self._say("claim", self._worker.encode())
                break
            except MessagingError as error:
                if error.code != "messaging.unpinned":
                    raise  # another claimed at the same moment: the later one has it
        await answered(self._sweep, self._clock)

    async def _sweep(self) -> None:
        """Removes earlier claims, and checkpoints that their owners could not finish."""
        done = await self._bus.newest(self._stream, subjects.state_subject(self._partition, "done"))
        at = done.seq if done is not None else 0
        while (left := await self._bus.following(self._stream, self._among, at)) and left.seq < self.epoch:
            await self._bus.purge(self._stream, self.epoch - 1, left.subject)
            at = left.seq

    async def load(self) -> bytes | None:
        """The engine's state as the owner before left it; its sinks begin anew, in files of our own."""
        saved = await self._newest()
        if saved is None:
            return None
        while (content := await self._content(saved)) is None:
            # Its owner has saved anew meanwhile, and purged what we were reading, which it does only then.
            newer = await self._newest()
            assert newer is not None and newer.name != saved.name, saved.name
            saved = newer
        state = unpack(content)
        self.segments = list(saved.segments)
        before = f"{SINKS_DIRECTORY}/{self._partition:02d}/{saved.epoch}"
        for name, (size_bytes, rows) in state["sinks"].items():
            if rows:
                self.segments.append([saved.worker, name, f"{before}/sinks/{name}.arrows", size_bytes, rows])
            state["sinks"][name] = [0, 0]
        return pack(state)

    async def _newest(self) -> Saved | None:
        return await answered(lambda: newest_saved(self._bus, self._site, self._partition), self._clock)

    async def _content(self, saved: Saved) -> bytes | None:
        """The state of a checkpoint; None when its parts are not there any more."""
        content, at = saved.content, saved.first_seq - 1
        subject = subjects.state_subject(self._partition, saved.name)
        for _ in range(saved.parts):
            part = await answered(partial(self._bus.following, self._stream, subject, at), self._clock)
            if part is None:
                return None
            content, at = content + part.payload, part.seq
        return content

    async def save(self, content: bytes) -> None:
        """Raises `MessagingError` ``messaging.unpinned`` when another has claimed the partition."""
        name, first, parts = f"{self.epoch}-{self._words}", 0, 0
        try:
            small = content if len(content) <= SMALL_BYTES else b""
            for at in range(0, 0 if small else len(content), PART_BYTES):
                seq = await self._say(name, content[at : at + PART_BYTES])
                first, parts = first or seq, parts + 1
            saved = Saved(self._worker, self.epoch, name, first, parts, small, self.segments, self.progress())
            done = await self._say("done", pack(asdict(saved)))
        except HostError:
            await self._take_back(name)
            raise
        before = (first or done) - 1
        await answered(lambda: self._bus.purge(self._stream, before, self._among), self._clock)

    async def _take_back(self, name: str) -> None:
        """Removes what was said under ``name``, so that our last word is an earlier one of ours."""
        subject, last_seq = subjects.state_subject(self._partition, name), self._last_seq
        await answered(lambda: self._bus.purge(self._stream, last_seq, subject), self._clock)
        newest = await answered(lambda: self._bus.newest(self._stream, self._among), self._clock)
        self._last_seq = newest.seq if newest else 0
        if self._last_seq > last_seq:
            raise unpinned(self._stream, f"partition {self._partition}")

    async def _say(self, part: str, payload: bytes) -> int:
        """Appends after our own last word, once; raises ``messaging.unpinned`` when another has spoken since."""
        self._words += 1
        word = f"{self._worker}/{self.epoch}/{self._words}"
        while True:
            try:
                self._last_seq = await self._bus.append(
                    self._stream,
                    subjects.state_subject(self._partition, part),
                    payload,
                    headers={WORD: word},
                    expect_last=self._last_seq,
                    among=self._among,
                )
                self.trouble = ""
                return self._last_seq
            except MessagingError as error:
                self.trouble = str(error)
                if error.code == "messaging.full":
                    raise HostError(
                        "host.disk-full",
                        f"the checkpoint of partition {self._partition} cannot be kept",
                        why=error.why,
                        next_step="share the work among more sites: each partition keeps less then",
                    ) from error
                if error.code == "messaging.fence":
                    newest = await answered(lambda: self._bus.newest(self._stream, self._among), self._clock)
                    if newest is not None and newest.headers.get(WORD) == word:
                        self._last_seq = newest.seq
                        return newest.seq
                    raise unpinned(self._stream, f"partition {self._partition}") from error
                if error.code not in ("messaging.unavailable", "messaging.no-stream"):
                    raise
            await self._clock.sleep_ns(RETRY_NS)


class Below:
    """A `Disk` in a directory of another."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self.root: Path = disk.root / directory
        self._disk = disk
        self._directory = directory

    def read(self, name: str) -> bytes | None:
        return self._disk.read(self._name(name))

    def replace(self, name: str, content: bytes) -> None:
        self._disk.replace(self._name(name), content)

    def append(self, name: str, content: bytes) -> int:
        return self._disk.append(self._name(name), content)

    def truncate(self, name: str, size_bytes: int) -> None:
        self._disk.truncate(self._name(name), size_bytes)

    def size_bytes(self, name: str) -> int:
        return self._disk.size_bytes(self._name(name))

    def free_bytes(self) -> int:
        return self._disk.free_bytes()

    def _name(self, name: str) -> str:
        return f"{self._directory}/{name}"
