"""What the janitor removes, and what it never does."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ganglion.host.system import SystemClock
from ganglion.messaging.bus import StreamState
from ganglion.messaging.janitor import EVERY_NS, NO_TAIL, Janitor, Tail, purge_up_to
from ganglion.messaging.subjects import inbox, outbox, outbox_subject
from tests.messaging.sites import CAPS, SimulatedSites, pair

COUNTS = st.integers(0, 1 << 40)


@given(COUNTS, COUNTS, st.integers(0, 1 << 20))
def test_nothing_undone_and_no_tail_is_purged(first, done, tail):
    up_to = purge_up_to(first, done, tail)
    assert up_to == 0 or first <= up_to == done - tail


class Rounds(SystemClock):
    """A clock whose sleeps end at once, so many times; then it holds the sleeper for ever."""

    def __init__(self, count):
        super().__init__()
        self._left = count
        self.slept_ns = []
        self.over = asyncio.Event()

    async def sleep_ns(self, duration_ns):
        self.slept_ns.append(duration_ns)
        if self._left == 0:
            self.over.set()
            await asyncio.Event().wait()
        self._left -= 1


async def rounds(bus, count, *, processed=0, site="down", tail=NO_TAIL):
    clock = Rounds(count)
    janitor = Janitor(bus, clock, source=inbox(site), outbox=outbox(site), tail=tail)
    janitor.processed(processed)
    running = asyncio.create_task(janitor.run())
    await clock.over.wait()
    running.cancel()
    assert set(clock.slept_ns) == {EVERY_NS}
    return janitor


def on_pair(test):
    async def whole():
        async with pair(SimulatedSites, Path(), CAPS) as (sites, up, down):
            await test(sites, up, down)

    asyncio.run(whole())


async def owe(bus, count):
    for _ in range(count):
        await bus.append(outbox("down"), outbox_subject("a", "b"), b"x")


def test_the_outbox_is_emptied_behind_the_parent_but_for_its_tail():
    async def test(sites, up, down):
        await owe(down, 10)
        sites.cut("down")
        await owe(down, 5)
        per_message = (await down.state(outbox("down"))).size_bytes // 15
        # Room for eight, of which five are owed; in a stream less than half full.
        await rounds(down, 1, tail=Tail(8 * per_message, CAPS.outbox_max_bytes))
        assert (await down.state(outbox("down"))).first_seq == 8
        await rounds(down, 1)
        assert (await down.state(outbox("down"))).first_seq == 11
        sites.heal("down")
        await rounds(down, 1)
        assert (await down.state(outbox("down"))).messages == 0
        assert (await up.state(inbox("up"))).messages == 15

    on_pair(test)


def test_a_stream_that_is_half_full_keeps_no_tail():
    async def test(_sites, _up, down):
        await owe(down, 10)
        size = (await down.state(outbox("down"))).size_bytes
        await rounds(down, 1, tail=Tail(1 << 30, 2 * size))
        assert (await down.state(outbox("down"))).messages == 10
        await rounds(down, 1, tail=Tail(1 << 30, 2 * size - 2))
        assert (await down.state(outbox("down"))).messages == 0

    on_pair(test)


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1 << 20), st.integers(1, 1 << 12))
def test_a_tail_fits_its_bytes_together_with_what_is_owed(messages, owed, bytes_max, each):
    owed = min(owed, messages)
    state = StreamState(1, messages, messages, messages * each)
    kept = Tail(bytes_max, 1 << 40).messages(state, messages - owed)
    assert kept >= 0
    assert kept == 0 or (kept + owed) * each <= bytes_max


def test_the_input_is_emptied_behind_the_checkpoint():
    async def test(_sites, up, down):
        await owe(down, 10)
        await rounds(up, 2, site="up", processed=4)
        assert (await up.state(inbox("up"))).first_seq == 5
        await rounds(up, 1, site="up", processed=99)
        assert (await up.state(inbox("up"))).last_seq == 10

    on_pair(test)


def test_a_server_that_is_away_is_waited_out():
    async def test(sites, up, down):
        await owe(down, 2)
        await sites.stop("down")
        janitor = await rounds(down, 2)
        assert "messaging.unavailable" in janitor.trouble
        await sites.start("down")
        janitor = await rounds(down, 1)
        assert janitor.trouble == ""
        assert (await down.state(outbox("down"))).messages == 0

    on_pair(test)
