"""Planted bugs, each by replacing one piece of the code that runs outside; every one must be found within its seeds.

None of them is a switch in production code: a mutant is what somebody could have written instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from ganglion.agent import backlog, ingest, mqtt, streams
from ganglion.connectors.coap import Response
from ganglion.connectors.coap.message import Code
from ganglion.connectors.mqtt import connection
from ganglion.connectors.mqtt.packets import Connect
from ganglion.core import shed
from ganglion.core.batch import Batch
from ganglion.core.errors import MessagingError
from ganglion.engine import arrivals, durable, sinks, windows
from ganglion.messaging import janitor, server, subjects
from ganglion.sim.virtual import disk

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    """``finder``: the checker that must speak up; ``seeds``: within so many seeds from 1 on."""

    name: str
    finder: str
    seeds: int
    plant: Plant


def _journal_acknowledged_before_fsync(patch: pytest.MonkeyPatch) -> None:
    render = server.render
    patch.setattr(server, "render", lambda *given: render(*given).replace("  sync_interval: always\n", ""))


def _files_never_fsynced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk.VirtualDisk, "_sync", lambda _self, _name: None)


def _acknowledged_before_journal(patch: pytest.MonkeyPatch) -> None:
    store = ingest.Ingest._store

    async def hasty(self: Any, item: Any, line: Any) -> Response:
        self._going = [*getattr(self, "_going", [])[-100:], asyncio.ensure_future(store(self, item, line))]
        return Response(Code.CHANGED)

    patch.setattr(ingest.Ingest, "_store", hasty)


async def _unfenced(self: Any, ordinal: int, stream: str, origin: str, payload: bytes) -> None:
    """The outbox without its fence: a number is not asked for, so nothing tells a repetition."""
    while True:
        try:
            await self._bus.append(self._stream, subjects.outbox_subject(stream, origin), payload)
            return
        except MessagingError:
            await self._clock.sleep_ns(streams.RETRY_NS)


def _forget_outbox(patch: pytest.MonkeyPatch) -> None:
    """After a restart only the checkpoint's count is known, not what the outbox got since."""
    recover = durable.Durable._recover

    async def forgetful(self: Any) -> None:
        await recover(self)
        self._known_ordinal = self.progress.ordinal

    patch.setattr(durable.Durable, "_recover", forgetful)


def _sequence_forgotten_at_restart(patch: pytest.MonkeyPatch) -> None:
    _forget_outbox(patch)

    async def append(self: Any, ordinal: int, stream: str, origin: str, payload: bytes) -> None:
        # Goes on from wherever the stream ends, under a new number.
        while True:
            try:
                last = (await self._bus.state(self._stream)).last_seq
                await self._bus.append(
                    self._stream, subjects.outbox_subject(stream, origin), payload, expect_last=last
                )
                return
            except MessagingError:
                await self._clock.sleep_ns(streams.RETRY_NS)

    patch.setattr(streams.BusOutbox, "append", append)


def _retried_without_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(streams.BusOutbox, "append", _unfenced)


def _duplicate_suppressed_by_time_window(patch: pytest.MonkeyPatch) -> None:
    """As with a message id that a server remembers for two seconds."""
    _forget_outbox(patch)
    window_s = 2.0
    known: dict[tuple[str, int], float] = {}

    async def append(self: Any, ordinal: int, stream: str, origin: str, payload: bytes) -> None:
        now_s = asyncio.get_running_loop().time()
        key = (self._stream, ordinal)
        if now_s - known.get(key, -window_s) >= window_s:
            await _unfenced(self, ordinal, stream, origin, payload)
        known[key] = now_s

    patch.setattr(streams.BusOutbox, "append", append)


def _purged_one_too_far(patch: pytest.MonkeyPatch) -> None:
    async def purge(self: Any, stream: str, done_seq: int, tail_messages: int) -> None:
        state = await self._bus.state(stream)
        if done_seq and done_seq + 1 >= state.first_seq:
            await self._bus.purge(stream, done_seq + 1)

    patch.setattr(janitor.Janitor, "_purge", purge)


def _window_counted_twice_after_restore(patch: pytest.MonkeyPatch) -> None:
    restore = windows.WindowOperator.restore

    def twice(self: Any, state: Any) -> None:
        restore(self, state)
        for key in self._keys.values():
            for start in key.open:
                slot = key.slots[start]
                slot.rows = {origin: 2 * count for origin, count in slot.rows.items()}

    patch.setattr(windows.WindowOperator, "restore", twice)


def _late_reading_dropped(patch: pytest.MonkeyPatch) -> None:
    put = windows.WindowOperator._replace

    def punctual(self: Any, slots: list[Any], batch: Batch, inverse: Any) -> list[int]:
        return put(self, [None if s is None or s.given else s for s in slots], batch, inverse)

    patch.setattr(windows.WindowOperator, "_replace", punctual)


def _reflex_waits_for_publish(patch: pytest.MonkeyPatch) -> None:
    react, store = ingest.Ingest._react, ingest.Ingest._store
    waiting: dict[int, Any] = {}

    def later(self: Any, batch: Batch, *given: Any) -> None:
        waiting[id(batch)] = given

    async def first(self: Any, item: Any, line: Any) -> Response:
        response = await store(self, item, line)
        if isinstance(item, Batch):
            react(self, item, *waiting.pop(id(item)))
        return response

    patch.setattr(ingest.Ingest, "_react", later)
    patch.setattr(ingest.Ingest, "_store", first)


def _sink_not_cut_back(patch: pytest.MonkeyPatch) -> None:
    def keep(self: Any, size_bytes: int, rows: int) -> None:
        self._waiting = []
        self._size_bytes = self._disk.size_bytes(self.path)
        self.rows = rows

    patch.setattr(sinks.SinkFile, "cut_back", keep)


def _shed_without_telling(patch: pytest.MonkeyPatch) -> None:
    def silent(claims: Any, kept: bytes | None) -> bytes:
        return shed.wrap(claims, None) if kept is None else kept

    patch.setattr("ganglion.agent.backlog.wrap", silent)


def _shed_one_message_too_many(patch: pytest.MonkeyPatch) -> None:
    remove = backlog.SheddingOutbox._remove

    async def greedy(self: Any, chunk: Any, seqs: Any, *, with_end: bool) -> None:
        await remove(self, chunk, seqs, with_end=with_end)
        async for message in self._messages(chunk.last_seq, self._box.seq(await self.last_ordinal())):
            if subjects.parse(message.subject).stream == chunk.stream:
                await self._delete(message.seq)
                return

    patch.setattr(backlog.SheddingOutbox, "_remove", greedy)


def _mqtt_acknowledged_before_journal(patch: pytest.MonkeyPatch) -> None:
    deliver = mqtt.MqttDoor._deliver

    async def hasty(self: Any, published: Any) -> None:
        await deliver(self, published)

    patch.setattr(mqtt.MqttDoor, "_deliver", hasty)


def _mqtt_session_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The gateway asks for a clean session, as many a client does unless told otherwise."""
    patch.setattr(connection, "Connect", lambda *given, **named: Connect(*given, **(named | {"clean": True})))


def _mqtt_repeats_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(arrivals.Arrivals, "_fresh_block", lambda _self, block: block)


def _mqtt_command_waits(patch: pytest.MonkeyPatch) -> None:
    act = mqtt.MqttDoor.act
    patch.setattr(
        mqtt.MqttDoor,
        "act",
        lambda self, *given: asyncio.get_running_loop().call_later(0.1, act, self, *given),
    )


BROKER_MUTANTS = [
    Mutant("MQTT acknowledged before journal", "readings", 3, _mqtt_acknowledged_before_journal),
    Mutant("MQTT session forgotten", "readings", 3, _mqtt_session_forgotten),
    Mutant("MQTT repeats taken", "windows", 3, _mqtt_repeats_taken),
    Mutant("MQTT command waits", "reflexes", 1, _mqtt_command_waits),
]
"""Found in the world `brokers`, whose devices speak MQTT."""

BACKLOG_MUTANTS = [
    Mutant("shed without telling", "readings", 1, _shed_without_telling),
    Mutant("shed one message too many", "readings", 1, _shed_one_message_too_many),
]
"""Found in the world `backlogs`, where outboxes are small."""

MUTANTS = [
    Mutant("no fsync before acknowledgement", "readings", 3, _journal_acknowledged_before_fsync),
    Mutant("files never fsynced", "alive", 3, _files_never_fsynced),
    Mutant("acknowledged before journal", "readings", 4, _acknowledged_before_journal),
    Mutant("sequence forgotten at restart", "once", 3, _sequence_forgotten_at_restart),
    Mutant("retried without a fence", "once", 3, _retried_without_fence),
    Mutant("duplicate suppressed by time window", "once", 3, _duplicate_suppressed_by_time_window),
    Mutant("purged one too far", "alive", 3, _purged_one_too_far),
    Mutant("window counted twice after restore", "windows", 3, _window_counted_twice_after_restore),
    Mutant("late reading dropped", "windows", 3, _late_reading_dropped),
    Mutant("reflex waits for publish", "reflexes", 3, _reflex_waits_for_publish),
    Mutant("sink not cut back", "readings", 3, _sink_not_cut_back),
]
