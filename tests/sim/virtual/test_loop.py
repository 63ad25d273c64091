"""The virtual loop: time passes without waiting, the same way each time, and who is stuck is named."""

from __future__ import annotations

import asyncio
import time

import pytest

from ganglion.core.errors import RunError
from ganglion.core.units import NS_PER_S
from ganglion.host.threads import to_its_end
from ganglion.sim.virtual import loop as virtual
from ganglion.sim.virtual.chance import SeededChances
from ganglion.sim.virtual.clock import EPOCH_NS, VirtualClock


def test_a_day_passes_at_once_and_to_the_nanosecond():
    async def main(loop):
        clock = VirtualClock(loop.virtual_time, offset_ns=17)
        await clock.sleep_ns(86_400 * NS_PER_S)
        await clock.sleep_until_ns(clock.monotonic_ns() + 1)
        return clock.monotonic_ns(), clock.wall_ns()

    began_s = time.process_time()
    monotonic_ns, wall_ns = virtual.run(main)
    assert abs(monotonic_ns - 17 - 86_400 * NS_PER_S) <= 10
    assert wall_ns - EPOCH_NS == monotonic_ns - 17
    assert time.process_time() - began_s < 60, "a day is not waited for"


def test_timers_fire_in_their_order_and_timeouts_work():
    async def main(_loop):
        order = []

        async def after(delay_s, name):
            await asyncio.sleep(delay_s)
            order.append(name)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.gather(after(3, "c"), after(1, "a"), after(2, "b"), after(9, "late"))
        return order

    assert virtual.run(main) == ["a", "b", "c"]


def test_a_deadlock_names_who_waits_and_where():
    async def waits_for_the_kettle():
        await asyncio.Event().wait()

    async def main(_loop):
        await asyncio.create_task(waits_for_the_kettle(), name="cook")

    with pytest.raises(RunError) as caught:
        virtual.run(main)
    assert caught.value.code == "run.deadlock"
    assert "cook at " in caught.value.why
    assert "waits_for_the_kettle:" in caught.value.why
    assert "Event.wait:" in caught.value.why


def test_turning_without_time_passing_is_told(monkeypatch):
    monkeypatch.setattr(virtual, "STEPS_AT_ONE_INSTANT_MAX", 1000)

    async def spins(_loop):
        while True:
            await asyncio.sleep(0)

    with pytest.raises(RunError) as caught:
        virtual.run(spins)
    assert caught.value.code == "run.livelock"
    assert "spins:" in caught.value.why


def test_blocking_calls_need_no_thread():
    async def main(_loop):
        import threading

        here = threading.current_thread()
        assert await asyncio.to_thread(threading.current_thread) is here
        return await to_its_end(lambda: 42)

    assert virtual.run(main) == 42


def test_a_blocking_call_that_fails_fails_its_caller():
    async def main(_loop):
        await asyncio.to_thread(lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        virtual.run(main)


def test_nobody_can_be_reached_where_there_is_no_network():
    async def main(_loop):
        with pytest.raises(OSError, match="no network"):
            await asyncio.open_connection("127.0.0.1", 4222)

    virtual.run(main)


def test_each_component_draws_from_a_stream_of_its_own():
    chances = SeededChances(7)
    first = [chances.stream("a").random() for _ in range(3)]
    other = chances.within("gw1").stream("a")
    assert first == [chances.stream("a").random() for _ in range(3)]
    assert other.random() not in first
    assert SeededChances(8).stream("a").random() not in first
    # A known value: what a failing seed reproduces on every version.
    assert SeededChances(7, "x").stream("y").getrandbits(32) == KNOWN


KNOWN = 2120768250
