"""Connections of a world: bytes that come in order and late, wait while the path is parted, and end with a program."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from ganglion.core.units import NS_PER_MS, NS_PER_S
from ganglion.sim.virtual.paths import Life, Path

WINDOW_BYTES = 1 << 16
"""What a far end takes before its program has read it; more waits on this side."""
RETRY_NS = 200 * NS_PER_MS
"""How long after the path is whole again what was sent meanwhile comes, at most."""


class Sign(Enum):
    """What ends a connection."""

    CLOSED = "closed"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class StreamTap:
    """What happened at one end: a write left, one was read, or the connection is over (``data`` empty)."""

    kind: Literal["sent", "arrived", "over"]
    now_ns: int
    machine: str
    end: StreamSocket
    data: bytes = b""


class StreamSocket(asyncio.Transport):
    """One end of a connection, of one life of a machine; `join` makes both.

    ``delay_ns``: of so many bytes sent from here; ``is_up``: whether the system of its machine answers at all. Each
    write arrives as one piece.
    """

    far: StreamSocket

    def __init__(
        self,
        life: Life,
        protocol: asyncio.Protocol,
        path: Path,
        delay_ns: Callable[[int], int],
        now_ns: Callable[[], int],
        context: Context,
        tell: Callable[[StreamTap], None],
        is_up: Callable[[], bool],
    ) -> None:
        super().__init__()
        self.life = life
        self._protocol = protocol
        self._path = path
        self._delay_ns = delay_ns
        self._now_ns = now_ns
        self._context = context
        self._tell = tell
        self._is_up = is_up
        self._coming: deque[tuple[int, bytes | Sign]] = deque()
        self._last_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._closing = False
        self._over = False
        self._under_way_bytes = 0

    # --- what a program calls ---

    def write(self, data: Any) -> None:
        if self.is_closing() or not data:
            return
        content = bytes(data)
        self._under_way_bytes += len(content)
        self._tell(StreamTap("sent", self._now_ns(), self.life.name, self, content))
        self._send(content)

    def get_write_buffer_size(self) -> int:
        return max(0, self._under_way_bytes - WINDOW_BYTES)

    def is_closing(self) -> bool:
        return self._closing or not self.life.alive

    def is_reading(self) -> bool:
        return not self._paused and not self.is_closing()

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._wake(0)

    def close(self) -> None:
        self._end(Sign.CLOSED)

    def abort(self) -> None:
        self._end(Sign.RESET)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    # --- what the world does ---

    def begin(self) -> None:
        """Tells the program that the connection stands."""
        self._context.run(self._protocol.connection_made, self)

    def died(self, *, silent: bool) -> None:
        """The program has ended. Its system says so to the other side, unless it has ended with it."""
        if not self._over:
            self._over = True
            self._tell(StreamTap("over", self._now_ns(), self.life.name, self))
            if not silent:
                self._send(Sign.RESET)

    def _end(self, sign: Sign) -> None:
        if not self.is_closing():
            self._closing = True
            self._send(sign)
            asyncio.get_running_loop().call_soon(self._lost, None, context=self._context)

    def _send(self, what: bytes | Sign) -> None:
        size_bytes = len(what) if isinstance(what, bytes) else 0
        # One nanosecond apart at least: what leaves first arrives first.
        self._last_ns = max(self._last_ns + 1, self._now_ns() + self._delay_ns(size_bytes))
        self.far.coming(self._last_ns, what)

    def coming(self, at_ns: int, what: bytes | Sign) -> None:
        """Something is on its way here."""
        self._coming.append((at_ns, what))
        if self._timer is None:
            self._wake(at_ns - self._now_ns())

    def _wake(self, after_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0, after_ns) / NS_PER_S, self._arrive, context=Context())

    def _arrive(self) -> None:
        self._timer = None
        while self._coming:
            at_ns, what = self._coming[0]
            if at_ns > self._now_ns():
                self._wake(at_ns - self._now_ns())
                return
            if not self._path.whole:
                self._wake(RETRY_NS)
                return
            if self._paused and not self._over and self.life.alive:
                return
            self._coming.popleft()
            self._take(what)

    def _take(self, what: bytes | Sign) -> None:
        if isinstance(what, bytes):
            self.far._under_way_bytes -= len(what)
        if not self.life.alive or self._over or self._closing:
            # A system that is up says of bytes for a program that is not: there is nobody.
            if isinstance(what, bytes) and self._is_up():
                self._send(Sign.RESET)
            return
        if isinstance(what, bytes):
            self._tell(StreamTap("arrived", self._now_ns(), self.life.name, self, what))
            self._context.run(self._protocol.data_received, what)
            return
        self._closing = True
        error = ConnectionResetError("connection reset by peer") if what is Sign.RESET else None
        self._context.run(self._lost, error)

    def _lost(self, error: Exception | None) -> None:
        if not self._over:
            self._over = True
            self._tell(StreamTap("over", self._now_ns(), self.life.name, self))
            self._protocol.connection_lost(error)


def join(one: StreamSocket, other: StreamSocket) -> None:
    """Makes them the ends of one connection."""
    one.far, other.far = other, one
