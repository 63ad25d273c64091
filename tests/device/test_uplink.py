"""Rows on their way to the gateway: in order, each once, whatever the gateway does."""

from __future__ import annotations

import asyncio
import random
import socket
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.connectors.batch_senml import decode
from ganglion.connectors.coap import Code, Request
from ganglion.connectors.coap import decode as decode_message
from ganglion.device import uplink as uplinks
from ganglion.device.uplink import PAYLOAD_TARGET_BYTES, SENML_CBOR
from tests.device.gateways import QUICK, rounds, rows_of, run, until
from tests.device.uplink_stories import HOUR_NS, ORIGIN, SCHEMA, Device, play, rows

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
