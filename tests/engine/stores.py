"""A journal, an outbox, a disk and a clock in memory, where a process can be killed at every step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from ganglion.core.errors import HostError
from ganglion.engine.durable import Entry


class Killed(Exception):
    """The process is no more."""


class Lifetime:
    """Of one process: it ends at the ``steps``-th point where it touches the outside; None lets it live."""

    def __init__(self, steps: int | None = None) -> None:
        self.steps = steps
        self.killed = False

    def point(self) -> None:
        """One step; a killed process takes none."""
        if self.steps is not None:
            self.killed |= self.steps == 0
            self.steps -= 1
        if self.killed:
            raise Killed


class MemoryDisk:
    """`Disk` in memory. A kill may tear an append; a full disk tears it too, and says so."""

    root = Path("memory")

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.life = Lifetime()
        self.full = False

    def read(self, name: str) -> bytes | None:
        return self.files.get(name)

    def replace(self, name: str, content: bytes) -> None:
        self.life.point()
        self._check_space(name)
        self.files[name] = content
        self.life.point()

    def append(self, name: str, content: bytes) -> int:
        held = self.files.get(name, b"")
        self.life.point()
        self.files[name] = held + content[: len(content) // 2]
        self.life.point()
        self._check_space(name)
        self.files[name] = held + content
        self.life.point()
        return len(self.files[name])

    def truncate(self, name: str, size_bytes: int) -> None:
        self.life.point()
        held = self.files.get(name, b"")
        assert size_bytes <= len(held), "a file is only ever cut"
        self.files[name] = held[:size_bytes]
        self.life.point()

    def size_bytes(self, name: str) -> int:
        return len(self.files.get(name, b""))

    def free_bytes(self) -> int:
        return 0 if self.full else 1 << 40

    def _check_space(self, name: str) -> None:
        if self.full:
            raise HostError("host.disk-full", f"no space left for {name}", why="a test", next_step="go on")


class MemoryJournal:
    """Entries from number 1 on; ``removed``: how many of the first are gone."""

    def __init__(self, payloads: list[bytes | None]) -> None:
        self.payloads = payloads
        self.removed = 0
        self.life = Lifetime()
        self._grown = asyncio.Event()

    def add(self, payload: bytes | None) -> None:
        self.payloads.append(payload)
        self._grown.set()

    async def read(self, after_seq: int) -> AsyncIterator[Entry]:
        seq = max(after_seq, self.removed)
        while True:
            while seq < len(self.payloads):
                self.life.point()
                seq += 1
                yield Entry(seq, self.payloads[seq - 1])
            self._grown = asyncio.Event()  # of the loop that runs now
            await self._grown.wait()

    async def last_seq(self) -> int:
        return len(self.payloads)


class MemoryOutbox:
    """Messages in order; each append must come with the next number."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, bytes]] = []
        self.life = Lifetime()
        self.hangs_at: int | None = None
        self.stuck = asyncio.Event()

    async def last_ordinal(self) -> int:
        return len(self.messages)

    async def append(self, ordinal: int, stream: str, origin: str, payload: bytes) -> None:
        if ordinal == self.hangs_at:
            self.stuck.set()
            await asyncio.Event().wait()
        self.life.point()
        assert ordinal == len(self.messages) + 1, "an append out of turn"
        self.messages.append((stream, origin, payload))
        self.life.point()


class SteppedClock:
    """`Clock` that goes on by ``step_ns`` at every look, and by every sleep, without waiting."""

    def __init__(self, step_ns: int = 0) -> None:
        self.now_ns = 0
        self.step_ns = step_ns
        self.on_sleep: Callable[[], None] = lambda: None

    def wall_ns(self) -> int:
        raise AssertionError("a durable engine does not ask for the time of day")

    def monotonic_ns(self) -> int:
        self.now_ns += self.step_ns
        return self.now_ns

    def cpu_ns(self) -> int:
        return 0

    def process_cpu_ns(self) -> int:
        return 0

    async def sleep_until_ns(self, monotonic_ns: int) -> None:
        await self.sleep_ns(monotonic_ns - self.now_ns)

    async def sleep_ns(self, duration_ns: int) -> None:
        self.now_ns += duration_ns
        self.on_sleep()
        await asyncio.sleep(0)
