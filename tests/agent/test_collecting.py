"""The collector waits for a lull, and not for ever; afterwards all is as it was."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from ganglion.agent import collecting
from ganglion.agent.collecting import LOOK_EVERY_NS, Collecting
from ganglion.sim.virtual import loop as virtual
from ganglion.sim.virtual.clock import VirtualClock


class Knot:
    """Refers to itself: only a collection frees it."""

    alive = 0

    def __init__(self) -> None:
        self.own = self
        Knot.alive += 1

    def __del__(self) -> None:
        Knot.alive -= 1


def told(story: Any) -> None:
    async def main(loop: Any) -> None:
        Knot.alive = 0
        work = [0]
        one = Collecting(VirtualClock(loop.virtual_time), lambda: work[0])
        running = asyncio.ensure_future(one.run())
        await asyncio.sleep(0)
        assert not gc.isenabled()
        try:
            await story(one, work)
        finally:
            running.cancel()
            await asyncio.wait({running})
            assert gc.isenabled()
            assert gc.get_freeze_count() == 0

    virtual.run(main)


LOOK_S = LOOK_EVERY_NS / 1e9


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(collecting, "WORTH_OBJECTS", 500)
    monkeypatch.setattr(collecting, "OVERDUE_OBJECTS", 3_000)


def test_garbage_goes_in_a_lull_and_not_while_rows_come():
    async def story(one: Collecting, work: list[int]) -> None:
        for _ in range(1_000):
            Knot()
        for _ in range(5):
            work[0] += 1
            await asyncio.sleep(LOOK_S)
        assert Knot.alive == 1_000
        await asyncio.sleep(3 * LOOK_S)
        assert Knot.alive == 0
        assert (one.collected.count, one.collected.forced) == (1, 0)

    told(story)


def test_garbage_that_has_become_too_much_goes_all_the_same():
    async def story(one: Collecting, work: list[int]) -> None:
        for _ in range(4_000):
            Knot()
        for _ in range(3):
            work[0] += 1
            await asyncio.sleep(LOOK_S)
        assert Knot.alive == 0
        assert one.collected.forced == 1

    told(story)


def test_where_little_was_made_nothing_is_collected():
    async def story(one: Collecting, _work: list[int]) -> None:
        Knot()
        await asyncio.sleep(20 * LOOK_S)
        assert one.collected.count == 0

    told(story)
