"""The ports themselves: what a node may ask of the machine it runs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

ANSWER_NS_MAX = 20_000_000_000
"""How long a child that is talked to may be silent, if nobody says otherwise."""


class Clock(Protocol):
    """Two clocks: the wall (only for event time and people) and a monotonic one (for intervals)."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch; may jump."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary start; never goes back; the same for all processes of a host."""

    def cpu_ns(self) -> int:
        """Nanoseconds of a processor that the calling thread has taken."""

    def process_cpu_ns(self) -> int:
        """The same for all threads of this process together, ended ones included."""

    async def sleep_until_ns(self, monotonic_ns: int) -> None:
        """Returns as soon as the monotonic clock has reached the given value."""

    async def sleep_ns(self, duration_ns: int) -> None:
        """Returns after the given time."""


class Disk(Protocol):
    """One directory tree. Every method may raise ``HostError`` with code ``host.disk-full`` or ``host.disk``.

    Methods block; a caller on an event loop runs them in a thread so that a reflex never waits.
    """

    root: Path

    def read(self, name: str) -> bytes | None:
        """The whole file, or None when there is none."""

    def replace(self, name: str, content: bytes) -> None:
        """Atomically and durably (fsync of file and directory) makes the file hold ``content``."""

    def append(self, name: str, content: bytes) -> int:
        """Appends and fsyncs; returns the file's size after it. When it raises, the file is as long as before."""

    def truncate(self, name: str, size_bytes: int) -> None:
        """Cuts the file to ``size_bytes``; creates it when it is missing and the size is 0."""

    def size_bytes(self, name: str) -> int:
        """The file's size; 0 when it is missing."""

    def free_bytes(self) -> int:
        """Space left for us on the file system of ``root``."""


class Process(Protocol):
    """A started child process."""

    pid: int

    def alive(self) -> bool:
        """False once it has ended."""

    async def wait(self) -> int:
        """Its exit status (negative: the signal that ended it)."""

    async def stop(self, grace_ns: int) -> int:
        """Asks it to end (SIGTERM), after ``grace_ns`` makes it (SIGKILL); returns the exit status."""

    def kill(self) -> None:
        """SIGKILL, at once."""


class Conversation(Protocol):
    """A child that is asked and answers, by pipes; both calls block."""

    def write(self, content: bytes) -> None:
        """Sends all of it. Raises ``host.process`` when the child has ended."""

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes. Raises ``host.process`` when the child ends before, or is silent for too long,
        after which it is ended.
        """

    def close(self) -> None:
        """Ends the child."""


class Processes(Protocol):
    """Starts children that never outlive this process, however it ends."""

    def converse(
        self, command: Sequence[str], *, log: Path, answer_ns_max: int = ANSWER_NS_MAX
    ) -> Conversation:
        """Starts ``command`` to talk to, with its error output appended to ``log``; raises ``host.process``.

        ``answer_ns_max``: how long it may be silent when it is read from.
        """

    async def start(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        niceness: int = 0,
    ) -> Process:
        """Starts ``command`` with both outputs appended to ``log``; raises ``host.process`` when it cannot.

        ``niceness`` (0 to 19): how far it steps back behind us when processors are short, where the system can.
        """


class Ports(Protocol):
    """Loopback port numbers."""

    def free(self, kind: str = "tcp") -> int:
        """A port of 127.0.0.1 nobody listens on now (``"tcp"`` or ``"udp"``)."""

    def taken(self, port: int, kind: str = "tcp") -> bool:
        """True when somebody holds the port."""


class Line(Protocol):
    """Bytes both ways, a serial port for one. It may lose, alter and add bytes, and knows no ends of messages."""

    async def read(self) -> bytes:
        """What came in, at least one byte; nothing once the line has ended and all was read."""

    def write(self, content: bytes) -> bool:
        """Puts all of it on its way; False, and nothing of it, when the line has ended or holds too much already."""

    def close(self) -> None:
        """Ends the line; may be called again."""


class Chance(Protocol):
    """A source of randomness: the part of `random.Random` in use."""

    def random(self) -> float:
        """Uniform in [0, 1)."""

    def uniform(self, a: float, b: float) -> float:
        """Uniform in [a, b]."""

    def getrandbits(self, k: int, /) -> int:
        """``k`` random bits."""


class Chances(Protocol):
    """One stream of chance per component, so that a draw added in one shifts no other."""

    def stream(self, component: str) -> Chance:
        """The stream of the component with this name."""


class Host:
    """All ports of one machine, handed down at the composition root."""

    def __init__(
        self, clock: Clock, disk: Disk, processes: Processes, ports: Ports, chances: Chances
    ) -> None:
        self.chances = chances
        self.clock = clock
        self.disk = disk
        self.processes = processes
        self.ports = ports
