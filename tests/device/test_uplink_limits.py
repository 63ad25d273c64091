"""What does not fit, into a datagram or into memory, and how an uplink ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.core.errors import ConnectorError, DataError
from ganglion.device import uplink as uplinks
from ganglion.device.uplink import HELD_BYTES_MAX
from tests.device.gateways import QUICK, rounds, until
from tests.device.uplink_stories import SCHEMA, WIDE, Device, play, rows

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
