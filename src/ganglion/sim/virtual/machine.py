"""Machines: what survives on them, and one life after another of the programs that run there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ganglion.core.errors import HostError
from ganglion.core.units import NS_PER_MS, NS_PER_S
from ganglion.host.ports import ANSWER_NS_MAX, Chance, Conversation, Host, Process
from ganglion.messaging.memory import MemoryBus, MemoryServer, Store
from ganglion.sim.virtual.chance import SeededChances
from ganglion.sim.virtual.clock import VirtualClock
from ganglion.sim.virtual.disk import MachineDied, Platter, VirtualDisk
from ganglion.sim.virtual.loop import VirtualLoop, settle
from ganglion.sim.virtual.network import DatagramSocket, Network
from ganglion.sim.virtual.paths import Address
from ganglion.sim.virtual.servers import ServerProcess, Servers
from ganglion.sim.virtual.trace import Trace

LIFE: ContextVar[Life] = ContextVar("life")
"""The life whose code runs now: set once for a program's first task, inherited by all it starts."""
CALL_NS_MIN = NS_PER_MS // 20
CALL_NS_MAX = 8 * NS_PER_MS
"""A blocking call, which mostly writes and syncs a file."""
SLOW_DISK = 50
"""A slow disk takes this many times as long."""
ANSWER_WITHIN_NS = 5 * NS_PER_S


class Machine:
    """What outlives its programs: the disk, the message server's store, the wall clock's error."""

    def __init__(
        self,
        name: str,
        loop: VirtualLoop,
        network: Network,
        servers: Servers,
        chances: SeededChances,
        trace: Trace,
    ) -> None:
        self.name = name
        self.loop = loop
        self.network = network
        self.servers = servers
        self.chances = chances.within(name)
        self.trace = trace
        self.platter = Platter()
        self.store = Store()
        self.skew_ns = 0
        self.slow_disk = 0
        self._full = 0
        self.lives = 0
        self.life: Life | None = None
        self.make_disk: Callable[[Platter, Path], VirtualDisk] = VirtualDisk

    def boot(self) -> Life:
        """A new life, in which nothing is known but what is on disk."""
        assert self.life is None or not self.life.alive
        self.lives += 1
        self.life = Life(self)
        self.network.booted(self.life)
        self.note(f"boots {self.lives}")
        return self.life

    def note(self, what: str) -> None:
        """Says in the trace what happens here."""
        self.trace.add(self.loop.virtual_time.now_ns, self.name, what)

    def kill(self) -> None:
        """SIGKILL of the program; its message server ends with it, as children do."""
        if self.life is not None and self.life.alive:
            self.note("killed")
            self.life.end(None)

    def power_cut(self) -> None:
        """Everything stops; what was not synced is lost, what was being written is torn."""
        chance = self.chances.stream(f"power/{self.lives}")
        if self.life is not None and self.life.alive:
            self.note("loses power")
            self.life.end(chance)
        self.platter.power_cut(chance)
        self.store.power_cut()

    def jump(self, by_ns: int) -> None:
        """The wall clock is set."""
        self.note(f"wall clock jumps {by_ns}")
        self.skew_ns += by_ns
        if self.life is not None:
            self.life.clock.skew_ns = self.skew_ns

    def fill_disk(self, *, full: bool) -> None:
        """Leaves no room, for files and for streams, or gives it back (as often as it was taken)."""
        self.note("disk full" if full else "disk has room")
        self._full += 1 if full else -1
        self.platter.full = self.store.full = self._full > 0


class Life:
    """One start of a machine's program, from boot until it ends or is ended."""

    def __init__(self, machine: Machine) -> None:
        self.name = machine.name
        self.alive = True
        self.machine = machine
        self.chances = machine.chances.within(str(machine.lives))
        self.clock = VirtualClock(machine.loop.virtual_time)
        self.clock.skew_ns = machine.skew_ns
        self.disk = machine.make_disk(machine.platter, Path("/virtual") / machine.name)
        self.processes = VirtualProcesses(self)
        self.host = Host(self.clock, self.disk, self.processes, VirtualPorts(machine.network), self.chances)
        self._chance = self.chances.stream("calls")
        self._calls: dict[asyncio.Future[Any], Callable[[], Any]] = {}
        self._buses: list[MemoryBus] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._aims: dict[asyncio.Future[None], int] = {}

    @property
    def disk_slowness(self) -> int:
        """How many times slower than usual the disk is now."""
        return SLOW_DISK if self.machine.slow_disk else 1

    def touch(self) -> None:
        """The outside was touched: a blocking call or an append was begun, or the message server has stored one."""
        self._aims = {reached: left - 1 for reached, left in self._aims.items() if not reached.done()}
        for reached, left in tuple(self._aims.items()):
            if left <= 0:
                reached.set_result(None)

    def aim(self, touches: int) -> asyncio.Future[None]:
        """Done at the so-manieth touch from now: where a fault hurts most."""
        reached: asyncio.Future[None] = self.machine.loop.create_future()
        self._aims[reached] = touches
        return reached

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """A task of this life: it ends with it."""
        self._tasks[task] = None
        task.add_done_callback(self._finished)

    def adopt_current(self) -> None:
        """The task that runs now is this life's."""
        task = asyncio.current_task()
        assert task is not None
        self.adopt(task)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not self.alive and not task.cancelled():
            task.exception()  # what a dead program's tasks end with is nobody's business

    async def connect(self, url: str, name: str) -> MemoryBus:
        """A client of the message server that listens at ``url``."""
        port = int(url.rpartition(":")[2])
        servers, life = self.machine.servers, self

        def find() -> MemoryServer | None:
            return servers.at(port) if life.alive else None

        bus = MemoryBus(find, servers.pace(self, self.chances.stream(f"bus/{name}")), ANSWER_WITHIN_NS)
        bus.on_append = self.touch
        self._buses.append(bus)
        return bus

    def call(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """A blocking call of this life's programs: done as a whole, some milliseconds later."""
        future: asyncio.Future[Any] = self.machine.loop.create_future()
        delay_ns = self.disk_slowness * int(self._chance.uniform(CALL_NS_MIN, CALL_NS_MAX))
        self._calls[future] = function
        self.touch()
        self.machine.loop.call_later(delay_ns / 1e9, self._do, future)
        return future

    def _do(self, future: asyncio.Future[Any]) -> None:
        function = self._calls.pop(future, None)
        if function is not None:
            settle(future, function)

    def end(self, power: Chance | None) -> None:
        """Nothing of this life reaches the outside from here on. ``power``: calls under way end torn."""
        calls, self._calls = self._calls, {}
        for future, function in calls.items():
            if power is not None:
                self.disk.tear(power)
                with contextlib.suppress(MachineDied, HostError):
                    function()
            future.cancel()
        self.alive = False
        self.machine.network.died(self, silent=power is not None)
        self.disk.die()
        self.processes.end()
        for bus in self._buses:
            bus.abandon()
        for task in tuple(self._tasks):
            task.cancel()


class VirtualProcesses:
    """`Processes` that knows one program: a message server, told by its configuration file."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._servers: list[ServerProcess] = []

    def converse(
        self, command: Sequence[str], *, log: Path, answer_ns_max: int = ANSWER_NS_MAX
    ) -> Conversation:
        raise HostError(
            "host.process", f"cannot start {command[0]}", why="there are no pipes in the virtual world"
        )

    async def start(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        niceness: int = 0,
    ) -> Process:
        if len(command) != 3 or command[1] != "-c":
            raise HostError("host.process", f"cannot start {command[0]}", why="there is no such program here")
        life, machine = self._life, self._life.machine
        name = Path(command[2]).relative_to(life.disk.root).as_posix()
        configuration = (life.disk.read(name) or b"").decode()
        process = ServerProcess(configuration, life, machine.store, machine.servers, machine.network)
        self._servers.append(process)
        machine.loop.create_task(process.run(life.chances.stream("server").uniform(0.016, 0.107)))
        return process

    @property
    def server(self) -> ServerProcess | None:
        """The message server that was started last."""
        return self._servers[-1] if self._servers else None

    def end(self) -> None:
        """Children end with their parent."""
        for server in self._servers:
            server.kill()


class VirtualPorts:
    """`Ports` of a world."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def free(self, kind: str = "tcp") -> int:
        return self._network.free_port()

    def taken(self, port: int, kind: str = "tcp") -> bool:
        return self._network.taken(port)


class MachinesOutside:
    """`Outside` of the loop: whatever is asked is asked of the life whose code asks."""

    def call(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        return LIFE.get().call(function)

    async def datagrams(self, protocol: asyncio.DatagramProtocol, address: Address) -> DatagramSocket:
        life = LIFE.get()
        return life.machine.network.open(life, protocol, address)

    async def stream(self, protocol: asyncio.Protocol, address: Address) -> asyncio.Transport:
        life = LIFE.get()
        return await life.machine.network.connect(life, protocol, address)
