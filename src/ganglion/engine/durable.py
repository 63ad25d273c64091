"""Feeds a `Graph` from a journal, exactly once, however often the process is killed.

A checkpoint holds the input's sequence number, all state, and how many messages the outbox had. Emissions depend only
on the journal, so after a restart the replay makes the same messages again; those the outbox already holds (its last
ordinal tells) are not sent twice. Sinks are cut back to the checkpoint. See ADR 0004.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

from ganglion.core.batch import Batch
from ganglion.core.errors import DataError, HostError, MessagingError
from ganglion.core.packing import pack, unpack
from ganglion.core.shed import Shed, unwrap
from ganglion.core.wire import End, Item, decode
from ganglion.engine.exporter import Exporter
from ganglion.engine.graph import Emission, Graph
from ganglion.engine.meter import Meter
from ganglion.engine.missing import Missing
from ganglion.engine.operators import Counts
from ganglion.engine.seen import Seen
from ganglion.engine.sinks import SinkFile
from ganglion.flow.assignment import Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import SinkStage
from ganglion.host.ports import Clock, Disk
from ganglion.host.threads import to_its_end
from ganglion.kernels.running import Libraries

CHECKPOINT = "checkpoint.cbor"
CHECKPOINT_FORMAT = 4
CHECKPOINT_EVERY_NS = 1_000_000_000
CHECKPOINT_ENTRIES_MAX = 5_000
LINES_MAX = 500_000
"""Streams of origins a node keeps sequence numbers of; messages of further ones are counted bad."""
SINK_WAITING_BYTES_MAX = 16 << 20
DISK_RETRY_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One journal message: ``payload`` None is a tick (time to send what was gathered)."""

    seq: int
    payload: bytes | None


class Journal(Protocol):
    """Where a node's input comes from."""

    def read(self, after_seq: int) -> AsyncIterator[Entry]:
        """Every entry after ``after_seq``, in order, endlessly."""

    async def last_seq(self) -> int:
        """The newest entry's sequence number; 0 when there never was one."""


class Outbox(Protocol):
    """Where a node's output goes; the n-th message ever appended has ordinal n."""

    async def last_ordinal(self) -> int:
        """How many messages were ever appended."""

    async def append(self, ordinal: int, stream: str, origin: str, payload: bytes) -> None:
        """Returns when the message is safe on disk as number ``ordinal``; waits out a full or restarting server."""


@dataclass(slots=True)
class Exported:
    """What left a node of one stream since its process started: rows, the messages they went in, payload bytes."""

    rows: int = 0
    messages: int = 0
    payload_bytes: int = 0


@dataclass(slots=True)
class Progress:
    """What `Durable` has done, for reports."""

    input_seq: int = 0
    ordinal: int = 0
    checkpoints: int = 0
    bad_messages: int = 0
    duplicated_rows: int = 0
    out_of_order_rows: int = 0
    disk_trouble: str = ""
    exported: dict[str, Exported] = field(default_factory=dict)
    seen: dict[tuple[str, str], Seen] = field(default_factory=dict)
    missing: Missing = field(default_factory=Missing)

    def last_seq(self, stream: str, origin: str) -> int:
        """The highest row number taken of a stream and origin; -1 when there was none."""
        seen = self.seen.get((stream, origin))
        return seen.last_seq if seen else -1


class Durable:
    """One node's durable engine. ``outbox`` is None at the top. ``gather``: hold small exports until a tick."""

    def __init__(
        self,
        spec: FlowSpec,
        assignment: Assignment,
        journal: Journal,
        outbox: Outbox | None,
        *,
        disk: Disk,
        clock: Clock,
        gather: bool,
        on_checkpoint: Callable[[int], None] = lambda _seq: None,
        libraries: Libraries = MappingProxyType({}),
        meter: Meter | None = None,
    ) -> None:
        self.graph = Graph(spec, assignment, "durable", libraries, meter)
        self._meter = meter
        self.progress = Progress()
        self.caught_up = asyncio.Event()
        self._spec = spec
        self._assignment = assignment
        self._journal = journal
        self._outbox = outbox
        self._disk = disk
        self._clock = clock
        self._on_checkpoint = on_checkpoint
        self._exporter = Exporter(gather=gather)
        self._sinks = {
            s.id: SinkFile(disk, s.id, s.schema)
            for s in spec.stages
            if isinstance(s, SinkStage) and s.id in assignment.runs
        }
        self._known_ordinal = 0
        self._whole = False  # recovered, and no entry half taken
        # What decides which messages the same input makes: a checkpoint belongs to that, and to nothing else.
        identity = json.dumps([assignment.to_json(), spec.digest, gather], sort_keys=True)
        self._identity = hashlib.sha256(identity.encode()).hexdigest()

    @property
    def holds(self) -> bool:
        """True while exported rows wait for a tick."""
        return self._exporter.holds

    @property
    def sinks(self) -> Mapping[str, SinkFile]:
        return self._sinks

    async def run(self) -> None:
        """Restores, replays and goes on for ever. Raises ``engine.checkpoint`` when state and streams disagree."""
        await self._recover()
        self._whole = True
        target = await self._journal.last_seq()
        if self.progress.input_seq >= target:
            self.caught_up.set()
        checkpointed_ns, pending = self._clock.monotonic_ns(), 0
        entries = self._journal.read(self.progress.input_seq).__aiter__()
        following: asyncio.Task[Entry] | None = None
        try:
            while True:
                following = following or asyncio.ensure_future(anext(entries))
                # A lull is the best moment for a checkpoint, so waiting for the next entry has a limit.
                done, _ = await asyncio.wait({following}, timeout=CHECKPOINT_EVERY_NS / 1e9)
                if done:
                    entry, following = following.result(), None
                    await self._take(entry)
                    pending += 1
                    if entry.seq >= target:
                        self.caught_up.set()
                due = self._clock.monotonic_ns() - checkpointed_ns >= CHECKPOINT_EVERY_NS
                waiting = sum(s.waiting_bytes for s in self._sinks.values())
                if pending and (
                    due or pending >= CHECKPOINT_ENTRIES_MAX or waiting >= SINK_WAITING_BYTES_MAX
                ):
                    await self.checkpoint()
                    checkpointed_ns, pending = self._clock.monotonic_ns(), 0
        finally:
            if following is not None:
                following.cancel()
                await asyncio.wait({following})
            if isinstance(entries, AsyncGenerator):
                await entries.aclose()

    async def _take(self, entry: Entry) -> None:
        if entry.seq != self.progress.input_seq + 1:
            raise _checkpoint_error(
                f"after input {self.progress.input_seq} comes {entry.seq}: what lay between was removed unread"
            )
        self._whole = False
        if entry.payload is None:
            self._exporter.flush()
        else:
            item = self._open(entry.payload)
            if item is not None:
                for emission in self.graph.push(item):
                    self._leave(emission)
        for stream, origin, payload in self._exporter.take():
            self.progress.ordinal += 1
            if self.progress.ordinal > self._known_ordinal and self._outbox is not None:
                sent = self._exported(stream)
                sent.messages += 1
                sent.payload_bytes += len(payload)
                await self._outbox.append(self.progress.ordinal, stream, origin, payload)
                self._known_ordinal = self.progress.ordinal
        self.progress.input_seq = entry.seq
        self._whole = True

    def _leave(self, emission: Emission) -> None:
        if emission.kind == "export":
            if isinstance(emission.item, Batch):
                self._exported(emission.stage).rows += len(emission.item)
            self._exporter.add(emission.item)
        elif isinstance(emission.item, Batch):
            began_ns = self._meter.begin() if self._meter else 0
            self._sinks[emission.stage].add(emission.item)
            if self._meter:
                self._meter.end(emission.stage, len(emission.item), began_ns)

    def _exported(self, stream: str) -> Exported:
        """The flow has a bounded number of streams."""
        return self.progress.exported.setdefault(stream, Exported())

    def _open(self, payload: bytes) -> Item | None:
        """The item of a message; what it tells of shed rows is noted, and told on."""
        try:
            claims, message = unwrap(payload)
        except DataError:
            self.progress.bad_messages += 1
            return None
        for claim in claims:
            self._miss(claim)
        return None if message is None else self._decode(message)

    def _miss(self, claim: Shed) -> None:
        if claim.stream not in self._spec:
            self.progress.bad_messages += 1
            return
        # Rows that came before they could be removed are here: a claim comes after all of its range that was sent.
        seen = self.progress.seen.get((claim.stream, claim.origin))
        rows = claim.rows - (seen.count(claim.first_seq, claim.last_seq) if seen else 0)
        if rows <= 0:
            return
        claim = replace(claim, rows=rows)
        self.progress.missing.take(claim)
        if self._assignment.exported(claim.stream, claim.origin):
            self._exporter.shed(claim)

    def _decode(self, payload: bytes) -> Item | None:
        try:
            item = decode(payload)
            if item.stream not in self._spec:
                raise DataError(
                    "engine.stream",
                    f"unknown stream {item.stream!r}",
                    why="the flow has none such",
                    next_step="run every node from the same plan",
                )
            if isinstance(item, End):
                return item
            return self._fresh(item.check(self._spec[item.stream].schema))
        except DataError:
            self.progress.bad_messages += 1
            return None

    def _fresh(self, batch: Batch) -> Batch | None:
        """The rows not seen yet; a repeated or reordered row is counted, and never used twice."""
        key = (batch.stream, batch.origin)
        if key not in self.progress.seen and len(self.progress.seen) >= LINES_MAX:
            raise DataError(
                "engine.origins",
                f"{batch.stream} of {batch.origin} is one origin too many",
                why=f"a node keeps account of {LINES_MAX} streams of origins",
                next_step="spread the devices over more gateways and edge sites",
            )
        seen = self.progress.seen.setdefault(key, Seen())
        fresh, repeated, late = seen.take(batch)
        self.progress.duplicated_rows += repeated
        self.progress.out_of_order_rows += late
        return fresh

    async def checkpoint(self) -> None:
        """Makes everything up to ``progress.input_seq`` survive a crash. A full disk delays it, and is said.

        Within an entry, or before `run` has recovered, there is nothing whole to save: the last checkpoint stays.
        """
        if not self._whole:
            return
        while True:
            try:
                lengths = {}
                for name, sink in self._sinks.items():
                    lengths[name] = [await to_its_end(sink.sync), sink.rows]
                content = pack(self._state(lengths))
                await to_its_end(self._disk.replace, CHECKPOINT, content)
                break
            except HostError as error:
                self.progress.disk_trouble = str(error)
                await self._clock.sleep_ns(DISK_RETRY_NS)
        self.progress.disk_trouble = ""
        self.progress.checkpoints += 1
        self._on_checkpoint(self.progress.input_seq)

    def snapshot(self) -> bytes:
        """What a checkpoint of now would hold, but for the sinks' rows: whoever starts from it begins new files.

        Only between two entries is there something whole to save: an assertion.
        """
        assert self._whole
        return pack(self._state({name: [0, 0] for name in self._sinks}))

    def _state(self, lengths: dict[str, Any]) -> dict[str, Any]:
        p = self.progress
        return {
            "format": CHECKPOINT_FORMAT,
            "identity": self._identity,
            "input_seq": p.input_seq,
            "ordinal": p.ordinal,
            "graph": self.graph.snapshot(),
            "exporter": self._exporter.snapshot(),
            "sinks": lengths,
            "seen": [[stream, origin, seen.snapshot()] for (stream, origin), seen in p.seen.items()],
            "missing": p.missing.snapshot(),
            "counters": [p.bad_messages, p.duplicated_rows, p.out_of_order_rows],
        }

    async def _recover(self) -> None:
        content = await asyncio.to_thread(self._disk.read, CHECKPOINT)
        last = await self._outbox.last_ordinal() if self._outbox else 0
        self._known_ordinal = last
        if content is None:
            for sink in self._sinks.values():
                await asyncio.to_thread(sink.cut_back, 0, 0)
            return
        state = unpack(content)
        await self._check(state, last)
        p = self.progress
        p.input_seq, p.ordinal = state["input_seq"], state["ordinal"]
        p.seen = {(stream, origin): Seen.restored(held) for stream, origin, held in state["seen"]}
        p.missing.restore(state["missing"])
        p.bad_messages, p.duplicated_rows, p.out_of_order_rows = state["counters"]
        self.graph.restore(state["graph"])
        self._exporter.restore(state["exporter"])
        for name, (size_bytes, rows) in state["sinks"].items():
            await asyncio.to_thread(self._sinks[name].cut_back, size_bytes, rows)

    async def _check(self, state: dict[str, Any], outbox_last: int) -> None:
        """Raises ``engine.checkpoint`` unless the streams and files hold at least what the checkpoint says."""
        if state["format"] != CHECKPOINT_FORMAT:
            raise _checkpoint_error(f"its format is {state['format']}, this program's {CHECKPOINT_FORMAT}")
        if state["identity"] != self._identity:
            raise _checkpoint_error("it was written under another flow or assignment")
        newest = await self._journal.last_seq()
        if state["ordinal"] > outbox_last or state["input_seq"] > newest:
            raise _checkpoint_error(
                f"it says input {state['input_seq']} of {newest}, outbox {state['ordinal']} of {outbox_last}"
            )
        for name, (size_bytes, _) in state["sinks"].items():
            found = await asyncio.to_thread(self._disk.size_bytes, self._sinks[name].path)
            if found < size_bytes:
                raise _checkpoint_error(f"sink {name} had {size_bytes} bytes, now it has {found}")

    def counts(self) -> dict[str, Counts]:
        """Per stage and incoming stream."""
        return self.graph.counts


def _checkpoint_error(why: str) -> MessagingError:
    return MessagingError(
        "engine.checkpoint",
        "the checkpoint does not belong to these streams",
        why=why,
        next_step="start from a fresh --run-dir, or restore the streams' directory beside the checkpoint",
    )
