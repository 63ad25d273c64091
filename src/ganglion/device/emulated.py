"""One emulated device: a sensor that plays frames, the device stages of the plan, and the actuators beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ganglion.connectors.coap.endpoint import Endpoint, Request, Response
from ganglion.connectors.coap.message import Code
from ganglion.connectors.coap.settings import Settings
from ganglion.core.batch import Batch, sequence
from ganglion.core.errors import DataError
from ganglion.core.packing import unpack
from ganglion.core.wire import End, Item
from ganglion.device.player import Player
from ganglion.device.uplink import StreamUplink
from ganglion.engine.graph import Graph
from ganglion.engine.meter import Meter
from ganglion.flow.assignment import Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import SourceStage
from ganglion.host.ports import Clock
from ganglion.kernels.running import Libraries

DATAGRAM_BYTES_MAX = 4096
"""Frames larger than one IPv6 packet may be sent; on a real radio link choose smaller frames."""
COMMANDS_MAX = 10_000
"""Command ids an actuator remembers, to obey each once."""

COAP = Settings(ack_timeout_ns=400_000_000, max_retransmit=3, nstart=8, datagram_bytes_max=DATAGRAM_BYTES_MAX)
"""Faster than RFC 7252's defaults: site links answer in milliseconds, and one stream must not wait for another."""


FRAMES_REMEMBERED_MAX = 256
"""Frames whose times are kept, for commands that are still to come."""


class FrameTimes:
    """When a device began with each of its latest frames, and when it handed over its first message for each."""

    def __init__(self) -> None:
        self._times: dict[int, tuple[int, int]] = {}

    def put(self, seq: int, woke_ns: int, sent_ns: int) -> None:
        """``sent_ns`` 0: nothing was sent for this frame."""
        self._times[seq] = woke_ns, sent_ns
        if len(self._times) > FRAMES_REMEMBERED_MAX:
            del self._times[next(iter(self._times))]

    def of(self, seq: int) -> tuple[int, int]:
        """(woke, sent), zeros where it is not known."""
        return self._times.get(seq, (0, 0))


@dataclass(frozen=True, slots=True)
class Command:
    """A command as it arrived at an actuator. ``frame_done_ns``: when the deciding frame was complete (monotonic).

    ``woke_ns``, ``sent_ns``: when the device began with that frame, and when it handed over the first message for it;
    ``received_ns``: when the command's datagram was there. Each 0 where it is not known.
    """

    actuator: str
    verb: str
    command_id: str
    origin: str
    seq: int
    frame_done_ns: int
    arrived_ns: int
    repeated: bool
    woke_ns: int = 0
    sent_ns: int = 0
    received_ns: int = 0


class EmulatedDevice:
    """Runs until its player is told to stop; `origin` names it. One UDP socket sends rows and receives commands."""

    def __init__(
        self,
        origin: str,
        spec: FlowSpec,
        assignment: Assignment,
        player: Player,
        *,
        boot: int,
        clock: Clock,
        actuators: frozenset[str],
        on_acknowledged: Callable[[Batch], None],
        libraries: Libraries = MappingProxyType({}),
    ) -> None:
        self.origin = origin
        self.player = player
        self._commands: list[Command] = []
        self.commands_unknown = 0
        self.uplinks: dict[str, StreamUplink] = {}
        self.meter = Meter(clock.cpu_ns)
        self.graph = Graph(spec, assignment, libraries=libraries, meter=self.meter)
        self._times = FrameTimes()
        self._sent_ns = 0
        self.raw_bytes = 0
        self.frames = 0
        self._spec = spec
        self._assignment = assignment
        self._source: SourceStage = spec.sources[0]
        self._boot = boot
        self._clock = clock
        self._actuators = actuators
        self._acts = {act.id: act for act in spec.reflexes}
        self._on_acknowledged = on_acknowledged
        self._done_ids: dict[str, None] = {}
        self._started_ns = 0
        self._endpoint: Endpoint | None = None

    async def open(self, gateway: tuple[str, int], random: Any) -> None:
        """Opens the socket and prepares one uplink per exported stream."""
        self._endpoint = await Endpoint.open(handler=self._handle, random=random, settings=COAP)
        urgent = {x for act in self._spec.reflexes for x in self._spec.ancestors(act.id)}
        for stream in self._assignment.exports:
            if not self._assignment.exported(stream, self.origin):
                continue
            self.uplinks[stream] = StreamUplink(
                stream,
                self.origin,
                self._spec[stream].schema,
                stream in urgent and self._reaches_act_above(stream),
                self._endpoint,
                gateway,
                self._clock,
                self._on_acknowledged,
                random,
            )

    def _reaches_act_above(self, stream: str) -> bool:
        """True when a consumer of the stream that runs above the device leads to an actuator."""
        leading = {x for act in self._spec.reflexes for x in (*self._spec.ancestors(act.id), act.id)}
        return any(
            c.id in leading and c.id not in self._assignment.runs for c in self._spec.consumers(stream)
        )

    async def play(self, start_ns: int, stop: asyncio.Event) -> None:
        """Measures a frame every period from ``start_ns`` (monotonic) on, until ``stop``; then sends the rest.

        Raises what an uplink could not get over (e.g. ``coap.size``) when it happens.
        """
        senders = [asyncio.ensure_future(u.run()) for u in self.uplinks.values()]
        self._started_ns = start_ns
        wall_ns = self._clock.wall_ns() - (self._clock.monotonic_ns() - start_ns)
        try:
            for number in self._numbers(stop):
                done_ns = start_ns + (number + 1) * self._source.every_ns
                await self._clock.sleep_until_ns(done_ns)
                self._measure(number, wall_ns + (number + 1) * self._source.every_ns)
                for sender in senders:
                    if sender.done():  # it has not been closed, so it failed
                        sender.result()
            self._push(End(self._source.id, self.origin))
            for uplink in self.uplinks.values():
                uplink.close()
            await asyncio.gather(*senders)
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)

    def _numbers(self, stop: asyncio.Event) -> Iterator[int]:
        number = 0
        while not stop.is_set():
            yield number
            number += 1

    def _measure(self, number: int, time_ns: int) -> None:
        woke_ns, began_ns = self._clock.monotonic_ns(), self.meter.begin()
        self._sent_ns = 0
        frame = self.player.next_frame()
        self.frames += 1
        self.raw_bytes += frame.nbytes
        batch = Batch(
            self._source.id,
            self.origin,
            np.array([sequence(self._boot, number)], np.int64),
            np.array([time_ns], np.int64),
            {"frame": frame[np.newaxis]},
        )
        self._push(batch)
        self._times.put(batch.first_seq, woke_ns, self._sent_ns)
        self.meter.end("device:sent" if self._sent_ns else "device:frame", 1, began_ns)

    def _push(self, item: Item) -> None:
        for emission in self.graph.push(item):
            if not isinstance(emission.item, Batch):
                continue  # an uplink says itself that its stream has ended, when all of it was taken
            if emission.kind == "export":
                self._sent_ns = self._sent_ns or self._clock.monotonic_ns()
                self.uplinks[emission.stage].offer(emission.item)
            elif emission.kind == "act":
                act = self._acts[emission.stage]
                for seq in emission.item.seq.tolist():
                    self._obey(act.actuator, act.verb, f"{act.id}:{self.origin}:{seq}", seq)

    def take_commands(self) -> list[Command]:
        """The commands that arrived since the last call."""
        commands, self._commands = self._commands, []
        return commands

    def frame_seq(self, number: int) -> int:
        """The sequence number of the ``number``-th frame since this start."""
        return sequence(self._boot, number)

    def frame_done_ns(self, seq: int) -> int:
        """When the frame with this sequence number was complete, on the monotonic clock.

        For a number that this start has not measured, the nearest that it could be: its beginning or its last frame.
        """
        number = seq - sequence(self._boot, 0) + 1
        return self._started_ns + max(0, min(number, self.frames)) * self._source.every_ns

    def _handle(self, request: Request) -> Response:
        """PUT a/ACTUATOR with CBOR {verb, id, seq}: the actuator obeys once per command id and answers 2.04."""
        if request.method != Code.PUT or len(request.path) != 2 or request.path[0] != "a":
            self.commands_unknown += 1
            return Response(Code.NOT_FOUND)
        received_ns = self._clock.monotonic_ns()
        obeyed = self._obey(request.path[1], *_command(request.payload), received_ns)
        return Response(Code.CHANGED if obeyed else Code.NOT_FOUND)

    def _obey(self, actuator: str, verb: str, command_id: str, seq: int, received_ns: int = 0) -> bool:
        """Logs a command, from the gateway or from the device's own stages; False: no such actuator here."""
        arrived_ns = self._clock.monotonic_ns()
        if actuator not in self._actuators:
            self.commands_unknown += 1
            return False
        repeated = command_id in self._done_ids
        self._done_ids[command_id] = None
        if len(self._done_ids) > COMMANDS_MAX:
            del self._done_ids[next(iter(self._done_ids))]
        done_ns = self.frame_done_ns(seq)
        self._commands.append(
            Command(
                actuator,
                verb,
                command_id,
                self.origin,
                seq,
                done_ns,
                arrived_ns,
                repeated,
                *self._times.of(seq),
                received_ns,
            )
        )
        return True

    @property
    def address(self) -> tuple[str, int]:
        """Where commands reach its actuators, once it is open."""
        assert self._endpoint is not None
        return self._endpoint.address

    async def close(self) -> None:
        """Closes the socket."""
        if self._endpoint is not None:
            await self._endpoint.close()

    def counts(self) -> Mapping[str, Any]:
        """Frames measured and, per stream, what became of its rows."""
        return {"frames": self.frames, "raw_bytes": self.raw_bytes, "streams": self.uplinks}


def _command(payload: bytes) -> tuple[str, str, int]:
    value = unpack(payload)
    if isinstance(value, dict):
        verb, name, seq = value.get("verb"), value.get("id"), value.get("seq")
        if isinstance(verb, str) and isinstance(name, str) and type(seq) is int and 0 <= seq < 1 << 63:
            return verb, name, seq
    raise DataError(
        "device.command",
        "a command without verb, id or seq",
        why="verb and id are text, seq is a row's number",
        next_step="send CBOR {verb, id, seq}",
    )
