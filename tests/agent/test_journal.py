"""A journal gives every entry once and in order, whether it is remembered, fetched, or was appended unanswered."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from ganglion.agent import streams
from ganglion.agent.streams import BusJournal, PassingJournal, ticking
from ganglion.core.block import Block
from ganglion.core.errors import MessagingError
from ganglion.core.wire import End, decode_several, encode_several
from ganglion.engine.durable import Entry
from ganglion.messaging.bus import unavailable
from ganglion.messaging.memory import MemorySites
from ganglion.messaging.provision import Caps
from ganglion.messaging.subjects import journal as name_of
from ganglion.sim.virtual import loop as virtual
from ganglion.sim.virtual.clock import VirtualClock
from tests.core.block_cases import same_block

CAPS = Caps(1 << 20, 1 << 20, 1 << 20)


def block(number: int) -> Block:
    seq = np.arange(3, dtype=np.int64) + 3 * number
    return Block("s", ("a-1", "a-2"), np.array([0, 1, 0], np.int32), seq, seq, {"x": seq.astype(np.float32)})


class Site:
    def __init__(self, loop: Any, sites: MemorySites, bus: Any) -> None:
        self.sites, self.bus = sites, bus
        self.clock = VirtualClock(loop.virtual_time)
        self.written: list[tuple[str, bool]] = []
        self.journal = BusJournal(bus, name_of("gw1"), self.clock, lambda s, ok: self.written.append((s, ok)))
        self.entries: list[Entry] = []
        self.reader: asyncio.Future[None] | None = None

    def begin(self, after_seq: int = 0) -> None:
        self.reader = asyncio.ensure_future(self._read(after_seq))

    async def _read(self, after_seq: int) -> None:
        async for entry in self.journal.read(after_seq):
            self.entries.append(entry)

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(100):
            while len(self.entries) < count:
                await asyncio.sleep(0.01)

    def whole(self, count: int) -> None:
        """Entries 1 to ``count``, each holding its own block."""
        assert [e.seq for e in self.entries] == list(range(1, count + 1))
        for number, entry in enumerate(self.entries):
            assert entry.payload is not None
            items = entry.items or tuple(decode_several(entry.payload))
            (found,) = items
            assert isinstance(found, Block)
            assert same_block(found, block(number))
            assert encode_several(list(items)) == entry.payload


def told(story: Any) -> None:
    async def main(loop: Any) -> None:
        sites = MemorySites()
        site = Site(loop, sites, await sites.add("gw1", CAPS))
        await story(site)
        if site.reader is not None:
            site.reader.cancel()
            await asyncio.wait({site.reader})

    virtual.run(main)


def test_what_was_there_is_fetched_and_what_is_appended_is_remembered():
    async def story(site: Site) -> None:
        for number in range(3):
            await BusJournal(site.bus, name_of("gw1"), site.clock).put([block(number)])
        site.begin()
        await site.wait(3)
        for number in range(3, 40):
            await site.journal.put([block(number)])
        await site.wait(40)
        site.whole(40)
        counts = site.journal.counts
        assert counts.fetched + counts.remembered == 40
        assert counts.remembered > 30  # the first appends ended the fetching
        assert (site.journal.unread_rows, site.journal.age_ns(site.clock.monotonic_ns())) == (0, 0)
        assert site.written[-1] == (name_of("gw1"), True)

    told(story)


def test_a_reader_that_begins_later_is_given_what_waits_and_its_age():
    async def story(site: Site) -> None:
        reads: list[int] = []
        site.journal.on_read = lambda: reads.append(site.journal.unread_rows)
        for number in range(4):
            await site.journal.put([block(number)])
        await asyncio.sleep(2)
        assert site.journal.unread_rows == 12
        assert site.journal.age_ns(site.clock.monotonic_ns()) >= 2_000_000_000
        site.begin()
        await site.wait(4)
        site.whole(4)
        assert reads == [9, 6, 3, 0]

    told(story)


def test_what_does_not_fit_is_fetched_in_its_place(monkeypatch):
    monkeypatch.setattr(streams, "RECENT_BYTES_MAX", 1_000)

    async def story(site: Site) -> None:
        for number in range(30):
            await site.journal.put([block(number)])
        site.begin()
        await site.wait(30)
        site.whole(30)
        assert 0 < site.journal.counts.remembered < 30
        assert site.journal.counts.refetched + site.journal.counts.remembered == 30

    told(story)


@pytest.mark.parametrize("follows", [True, False])
def test_an_append_that_was_stored_but_not_answered_is_read_all_the_same(monkeypatch, follows):
    async def story(site: Site) -> None:
        site.begin()
        await site.journal.put([block(0)])
        real = site.bus.append

        async def unanswered(stream: str, *given: Any, **named: Any) -> int:
            await real(stream, *given, **named)
            raise unavailable(stream, "the connection broke")

        monkeypatch.setattr(site.bus, "append", unanswered)
        with pytest.raises(MessagingError):
            await site.journal.put([block(1)])
        monkeypatch.undo()
        assert site.written[-1][1] is False
        if follows:
            await site.journal.put([block(2)])
        await site.wait(3 if follows else 2)
        site.whole(3 if follows else 2)

    told(story)


def test_what_somebody_else_appended_is_found_before_long():
    async def story(site: Site) -> None:
        site.begin()
        await site.journal.put([block(0)])
        await site.wait(1)
        await BusJournal(site.bus, name_of("gw1"), site.clock).put([block(1)])
        await site.wait(2)
        await site.journal.put([block(2)])
        await site.wait(3)
        site.whole(3)

    told(story)


def test_a_server_that_restarts_interrupts_nothing():
    async def story(site: Site) -> None:
        site.begin()
        for number in range(6):
            if number == 3:
                site.sites.stop("gw1")
                asyncio.get_running_loop().call_later(3, site.sites.start, "gw1")
                await asyncio.sleep(4)
            await site.journal.put([block(number)])
        await site.wait(6)
        site.whole(6)

    told(story)


def test_ticks_and_ends_and_several_items():
    async def story(site: Site) -> None:
        site.begin()
        await site.journal.tick("gw1")
        await site.journal.put([block(0), End("s", "a-1")])
        await site.journal.put([End("s", "a-2")])
        await site.wait(3)
        tick, several, end = site.entries
        assert (tick.payload, tick.items) == (None, None)
        assert several.payload == encode_several([block(0), End("s", "a-1")])
        assert end.payload == encode_several([End("s", "a-2")])
        stored = [m async for m in _first(site.bus.read(name_of("gw1"), 0), 3)]
        assert [m.subject for m in stored] == ["j.tick.gw1", "j.s.many", "j.s.a-2"]

    told(story)


async def _first(messages: Any, count: int) -> Any:
    async for message in messages:
        yield message
        count -= 1
        if not count:
            await messages.aclose()
            return


def test_a_passing_journal_counts_on_from_where_it_is_read_and_keeps_nothing():
    async def story(site: Site) -> None:
        journal = PassingJournal(site.clock)
        assert await journal.last_seq() is None
        waiting = asyncio.ensure_future(journal.put([block(0)]))
        await asyncio.sleep(1)
        assert not waiting.done()  # nobody has said where to count from
        entries: list[Entry] = []

        async def read() -> None:
            async for entry in journal.read(41):
                entries.append(entry)  # noqa: PERF401  # they are looked at as they come

        reader = asyncio.ensure_future(read())
        await waiting
        await journal.tick("gw1")
        await asyncio.sleep(0.1)
        assert [(e.seq, e.payload) for e in entries] == [(42, b""), (43, None)]
        assert (journal.unread_rows, await journal.last_seq()) == (0, 43)
        journal.encodes = True
        await journal.put([block(1)])
        await asyncio.sleep(0.1)
        assert entries[-1].payload == encode_several([block(1)])
        reader.cancel()

    told(story)


@pytest.mark.parametrize("limit, most", [("PASSING_ENTRIES_MAX", 20), ("PASSING_BYTES_MAX", 5 * 96 + 95)])
def test_a_passing_journal_holds_so_much_and_no_more_while_its_reader_takes_nothing(monkeypatch, limit, most):
    monkeypatch.setattr(streams, limit, most)

    async def story(site: Site) -> None:
        journal = PassingJournal(site.clock)
        entries = journal.read(0)
        first = asyncio.ensure_future(anext(entries))
        await asyncio.sleep(0)
        await journal.put([block(0)])
        await first
        codes: list[str] = []

        async def filled() -> int:
            for count in range(1000):
                try:
                    await journal.put([block(count)])
                except MessagingError as error:
                    codes.append(error.code)
                    return count
            raise AssertionError("it takes all there is")

        held = await filled()
        assert 0 < held <= 20
        assert journal.unread_rows == 3 * held
        # A tick that finds no room is left out; the next will do.
        ticks = asyncio.ensure_future(ticking(journal, lambda: True, "gw1", site.clock, 1_000_000_000, 0.0))
        await asyncio.sleep(5.5)
        assert not ticks.done()
        ticks.cancel()
        before = (await anext(entries)).seq
        assert before == 2
        await journal.put([block(0)])
        last = await journal.last_seq()
        assert last is not None
        for number in range(before + 1, last + 1):
            assert (await anext(entries)).seq == number
        assert journal.unread_rows == 0
        assert await filled() == held
        assert codes == ["messaging.full"] * 2

    told(story)


def test_what_is_larger_than_the_limit_passes_alone(monkeypatch):
    monkeypatch.setattr(streams, "PASSING_BYTES_MAX", 1)

    async def story(site: Site) -> None:
        journal = PassingJournal(site.clock)
        entries = journal.read(0)
        for number in range(3):
            putting = asyncio.ensure_future(journal.put([block(number)]))
            assert (await anext(entries)).seq == number + 1
            await putting

    told(story)


def test_ticks_come_while_something_waits_for_them():
    async def story(site: Site) -> None:
        site.begin()
        holds = True
        task = asyncio.ensure_future(
            ticking(site.journal, lambda: holds, "gw1", site.clock, 1_000_000_000, 0.5)
        )
        await asyncio.sleep(3.7)
        assert len(site.entries) == 3
        holds = False
        await asyncio.sleep(3)
        assert len(site.entries) == 3
        task.cancel()

    told(story)
