"""Feeds a `Graph` from a journal, exactly once, however often the process is killed.

A checkpoint holds the input's sequence number, all state, and how many messages the outbox had. Emissions depend only
on the journal, so after a restart the replay makes the same messages again; those the outbox already holds (its last
ordinal tells) are not sent twice. Sinks are cut back to the checkpoint. See ADR 0004.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

from ganglion.core.block import Rows
from ganglion.core.errors import HostError, MessagingError
from ganglion.core.origins import is_name
from ganglion.core.packing import pack, unpack
from ganglion.core.shed import Shed
from ganglion.core.wire import End, Item
from ganglion.engine.arrivals import Arrivals, Exported, Progress
from ganglion.engine.checkpoints import CheckpointFile, Checkpoints
from ganglion.engine.exporter import Exporter
from ganglion.engine.graph import Emission, Graph
from ganglion.engine.meter import Meter
from ganglion.engine.operators import Counts
from ganglion.engine.seen import Seen
from ganglion.engine.senders import Senders
from ganglion.engine.sinks import SinkFile
from ganglion.flow.assignment import Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import SinkStage
from ganglion.host.ports import Clock, Disk
from ganglion.host.threads import to_its_end
from ganglion.kernels.running import Libraries

CHECKPOINT_FORMAT = 5
CHECKPOINT_EVERY_NS = 1_000_000_000
CHECKPOINT_ENTRIES_MAX = 5_000
SINK_WAITING_BYTES_MAX = 16 << 20
DISK_RETRY_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One journal message: ``payload`` None is a tick (time to send what was gathered).

    ``items``: what the payload holds, when it was checked and put there by this very process: it need not be decoded.
    ``after_seq``: the entry that comes before it in the journal, where that is not the number before its own: a
    partition has only some of a stream's. ``child``: who sent it, "" for what came from nobody below.
    """

    seq: int
    payload: bytes | None
    items: tuple[Item, ...] | None = None
    after_seq: int | None = None
    child: str = ""


class Journal(Protocol):
    """Where a node's input comes from."""

    def read(self, after_seq: int) -> AsyncIterator[Entry]:
        """Every entry after ``after_seq``, in order, endlessly."""

    async def last_seq(self) -> int | None:
        """The newest entry's sequence number, 0 when there never was one. None: it keeps nothing, and begins to count
        where it is read from.
        """


class Outbox(Protocol):
    """Where a node's output goes; the n-th message ever appended has ordinal n."""

    async def last_ordinal(self) -> int:
        """How many messages were ever appended."""

    async def append(self, ordinal: int, stream: str, origin: str, payload: bytes) -> None:
        """Returns when the message is safe on disk as number ``ordinal``; waits out a full or restarting server."""


class Durable:
    """One node's durable engine. ``outbox`` is None at the top. ``gather``: hold small exports until a tick.

    ``checkpoints``: a file on ``disk`` unless given. ``takes``: whose rows may come here; others are counted bad.
    ``divide``: messages are to hold rows of one partition each. ``below``: child -> the paths whose rows it may send;
    None where nothing comes from children.
    """

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
        on_sink: Callable[[str, Rows], None] | None = None,
        checkpoints: Checkpoints | None = None,
        takes: Callable[[str], bool] = lambda _origin: True,
        divide: bool = False,
        below: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._on_sink = on_sink
        self.graph = Graph(spec, assignment, "durable", libraries, meter)
        self._checkpoints = checkpoints or CheckpointFile(disk)
        self._meter = meter
        self.progress = Progress()
        senders = None if below is None else Senders(below)
        self._arrivals = Arrivals(spec, self.progress, self._miss, takes, senders)
        self.caught_up = asyncio.Event()
        self._spec = spec
        self._assignment = assignment
        self._journal = journal
        self._outbox = outbox
        self._disk = disk
        self._clock = clock
        self._on_checkpoint = on_checkpoint
        shedding = {s.id for s in spec.stages if s.backlog.when_full != "wait"}
        self._exporter = Exporter(gather=gather, split=frozenset(shedding), divide=divide)
        self._sinks = {
            s.id: SinkFile(disk, s.id, s.schema)
            for s in spec.stages
            if isinstance(s, SinkStage) and s.id in assignment.runs
        }
        self._known_ordinal = 0
        self._whole = False  # recovered, and no entry half taken
        # What decides which messages the same input makes: a checkpoint belongs to that, and to nothing else.
        identity = json.dumps([assignment.to_json(), spec.digest, gather, divide], sort_keys=True)
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
        if target is None or self.progress.input_seq >= target:
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
                    if target is None or entry.seq >= target:
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
        after_seq = entry.seq - 1 if entry.after_seq is None else entry.after_seq
        if after_seq != self.progress.input_seq:
            raise _checkpoint_error(
                f"after input {self.progress.input_seq} comes {entry.seq}: what lay between was removed unread"
            )
        self._whole = False
        if entry.payload is None:
            self._exporter.flush()
        else:
            own = entry.items
            for item in self._arrivals.opened(entry.payload, entry.child) if own is None else own:
                fresh = self._arrivals.fresh(item)
                if fresh is not None:
                    for emission in self.graph.push(fresh):
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
            if not isinstance(emission.item, End):
                self._exported(emission.stage).rows += len(emission.item)
            self._exporter.add(emission.item)
        elif not isinstance(emission.item, End):
            began_ns = self._meter.begin(emission.stage) if self._meter else 0
            self._sinks[emission.stage].add(emission.item)
            if self._meter:
                size_bytes = emission.item.size_bytes
                self._meter.end(emission.stage, len(emission.item), began_ns, size_bytes)
            if self._on_sink is not None:
                self._on_sink(emission.stage, emission.item)

    def _exported(self, stream: str) -> Exported:
        """The flow has a bounded number of streams."""
        return self.progress.exported.setdefault(stream, Exported())

    def _miss(self, claim: Shed) -> None:
        if claim.stream not in self._spec or not is_name(claim.origin):
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
                await self._checkpoints.save(content)
                break
            except HostError as error:
                self.progress.disk_trouble = str(error)
                await self._clock.sleep_ns(DISK_RETRY_NS)
        self.progress.disk_trouble = ""
        self.progress.checkpoints += 1
        self.progress.state_bytes = self.graph.state_bytes()
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
        content = await self._checkpoints.load()
        last = await self._outbox.last_ordinal() if self._outbox else 0
        self._known_ordinal = last
        if await self._journal.last_seq() is None:
            self.progress.ordinal = last  # what the outbox has came of input that is gone
        if content is None:
            for sink in self._sinks.values():
                await asyncio.to_thread(sink.cut_back, 0, 0)
            return
        state = unpack(content)
        await self._check(state, last)
        p = self.progress
        p.input_seq, p.ordinal = state["input_seq"], max(p.ordinal, state["ordinal"])
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
        if state["ordinal"] > outbox_last or (newest is not None and state["input_seq"] > newest):
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
