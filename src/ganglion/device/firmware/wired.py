"""A device on a board of its own, at the end of a wire: the calls of a `FirmwareDevice`, with QEMU behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

from ganglion.connectors.serial.slip import Frames, encode
from ganglion.core.batch import Batch
from ganglion.core.errors import HostError
from ganglion.device.firmware.box import (
    HEAD,
    RECORD,
    Address,
    Core,
    Op,
    Record,
    Sent,
    peer_address,
    peer_bytes,
)
from ganglion.device.firmware.device import NEVER_NS, FirmwareDevice
from ganglion.device.firmware.packets import (
    BOARD_IP,
    BUS_PORT,
    CARRIED_BYTES_MAX,
    COAP_PORT,
    HOST_IP,
    Packet,
    unwrap,
    wrap,
)
from ganglion.device.firmware.qemu import QemuBoards
from ganglion.device.player import Player
from ganglion.host.ports import Host, Process

SILENCE_NS_MAX = 20_000_000_000
"""A board answers whoever asks for its counts; one that is silent for so long does not run."""
ASK_NS = 2_000_000_000
KNOCK_NS = 100_000_000
BOOT_NS_MAX = 30_000_000_000
WAITING_BYTES_MAX = 1 << 18
"""Bytes that wait for a serial line, some twenty seconds of it."""
_STATUS, _REPORT = 5, 4


Received = Callable[[Packet], None]


class Wire(Protocol):
    """The other end of what a board hangs on."""

    async def open(self, board_port: int) -> int:
        """Listens; returns its own port. Raises `HostError` ``host.network``."""

    def send(self, source_port: int, target_port: int, carried: bytes) -> None:
        """A datagram to the board."""

    def close(self) -> None:
        """Closes it."""


class EthernetWire(asyncio.DatagramProtocol):
    """A board's Ethernet: each frame is a UDP datagram of this machine."""

    def __init__(self, received: Received) -> None:
        self._received = received
        self._transport: asyncio.DatagramTransport | None = None
        self._board: Address | None = None

    async def open(self, board_port: int) -> int:
        """See `Wire`."""
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        except OSError as error:
            raise _no_port(error) from error
        self._transport = transport
        self._board = ("127.0.0.1", board_port)
        return int(transport.get_extra_info("sockname")[1])

    def send(self, source_port: int, target_port: int, carried: bytes) -> None:
        """See `Wire`; what is larger than a packet is dropped, as Ethernet drops it."""
        if self._transport is None or self._transport.is_closing() or len(carried) > CARRIED_BYTES_MAX:
            return
        packet = Packet((HOST_IP, source_port), (BOARD_IP, target_port), carried)
        self._transport.sendto(wrap(packet), self._board)

    def close(self) -> None:
        """See `Wire`."""
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Called by asyncio for every frame."""
        packet = unwrap(data)
        if packet is not None:
            self._received(packet)

    def error_received(self, exc: Exception) -> None:
        """Called by asyncio when a frame found nobody: the board is not there yet, or no longer."""


class SerialWire(asyncio.Protocol):
    """A board's serial line: a TCP connection of this machine, with SLIP on it."""

    def __init__(self, received: Received) -> None:
        self._received = received
        self._frames = Frames()
        self._server: asyncio.Server | None = None
        self._transport: asyncio.Transport | None = None

    async def open(self, board_port: int) -> int:
        """See `Wire`; ``board_port`` is nobody's."""
        try:
            self._server = await asyncio.get_running_loop().create_server(lambda: self, "127.0.0.1", 0)
        except OSError as error:
            raise _no_port(error) from error
        return int(self._server.sockets[0].getsockname()[1])

    def send(self, source_port: int, target_port: int, carried: bytes) -> None:
        """See `Wire`; what the line is too far behind with to take is dropped, and CoAP sends it again."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() <= WAITING_BYTES_MAX:
            peer = b"" if target_port == BUS_PORT else peer_bytes((HOST_IP, source_port))
            self._transport.write(encode(bytes([len(peer)]) + peer + carried))

    def close(self) -> None:
        """See `Wire`."""
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio when the board is there."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio for whatever came."""
        for datagram in self._frames.take(data):
            size = datagram[0]
            peer, carried = datagram[1 : 1 + size], datagram[1 + size :]
            if size in (0, len(peer_bytes((HOST_IP, 0)))) and carried:
                port = COAP_PORT if peer else BUS_PORT
                target = peer_address(peer) if peer else (HOST_IP, BUS_PORT)
                self._received(Packet((BOARD_IP, port), target, carried))


def _no_port(error: OSError) -> HostError:
    return HostError(
        "host.network", "no port can be opened", why=str(error), next_step="check the machine's network"
    )


class _Counted:
    """What the board last said it counted, where a `Core` reads its counts; its memory is its own."""

    instructions = 0

    record = b""

    def run(self, head: bytes, content: bytes) -> tuple[bytes, bytes]:
        assert head[0] == Op.REPORT, "the board runs by itself"
        return head, self.record

    def close(self) -> None:
        """Nothing to let go."""


class WiredCore(Core):
    """A `Core` whose device runs by itself: what is asked goes down the wire, what it did comes up when it comes."""

    def __init__(self, boards: QemuBoards, origin: str, present: frozenset[str], wire: Wire) -> None:
        self._counted = _Counted()
        super().__init__(boards.firmware, self._counted, origin, present)
        self.next_ns = NEVER_NS
        self.started = False
        self.reports = 0
        self._wire = wire
        self._repeated: dict[Op, bytes] = {}

    def start(self, now_ns: int, gateway: Address, boot: int, chance: int) -> list[Record]:
        """See `Core`. The board knows its gateway by the wire's address."""
        return super().start(now_ns, (HOST_IP, gateway[1]), boot, chance)

    def receive(self, now_ns: int, sender: Address, datagram: bytes) -> list[Record]:
        """A datagram for the board, from a port of the wire's other end."""
        self._wire.send(sender[1], COAP_PORT, datagram[: self.firmware.sizes["GD_IN_BYTES"]])
        return []

    def poll(self, now_ns: int) -> list[Record]:
        """The board has a clock of its own."""
        return []

    def ask(self) -> None:
        """Asks for the counts, of which `report` gives the latest; says START and CLOSE again until they are known."""
        if not self.started:
            self._wire.send(BUS_PORT, BUS_PORT, self._repeated[Op.START])
        elif Op.CLOSE in self._repeated and not self.done:
            self._wire.send(BUS_PORT, BUS_PORT, self._repeated[Op.CLOSE])
        self._run(Op.REPORT, 0, b"")

    def _run(
        self, op: Op, now_ns: int, content: bytes, *, number: int = 0, time_ns: int = 0, peer: bytes = b""
    ) -> list[Record]:
        box = HEAD.pack(op, len(content), now_ns, number, time_ns, len(peer), peer, 0, 0, 0, 0) + content
        if op in (Op.START, Op.CLOSE):
            self._repeated[op] = box
        self._wire.send(BUS_PORT, BUS_PORT, box)
        return []

    def came(self, packet: Packet) -> list[Record]:
        """What the board did."""
        if packet.source[1] == COAP_PORT:
            return [Sent(("127.0.0.1", packet.target[1]), packet.carried)]
        kind, _, done, started, _ = RECORD.unpack_from(packet.carried)
        if kind == _STATUS:
            self.started, self.done = bool(started), bool(done)
            return []
        if kind == _REPORT:
            self._counted.record = packet.carried
            self.reports += 1
            return []
        return list(self._records(packet.carried))


class QemuDevice(FirmwareDevice):
    """One board in QEMU in the place of an `EmulatedDevice`; what it sends reaches the gateway by a socket of ours."""

    core: WiredCore

    def __init__(
        self,
        origin: str,
        boards: QemuBoards,
        player: Player,
        *,
        boot: int,
        host: Host,
        actuators: frozenset[str],
        on_acknowledged: Callable[[Batch], None],
    ) -> None:
        wire: Wire = (SerialWire if boards.link == "serial" else EthernetWire)(self._came)
        core = WiredCore(boards, origin, actuators, wire)
        super().__init__(origin, core, player, boot=boot, clock=host.clock, on_acknowledged=on_acknowledged)
        self._boards = boards
        self._host = host
        self._wire = wire
        self._process: Process | None = None
        self._heard_ns = 0

    def _came(self, packet: Packet) -> None:
        self._heard_ns = self._clock.monotonic_ns()
        self._take(self.core.came(packet))

    async def open(self, gateway: Address, random: Any) -> None:
        """Starts the board and returns when it has started. Raises ``host.network``, ``host.process``, and
        ``firmware.board`` when it does not start.
        """
        port = self._host.ports.free("udp")
        command = self._boards.command(await self._wire.open(port), port)
        self._process = await self._host.processes.start(command, log=self._boards.log)
        await super().open(gateway, random)
        deadline_ns = self._clock.monotonic_ns() + BOOT_NS_MAX
        while not self.core.reports:
            self._check(deadline_ns)
            await self._clock.sleep_ns(KNOCK_NS)
            self.core.ask()

    async def play(self, start_ns: int, stop: asyncio.Event) -> None:
        """See `FirmwareDevice`. Raises ``firmware.board`` when QEMU ends or hangs."""
        self._heard_ns = self._clock.monotonic_ns()
        watching = asyncio.ensure_future(self._watch())
        playing = asyncio.ensure_future(super().play(start_ns, stop))
        try:
            await asyncio.wait({watching, playing}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
            await playing
            reports = self.core.reports  # the last counts are those after everything
            while self.core.reports == reports:
                self.core.ask()
                await self._clock.sleep_ns(KNOCK_NS)
                self._check(self._heard_ns + SILENCE_NS_MAX)
        finally:
            for task in (watching, playing):
                task.cancel()
            await asyncio.gather(watching, playing, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep_ns(ASK_NS)
            self._check(self._heard_ns + SILENCE_NS_MAX)
            self.core.ask()

    def _check(self, deadline_ns: int) -> None:
        assert self._process is not None
        ended = not self._process.alive()
        if ended or self._clock.monotonic_ns() > deadline_ns:
            raise HostError(
                "firmware.board",
                f"the board of {self.origin} no longer runs",
                why="QEMU ended" if ended else "it has not answered for a long time",
                next_step=f"read {self._boards.log}; devices run without QEMU with --devices-as board",
            )

    async def close(self) -> None:
        """Closes sockets and ends QEMU."""
        await super().close()
        self._wire.close()
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
