"""The real clocks: never early, and a caller who is behind still lets others run."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.host.system import SystemClock

DAY_NS = 86_400_000_000_000


class EarlyClock(SystemClock):
    """Timers that fire when half of the time is over, as some systems' do by a little."""

    def __init__(self) -> None:
        self.naps = 0

    async def sleep_ns(self, duration_ns: int) -> None:
        self.naps += 1
        await super().sleep_ns(duration_ns // 2)


@settings(max_examples=20)
@given(st.integers(-1_000_000, 3_000_000))
def test_nobody_wakes_early(ahead_ns: int) -> None:
    async def story() -> None:
        clock = SystemClock()
        until_ns = clock.monotonic_ns() + ahead_ns
        await clock.sleep_until_ns(until_ns)
        assert clock.monotonic_ns() >= until_ns

    asyncio.run(story())


def test_a_timer_that_fires_early_is_set_again() -> None:
    async def story() -> EarlyClock:
        clock = EarlyClock()
        until_ns = clock.monotonic_ns() + 5_000_000
        await clock.sleep_until_ns(until_ns)
        assert clock.monotonic_ns() >= until_ns
        return clock

    assert asyncio.run(story()).naps > 1


@pytest.mark.parametrize("behind_ns", [0, 1, DAY_NS])
def test_a_caller_who_is_behind_lets_others_run(behind_ns: int) -> None:
    async def story() -> None:
        clock = SystemClock()
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        for turn in range(10):
            assert turns >= turn
            await clock.sleep_until_ns(clock.monotonic_ns() - behind_ns)
            assert turns >= turn + 1
        task.cancel()

    asyncio.run(story())


@pytest.mark.parametrize("duration_ns", [0, -1, -DAY_NS])
def test_a_sleep_of_no_time_ends(duration_ns: int) -> None:
    asyncio.run(SystemClock().sleep_ns(duration_ns))


def test_a_sleeper_can_be_cancelled() -> None:
    async def story() -> None:
        task = asyncio.ensure_future(SystemClock().sleep_until_ns(time.monotonic_ns() + DAY_NS))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())


def test_the_clocks_are_the_operating_systems() -> None:
    clock = SystemClock()
    before = time.monotonic_ns()
    shown = clock.monotonic_ns()
    assert before <= shown <= time.monotonic_ns()
    assert abs(clock.wall_ns() - time.time_ns()) < DAY_NS, "nanoseconds since 1970, not something else"
