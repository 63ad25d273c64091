"""An engine whose journal keeps nothing: it goes on where its checkpoint was, and loses only what came after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from ganglion.core.wire import encode
from ganglion.engine.durable import Entry
from tests.engine.flows import GATEWAY, LONG_HISTORY, items_of
from tests.engine.site import Site, sink_rows
from tests.engine.stores import MemoryJournal


class Passing(MemoryJournal):
    """Numbers go on from where it is read, and nothing is read twice."""

    async def read(self, after_seq: int) -> AsyncIterator[Entry]:
        for number, payload in enumerate(self.payloads, after_seq + 1):
            yield Entry(number, payload)
        await asyncio.Event().wait()

    async def last_seq(self) -> None:  # type: ignore[override] # a journal that keeps nothing has none
        return None


def lived(site: Site, payloads: list[bytes | None], *, killed_after: int | None = None) -> None:
    """One life of the engine; killed without a last checkpoint when it has taken that many."""

    async def live() -> None:
        site.journal = Passing(payloads)
        engine = site.started()
        running = asyncio.ensure_future(engine.run())
        await engine.caught_up.wait()
        began = engine.progress.input_seq
        wanted = began + (len(payloads) if killed_after is None else killed_after)
        while engine.progress.input_seq < wanted and not running.done():
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait({running})
        if not running.cancelled():
            running.result()
        if killed_after is None:
            await engine.checkpoint()

    asyncio.run(live())


def payloads() -> list[bytes | None]:
    return [*(encode(item) for item in items_of(LONG_HISTORY)), None]


def test_lives_that_end_well_send_what_one_life_would():
    made = payloads()
    whole, cut = (Site([], GATEWAY, gather=True) for _ in range(2))
    lived(whole, made)
    lived(cut, made[:5])
    lived(cut, made[5:])
    assert cut.outbox.messages == whole.outbox.messages != []
    assert sink_rows(cut, "incidents") == sink_rows(whole, "incidents") != []
    assert cut.started_engine.progress.input_seq == len(made)


def test_after_a_kill_new_messages_come_after_those_that_were_sent():
    """What came after the last checkpoint is gone; what was sent of it is neither sent again nor overwritten."""
    made = payloads()
    site = Site([], GATEWAY, gather=False)
    lived(site, made[:4])
    lived(site, made[4:9], killed_after=5)
    sent = list(site.outbox.messages)
    lived(site, made[9:])
    assert site.outbox.messages[: len(sent)] == sent
    assert len(site.outbox.messages) > len(sent)
