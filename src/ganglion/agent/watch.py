"""Sees to it that a message server which runs also does its work.

nats-server 2.15.1 does not get over a full disk by itself (tests/messaging/test_full_disk.py): a stream whose write
failed answers no further write, though there is room again, and a server that could not store what it drew from a child
shuts all its streams and answers nothing. So, when there is room: writes that go unanswered beside questions that do
not, and questions that go unanswered while the process runs, are signs to start it anew.
"""

from __future__ import annotations

from typing import Protocol

from ganglion.core.errors import HostError, MessagingError
from ganglion.core.units import NS_PER_S
from ganglion.host.ports import Clock, Disk
from ganglion.host.threads import to_its_end
from ganglion.messaging.bus import Bus

EVERY_NS = 2 * NS_PER_S
UNANSWERED_MIN = 2
"""Writes to a stream, or questions about it, that went unanswered one after the other."""
ROOM_BYTES_MIN = 16 << 20
"""Below this a restart would not help."""
REST_NS = 30 * NS_PER_S
"""After a restart nothing is judged for this long."""


class Server(Protocol):
    """What is watched."""

    @property
    def pid(self) -> int | None:
        """None while it does not run."""

    def restart(self) -> None:
        """Ends it, to be started again."""


class ServerWatch:
    """Counts what became of writes, asks about ``stream`` now and then, and restarts a server that is stuck."""

    def __init__(self, server: Server, bus: Bus, stream: str, disk: Disk, clock: Clock) -> None:
        self.restarts = 0
        self._server = server
        self._bus = bus
        self._stream = stream
        self._disk = disk
        self._clock = clock
        self._unanswered: dict[str, int] = {}
        self._asked_pid: int | None = None
        self._silent = 0

    def wrote(self, stream: str, answered: bool) -> None:
        """A write was answered, whatever the answer, or was not."""
        pid = self._server.pid
        if pid != self._asked_pid:
            # What the process before left unanswered, as when it was killed, is no fault of the one that runs now.
            self._unanswered.clear()
            self._asked_pid = pid
        if answered:
            self._unanswered.pop(stream, None)
        elif pid is not None:
            self._unanswered[stream] = self._unanswered.get(stream, 0) + 1

    async def run(self) -> None:
        """Goes on for ever."""
        while True:
            await self._clock.sleep_ns(EVERY_NS)
            if await self._stuck() and await self._room():
                self._unanswered.clear()
                self._silent = 0
                self.restarts += 1
                self._server.restart()
                await self._clock.sleep_ns(REST_NS)

    async def _stuck(self) -> bool:
        pid = self._server.pid
        try:
            await self._bus.state(self._stream)
        except MessagingError:
            # A server that is down or was restarted meanwhile is somebody else's care.
            self._silent = self._silent + 1 if pid is not None and pid == self._server.pid else 0
            return self._silent >= UNANSWERED_MIN
        self._silent = 0
        return pid == self._asked_pid and any(count >= UNANSWERED_MIN for count in self._unanswered.values())

    async def _room(self) -> bool:
        try:
            return await to_its_end(self._disk.free_bytes) >= ROOM_BYTES_MIN
        except HostError:
            return False
