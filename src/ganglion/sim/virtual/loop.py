"""An asyncio loop on virtual time, made of asyncio's public parts only.

The loop is the ordinary one with a selector that never waits: told to wait, it moves the clock instead. What a program
asks of the outside through its loop (threads, sockets) goes to an `Outside`, so code that uses asyncio's own calls
for that runs here unchanged.
"""

from __future__ import annotations

import asyncio
import gc
import math
import selectors
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from ganglion.core.errors import RunError
from ganglion.core.units import NS_PER_S

T = TypeVar("T")

STEPS_AT_ONE_INSTANT_MAX = 200_000
"""Rounds of the loop without any time passing; beyond that somebody is spinning."""
WAITERS_NAMED_MAX = 20


class Outside(Protocol):
    """What lies beyond the loop: blocking calls and the network."""

    def call(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """Does a blocking call some time later; the future gets its result."""

    async def datagrams(
        self, protocol: asyncio.DatagramProtocol, address: tuple[str, int]
    ) -> asyncio.DatagramTransport:
        """Opens a datagram socket at ``address`` (port 0: any); raises `OSError`."""

    async def stream(self, protocol: asyncio.Protocol, address: tuple[str, int]) -> asyncio.Transport:
        """Connects to ``address``; raises `OSError`."""


class VirtualTime:
    """Nanoseconds since the world began; only the loop's selector moves it."""

    def __init__(self) -> None:
        self.now_ns = 0


class _Selector(selectors.DefaultSelector):
    """Never waits: whatever time it is told to wait has passed when it returns."""

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        self._time = time
        self._idle_steps = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise _stuck(
                "run.deadlock", "everybody waits for somebody else", "no timer is set and nothing is ready"
            )
        if timeout > 0:
            # At least a nanosecond, or a timer that lies within a rounding error would never come.
            self._time.now_ns += max(1, math.ceil(timeout * NS_PER_S))
            self._idle_steps = 0
            return []
        self._idle_steps += 1
        if self._idle_steps > STEPS_AT_ONE_INSTANT_MAX:
            raise _stuck(
                "run.livelock", "the world turns without time passing", "somebody is asked again and again"
            )
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The event loop; ``outside`` must be set before a program reaches beyond the loop."""

    def __init__(self, time: VirtualTime | None = None) -> None:
        self.virtual_time = time or VirtualTime()
        self.outside: Outside = Nothing(self)
        self.on_task: Callable[[asyncio.Task[Any]], None] = lambda _task: None
        super().__init__(_Selector(self.virtual_time))
        self.set_task_factory(_task)

    def time(self) -> float:
        return self.virtual_time.now_ns / NS_PER_S

    def run_in_executor(  # type: ignore[override] # the same to its callers
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """What `asyncio.to_thread` and its like end in: no thread is used."""
        assert executor is None, "executors of one's own cannot enter the virtual world"
        return self.outside.call(lambda: func(*args))

    async def create_datagram_endpoint(  # type: ignore[override] # the options we use
        self, protocol_factory: Callable[[], asyncio.DatagramProtocol], local_addr: tuple[str, int], **_: Any
    ) -> tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol]:
        protocol = protocol_factory()
        return await self.outside.datagrams(protocol, local_addr), protocol

    async def create_connection(  # type: ignore[override] # the options we use
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int, **_: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        protocol = protocol_factory()
        return await self.outside.stream(protocol, (host, port)), protocol


def _task(loop: asyncio.AbstractEventLoop, coro: Any, **given: Any) -> asyncio.Task[Any]:
    """Makes a task as the loop would, and tells of it."""
    assert isinstance(loop, VirtualLoop)
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **given)
    loop.on_task(task)
    return task


class Nothing:
    """An `Outside` where blocking calls take no time and nobody can be reached."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def call(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._loop.call_soon(settle, future, function)
        return future

    async def datagrams(
        self, protocol: asyncio.DatagramProtocol, address: tuple[str, int]
    ) -> asyncio.DatagramTransport:
        raise ConnectionRefusedError(f"there is no network here for {address}")

    async def stream(self, protocol: asyncio.Protocol, address: tuple[str, int]) -> asyncio.Transport:
        raise ConnectionRefusedError(f"there is no network here for {address}")


def settle(future: asyncio.Future[Any], function: Callable[[], Any]) -> None:
    """Gives the future what the function returns or raises."""
    try:
        result = function()
    except Exception as error:  # noqa: BLE001 # whatever it is belongs to whoever waits
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(result)


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Runs ``main(loop)`` in a world of its own from time 0 on.

    Raises `RunError` ``run.deadlock`` (nothing can ever happen again) or ``run.livelock`` (time stands still), both
    naming the tasks that wait and where.
    """
    with quiet_memory(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        return runner.run(main(loop))


@contextmanager
def quiet_memory() -> Iterator[None]:
    """No garbage collection within: it would end forgotten generators at moments that depend on the interpreter."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def waiters(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Every unfinished task with the line it waits at, outermost coroutine first, sorted by name."""
    found = []
    for task in asyncio.all_tasks(loop):
        places: list[str] = []
        waiting: Any = task.get_coro()
        while waiting is not None:
            frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None)
            if frame is None:
                break
            places.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
            waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)
        found.append(f"{task.get_name()} at {' > '.join(places) or 'its start'}")
    return sorted(found)


def _stuck(code: str, what: str, why: str) -> RunError:
    names = waiters(asyncio.get_event_loop())
    more = f" and {len(names) - WAITERS_NAMED_MAX} more" if len(names) > WAITERS_NAMED_MAX else ""
    return RunError(
        code,
        what,
        why=f"{why}; waiting: {'; '.join(names[:WAITERS_NAMED_MAX]) or 'nobody'}{more}",
        next_step="look at what those lines wait for",
    )
