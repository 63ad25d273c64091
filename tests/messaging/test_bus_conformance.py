"""What every `Bus` promises, asked of the NATS binding and of its twin in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ganglion.core.errors import MessagingError
from ganglion.messaging.bus import PAYLOAD_MAX_BYTES, Stored
from ganglion.messaging.subjects import inbox, journal, journal_subject, outbox, outbox_subject
from tests.messaging.sites import CAPS, take, until

J, OUT, IN = journal("down"), outbox("down"), inbox("up")
SUBJECT = journal_subject("amps", "meter-1")
OWED = outbox_subject("amps", "meter-1")


async def code_of(call):
    with pytest.raises(MessagingError) as caught:
        await call
    return caught.value.code


async def fill(bus, stream, subject, count, size=10, first=0):
    for i in range(first, first + count):
        await bus.append(stream, subject, b"%06d" % i + bytes(size))


def numbers(messages):
    return [int(m.payload[:6]) for m in messages]


def test_what_is_appended_is_read_in_order_with_subject_and_headers(run):
    async def test(_sites, _up, down):
        assert await down.append(J, SUBJECT, b"one", headers={"Kind": "x"}) == 1
        assert await down.append(J, SUBJECT, b"") == 2
        first, second = await take(down.read(J, 0), 2)
        assert (first.seq, first.subject, first.payload) == (1, SUBJECT, b"one")
        assert first.headers["Kind"] == "x"
        assert (second.seq, second.payload) == (2, b"")

    run(test)


def test_a_reader_starts_after_what_it_knows_and_sees_what_comes_later(run):
    async def test(_sites, _up, down):
        await fill(down, J, SUBJECT, 5)
        messages = down.read(J, 3)
        assert [m.seq for m in await take(messages, 2)] == [4, 5]
        waiting = asyncio.create_task(take(messages, 1))
        await fill(down, J, SUBJECT, 1, first=5)
        assert numbers(await waiting) == [5]
        assert [m.seq for m in await take(down.read(J, 0), 6)] == [1, 2, 3, 4, 5, 6]

    run(test)


def test_many_messages_come_each_once(run):
    async def test(_sites, _up, down):
        messages = down.read(J, 0)
        reading = asyncio.create_task(take(messages, 2000))
        for start in range(0, 2000, 100):
            await asyncio.gather(*(down.append(J, SUBJECT, b"%06d" % (start + i)) for i in range(100)))
        read = await reading
        assert [m.seq for m in read] == list(range(1, 2001))
        assert numbers(read) == list(range(2000))

    run(test)


def test_a_fence_stops_the_second_writer(run):
    async def test(_sites, _up, down):
        assert await down.append(OUT, OWED, b"a", expect_last=0) == 1
        assert await code_of(down.append(OUT, OWED, b"b", expect_last=0)) == "messaging.fence"
        assert await code_of(down.append(OUT, OWED, b"b", expect_last=5)) == "messaging.fence"
        assert await down.append(OUT, OWED, b"b", expect_last=1) == 2
        assert (await down.state(OUT)).last_seq == 2

    run(test)


def test_a_full_stream_says_so_and_takes_more_after_a_purge(run):
    async def test(_sites, _up, down):
        size = 100_000
        with pytest.raises(MessagingError) as caught:
            await fill(down, J, SUBJECT, 100, size)
        assert caught.value.code == "messaging.full"
        state = await down.state(J)
        assert 8 <= state.messages == state.last_seq <= 10
        assert state.size_bytes <= CAPS.journal_max_bytes
        await down.purge(J, 1)
        assert await down.append(J, SUBJECT, bytes(size)) == state.last_seq + 1

    run(test)


def test_a_purge_removes_the_front_and_never_moves_the_end(run):
    async def test(_sites, _up, down):
        await down.purge(J, 7)
        assert (await down.state(J)).last_seq == 0
        await fill(down, J, SUBJECT, 5)
        messages = down.read(J, 0)
        assert numbers(await take(messages, 1)) == [0]
        await down.purge(J, 3)
        assert [m.seq for m in await take(down.read(J, 0), 2)] == [4, 5]
        state = await down.state(J)
        assert (state.first_seq, state.last_seq, state.messages) == (4, 5, 2)
        await down.purge(J, 2)
        assert (await down.state(J)).messages == 2
        await down.purge(J, 99)
        state = await down.state(J)
        assert (state.first_seq, state.last_seq, state.messages) == (6, 5, 0)
        assert await down.append(J, SUBJECT, b"000005", expect_last=5) == 6
        assert [m.seq for m in await take(down.read(J, 0), 1)] == [6]

    run(test)


def test_what_cannot_be_done_has_its_own_code(run):
    async def test(_sites, _up, down):
        large = bytes(PAYLOAD_MAX_BYTES + 1)
        assert await code_of(down.append(J, SUBJECT, large)) == "messaging.too-large"
        assert await code_of(down.append("JOURNAL_x", "x.y", b"")) == "messaging.no-stream"
        assert await code_of(down.state("JOURNAL_x")) == "messaging.no-stream"
        assert await code_of(take(down.read("JOURNAL_x", 0), 1)) == "messaging.no-stream"
        assert await code_of(take(down.read(J, 5), 1)) == "messaging.rewound"

    run(test)


def test_the_parent_gets_each_message_once_with_its_sender_stamped(run):
    async def test(_sites, up, down):
        await fill(down, OUT, OWED, 20)
        read = await take(up.read(IN, 0), 20)
        assert numbers(read) == list(range(20))
        assert {m.subject for m in read} == {"in.down.out.amps.4.meter-1"}
        await until(lambda: delivered(down, 20))

    run(test)


async def delivered(bus, seq):
    return await bus.delivered(OUT) == seq


def test_a_cut_link_delays_and_loses_nothing(run):
    async def test(sites, up, down):
        await fill(down, OUT, OWED, 3)
        messages = up.read(IN, 0)
        await take(messages, 3)
        await until(lambda: delivered(down, 3))
        sites.cut("down")
        await fill(down, OUT, OWED, 3, first=3)
        assert await down.delivered(OUT) == 3
        sites.heal("down")
        assert numbers(await take(messages, 3)) == [3, 4, 5]
        await until(lambda: delivered(down, 6))

    run(test)


def test_a_full_inbox_holds_its_children_back_until_it_is_purged(run):
    async def test(_sites, up, down):
        count = 30
        await fill(down, OUT, OWED, count, 20_000)
        messages = up.read(IN, 0)
        read: list[Stored] = []
        while len(read) < count:
            read += await take(messages, 1)
            await up.purge(IN, read[-1].seq)
        assert numbers(read) == list(range(count))
        await until(lambda: delivered(down, count))

    run(test, replace(CAPS, inbox_max_bytes=200_000))


def test_a_stopped_server_refuses_writers_and_keeps_readers_waiting(run):
    async def test(sites, _up, down):
        await fill(down, J, SUBJECT, 3)
        messages = down.read(J, 0)
        await take(messages, 2)
        await sites.stop("down")
        assert await code_of(down.append(J, SUBJECT, b"")) == "messaging.unavailable"
        assert await code_of(down.state(J)) == "messaging.unavailable"
        await sites.start("down")
        await until(lambda: answers(down))
        await fill(down, J, SUBJECT, 2, first=3)
        assert numbers(await take(messages, 3)) == [2, 3, 4]

    run(test)


async def answers(bus):
    await bus.state(J)
    return True


def test_a_restart_keeps_the_end_of_an_empty_stream(run):
    async def test(sites, _up, down):
        await fill(down, OUT, OWED, 4)
        await down.purge(OUT, 4)
        await sites.stop("down")
        await sites.start("down")
        await until(lambda: answers(down))
        assert (await down.state(OUT)).last_seq == 4
        assert await down.append(OUT, OWED, b"", expect_last=4) == 5

    run(test)


def test_a_sites_own_subjects_do_not_cross_the_link_but_reports_do(run):
    async def test(_sites, up, down):
        reports = up.subscribe("report.*")
        waiting = asyncio.create_task(take(reports, 1))
        await fill(down, OUT, OWED, 1)
        await take(up.read(IN, 0), 1)
        await fill(down, J, SUBJECT, 1)
        await up.append(outbox("up"), OWED, b"up")

        async def heard():
            await down.publish("report.down", b"well")
            return waiting.done()

        await until(heard)
        assert [(m.subject, m.payload) for m in await waiting] == [("report.down", b"well")]
        for bus, stream, count in [
            (up, outbox("up"), 1),
            (up, journal("up"), 0),
            (down, OUT, 1),
            (down, J, 1),
        ]:
            assert (await bus.state(stream)).messages == count, stream
        await reports.aclose()

    run(test)


def test_a_closed_bus_ends_its_readers(run):
    async def test(sites, _up, _down):
        bus = await sites.bus("down")
        waiting = [asyncio.create_task(take(m, 1)) for m in (bus.read(J, 0), bus.subscribe("report.*"))]
        await asyncio.sleep(0.05)
        await bus.close()
        assert [await code_of(w) for w in waiting] == ["messaging.unavailable"] * 2
        assert await code_of(bus.append(J, SUBJECT, b"")) == "messaging.unavailable"

    run(test)
