"""A device that runs firmware in the place of an `EmulatedDevice`: the same calls, frames, socket and commands."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from ganglion.core.batch import Batch, sequence
from ganglion.core.errors import HostError
from ganglion.device.emulated import Command, FrameTimes
from ganglion.device.firmware.box import Address, Core, Obeyed, Record, Report, Sent
from ganglion.device.player import Player
from ganglion.device.uplink import UplinkCounts
from ganglion.engine.meter import Meter
from ganglion.engine.operators import Counts
from ganglion.host.ports import Clock

NEVER_NS = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class FirmwareUplink:
    """One stream's counts, and whether it goes at once."""

    stream: str
    urgent: bool
    counts: UplinkCounts


@dataclass(frozen=True, slots=True)
class FirmwareStages:
    """The counts of a device's stages."""

    counts: Mapping[str, Counts]


class FirmwareDevice(asyncio.DatagramProtocol):
    """Runs until its player is told to stop. ``core``'s memory is a loaded library's or an emulated processor's."""

    def __init__(
        self,
        origin: str,
        core: Core,
        player: Player,
        *,
        boot: int,
        clock: Clock,
        on_acknowledged: Callable[[Batch], None],
    ) -> None:
        self.origin = origin
        self.player = player
        self.frames = 0
        self.raw_bytes = 0
        self.core = core
        self._every_ns = core.firmware.measured.every_ns
        self._boot = boot
        self._clock = clock
        self._on_acknowledged = on_acknowledged
        self.meter = Meter(clock.cpu_ns)
        self._times = FrameTimes()
        self._commands: list[Command] = []
        self._started_ns = 0
        self._wake = asyncio.Event()
        self._failed: HostError | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._lost = asyncio.Event()

    async def open(self, gateway: Address, random: Any) -> None:
        """Opens the socket and starts the firmware. Raises `HostError` ``host.network``."""
        loop = asyncio.get_running_loop()
        try:
            await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        except OSError as error:
            raise HostError(
                "host.network",
                "no UDP port can be opened",
                why=str(error),
                next_step="check the machine's network",
            ) from error
        self._take(self.core.start(self._clock.monotonic_ns(), gateway, self._boot, random.getrandbits(32)))

    async def play(self, start_ns: int, stop: asyncio.Event) -> None:
        """Measures a frame every period from ``start_ns`` (monotonic) on, until ``stop``; then sends the rest."""
        self._started_ns = start_ns
        wall_ns = self._clock.wall_ns() - (self._clock.monotonic_ns() - start_ns)
        pump = asyncio.ensure_future(self._pump())
        try:
            number = 0
            while not stop.is_set():
                await self._clock.sleep_until_ns(start_ns + (number + 1) * self._every_ns)
                self._measure(number, wall_ns + (number + 1) * self._every_ns)
                if pump.done():  # it has not been closed, so it failed
                    pump.result()
                number += 1
            self._take(self.core.close(self._clock.monotonic_ns()))
            await pump
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    def _measure(self, number: int, time_ns: int) -> None:
        woke_ns, began_ns = self._clock.monotonic_ns(), self.meter.begin()
        frame = self.player.next_frame()
        self.frames += 1
        self.raw_bytes += frame.nbytes
        sent_ns = self._take(self.core.frame(woke_ns, number, time_ns, frame.tobytes()))
        self._times.put(self.frame_seq(number), woke_ns, sent_ns)
        self.meter.end("device:sent" if sent_ns else "device:frame", 1, began_ns)

    async def _pump(self) -> None:
        """Lets the firmware look at its clock when it asked for it, until it is done."""
        while not self.core.done:
            if self._failed is not None:
                raise self._failed
            self._wake.clear()
            left_ns = self.core.next_ns - self._clock.monotonic_ns()
            if left_ns > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if self.core.next_ns == NEVER_NS else left_ns / 1e9):
                        await self._wake.wait()
                        continue
            began_ns = self.meter.begin()
            self._take(self.core.poll(self._clock.monotonic_ns()))
            self.meter.end("device:poll", 1, began_ns)

    def _take(self, records: Iterable[Record], received_ns: int = 0) -> int:
        """Does what the firmware wants done; when it handed over the first datagram, or 0."""
        arrived_ns = self._clock.monotonic_ns()
        sent_ns = 0
        for record in records:
            if isinstance(record, Sent):
                if self._transport is not None and not self._transport.is_closing():
                    # Before, not after: the receiver may run before the call returns.
                    sent_ns = sent_ns or self._clock.monotonic_ns()
                    self._transport.sendto(record.datagram, record.to)
            elif isinstance(record, Obeyed):
                self._commands.append(
                    Command(
                        record.actuator,
                        record.verb,
                        record.command_id,
                        self.origin,
                        record.seq,
                        self.frame_done_ns(record.seq),
                        arrived_ns,
                        record.repeated,
                        *self._times.of(record.seq),
                        received_ns,
                    )
                )
            else:
                self._on_acknowledged(record)
        self._wake.set()
        return sent_ns

    # --- what a device host asks ---

    @property
    def uplinks(self) -> dict[str, FirmwareUplink]:
        """What became of each exported stream's rows until now."""
        counts, _ = self.tallies(self.report())
        return {
            e.stage.id: FirmwareUplink(e.stage.id, e.urgent, counts[e.stage.id])
            for e in self.core.firmware.streams
        }

    @property
    def graph(self) -> FirmwareStages:
        """The counts of the stages, and of the frames that came in."""
        return FirmwareStages(self.tallies(self.report())[1])

    def tallies(self, report: Report) -> tuple[Mapping[str, UplinkCounts], Mapping[str, Counts]]:
        """What became of each exported stream's rows, and the counts of the stages, as ``report`` says."""
        seen = {f"in:{self.core.firmware.measured.id}": Counts(rows=self.frames)}
        return report.uplinks, dict(report.stages) | seen

    @property
    def commands_unknown(self) -> int:
        """Requests that no actuator here could obey."""
        return self.core.report().coap.commands_unknown

    def report(self) -> Report:
        """All counts, the energy ledger among them."""
        return self.core.report()

    def take_commands(self) -> list[Command]:
        """The commands that arrived since the last call."""
        commands, self._commands = self._commands, []
        return commands

    def frame_seq(self, number: int) -> int:
        """The sequence number of the ``number``-th frame since this start."""
        return sequence(self._boot, number)

    def frame_done_ns(self, seq: int) -> int:
        """When the frame with this sequence number was complete, on the monotonic clock; see `EmulatedDevice`."""
        number = seq - sequence(self._boot, 0) + 1
        return self._started_ns + max(0, min(number, self.frames)) * self._every_ns

    def counts(self) -> Mapping[str, Any]:
        """Frames measured and, per stream, what became of its rows."""
        return {"frames": self.frames, "raw_bytes": self.raw_bytes, "streams": self.uplinks}

    @property
    def address(self) -> Address:
        """Where commands reach its actuators, once it is open."""
        assert self._transport is not None
        name = self._transport.get_extra_info("sockname")
        return str(name[0]), int(name[1])

    async def close(self) -> None:
        """Closes the socket and lets the firmware go."""
        if self._transport is not None:
            self._transport.close()
            await self._lost.wait()
        self.core.release()

    # --- asyncio.DatagramProtocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio once the socket is open."""
        # Python 3.11's own transport does not derive from the class it implements.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio when the socket is gone."""
        self._lost.set()

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Called by asyncio for every datagram."""
        received_ns, began_ns = self._clock.monotonic_ns(), self.meter.begin()
        try:
            self._take(self.core.receive(received_ns, (str(addr[0]), int(addr[1])), data), received_ns)
        except HostError as error:  # asyncio would only log it
            self._failed = error
            self._wake.set()
        self.meter.end("device:received", 1, began_ns)

    def error_received(self, exc: Exception) -> None:
        """Called by asyncio when a datagram could not be sent; the firmware sends it again in its time."""
