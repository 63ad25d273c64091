"""How long the twin's doings take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol


class Pace(Protocol):
    """Durations in nanoseconds, drawn anew each time."""

    def request_ns(self, size_bytes: int) -> int:
        """From a client's request until the server has done it and synced it to disk."""

    def answer_ns(self) -> int:
        """From then until the client has the answer."""

    def link_ns(self, child: str, size_bytes: int) -> int:
        """From a child's server to its parent's, or back, for a message of this size."""


class Instant:
    """The `Pace` of servers that take no time."""

    def request_ns(self, size_bytes: int) -> int:
        return 0

    def answer_ns(self) -> int:
        return 0

    def link_ns(self, child: str, size_bytes: int) -> int:
        return 0


def later(delay_ns: int, call: Callable[..., None], *args: Any) -> None:
    """Calls after the delay; at once when there is none."""
    if delay_ns <= 0:
        call(*args)
    else:
        asyncio.get_running_loop().call_later(delay_ns / 1e9, call, *args)
