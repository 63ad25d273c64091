"""An outbox that does with each stream what the flow declared when there is no room, and tells the parent (ADR 0027).

Whatever is shed, the n-th message stays number n, so a restart repeats nothing (ADR 0004): rows that are refused are
replaced by a claim under the same number, and rows that give way are claimed by the message they give way to, before
they are removed. A claim comes after everything of its range that was not shed, so a parent knows what it lacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass

from ganglion.agent.owed import Chunk, Owed
from ganglion.agent.streams import RETRY_NS, BusOutbox, answered
from ganglion.core.batch import Batch
from ganglion.core.errors import HostError
from ganglion.core.shed import Shed, merged, unwrap, wrap
from ganglion.core.wire import decode
from ganglion.flow.stages import Backlog
from ganglion.host.ports import Clock, Disk
from ganglion.host.threads import to_its_end
from ganglion.messaging import subjects
from ganglion.messaging.answers import NO_SEQUENCE, ApiRefused
from ganglion.messaging.bus import Stored
from ganglion.messaging.provision import SiteBus

AROUND_BYTES = 160
"""About what a message takes in the outbox beside its payload."""
DISK_KEPT_BYTES = 32 << 20
"""Below this the disk counts as full."""
LOOK_EVERY_NS = 200_000_000
DISK_EVERY_NS = 2_000_000_000
READ_WITHIN_S = 0.5
REFUSED_MAX = 10_000
"""Origins whose last claim is remembered, so that the next one replaces it."""


@dataclass(slots=True)
class ShedCount:
    """What was shed of one stream since the process started."""

    rows: int = 0
    messages: int = 0
    payload_bytes: int = 0


class SheddingOutbox:
    """`engine.durable.Outbox` on another one. ``declared``: of the streams that go to the parent, what flows say.

    ``name``: the outbox's stream, of ``cap_bytes``.
    """

    def __init__(
        self,
        box: BusOutbox,
        bus: SiteBus,
        name: str,
        declared: Mapping[str, Backlog],
        cap_bytes: int,
        *,
        clock: Clock,
        disk: Disk,
    ) -> None:
        self.shed: dict[str, ShedCount] = {}
        self._box = box
        self._bus = bus
        self._name = name
        self._declared = declared
        self._sheds = any(b.budget_bytes or b.when_full != "wait" for b in declared.values())
        self._owed = Owed(declared, cap_bytes)
        self._clock = clock
        self._disk = disk
        self._delivered_seq = 0
        self._looked_ns = -LOOK_EVERY_NS
        self._looked = False
        self._disk_full = False
        self._waits = ""
        self._refused: dict[tuple[str, str], tuple[int, Shed]] = {}
        self._ends_kept: dict[str, int] = {}

    @property
    def trouble(self) -> str:
        """Why nothing is appended now; "" when all is well."""
        return self._waits or self._box.trouble

    def mean_bytes(self, lane: subjects.Lane) -> float:
        """About how large a lane's newest messages are."""
        return self._box.mean_bytes(lane)

    async def last_ordinal(self) -> int:
        return await self._box.last_ordinal()

    async def delivered(self) -> int:
        """How many messages the parent has safely on disk."""
        return await self._box.delivered()

    def counts(self) -> dict[str, dict[str, int]]:
        """Stream -> rows, messages and payload bytes that were shed here."""
        return {stream: asdict(count) for stream, count in self.shed.items()}

    async def append(self, ordinal: int, stream: str, origin: str, payload: bytes) -> None:
        if not self._sheds:
            await self._box.append(ordinal, stream, origin, payload)
            return
        if not self._looked:
            await self._begin()
        doomed: list[tuple[Chunk, list[int], bool]] = []
        claims: list[Shed] = []
        key, told = (stream, origin), None
        while used_up := await self._used_up(stream, len(payload), doomed):
            if self._policy(stream).when_full == "keep-oldest":
                told = self._claim_of(stream, origin, payload)
                if told is None or not self._owed.room(stream, AROUND_BYTES, reserved=True):
                    break  # an end mark is small and stands for no row: it goes where claims go
                told = None
            elif chunk := self._owed.doomed(stream, used_up):
                found, seqs, with_end = await self._contents(chunk)
                claims += found
                doomed.append((chunk, seqs, with_end))
                continue
            self._waits = f"{stream} waits: its {used_up} is used up"
            await self._clock.sleep_ns(RETRY_NS)
        self._waits = ""
        earlier = self._refused.pop(key, None)
        if told is not None:
            payload = self._replaced(told, earlier)
        elif claims:
            payload = wrap(merged(claims), payload)
        await self._box.append(ordinal, stream, origin, payload)
        seq = self._box.seq(ordinal)
        self._owed.stored(stream, seq, len(payload) + AROUND_BYTES)
        if told is not None and len(self._refused) < REFUSED_MAX:
            self._refused[key] = (seq, told if earlier is None else earlier[1].plus(told))
            if earlier is not None and earlier[0] > self._delivered_seq:
                await self._delete(earlier[0])
        for chunk, seqs, with_end in doomed:
            await self._remove(chunk, seqs, with_end=with_end)

    # --- what there is room for ---

    def _policy(self, stream: str) -> Backlog:
        return self._declared.get(stream, Backlog())

    async def _used_up(
        self, stream: str, payload_bytes: int, doomed: list[tuple[Chunk, list[int], bool]]
    ) -> str:
        size_bytes = payload_bytes + AROUND_BYTES
        found = self._owed.room(stream, size_bytes)
        when_full = self._policy(stream).when_full
        ago_ns = self._clock.monotonic_ns() - self._looked_ns
        # Rows give way only after a look; refusing them goes by the last one, as it may go on for hours.
        needed = found and (when_full != "keep-oldest" or ago_ns >= LOOK_EVERY_NS)
        if needed or (when_full != "wait" and ago_ns >= DISK_EVERY_NS):
            await self._look(sum(chunk.size_bytes for chunk, _, _ in doomed))
            found = self._owed.room(stream, size_bytes)
        if self._disk_full and not found and not doomed and when_full != "wait":
            return "outbox"
        return found

    async def _look(self, doomed_bytes: int) -> None:
        """Asks the server what is in the outbox and what the parent has of it."""
        state = await answered(lambda: self._bus.state(self._name), self._clock)
        self._delivered_seq = await answered(lambda: self._bus.delivered(self._name), self._clock)
        self._owed.delivered(self._delivered_seq, max(0, state.size_bytes - doomed_bytes))
        try:
            self._disk_full = await to_its_end(self._disk.free_bytes) < DISK_KEPT_BYTES
        except HostError:
            self._disk_full = False
        self._looked_ns = self._clock.monotonic_ns()

    async def _begin(self) -> None:
        """What an earlier life left: it is counted, and rows that were claimed and not removed are removed now."""
        await self._look(0)
        state = await answered(lambda: self._bus.state(self._name), self._clock)
        claims: list[tuple[int, Shed]] = []
        async with aclosing(self._messages(self._delivered_seq, state.last_seq)) as messages:
            async for message in messages:
                address = subjects.parse(message.subject)
                size_bytes = len(message.payload) + AROUND_BYTES
                self._owed.stored(address.stream, message.seq, size_bytes)
                claims += [(message.seq, claim) for claim in unwrap(message.payload)[0]]
        if claims:
            async with aclosing(self._messages(self._delivered_seq, state.last_seq)) as messages:
                for seq in [m.seq async for m in messages if _claimed(m, claims)]:
                    await self._delete(seq)
        await self._look(0)
        self._looked = True

    async def _messages(self, after_seq: int, last_seq: int) -> AsyncGenerator[Stored]:
        """The outbox's messages of a range that exist now."""
        if after_seq >= last_seq or not await self._holds_up_to(last_seq):
            return
        messages = self._bus.read(self._name, after_seq).__aiter__()
        following: asyncio.Task[Stored] | None = None
        try:
            while True:
                following = following or asyncio.ensure_future(anext(messages))
                # What was to come may be purged meanwhile, so waiting for it has a limit.
                while not (await asyncio.wait({following}, timeout=READ_WITHIN_S))[0]:
                    if not await self._holds_up_to(last_seq):
                        return
                message, following = following.result(), None
                if message.seq <= last_seq:
                    yield message
                if message.seq >= last_seq:
                    return
        finally:
            if following is not None:
                following.cancel()
                await asyncio.wait({following})
            if isinstance(messages, AsyncGenerator):
                await messages.aclose()

    async def _holds_up_to(self, seq: int) -> bool:
        state = await answered(lambda: self._bus.state(self._name), self._clock)
        return state.messages > 0 and state.first_seq <= seq

    # --- shedding ---

    async def _contents(self, chunk: Chunk) -> tuple[list[Shed], list[int], bool]:
        """(claims, the numbers of messages with rows, whether an end mark is among them)."""
        own: list[Shed] = []
        carried: list[Shed] = []
        seqs: list[int] = []
        with_end = False
        after = max(chunk.first_seq - 1, self._delivered_seq)
        async with aclosing(self._messages(after, chunk.last_seq)) as messages:
            async for message in messages:
                address = subjects.parse(message.subject)
                if address.stream != chunk.stream:
                    continue
                claims, _ = unwrap(message.payload)
                carried += claims
                claim = self._claim_of(chunk.stream, address.origin, message.payload)
                own += [] if claim is None else [claim]
                if claim is None and not claims:
                    with_end = True
                else:
                    seqs.append(message.seq)
        self._count(own)
        return [*carried, *own], seqs, with_end

    def _claim_of(self, stream: str, origin: str, payload: bytes) -> Shed | None:
        """What is lost with a message; None for one without rows."""
        _, message = unwrap(payload)
        item = None if message is None else decode(message)
        if not isinstance(item, Batch):
            return None  # of streams that are shed, every message with rows is a batch
        return Shed(stream, origin, item.first_seq, item.last_seq, len(item), 1, len(payload))

    def _replaced(self, told: Shed, earlier: tuple[int, Shed] | None) -> bytes:
        self._count([told])
        return wrap([told if earlier is None else earlier[1].plus(told)], None)

    def _count(self, claims: list[Shed]) -> None:
        for claim in claims:
            count = self.shed.setdefault(claim.stream, ShedCount())
            count.rows += claim.rows
            count.messages += claim.messages
            count.payload_bytes += claim.payload_bytes

    async def _remove(self, chunk: Chunk, seqs: list[int], *, with_end: bool) -> None:
        """Removes messages that are claimed; end marks among them stay, or a parent would wait for ever."""
        lane = subjects.URGENT if self._policy(chunk.stream).urgent else subjects.BULK
        if with_end:
            self._ends_kept[chunk.stream] = chunk.last_seq
        if self._ends_kept.get(chunk.stream, 0) > self._delivered_seq:
            for seq in seqs:
                await self._delete(seq)
            return
        request = {"seq": chunk.last_seq + 1, "filter": subjects.stream_filter(chunk.stream, lane)}
        await answered(lambda: self._bus.ask(f"STREAM.PURGE.{self._name}", request), self._clock)

    async def _delete(self, seq: int) -> None:
        try:
            await answered(
                lambda: self._bus.ask(f"STREAM.MSG.DELETE.{self._name}", {"seq": seq}), self._clock
            )
        except ApiRefused as refusal:
            if refusal.number != NO_SEQUENCE:  # it was delivered and purged
                raise


def _claimed(message: Stored, claims: list[tuple[int, Shed]]) -> bool:
    """Whether a later message says that all rows of this one are shed."""
    address = subjects.parse(message.subject)
    _, inner = unwrap(message.payload)
    item = None if inner is None else decode(inner)
    if not isinstance(item, Batch):
        return False
    return any(
        message.seq < seq
        and (claim.stream, claim.origin) == (address.stream, address.origin)
        and claim.first_seq <= item.first_seq
        and item.last_seq <= claim.last_seq
        for seq, claim in claims
    )
