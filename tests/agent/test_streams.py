"""The engine's streams on a bus whose server comes and goes."""

from __future__ import annotations

import asyncio

import pytest

from ganglion.agent.streams import BusJournal, BusOutbox, answered
from ganglion.core.errors import MessagingError
from ganglion.messaging.bus import unavailable
from ganglion.messaging.memory import MemorySites
from ganglion.messaging.provision import Caps, provision
from ganglion.messaging.subjects import journal, outbox
from ganglion.sim.virtual import loop as virtual
from ganglion.sim.virtual.clock import VirtualClock

CAPS = Caps(1 << 20, 1 << 20, 1 << 20)


def on_site(story):
    async def main(loop):
        sites = MemorySites()
        bus = await sites.add("gw1", CAPS)
        await story(sites, bus, VirtualClock(loop.virtual_time))

    virtual.run(main)


async def back_after(sites, delay_s):
    await asyncio.sleep(delay_s)
    sites.start("gw1")


def test_questions_wait_for_a_server_that_restarts():
    """A node's engine used to end when its server was killed between an append and the question after a fence."""

    async def story(sites, bus, clock):
        box, book = BusOutbox(bus, outbox("gw1"), clock), BusJournal(bus, journal("gw1"), clock)
        await box.append(1, "a", "b", b"x")
        sites.stop("gw1")
        coming = asyncio.create_task(back_after(sites, 3))
        assert await box.last_ordinal() == 1
        assert await book.last_seq() == 0
        await coming

    on_site(story)


def test_an_append_that_was_stored_but_not_answered_is_found_again_after_two_kills(monkeypatch):
    async def story(sites, bus, clock):
        box = BusOutbox(bus, outbox("gw1"), clock)
        real = bus.append
        lost: list[int] = []

        async def unanswered(stream, *given, **named):
            if not lost:
                lost.append(await real(stream, *given, **named))
                raise unavailable(stream, "the connection broke")
            sites.stop("gw1")  # it answers with a fence first, and is gone when it is asked for the end
            sites.server("gw1").running = True
            try:
                return await real(stream, *given, **named)
            finally:
                sites.server("gw1").running = False
                asyncio.get_running_loop().call_later(2, sites.start, "gw1")

        monkeypatch.setattr(bus, "append", unanswered)
        await box.append(1, "a", "b", b"x")
        assert (await bus.state(outbox("gw1"))).messages == 1

    on_site(story)


def test_only_silence_is_waited_out():
    async def story(_sites, _bus, clock):
        async def refused():
            raise MessagingError("messaging.refused", "no")

        with pytest.raises(MessagingError):
            await answered(refused, clock)

    on_site(story)


def test_a_site_that_starts_on_a_full_disk_needs_to_write_nothing():
    """It used to write its streams' configuration again, which a server with a full disk never answers."""

    async def story(sites, bus, _clock):
        sites.server("gw1").store.full = True
        await provision(bus, "gw1", CAPS)
        sites.server("gw1").store.streams.clear()
        with pytest.raises(MessagingError):
            await provision(bus, "gw1", CAPS)

    on_site(story)
