"""One partition with two owners: the outbox has each message once, and only the later owner's checkpoints count."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from ganglion.agent import partitions as kept
from ganglion.agent import shared
from ganglion.agent.partitions import Below, PartitionOutbox, PartitionState, PinnedJournal, newest_saved
from ganglion.core.errors import HostError, MessagingError
from ganglion.core.packing import pack
from ganglion.core.partition import partition_of
from ganglion.engine import durable
from ganglion.engine.durable import Durable
from ganglion.host.system import system_host
from ganglion.messaging import partitions, pins, subjects
from ganglion.messaging.bus import unavailable
from ganglion.messaging.partitions import consumer, provision_partitions
from tests.agent.sharing import EDGE, IN, ORIGINS, OUT, alone, history, outbox, send
from tests.engine.flows import SPEC
from tests.messaging.sites import until

ORIGIN = ORIGINS[0]
P = partition_of(ORIGIN)
STATE = subjects.state("up")
HERE = [f"gw1-relay-{n:02d}" for n in range(99) if partition_of(f"gw1-relay-{n:02d}") == P][:3]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for name in ("PIN_TIMEOUT_NS", "ASK_EVERY_NS", "ASKED_FOR_NS"):
        monkeypatch.setattr(pins, name, getattr(pins, name) // 4)
    monkeypatch.setattr(partitions, "STATE_BYTES_MAX", 16 << 20)
    monkeypatch.setattr(durable, "CHECKPOINT_EVERY_NS", durable.CHECKPOINT_EVERY_NS // 5)


class Owner:
    """One owner of the partition; it can be stopped just before it appends, and go on later."""

    def __init__(self, bus, host, name):
        self.bus, self.host, self.name = bus, host, name
        self.state = PartitionState(bus, "up", P, name, host.clock)
        self.outbox = PartitionOutbox(bus, OUT, P, host.clock)
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.stuck = asyncio.Event()
        self.stops_at = 0

    async def last_ordinal(self):
        return await self.outbox.last_ordinal()

    async def append(self, ordinal, *message):
        if ordinal == self.stops_at:
            self.stuck.set()
            await self.goes_on.wait()
        await self.outbox.append(ordinal, *message)

    async def start(self):
        pin = None
        while pin is None:
            pin = await pins.pin(self.bus, IN, consumer(P), 10**9)
        await self.state.claim()
        self.engine = Durable(
            SPEC,
            EDGE,
            PinnedJournal(self.bus, IN, pin, self.host.clock),
            self,
            disk=Below(self.host.disk, self.state.directory),
            clock=self.host.clock,
            gather=False,
            checkpoints=self.state,
            takes=lambda origin: partition_of(origin) == P,
            divide=True,
        )
        self.running = asyncio.ensure_future(self.engine.run())

    async def fenced(self):
        """It was told that the partition is another's, and stopped."""
        with pytest.raises(MessagingError) as caught:
            await self.running
        assert caught.value.code == "messaging.unpinned"

    async def end(self):
        self.running.cancel()
        await asyncio.wait({self.running})


async def sent(bus, expected):
    return sum(map(len, (await outbox(bus)).values())) == sum(map(len, expected.values()))


@pytest.mark.parametrize("first_writer", ["zombie", "successor"])
def test_a_stopped_owner_that_wakes_up_neither_repeats_nor_saves(run, rng, hosts, first_writer):
    messages = history(rng, 60, HERE)
    expected, _ = alone(messages)
    count = sum(map(len, expected.values()))
    half = len(messages) // 2
    assert count > 20

    async def test(sites, up, down):
        await provision_partitions(up, "up")
        zombie = Owner(await sites.bus("up"), hosts(sites, 0), "zombie")
        zombie.stops_at = count // 4
        zombie.goes_on.clear()
        await send(down, messages[:half])
        await zombie.start()
        await zombie.stuck.wait()
        successor = Owner(await sites.bus("up"), hosts(sites, 1), "successor")
        successor.stops_at = count // 4 if first_writer == "zombie" else 0
        successor.goes_on.clear()
        await send(down, messages[half:])
        await successor.start()
        if first_writer == "zombie":
            # It writes where its successor is about to, who has claimed the partition but has not written yet.
            await successor.stuck.wait()
            zombie.goes_on.set()
            await zombie.fenced()
            successor.goes_on.set()
            await until(lambda: sent(up, expected))
        else:
            await until(lambda: sent(up, expected))
            zombie.goes_on.set()
            await zombie.fenced()
        assert await outbox(up) == expected
        await until(lambda: saved_by_successor(up))
        await successor.end()

    async def saved_by_successor(up):
        saved = await newest_saved(up, "up", P)
        assert saved is None or saved.worker == "successor"
        return saved is not None

    run(test)


def test_without_its_fence_a_stopped_owner_would_repeat(run, rng, hosts, monkeypatch):
    """The check above is not blind: the same story with the fence taken out."""
    messages = history(rng, 60, HERE)
    expected, _ = alone(messages)
    count = sum(map(len, expected.values()))
    assert count > 20

    async def test(sites, up, down):
        await provision_partitions(up, "up")
        zombie = Owner(await sites.bus("up"), hosts(sites, 0), "zombie")
        append = zombie.bus.append

        async def unfenced(stream, subject, payload, *, headers=None, expect_last=None, among=""):
            fence = {} if stream == OUT else {"expect_last": expect_last, "among": among}
            return await append(stream, subject, payload, headers=headers, **fence)

        zombie.bus.append = unfenced
        zombie.stops_at = count // 4
        zombie.goes_on.clear()
        await send(down, messages[:-20])
        await zombie.start()
        await zombie.stuck.wait()
        successor = Owner(await sites.bus("up"), hosts(sites, 1), "successor")
        await send(down, messages[-20:])
        await successor.start()
        await until(lambda: sent(up, expected))
        zombie.goes_on.set()
        await zombie.fenced()
        assert await outbox(up) != expected
        await successor.end()

    run(test)


@pytest.mark.parametrize("small", [0, 4000])
def test_a_checkpoint_of_any_size_is_read_back_by_the_next_owner_and_others_are_swept(
    run, hosts, monkeypatch, small
):
    monkeypatch.setattr(kept, "PART_BYTES", 100)
    monkeypatch.setattr(kept, "SMALL_BYTES", small)

    def content(n):
        return pack({"sinks": {}, "n": n, "filling": bytes(1000)})

    async def test(sites, up, _down):
        await provision_partitions(up, "up")
        clock = hosts(sites, 0).clock
        first = PartitionState(up, "up", P, "a", clock)
        await first.claim()
        assert await first.load() is None
        for n in range(3):
            await first.save(content(n))
        held = (await up.state(STATE)).messages
        assert held < 15  # the newest only
        # It is killed in the middle of its fourth.
        await first._say("7-7", content(3)[:100])
        second = PartitionState(up, "up", P, "b", clock)
        await second.claim()
        assert await second.load() == content(2)
        assert (await up.state(STATE)).messages == held + 1  # the claim, and nothing of what was not finished
        with pytest.raises(MessagingError) as caught:
            await first.save(content(9))
        assert caught.value.code == "messaging.unpinned"
        await second.save(content(4))
        third = PartitionState(up, "up", P, "c", clock)
        await third.claim()
        assert await third.load() == content(4)

    run(test)


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_anew(run, hosts, monkeypatch):
    """Whoever reads without having claimed, as a site does at its end, may be overtaken by the owner."""
    monkeypatch.setattr(kept, "PART_BYTES", 100)
    monkeypatch.setattr(kept, "SMALL_BYTES", 0)
    first, second = (pack({"sinks": {}, "n": n, "filling": bytes(1000)}) for n in (1, 2))

    async def test(sites, up, _down):
        await provision_partitions(up, "up")
        clock = hosts(sites, 0).clock
        owner = PartitionState(up, "up", P, "a", clock)
        await owner.claim()
        await owner.save(first)

        class Overtaken:
            """The bus; the owner saves again just before the third part is asked for."""

            asked = 0

            def __getattr__(self, name):
                return getattr(up, name)

            async def following(self, *which):
                self.asked += 1
                if self.asked == 3:
                    await owner.save(second)
                return await up.following(*which)

        assert await PartitionState(Overtaken(), "up", P, "", clock).load() == second

    run(test)


def test_a_shared_site_ends_though_its_servers_are_away(tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "END_NS_MAX", 300_000_000)

    class Away:
        async def newest(self, stream, _among):
            raise unavailable(stream, "nobody is there")

    async def test():
        host = system_host(tmp_path)
        site = shared.Shared(cast("Any", Away()), "up", None, lambda _seq: None, host)
        async with asyncio.timeout(30):
            await site.checkpoint()
        assert host.disk.read(shared.SEGMENTS) is None

    asyncio.run(test())


def test_a_state_stream_that_is_full_is_said_and_mends_itself(run, hosts, monkeypatch):
    monkeypatch.setattr(partitions, "STATE_BYTES_MAX", 20_000)
    monkeypatch.setattr(kept, "PART_BYTES", 1000)
    monkeypatch.setattr(kept, "SMALL_BYTES", 0)

    async def test(sites, up, _down):
        await provision_partitions(up, "up")
        state = PartitionState(up, "up", P, "a", hosts(sites, 0).clock)
        await state.claim()
        small = pack({"sinks": {}, "x": bytes(3000)})
        await state.save(small)
        before = (await up.state(STATE)).messages
        with pytest.raises(HostError) as caught:
            await state.save(pack({"sinks": {}, "x": bytes(50_000)}))
        assert caught.value.code == "host.disk-full"
        assert (await up.state(STATE)).messages == before
        assert await state.load() == small
        await state.save(pack({"sinks": {}, "x": bytes(2000)}))

    run(test)


def test_rows_of_an_origin_that_the_subject_does_not_name_are_counted_bad(run, rng, hosts):
    messages = history(rng, 20, HERE)
    other = next(o for o in ORIGINS if partition_of(o) != P)
    _, forged = history(rng, 1, [other])[0]

    async def test(sites, up, down):
        await provision_partitions(up, "up")
        owner = Owner(await sites.bus("up"), hosts(sites, 0), "one")
        await send(down, [*messages[:1], (ORIGIN, forged), *messages[1:]])
        await owner.start()
        await until(lambda: sent(up, alone_outbox))
        assert await outbox(up) == alone_outbox
        assert owner.engine.progress.bad_messages == 1
        await owner.end()

    alone_outbox, _ = alone(messages)
    run(test)
