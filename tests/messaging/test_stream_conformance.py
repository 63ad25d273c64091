"""What we use of JetStream beside `Bus`: administration, caps, sourcing and its positions, on the twin and on NATS."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ganglion.core.errors import MessagingError
from ganglion.messaging.answers import ApiRefused
from ganglion.messaging.provision import Caps, adopt_children, provision, reaches
from ganglion.messaging.subjects import inbox, journal, journal_subject, outbox, outbox_subject
from tests.messaging.sites import CAPS, take, until

J, OUT, IN = journal("down"), outbox("down"), inbox("up")
SUBJECT = journal_subject("amps", "meter-1")
OWED = outbox_subject("amps", "meter-1")


async def owe(bus, first, count, size=10):
    for i in range(first, first + count):
        await bus.append(OUT, OWED, b"%06d" % i + bytes(size), expect_last=i)


def numbers(messages):
    return [int(m.payload[:6]) for m in messages]


async def delivered(bus, seq):
    return await bus.delivered(OUT) == seq


async def in_parent(bus, count):
    return (await bus.state(IN)).last_seq == count


def test_bytes_are_counted_alike(run):
    """Caps hold the same number of messages in the twin and in a server."""

    async def test(_sites, _up, down):
        sizes = [0]
        for payload, headers, expected in [
            (b"", None, None),
            (bytes(100), None, None),
            (bytes(100), {"Kind": "x"}, None),
            (bytes(5000), {"Kind": "abc", "Other": ""}, 3),
        ]:
            await down.append(J, SUBJECT, payload, headers=headers, expect_last=expected)
            sizes.append((await down.state(J)).size_bytes)
        assert sizes == COUNTED

    run(test)


COUNTED = [0, 96, 292, 497, 5645]
"""What nats-server 2.15.1 says, measured on its own terms by the same test."""


def test_what_is_provisioned_again_keeps_its_messages_and_its_place(run):
    async def test(sites, up, down):
        await owe(down, 0, 5)
        await until(lambda: delivered(down, 5))
        await provision(down, "down", CAPS)
        await provision(up, "up", CAPS, children=["down"])
        await owe(down, 5, 5)
        assert numbers(await take(up.read(IN, 0), 10)) == list(range(10))
        await until(lambda: delivered(down, 10))
        assert (await up.state(IN)).messages == 10

    run(test)


def test_caps_beyond_what_the_server_may_store_are_refused(run):
    async def test(_sites, _up, down):
        with pytest.raises(ApiRefused) as caught:
            await provision(down, "down", Caps(1 << 40, 1 << 20, 1 << 20))
        assert (caught.value.code, caught.value.number) == ("messaging.refused", 10047)
        assert (await down.state(J)).messages == 0

    run(test)


def test_a_server_alone_stores_nothing_three_times(run):
    async def test(_sites, _up, down):
        config = {"name": "X", "subjects": ["x"], "max_bytes": 100, "num_replicas": 3}
        with pytest.raises(ApiRefused) as caught:
            await down.ask("STREAM.CREATE.X", config)
        assert caught.value.number == 10074

    run(test)


def test_another_configuration_of_the_same_name_is_refused_and_an_update_takes_it(run):
    async def test(_sites, _up, down):
        config = (await down.ask(f"STREAM.INFO.{J}", {}))["config"]
        other = {**{k: config[k] for k in SENT}, "max_bytes": 1 << 16}
        with pytest.raises(ApiRefused) as caught:
            await down.ask(f"STREAM.CREATE.{J}", other)
        assert caught.value.number == 10058
        await down.ask(f"STREAM.UPDATE.{J}", other)
        assert (await down.ask(f"STREAM.INFO.{J}", {}))["config"]["max_bytes"] == 1 << 16
        with pytest.raises(MessagingError) as missing:
            await down.ask("STREAM.UPDATE.NOBODY", {**other, "name": "NOBODY", "subjects": ["nobody"]})
        assert missing.value.code == "messaging.no-stream"

    run(test)


SENT = ("name", "subjects", "storage", "retention", "discard", "max_bytes", "max_age", "num_replicas")


def test_there_is_a_message_for_missing_consumers(run):
    async def test(_sites, _up, down):
        with pytest.raises(ApiRefused) as caught:
            await down.ask(f"CONSUMER.INFO.{J}.nobody", {})
        assert caught.value.number == 10014
        assert await down.delivered(J) == 0

    run(test)


def test_an_outbox_is_bound_only_while_the_parent_draws(run):
    async def test(sites, up, down):
        async def drawn(expected):
            return await down.drawn(OUT) is expected

        await owe(down, 0, 1)
        await until(lambda: drawn(True))
        assert await reaches(up, "down")
        sites.cut("down")
        await until(lambda: drawn(False))
        assert not await reaches(up, "down")
        sites.heal("down")
        await until(lambda: drawn(True))

    run(test)


def test_a_child_that_comes_late_is_adopted_and_owes_nothing_twice(run):
    async def test(sites, up, down):
        await provision(up, "up", CAPS)  # the inbox draws from nobody
        await owe(down, 0, 4)
        await asyncio.sleep(0.1)
        before = (await up.state(IN)).messages
        await adopt_children(up, "up", CAPS, ["down"], sites.clock("up"))
        await until(lambda: delivered(down, 4))
        await owe(down, 4, 1)
        await until(lambda: delivered(down, 5))
        # A child that is let go and taken back is drawn from its beginning: its place went with the source.
        assert numbers(await take(up.read(IN, before), 5))[-1] == 4

    run(test)


def test_kills_while_messages_are_on_their_way_neither_lose_nor_repeat(run):
    async def test(sites, up, down):
        await owe(down, 0, 40)
        await until(lambda: delivered(down, 40))
        for round_ in range(1, 3):
            await sites.stop("up" if round_ % 2 else "down")
            await sites.start("up" if round_ % 2 else "down")
            await until(lambda: down.state(OUT))
            await until(lambda: up.state(IN))
            await owe(down, 40 * round_, 40)
        await until(lambda: delivered(down, 120))
        assert numbers(await take(up.read(IN, 0), 120)) == list(range(120))
        assert (await up.state(IN)).last_seq == 120

    run(test)


def test_a_purge_at_the_floor_takes_nothing_that_is_owed(run):
    async def test(sites, up, down):
        await owe(down, 0, 10)
        await until(lambda: delivered(down, 10))
        sites.cut("down")
        await owe(down, 10, 10)
        await down.purge(OUT, await down.delivered(OUT))
        assert (await down.state(OUT)).first_seq == 11
        sites.heal("down")
        assert numbers(await take(up.read(IN, 0), 20)) == list(range(20))

    run(test)


def test_more_than_the_window_goes_across(run):
    async def test(sites, up, down):
        sites.cut("down")
        for start in range(0, 1100, 550):
            await asyncio.gather(*(down.append(OUT, OWED, b"%06d" % (start + i)) for i in range(550)))
        sites.heal("down")
        assert numbers(await take(up.read(IN, 0), 1100)) == list(range(1100))
        await until(lambda: delivered(down, 1100))

    run(test)


def test_a_full_outbox_takes_more_once_the_parent_has_it_and_it_is_purged(run):
    async def test(sites, up, down):
        sites.cut("down")
        count = 0

        async def fill():
            nonlocal count
            while True:
                await owe(down, count, 1, 20_000)
                count += 1

        with pytest.raises(MessagingError) as caught:
            await fill()
        assert caught.value.code == "messaging.full"
        sites.heal("down")
        await until(lambda: in_parent(up, count))
        await until(lambda: delivered(down, count))
        await down.purge(OUT, count)
        await owe(down, count, 1, 20_000)
        await until(lambda: in_parent(up, count + 1))

    run(test, replace(CAPS, outbox_max_bytes=200_000))


def test_the_stamp_is_the_parents_and_headers_come_along(run):
    async def test(_sites, up, down):
        await down.append(OUT, OWED, b"x", headers={"Kind": "y"})
        (message,) = await take(up.read(IN, 0), 1)
        assert message.subject == f"in.down.{OWED}"
        assert message.headers["Kind"] == "y"
        source = message.headers["Nats-Stream-Source"].split(" ")
        assert (source[0].partition(":")[0], source[1]) == (OUT, "1")

    run(test)


def test_a_plain_message_on_a_streams_subject_is_stored_and_stays_here(run):
    async def test(_sites, up, down):
        await down.publish(SUBJECT, b"plain")
        (message,) = await take(down.read(J, 0), 1)
        assert message.payload == b"plain"
        assert (await up.state(journal("up"))).messages == 0

    run(test)


def test_reports_do_not_cross_a_cut_link_and_do_after_it_heals(run):
    async def test(sites, up, down):
        reports = up.subscribe("report.*")
        waiting = asyncio.create_task(take(reports, 1))
        sites.cut("down")
        await asyncio.sleep(0.1)
        await down.publish("report.down", b"early")
        await asyncio.sleep(0.1)
        assert not waiting.done()
        sites.heal("down")

        async def heard():
            await down.publish("report.down", b"late")
            return waiting.done()

        await until(heard)
        assert [m.payload for m in await waiting] == [b"late"]
        await reports.aclose()

    run(test)


def test_a_purge_beyond_the_end_moves_the_end_when_the_server_is_asked_directly(run):
    async def test(_sites, _up, down):
        await owe(down, 0, 3)
        await until(lambda: delivered(down, 3))
        await down.ask(f"STREAM.PURGE.{J}", {"seq": 10})
        assert (await down.state(J)).last_seq == 9
        assert await down.append(J, SUBJECT, b"") == 10

    run(test)
