"""A slow link with a long backlog: what is urgent goes first, the oldest keep their share, and fast links stay fast."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.units import NS_PER_S
from ganglion.messaging.answers import NO_CONSUMER, ApiRefused
from ganglion.messaging.pacing import (
    EVERY_NS,
    FORGOTTEN_AFTER_NS,
    OLDEST_SHARE,
    STUCK_WINDOW_MAX,
    WINDOW_MIN,
    Pacer,
    Seen,
    Windows,
)
from ganglion.messaging.provision import FIRST_WINDOW, UNACKNOWLEDGED_MAX, Caps, set_window
from ganglion.messaging.subjects import BULK, URGENT, inbox, outbox, outbox_subject
from ganglion.sim.virtual.clock import VirtualClock
from ganglion.sim.virtual.loop import run as virtual_run
from tests.messaging.sites import SimulatedSites, pair, take, with_lanes

RATE = 320_000
LATENCY_NS = 50_000_000
LARGE, SMALL = 60_000, 2_000
CAPS = Caps(1 << 20, 64 << 20, 64 << 20)
OUT, IN = outbox("down"), inbox("up")


class SlowLink:
    """A pipe of `RATE` bytes per second, one way after the other, on the virtual clock."""

    def __init__(self):
        self.free_s = 0.0

    def request_ns(self, size_bytes):
        return 1_000_000

    def answer_ns(self):
        return 100_000

    def link_ns(self, child, size_bytes):
        now_s = asyncio.get_running_loop().time()
        self.free_s = max(self.free_s, now_s) + size_bytes / RATE
        return round((self.free_s - now_s) * 1e9) + LATENCY_NS


def on_slow_link(story, *, paced=True):
    async def whole():
        async with pair(lambda root: SimulatedSites(root, SlowLink()), Path(), CAPS) as (sites, up, down):
            await with_lanes(up, down, CAPS)
            pacer = Pacer(down, "down", sites.clock("down"), {BULK: LARGE, URGENT: SMALL}.__getitem__)
            pacing = asyncio.create_task(pacer.run()) if paced else None
            await story(sites, up, down)
            if pacing is not None:
                pacing.cancel()
                assert pacer.trouble == ""

    virtual_run(lambda _loop: whole())


async def append(bus, kind, number):
    subject = outbox_subject("trips", "a", URGENT) if kind == "u" else outbox_subject("waves", "a")
    await bus.append(OUT, subject, b"%06d" % number + bytes(SMALL if kind == "u" else LARGE))


async def delays(sites, up, down, *, urgent_every_s, seconds):
    """([seconds from append to the parent of each urgent message], bulk messages drained in that time)."""
    sites.cut("down")
    for n in range(600):
        await append(down, "b", n)
    await asyncio.sleep(5)
    loop = asyncio.get_running_loop()
    sent: list[float] = []
    arrived: list[float] = []
    bulk: list[int] = []

    async def reads():
        async for message in up.read(IN, 0):
            if ".urgent." in message.subject:
                assert int(message.payload[:6]) == len(arrived)
                arrived.append(loop.time())
            else:
                bulk.append(int(message.payload[:6]))

    reading = asyncio.create_task(reads())
    sites.heal("down")
    until = loop.time() + seconds
    while loop.time() < until:
        sent.append(loop.time())
        await append(down, "u", len(sent) - 1)
        await asyncio.sleep(urgent_every_s)
    await asyncio.sleep(1)
    assert bulk == list(range(len(bulk))), "the oldest come in order"
    drained = len(bulk)
    reading.cancel()
    return [a - s for s, a in zip(sent, arrived, strict=False)], drained


def test_what_is_urgent_arrives_within_two_seconds_while_the_backlog_drains():
    async def story(sites, up, down):
        took, drained = await delays(sites, up, down, urgent_every_s=0.5, seconds=30)
        assert max(took) <= 2, took
        assert drained * LARGE > 0.6 * RATE * 30, "the link is used"

    on_slow_link(story)


def test_without_pacing_it_waits_behind_the_backlog():
    """The measure can fail: this is what the two above would see without the pacer."""

    async def story(sites, up, down):
        took, _ = await delays(sites, up, down, urgent_every_s=0.5, seconds=30)
        assert not took or max(took) > 10

    on_slow_link(story, paced=False)


def test_the_oldest_keep_their_share_when_what_is_urgent_fills_the_link():
    async def story(sites, up, down):
        _, drained = await delays(sites, up, down, urgent_every_s=0.003, seconds=40)
        share = drained * LARGE / (RATE * 40)
        assert 0.5 * OLDEST_SHARE <= share <= 0.6, share

    on_slow_link(story)


def test_nothing_is_lost_or_doubled_when_all_is_drained():
    async def story(sites, up, down):
        sites.cut("down")
        for n in range(40):
            await append(down, "b", n)
            await append(down, "u", n)
        sites.heal("down")
        read = await take(up.read(IN, 0), 80)
        for part in (".urgent.", ".out."):
            assert [int(m.payload[:6]) for m in read if part in m.subject] == list(range(40))
        assert sum(".urgent." in m.subject for m in read[:60]) == 40, "the urgent ones came first"

    on_slow_link(story)


def test_a_window_smaller_than_what_the_parent_has_already_does_not_stop_a_lane():
    """As seen of nats-server: what is acknowledged lies beyond what was sent again, and is ignored."""

    async def story(sites, up, down):
        for n in range(60):
            await down.append(OUT, outbox_subject("waves", "a"), b"%06d" % n)
        while (await up.state(IN)).last_seq < 60:
            await asyncio.sleep(0.001)
        sites.cut("down")  # the parent's last acknowledgements are lost
        lost = 60 - await down.delivered(OUT)
        await set_window(down, "down", BULK, 1)
        sites.heal("down")
        await append(down, "b", 60)
        await asyncio.sleep(60)
        assert lost > 1
        assert (await up.state(IN)).last_seq == 60, "the twin got over it by itself: nothing is tested"
        pacer = Pacer(down, "down", sites.clock("down"), lambda _lane: LARGE)
        pacing = asyncio.create_task(pacer.run())
        await take(up.read(IN, 60), 1)
        pacing.cancel()

    on_slow_link(story, paced=False)


def test_a_fast_link_gets_the_whole_window():
    windows = Windows()
    stored = bulk = 0
    for step in range(8):
        now_ns = step * EVERY_NS
        bulk, _ = windows.judge(
            Seen(stored, stored, 4, 100_000, bound=True), Seen(0, 0, 0, 0, bound=True), 60_000, 2_000, now_ns
        )
        stored += bulk * 100
    assert bulk == UNACKNOWLEDGED_MAX


def test_a_window_starts_small_again_after_every_break():
    windows = Windows()
    for step, acknowledged in enumerate((0, 5000, 10_000)):
        windows.judge(
            Seen(acknowledged, acknowledged, 9, 9, bound=True),
            Seen(0, 0, 0, 0, bound=True),
            60_000,
            2_000,
            step * EVERY_NS,
        )
    assert windows.bulk.window > 100
    nothing = Seen(0, 0, 0, 0, bound=False)
    cut = Seen(10_000, 10_000, 0, 9, bound=False)
    assert windows.judge(cut, nothing, 60_000, 2_000, 3 * EVERY_NS)[0] <= 4
    # What was on its way may be with the parent: the window is no smaller until the parent says where it is.
    cut = Seen(10_000, 10_000, 70, 9, bound=False)
    assert windows.judge(cut, nothing, 60_000, 2_000, 4 * EVERY_NS)[0] == 70
    healed = Seen(10_000, 0, 70, 9, bound=True)
    assert windows.judge(healed, nothing, 60_000, 2_000, 5 * EVERY_NS)[0] == 70
    told = Seen(10_070, 70, 4, 9, bound=True)
    assert windows.judge(told, nothing, 60_000, 2_000, 6 * EVERY_NS)[0] < 1000


def test_a_window_that_is_full_and_does_not_move_grows_until_it_does():
    windows = Windows()
    window = 0
    for step in range(200):
        window = windows.unpaced(Seen(5, 0, 1000, 9, bound=True), step * NS_PER_S)
    assert window == STUCK_WINDOW_MAX
    assert windows.unpaced(Seen(9, 4, 1000, 9, bound=True), 201 * NS_PER_S) == UNACKNOWLEDGED_MAX


SIZES = st.floats(1, 1e6)
COUNTS = st.integers(0, 1 << 40)
LANE = st.builds(Seen, COUNTS, COUNTS, st.integers(0, 5000), st.integers(0, 1 << 30), st.booleans())


@given(st.lists(st.tuples(LANE, LANE, SIZES, SIZES), min_size=1, max_size=20))
def test_windows_stay_within_their_bounds(steps):
    windows = Windows()
    for number, (bulk, urgent, bulk_bytes, urgent_bytes) in enumerate(steps):
        now_ns = number * EVERY_NS
        for window in windows.judge(bulk, urgent, bulk_bytes, urgent_bytes, now_ns):
            assert WINDOW_MIN <= window <= STUCK_WINDOW_MAX
        for lane, seen in ((windows.bulk, bulk), (windows.urgent, urgent)):
            assert seen.bound or lane.window >= seen.under_way


class UnstoredFirst:
    """A server whose new lane has one message on its way that no parent stores; it notes when lanes are removed."""

    def __init__(self, clock):
        self._clock = clock
        self.removed_s: list[int] = []
        self.there = True

    async def ask(self, subject, request, *, domain=None):
        if subject.startswith("CONSUMER.DELETE."):
            self.removed_s.append(round(self._clock.monotonic_ns() / NS_PER_S))
            self.there = False
        elif subject.startswith("CONSUMER.CREATE."):
            assert not self.there, "a window was set"
            assert request["config"]["max_ack_pending"] == FIRST_WINDOW
            self.there = True
        elif not self.there:
            raise ApiRefused("messaging.refused", "no consumer", number=NO_CONSUMER)
        floor = {"stream_seq": 1 << 20, "consumer_seq": 0}
        seen = {"num_ack_pending": 1, "num_pending": 5, "push_bound": True}
        return {"config": {"max_ack_pending": FIRST_WINDOW}, "ack_floor": floor, **seen}


def test_a_first_message_that_nobody_stores_is_given_ever_more_time():
    """So a slow link's is stored before its lane is taken away."""

    async def story(loop):
        clock = VirtualClock(loop.virtual_time)
        server: Any = UnstoredFirst(clock)  # all of a bus that a pacer uses
        pacer = asyncio.ensure_future(
            Pacer(server, "down", clock, lambda _: 200, urgent=False, offset=1 << 20).run()
        )
        await asyncio.sleep(300)
        pacer.cancel()
        return server.removed_s

    removed_s = virtual_run(story)
    away_s = FORGOTTEN_AFTER_NS / NS_PER_S
    waits_s = [b - a - away_s for a, b in zip([-away_s, *removed_s], removed_s, strict=False)]
    assert len(waits_s) == 5
    assert all(abs(wait - 5 * 2**n) <= 2 for n, wait in enumerate(waits_s)), waits_s
