"""Rows on their way to the gateway: in order, each once, whatever the gateway does."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.connectors.batch_senml import decode
from ganglion.connectors.coap import Code, Request, Settings
from ganglion.connectors.coap import decode as decode_message
from ganglion.core.batch import Batch
from ganglion.core.errors import ConnectorError, DataError
from ganglion.core.schema import Field, Schema, f32, i16
from ganglion.device import uplink as uplinks
from ganglion.device.uplink import HELD_BYTES_MAX, PAYLOAD_TARGET_BYTES, SENML_CBOR, StreamUplink
from tests.device.gateways import QUICK, Deafening, Gateway, HastyClock, rounds, rows_of, run, until

ORIGIN = "gw1-relay-00"
SCHEMA = Schema((Field("rms", f32, "A"), Field("wave", i16[2])))
WIDE = Schema((Field("wave", i16[100]),))
HOUR_NS = 3_600_000_000_000


class Always(random.Random):
    """Chance that always draws the same number."""

    def __init__(self, number: float) -> None:
        super().__init__(1)
        self.number = number

    def random(self) -> float:
        return self.number


def rows(first: int, count: int, schema: Schema = SCHEMA) -> Batch:
    seq = first + np.arange(count, dtype=np.int64)
    columns: dict[str, Any] = {
        f.name: (seq.reshape(count, *(1,) * len(f.type.shape)) + np.zeros(f.type.shape)).astype(f.type.numpy)
        for f in schema.fields
    }
    return Batch("level", ORIGIN, seq, seq * 1_000_000, columns)


class Device:
    """One uplink that runs, its gateway, and what it was told to be acknowledged."""

    def __init__(self, urgent: bool = False, schema: Schema = SCHEMA, chance: float = 0.5) -> None:
        self.urgent = urgent
        self.schema = schema
        self.chance = chance
        self.acknowledged: list[Batch] = []
        self.offered: list[Batch] = []
        self.gateway = Gateway({"level": schema})
        self.endpoint: Deafening
        self.uplink: StreamUplink
        self.running: asyncio.Future[None]

    async def open(self, how: Settings = QUICK, address: tuple[str, int] | None = None) -> None:
        await self.gateway.open()
        self.endpoint = await Deafening.open(handler=None, random=random.Random(3), settings=how)
        self.uplink = StreamUplink(
            "level",
            ORIGIN,
            self.schema,
            self.urgent,
            self.endpoint,
            address or self.gateway.address,
            HastyClock(),
            self.acknowledged.append,
            Always(self.chance),
        )

    def start(self) -> None:
        self.running = asyncio.ensure_future(self.uplink.run())

    def offer(self, *batches: Batch) -> None:
        for batch in batches:
            self.offered.append(batch)
            self.uplink.offer(batch)

    async def end(self) -> None:
        self.uplink.close()
        await self.running

    async def all_taken(self) -> None:
        await until(lambda: len(self.all_acknowledged) == len(self.all_rows))

    async def close(self) -> None:
        if hasattr(self, "running"):
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)
        await self.endpoint.close()
        await self.gateway.close()

    @property
    def all_rows(self) -> list[tuple[str, int, int]]:
        return [row for batch in self.offered for row in rows_of(batch)]

    @property
    def all_acknowledged(self) -> list[tuple[str, int, int]]:
        return [row for batch in self.acknowledged for row in rows_of(batch)]


def play(story: Callable[[Device], Awaitable[None]], device: Device, how: Settings = QUICK) -> Device:
    async def whole() -> Device:
        await device.open(how)
        try:
            await story(device)
        finally:
            await device.close()
        return device

    return run(whole())


# --- order, once each, and the end after everything ---


sizes = st.lists(st.integers(1, 120), max_size=12)


@settings(max_examples=30)
@given(sizes, st.booleans(), st.integers(0, 12))
def test_rows_arrive_in_order_each_once_and_then_the_end(counts: list[int], urgent: bool, early: int) -> None:
    async def story(device: Device) -> None:
        first = 0
        for number, count in enumerate(counts):
            if number == early:
                device.start()
                await rounds(number)
            device.offer(rows(first, count))
            first += count
        if early >= len(counts):
            device.start()
        await device.end()

    device = play(story, Device(urgent))
    gateway = device.gateway
    assert gateway.rows("level") == device.all_rows
    assert device.all_acknowledged == device.all_rows
    assert [h.is_end for h in gateway.heard] == [False] * (len(gateway.heard) - 1) + [True]
    assert gateway.heard[-1].payload == ORIGIN.encode()
    assert {h.content_format for h in gateway.heard if not h.is_end} <= {SENML_CBOR}
    counted = device.uplink.counts
    assert counted.offered == counted.acknowledged == sum(counts)
    assert counted.messages == len(gateway.heard) - 1
    assert counted.payload_bytes == sum(len(h.payload) for h in gateway.heard if not h.is_end)
    assert (counted.shed, counted.refused) == (0, 0)


fates = st.sampled_from(
    [Code.CHANGED] * 4 + [Code.SERVICE_UNAVAILABLE, Code.INTERNAL_SERVER_ERROR] + [0x84, 0x80]
)


@settings(max_examples=25)
@given(sizes, st.booleans(), st.lists(fates, max_size=30), st.integers(0, 2**32))
def test_a_busy_refusing_forgetful_gateway_gets_the_same_rows_again_or_none_of_them(
    counts: list[int], urgent: bool, answers: list[int], seed: int
) -> None:
    luck = random.Random(seed)

    async def story(device: Device) -> None:
        left = iter(answers)
        device.gateway.answer = lambda _request: next(left, Code.CHANGED)
        device.gateway.lost = lambda _data: luck.random() < 0.1
        device.start()
        await rounds()
        first = 0
        for count in counts:
            device.offer(rows(first, count))
            first += count
        await device.end()

    device = play(story, Device(urgent))
    heard = device.gateway.heard
    for one, following in pairwise(heard):
        again = following.payload == one.payload
        assert again == (one.answer >> 5 == 5), "again, and the same, exactly when nothing was promised"
    assert sum(h.answer >> 5 != 5 for h in heard if h.is_end) == 1
    assert heard[-1].is_end
    final = device.gateway.rows("level", (Code.CHANGED, 0x84, 0x80))
    assert final == device.all_rows, "each row was answered once for good, in order"
    assert device.all_acknowledged == device.gateway.rows("level")
    counted = device.uplink.counts
    assert counted.offered == counted.acknowledged + counted.refused == sum(counts)
    assert counted.refused == len(device.gateway.rows("level", (0x84, 0x80)))
    assert counted.retries >= sum(h.answer >> 5 == 5 for h in heard)


@pytest.mark.parametrize("urgent", [True, False])
def test_a_silent_gateway_gets_the_same_rows_once_it_listens(urgent: bool) -> None:
    async def story(device: Device) -> None:
        device.gateway.deaf = True
        device.start()
        await rounds()
        device.offer(rows(7, 3))
        device.uplink.close()
        await until(lambda: device.uplink.counts.retries >= 3)
        assert device.acknowledged == []
        assert device.uplink.counts.messages == 0
        device.gateway.deaf = False
        await device.running

    device = play(story, Device(urgent))
    assert device.gateway.unheard > 3
    assert device.gateway.rows("level") == device.all_rows == device.all_acknowledged
    assert len(device.gateway.ends("level")) == 1


@pytest.mark.parametrize("urgent", [True, False])
def test_a_device_that_hears_no_answer_sends_the_same_rows_again(urgent: bool) -> None:
    async def story(device: Device) -> None:
        lost = iter([True] * 7)
        device.endpoint.lost = lambda _data: next(lost, False)
        device.start()
        await rounds()
        device.offer(rows(0, 3))
        device.uplink.close()
        await device.running

    device = play(story, Device(urgent))
    batches = device.gateway.batches("level")
    assert len(batches) > 1, "the gateway takes them again, and skips them by their numbers"
    assert all(rows_of(b) == device.all_rows for b in batches)
    assert device.all_acknowledged == device.all_rows
    assert device.uplink.counts.messages == 1
    assert device.uplink.counts.retries == len(batches) - 1


def test_the_end_is_told_until_it_is_heard_and_also_of_an_empty_stream() -> None:
    async def story(device: Device) -> None:
        answers = iter([Code.SERVICE_UNAVAILABLE] * 3)
        device.gateway.answer = lambda _request: next(answers, Code.CHANGED)
        device.start()
        await device.end()

    device = play(story, Device())
    assert [h.answer for h in device.gateway.ends("level")] == [Code.SERVICE_UNAVAILABLE] * 3 + [Code.CHANGED]
    assert device.gateway.rows("level") == []


def test_nothing_is_acknowledged_before_the_gateway_said_so() -> None:
    async def story(device: Device) -> None:
        seen: list[int] = []

        def answer(request: Request) -> int:
            seen.append(len(device.acknowledged))
            return Code.CHANGED

        device.gateway.answer = answer
        device.start()
        device.offer(rows(0, 300))
        await device.end()
        assert seen == list(range(len(seen)))

    play(story, Device())


# --- when it leaves ---


@pytest.fixture
def hours_to_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplinks, "GATHER_NS", HOUR_NS)


@pytest.mark.usefixtures("hours_to_gather")
def test_rows_that_are_not_urgent_gather_into_one_message() -> None:
    async def story(device: Device) -> None:
        device.start()
        await rounds()
        for first in range(10):
            device.offer(rows(first, 1))
            await rounds()
        assert device.endpoint.counters.sent == 0
        await device.end()

    device = play(story, Device())
    assert [len(b) for b in device.gateway.batches("level")] == [10]


@pytest.mark.usefixtures("hours_to_gather")
def test_a_datagrams_worth_does_not_wait() -> None:
    async def story(device: Device) -> None:
        device.start()
        await rounds()
        first = 0
        while not device.gateway.heard:
            device.offer(rows(first, 1))
            first += 1
            await rounds()
            if first * SCHEMA.row_bytes >= PAYLOAD_TARGET_BYTES:
                await until(lambda: device.gateway.heard)
        assert first == PAYLOAD_TARGET_BYTES // SCHEMA.row_bytes
        assert device.gateway.rows("level") == device.all_rows

    play(story, Device())


def test_gathering_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplinks, "GATHER_NS", 20_000_000)

    async def story(device: Device) -> None:
        device.start()
        for first in range(3):
            device.offer(rows(first, 1))
            await device.all_taken()

    assert play(story, Device()).uplink.counts.messages == 3


@pytest.mark.parametrize("urgent", [True, False])
def test_a_device_that_would_gather_for_no_time_still_lets_others_run(urgent: bool) -> None:
    async def story(device: Device) -> None:
        device.start()
        await rounds()
        device.offer(rows(0, 2))
        await device.end()

    device = play(story, Device(urgent, chance=0.0))
    assert device.gateway.rows("level") == device.all_rows


def test_an_urgent_row_has_left_when_offer_returns() -> None:
    """The gateway here is a bare socket that is read without the loop having had a turn."""

    async def story() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
            listener.bind(("127.0.0.1", 0))
            listener.setblocking(False)
            device = Device(urgent=True)
            await device.open(address=listener.getsockname())
            device.start()
            await rounds()
            with pytest.raises(BlockingIOError):
                listener.recv(4096)
            device.offer(rows(4, 1))
            message = decode_message(listener.recv(4096))
            assert rows_of(decode(message.payload, "level", SCHEMA)) == device.all_rows
            device.offer(rows(5, 1))  # one message at a time: this one waits for the answer
            with pytest.raises(BlockingIOError):
                listener.recv(4096)
            await device.close()

    run(story())


@pytest.mark.parametrize("already_waiting", [True, False])
def test_an_urgent_row_does_not_overtake_a_message_under_way(already_waiting: bool) -> None:
    async def story(device: Device) -> None:
        if already_waiting:  # its first message leaves from `offer`, the second from `run`
            device.start()
            await rounds()
            device.offer(rows(0, 1), rows(1, 1))
            device.gateway.lost = lambda _data: bool(device.gateway.heard)
        else:
            device.offer(rows(0, 1))
            device.gateway.deaf = True
            device.start()
        await until(lambda: device.gateway.unheard)
        sent = device.endpoint.counters.sent
        device.offer(rows(2, 1))
        assert device.endpoint.counters.sent == sent
        device.gateway.deaf = False
        device.gateway.lost = lambda _data: False
        await device.end()

    device = play(story, Device(urgent=True))
    assert device.gateway.rows("level") == device.all_rows == device.all_acknowledged


@pytest.mark.usefixtures("hours_to_gather")
def test_urgent_rows_wait_for_the_answer_before_and_for_nothing_else() -> None:
    async def story(device: Device) -> None:
        device.start()
        await rounds()
        for first in range(0, 40, 4):
            device.offer(rows(first, 1), rows(first + 1, 2))
            device.offer(rows(first + 3, 1))
            await device.all_taken()

    device = play(story, Device(urgent=True))
    assert device.gateway.rows("level") == device.all_rows
    assert [len(b) for b in device.gateway.batches("level")] == [1, 3] * 10


def test_an_urgent_row_with_no_place_at_the_endpoint_goes_when_there_is_one() -> None:
    async def story(device: Device) -> None:
        device.start()
        await rounds()
        device.gateway.deaf = True
        other = device.endpoint.begin(device.gateway.address, Code.POST, "other")
        device.offer(rows(0, 2))
        assert device.endpoint.counters.sent == 1, "coap.busy: nothing more may leave"
        await until(lambda: device.uplink.counts.retries or device.endpoint.counters.expired)
        device.gateway.deaf = False
        await asyncio.gather(other, return_exceptions=True)
        await device.end()

    device = play(story, Device(urgent=True), replace(QUICK, outstanding_max=1))
    assert device.gateway.rows("level") == device.all_rows == device.all_acknowledged


# --- what does not fit ---


@settings(max_examples=25)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=4), st.booleans(), st.integers(300, 700))
def test_messages_are_split_until_they_fit(counts: list[int], urgent: bool, datagram_bytes: int) -> None:
    async def story(device: Device) -> None:
        device.start()
        await rounds()
        first = 0
        for count in counts:
            device.offer(rows(first, count))
            first += count
        await device.end()

    device = play(story, Device(urgent), replace(QUICK, datagram_bytes_max=datagram_bytes))
    assert device.gateway.rows("level") == device.all_rows == device.all_acknowledged
    assert len(device.gateway.ends("level")) == 1


@pytest.mark.parametrize("urgent", [True, False])
def test_a_row_that_fits_no_datagram_ends_the_uplink_with_its_error(urgent: bool) -> None:
    async def story(device: Device) -> None:
        device.start()
        await rounds()
        device.offer(rows(0, 1, WIDE))
        with pytest.raises(DataError) as caught:
            await device.end()
        assert caught.value.code == "coap.size"
        assert device.gateway.heard == [], "nor is the stream said to have ended"

    device = play(story, Device(urgent, WIDE), replace(QUICK, datagram_bytes_max=200))
    assert device.acknowledged == []


def test_rows_beyond_the_bound_are_shed_and_counted_and_the_others_arrive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uplinks, "HELD_BYTES_MAX", 10 * SCHEMA.row_bytes)

    async def story(device: Device) -> None:
        device.offer(rows(0, 6), rows(6, 3))
        device.uplink.offer(rows(9, 2))  # one row too many: both are shed
        device.offer(rows(11, 1))  # fits to the byte
        device.uplink.offer(rows(12, 1))
        assert device.uplink.counts.shed == 3
        device.start()
        await until(lambda: len(device.acknowledged) == 1)
        device.offer(rows(13, 10))  # there is room again, for as much as before
        await device.end()

    device = play(story, Device(chance=0.01))
    assert device.gateway.rows("level") == device.all_rows
    counted = device.uplink.counts
    assert (counted.offered, counted.acknowledged, counted.shed) == (23, 20, 3)


def test_urgent_rows_that_did_not_fit_at_once_count_against_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uplinks, "HELD_BYTES_MAX", 10 * SCHEMA.row_bytes)

    async def story(device: Device) -> None:
        device.start()
        await rounds()
        device.offer(rows(0, 8))  # more than fits into one message here
        assert device.endpoint.counters.sent == 0
        device.uplink.offer(rows(8, 3))
        device.offer(rows(11, 2))
        assert device.uplink.counts.shed == 3
        await device.end()

    device = play(story, Device(urgent=True), replace(QUICK, datagram_bytes_max=270))
    assert device.gateway.rows("level") == device.all_rows == device.all_acknowledged


@pytest.mark.parametrize("urgent", [True, False])
def test_a_long_silence_costs_bounded_memory(urgent: bool) -> None:
    async def story(device: Device) -> None:
        device.gateway.deaf = True
        device.start()
        await rounds()
        batch = rows(0, 2000, WIDE)
        kept = HELD_BYTES_MAX // batch.size_bytes
        for _ in range(kept + 5):
            device.uplink.offer(batch)
        counted = device.uplink.counts
        assert counted.shed == 5 * 2000
        assert counted.offered == (kept + 5) * 2000

    play(story, Device(urgent, WIDE))


# --- how it ends ---


@pytest.mark.parametrize("urgent", [True, False])
def test_a_closed_endpoint_ends_the_uplink(urgent: bool) -> None:
    async def story(device: Device) -> None:
        device.gateway.deaf = True
        device.start()
        await rounds()
        device.offer(rows(0, 200))
        await rounds()
        await device.endpoint.close()
        with pytest.raises(ConnectorError) as caught:
            await device.running
        assert caught.value.code == "coap.closed"

    assert play(story, Device(urgent)).acknowledged == []


@pytest.mark.parametrize("urgent, turns", [(True, 0), (True, 30), (False, 0), (False, 30)])
def test_a_cancelled_uplink_gives_its_message_up(urgent: bool, turns: int) -> None:
    async def story(device: Device) -> None:
        device.gateway.deaf = True
        device.start()
        await rounds()
        device.offer(rows(0, 1))
        await rounds(turns)
        device.running.cancel()
        await asyncio.gather(device.running, return_exceptions=True)
        sent = device.endpoint.counters.sent
        await asyncio.sleep(0.05)  # many times the first wait for an answer
        assert device.endpoint.counters.sent == sent
        assert device.endpoint.counters.expired == 0

    play(story, Device(urgent))
