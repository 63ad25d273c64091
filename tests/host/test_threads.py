"""Blocking calls that are seen through to their end, also for a caller who was cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from ganglion.core.errors import HostError
from ganglion.host.threads import to_its_end


class Work:
    """A blocking call that ends when it is told to, well or with an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.ended = False
        self.error = error
        self.thread = 0

    def __call__(self, *parts: str, joint: str = "") -> str:
        self.thread = threading.get_ident()
        self.begun.set()
        assert self.go.wait(60)
        self.ended = True
        if self.error is not None:
            raise self.error
        return joint.join(parts)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def rounds(count: int = 20) -> None:
    """The loop turns a few times: what could happen without waiting for anything has happened."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_it_gives_what_the_call_gives_from_another_thread() -> None:
    work = Work()
    work.go.set()
    assert asyncio.run(to_its_end(work, "a", "b", joint="-")) == "a-b"
    assert work.thread != threading.get_ident()


def test_it_raises_what_the_call_raises() -> None:
    work = Work(HostError("host.disk-full", "no space"))
    work.go.set()
    with pytest.raises(HostError) as caught:
        asyncio.run(to_its_end(work))
    assert caught.value is work.error


def test_the_loop_goes_on_meanwhile() -> None:
    async def story() -> None:
        work = Work()
        doing = asyncio.ensure_future(to_its_end(work))
        await until(work.begun.is_set)
        await rounds()
        assert not doing.done()
        work.go.set()
        await doing

    asyncio.run(story())


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_cancelled_caller_waits_for_the_end_however_often_it_is_cancelled(times: int) -> None:
    async def story() -> Work:
        work = Work()
        doing = asyncio.ensure_future(to_its_end(work))
        await until(work.begun.is_set)
        for _ in range(times):
            doing.cancel()
            await rounds()
            assert not doing.done(), "the file may still be written"
        work.go.set()
        with pytest.raises(asyncio.CancelledError):
            await doing
        assert doing.cancelled()
        return work

    assert asyncio.run(story()).ended


def test_an_error_of_a_cancelled_call_is_the_cause_of_the_cancellation() -> None:
    told: list[str] = []

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(str(context)))
        work = Work(HostError("host.disk-full", "no space"))
        doing = asyncio.ensure_future(to_its_end(work))
        await until(work.begun.is_set)
        doing.cancel()
        await rounds()
        work.go.set()
        with pytest.raises(asyncio.CancelledError) as caught:
            await doing
        assert caught.value.__cause__ is work.error

    asyncio.run(story())
    assert told == [], "and nobody is told of an error that was handed on"


def test_a_timeout_waits_for_the_end_too() -> None:
    async def story() -> Work:
        work = Work()
        waiting = asyncio.ensure_future(asyncio.wait_for(to_its_end(work), 0.01))
        await until(work.begun.is_set)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.05)
        assert not waiting.done(), "its own time was up, but not the call"
        work.go.set()
        with pytest.raises(TimeoutError):
            await waiting
        return work

    assert asyncio.run(story()).ended
