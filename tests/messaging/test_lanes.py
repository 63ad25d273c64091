"""An outbox with two lanes: what is urgent overtakes a backlog, and nothing is lost, doubled or reordered in either."""

from __future__ import annotations

import asyncio

import pytest

from ganglion.core.errors import MessagingError
from ganglion.messaging.answers import ApiRefused
from ganglion.messaging.provision import set_window
from ganglion.messaging.subjects import BULK, URGENT, inbox, outbox, outbox_subject, stream_filter
from tests.messaging.sites import CAPS, take, until, with_lanes

OUT, IN = outbox("down"), inbox("up")
BULKY, URGED = outbox_subject("amps", "meter-1"), outbox_subject("trips", "meter-1", URGENT)


async def owe(bus, kinds, first=0, size=10):
    for i, kind in enumerate(kinds, start=first):
        subject = URGED if kind == "u" else BULKY
        await bus.append(OUT, subject, b"%06d" % i + bytes(size), expect_last=i)


def numbers(messages, part):
    return [int(m.payload[:6]) for m in messages if m.subject.startswith(f"in.down.{part}.")]


async def delivered(bus, seq):
    return await bus.delivered(OUT) == seq


def test_each_lane_arrives_once_and_in_its_order(run):
    async def test(sites, up, down):
        await with_lanes(up, down, CAPS)
        kinds = "bbubuubbbbu" * 10
        await owe(down, kinds)
        read = await take(up.read(IN, 0), len(kinds))
        for kind, part in (("b", "out"), ("u", "urgent")):
            assert numbers(read, part) == [i for i, k in enumerate(kinds) if k == kind]
        await until(lambda: delivered(down, len(kinds)))

    run(test)


def test_what_is_urgent_overtakes_the_backlog(run):
    async def test(sites, up, down):
        await with_lanes(up, down, CAPS)
        sites.cut("down")
        await set_window(down, "down", BULK, 2)
        await owe(down, "b" * 60 + "u", size=9000)
        sites.heal("down")
        read = await take(up.read(IN, 0), 61)
        assert numbers(read, "out") == list(range(60))
        ahead = next(i for i, m in enumerate(read) if m.subject.startswith("in.down.urgent"))
        assert ahead < 30, "it waited behind the backlog"
        await until(lambda: delivered(down, 61))

    run(test)


def test_delivered_is_what_the_parent_has_of_both_lanes(run):
    async def test(sites, up, down):
        await with_lanes(up, down, CAPS)
        await owe(down, "bbuu")
        await until(lambda: delivered(down, 4))
        sites.cut("down")
        await owe(down, "uub", first=4)
        assert await down.delivered(OUT) == 4
        sites.heal("down")
        await until(lambda: delivered(down, 7))
        await down.purge(OUT, 7)
        assert await down.delivered(OUT) == 7
        await owe(down, "u", first=7)
        await until(lambda: delivered(down, 8))

    run(test)


def test_messages_of_a_lane_without_a_consumer_are_not_called_delivered(run):
    async def test(_sites, _up, down):
        await owe(down, "bub")
        await asyncio.sleep(0.3)

        async def bulk_is_there():
            return await down.delivered(OUT) == 1

        await until(bulk_is_there)

    run(test)


def test_kills_of_both_ends_neither_lose_nor_repeat(run):
    async def test(sites, up, down):
        await with_lanes(up, down, CAPS)
        kinds = "bub" * 20
        await owe(down, kinds)
        for round_, site in enumerate(("up", "down"), start=1):
            await sites.stop(site)
            await sites.start(site)
            await until(lambda: down.state(OUT))
            await until(lambda: up.state(IN))
            await owe(down, kinds, first=60 * round_)
        read = await take(up.read(IN, 0), 180)
        for kind, part in (("b", "out"), ("u", "urgent")):
            assert numbers(read, part) == [i for i, k in enumerate(kinds * 3) if k == kind]
        await until(lambda: delivered(down, 180))
        assert (await up.state(IN)).last_seq == 180

    run(test)


def test_one_stream_is_purged_from_among_others(run):
    async def test(sites, up, down):
        await with_lanes(up, down, CAPS)
        sites.cut("down")
        await owe(down, "bubbub")
        request = {"seq": 4, "filter": stream_filter("amps")}
        assert (await down.ask(f"STREAM.PURGE.{OUT}", request))["purged"] == 2
        state = await down.state(OUT)
        assert (state.first_seq, state.last_seq, state.messages) == (2, 6, 4)
        await down.ask(f"STREAM.MSG.DELETE.{OUT}", {"seq": 5})
        with pytest.raises(ApiRefused) as missing:
            await down.ask(f"STREAM.MSG.DELETE.{OUT}", {"seq": 5})
        assert missing.value.number == 10043
        found = await down.ask(f"STREAM.MSG.GET.{OUT}", {"seq": 3, "next_by_subj": stream_filter("amps")})
        assert found["message"]["seq"] == 4
        with pytest.raises(MessagingError):
            await down.ask(f"STREAM.MSG.GET.{OUT}", {"seq": 5, "next_by_subj": URGENT.filter})
        assert [m.seq for m in await take(down.read(OUT, 0), 3)] == [2, 4, 6]
        sites.heal("down")
        read = await take(up.read(IN, 0), 3)
        assert (numbers(read, "out"), numbers(read, "urgent")) == ([3, 5], [1])
        await until(lambda: delivered(down, 6))
        assert await down.append(OUT, BULKY, b"000006", expect_last=6) == 7

    run(test)


def test_a_window_can_be_changed_while_messages_move(run):
    async def test(_sites, up, down):
        await with_lanes(up, down, CAPS)
        for start in range(0, 200, 50):
            await asyncio.gather(*(down.append(OUT, BULKY, b"%06d" % (start + i)) for i in range(50)))
            await set_window(down, "down", BULK, 3 + start)
        read = await take(up.read(IN, 0), 200)
        assert numbers(read, "out") == list(range(200))
        info = await down.ask(f"CONSUMER.INFO.{OUT}.{BULK.consumer}", {})
        assert info["config"]["max_ack_pending"] == 153
        await until(lambda: delivered(down, 200))

    run(test)


def test_a_lane_that_is_reset_sends_again_and_goes_on(run):
    async def test(_sites, up, down):
        await with_lanes(up, down, CAPS)
        await owe(down, "b" * 60)
        await until(lambda: delivered(down, 60))
        await set_window(down, "down", BULK, 7)
        await down.ask(f"CONSUMER.RESET.{OUT}.{BULK.consumer}", {"seq": 1})
        await owe(down, "b", first=60)
        assert numbers(await take(up.read(IN, 0), 61), "out") == list(range(61))
        await until(lambda: delivered(down, 61))

    run(test)
