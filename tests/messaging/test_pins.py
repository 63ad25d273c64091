"""Partitions: fences, questions and purges by subject, and pinned readers, on the twin and on NATS alike."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import MessagingError
from ganglion.core.partition import PARTITIONS, partition_of
from ganglion.messaging import pins, subjects
from ganglion.messaging.subjects import outbox
from tests.messaging.sites import CAPS, NatsSites, take, until

OUT = outbox("down")
ORIGINS = [f"gw1-relay-{n:02d}" for n in range(40)]
HERE = "gw1-relay-00"
ELSEWHERE = next(o for o in ORIGINS if partition_of(o) != partition_of(HERE))
P = partition_of(HERE)
AMONG = subjects.outbox_partition(P)
SUBJECT = subjects.outbox_subject("amps", HERE)
OTHER = subjects.outbox_subject("amps", ELSEWHERE)
LONG_NS = 60 * 10**9


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """A third of the times that real readers take, in the same proportions."""
    for name in ("PIN_TIMEOUT_NS", "ASK_EVERY_NS", "ASKED_FOR_NS"):
        monkeypatch.setattr(pins, name, getattr(pins, name) // 3)


@given(st.from_regex(r"[A-Za-z0-9_:/.-]{1,128}", fullmatch=True))
def test_a_subject_says_the_partition_of_its_origin_and_another_is_refused(origin):
    subject = subjects.outbox_subject("amps", origin)
    partition = partition_of(origin)
    assert 0 <= partition < PARTITIONS
    assert subject.startswith(f"out.amps.{partition}.")
    forged = subject.replace(f"amps.{partition}.", f"amps.{(partition + 1) % PARTITIONS}.", 1)
    with pytest.raises(MessagingError) as caught:
        subjects.parse(forged)
    assert caught.value.code == "messaging.subject"


def test_origins_that_are_numbered_spread_over_all_partitions():
    many = [partition_of(f"gw{g}-meter-{n:02d}") for g in range(20) for n in range(100)]
    shares = [many.count(p) for p in range(PARTITIONS)]
    assert min(shares) > 0.5 * len(many) / PARTITIONS
    assert max(shares) < 2 * len(many) / PARTITIONS


def test_a_server_computes_the_same_partitions(tmp_path):
    """So what others publish to a server can be divided by its own subject mapping."""

    async def story():
        sites = NatsSites(tmp_path)
        try:
            bus = await sites.add("one", CAPS)
            transform = {"src": "raw.*", "dest": f"cut.{{{{partition({PARTITIONS},1)}}}}.{{{{wildcard(1)}}}}"}
            config = {
                "name": "CUT",
                "subjects": ["raw.*"],
                "storage": "memory",
                "subject_transform": transform,
            }
            await bus.ask("STREAM.CREATE.CUT", config)
            names = [*ORIGINS, "all", "meter-1", "a:b/c_d"]
            for name in names:
                await bus.append("CUT", f"raw.{name}", b"")
            stored = await take(bus.read("CUT", 0), len(names))
            assert [m.subject for m in stored] == [f"cut.{partition_of(n)}.{n}" for n in names]
        finally:
            await sites.close()

    asyncio.run(story())


def test_a_fence_among_subjects_lets_each_partition_have_one_writer(run):
    async def test(_sites, _up, down):
        first = await down.append(OUT, SUBJECT, b"a", headers={"N": "1"}, expect_last=0, among=AMONG)
        elsewhere = subjects.outbox_partition(partition_of(ELSEWHERE))
        await down.append(OUT, OTHER, b"x", expect_last=0, among=elsewhere)
        third = await down.append(OUT, SUBJECT, b"b", headers={"N": "2"}, expect_last=first, among=AMONG)
        for stale in (0, first, third + 1):
            with pytest.raises(MessagingError) as caught:
                await down.append(OUT, SUBJECT, b"twice", expect_last=stale, among=AMONG)
            assert caught.value.code == "messaging.fence"
        newest = await down.newest(OUT, AMONG)
        assert (newest.seq, newest.subject, newest.payload) == (third, SUBJECT, b"b")
        assert newest.headers["N"] == "2"
        assert (await down.following(OUT, AMONG, 0)).payload == b"a"
        assert (await down.following(OUT, AMONG, first)).seq == third
        assert await down.following(OUT, AMONG, third) is None
        assert await down.newest(OUT, subjects.outbox_partition((P + 1) % PARTITIONS)) is None

    run(test)


def test_a_purge_among_subjects_leaves_the_others_and_the_fence(run):
    async def test(sites, _up, down):
        sites.cut("down")
        last = 0
        for payload in (b"a", b"b", b"c"):
            last = await down.append(OUT, SUBJECT, payload, expect_last=last, among=AMONG)
            await down.append(OUT, OTHER, payload)
        await down.purge(OUT, last - 1, AMONG)
        assert (await down.state(OUT)).messages == 4
        assert (await down.following(OUT, AMONG, 0)).payload == b"c"
        read = await take(down.read(OUT, 0), 4)
        assert [(m.seq, m.payload) for m in read] == [(2, b"a"), (4, b"b"), (5, b"c"), (6, b"c")]
        await down.append(OUT, SUBJECT, b"d", expect_last=last, among=AMONG)
        await down.purge(OUT, 10**6, AMONG)
        state = await down.state(OUT)
        assert (state.messages, state.last_seq) == (3, 7)

    run(test)


async def consumer(bus):
    """The consumer of the partition on an outbox, which no parent takes from meanwhile."""
    await pins.make_consumer(bus, OUT, "p", AMONG)
    await pins.make_consumer(bus, OUT, "p", AMONG)  # as at every start


async def send(bus, *numbers):
    for number in numbers:
        await bus.append(OUT, SUBJECT, str(number).encode())
        await bus.append(OUT, OTHER, b"another partition")


async def pinned(bus):
    pin = await pins.pin(bus, OUT, "p", LONG_NS)
    assert pin is not None
    return pin


async def numbers(messages, count):
    return [int(m.payload) for m in await take(messages, count)]


async def ends_unpinned(messages):
    async def all_of_them():
        async for _ in messages:
            pass

    with pytest.raises(MessagingError) as caught:
        await asyncio.wait_for(all_of_them(), 60)
    assert caught.value.code == "messaging.unpinned"


def test_one_reader_is_pinned_until_it_is_silent_and_its_successor_goes_back_to_where_it_wants(run):
    async def test(sites, _up, down):
        other = await sites.bus("down")
        await consumer(down)
        await send(down, 1, 2, 3)
        first = await pinned(down)
        messages = first.read(0)
        assert await numbers(messages, 3) == [1, 2, 3]
        # Whoever asks meanwhile gets nothing, however much there is and however long the first one goes on.
        waiting = asyncio.ensure_future(pins.pin(other, OUT, "p", int(1.5 * pins.PIN_TIMEOUT_NS)))
        await send(down, 4)
        assert await numbers(messages, 1) == [4]
        idle = asyncio.ensure_future(anext(messages))
        assert await waiting is None
        await send(down, 5)
        assert int((await idle).payload) == 5
        held = await down.following(OUT, AMONG, 0)
        await first.done(held.seq)
        await until(lambda: floor(down, held.seq))
        # From here on it is stopped: its successor gets what was not acknowledged, and what comes.
        await send(down, 6)
        second = await pinned(other)
        await send(down, 7)
        again = second.read(held.seq)
        assert await numbers(again, 6) == [2, 3, 4, 5, 6, 7]
        # The first one wakes up. It may still hold what it had been given, and then it is told.
        await ends_unpinned(messages)
        await send(down, 8)
        assert await numbers(again, 1) == [8]
        newest = await down.newest(OUT, AMONG)
        await second.done(newest.seq)
        await until(lambda: owed(down, 0))
        await second.close()

    async def floor(bus, seq):
        return (await pins.standing(bus, OUT, "p")).floor_seq >= seq

    async def owed(bus, count):
        return (await pins.standing(bus, OUT, "p")).owed == count

    run(test)


def test_who_waits_is_pinned_when_another_is_unpinned(run):
    async def test(sites, _up, down):
        other = await sites.bus("down")
        await consumer(down)
        await send(down, 1)
        first = await pinned(down)
        messages = first.read(0)
        assert await numbers(messages, 1) == [1]
        reading = asyncio.ensure_future(ends_unpinned(messages))
        waiting = asyncio.ensure_future(pinned(other))
        await asyncio.sleep(0.2)
        await pins.unpin(down, OUT, "p")
        await send(down, 2)
        second = await waiting
        assert await numbers(second.read(0), 2) == [1, 2]
        await reading

    run(test)


def test_what_one_that_is_gone_had_been_given_is_offered_to_one_that_asks_now_and_then(run):
    async def test(sites, _up, down):
        other = await sites.bus("down")
        await consumer(down)
        await send(down, 1, 2)
        first = await pinned(down)
        assert await numbers(first.read(0), 2) == [1, 2]
        await first.close()
        second = None
        async with asyncio.timeout(60):
            while second is None:
                second = await pins.pin(other, OUT, "p", pins.ASKED_FOR_NS // 2)
        assert await numbers(second.read(0), 2) == [1, 2]

    run(test)


def test_a_server_that_starts_anew_pins_anew_and_loses_nothing(run):
    async def test(sites, _up, down):
        await consumer(down)
        await send(down, 1, 2)
        pin = await pinned(down)
        messages = pin.read(0)
        assert await numbers(messages, 2) == [1, 2]
        await sites.stop("down")
        with contextlib.suppress(MessagingError):
            await down.state(OUT)
        await sites.start("down")
        await until(lambda: down.state(OUT))
        await send(down, 3)
        await ends_unpinned(messages)
        again = await pinned(down)
        assert await numbers(again.read(0), 3) == [1, 2, 3]

    run(test)


def test_nobody_is_pinned_where_there_is_nothing_and_a_missing_consumer_is_said(run):
    async def test(_sites, _up, down):
        await consumer(down)
        assert await pins.pin(down, OUT, "p", 10**8) is None
        with pytest.raises(MessagingError) as caught:
            await pins.pin(down, OUT, "nobody", 10**8)
        assert caught.value.code == "messaging.no-stream"

    run(test)


def test_more_than_one_request_asks_for_comes_in_order(run):
    async def test(_sites, _up, down):
        await consumer(down)
        count = 2 * pins.MESSAGES_MAX + 50
        for start in range(0, count, 100):
            await asyncio.gather(
                *(down.append(OUT, SUBJECT, str(n).encode()) for n in range(start, min(count, start + 100)))
            )
        pin = await pinned(down)
        assert await numbers(pin.read(0), count) == list(range(count))

    run(test)
