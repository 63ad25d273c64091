"""A gateway's side of the devices: rows come in by CoAP, reflexes fire at once, the answer waits for the disk.

The order matters and is the point: decode, reflex (memory only), journal (fsync), acknowledgement.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ganglion.connectors.batch_senml import decode
from ganglion.connectors.coap.endpoint import Endpoint, Request, Response
from ganglion.connectors.coap.message import Code
from ganglion.connectors.coap.settings import Settings
from ganglion.core.batch import Batch
from ganglion.core.errors import ConnectorError, DataError, MessagingError
from ganglion.core.origins import is_name
from ganglion.core.packing import pack, unpack
from ganglion.core.wire import End, encode
from ganglion.engine.graph import Emission, Graph
from ganglion.flow.assignment import Assignment, path_of
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import ActStage
from ganglion.host.ports import Chance, Clock

DATAGRAM_BYTES_MAX = 4096
COMMAND_TIMEOUT_NS = 10_000_000_000
COMMANDS_MAX = 256
"""Commands under way at once; more are refused and counted."""
LINES_MAX = 10_000
"""Streams of origins; those of further ones are refused and counted."""
REACTIONS_MAX = 10_000
"""Commands whose times are remembered for the report, the newest."""

COAP = Settings(
    ack_timeout_ns=200_000_000, max_retransmit=5, nstart=16, datagram_bytes_max=DATAGRAM_BYTES_MAX
)

Arrived = Batch | End

Append = Callable[[Arrived, bytes], Awaitable[None]]
"""Puts an encoded item into the journal; returns when it is safe on disk."""


@dataclass(slots=True)
class IngestCounts:
    """What came in from devices and what was made of it."""

    messages: int = 0
    rows: int = 0
    duplicated_rows: int = 0
    bad: int = 0
    refused: int = 0
    unavailable: int = 0
    commands: int = 0
    commands_failed: int = 0


@dataclass(frozen=True, slots=True)
class Reaction:
    """When a gateway began with the message that made a command, and when it handed over the command; monotonic."""

    command_id: str
    received_ns: int
    commanded_ns: int


@dataclass(slots=True)
class _Line:
    """One stream of one origin: the highest row a reflex has seen, and the highest row on disk."""

    reflexed: int
    stored: int
    ended: bool
    lock: asyncio.Lock


class Ingest:
    """The CoAP server of a gateway. ``last_seq`` tells what the journal already has, after a restart."""

    def __init__(
        self,
        spec: FlowSpec,
        assignment: Assignment,
        reflex: Graph,
        append: Append,
        *,
        streams: frozenset[str],
        paths: frozenset[str],
        last_seq: Callable[[str, str], int],
        clock: Clock,
    ) -> None:
        self.counts = IngestCounts()
        self.reactions: deque[Reaction] = deque(maxlen=REACTIONS_MAX)
        self._clock = clock
        self.on_request: Callable[[Request, tuple[str, ...]], None] = lambda _request, _commands: None
        self._decided: list[str] = []
        self._spec = spec
        self._reflex = reflex
        self._append = append
        self.streams = streams
        self._paths = paths
        self._last_seq = last_seq
        self._lines: dict[tuple[str, str], _Line] = {}
        self._commands: set[asyncio.Future[Response]] = set()
        self._endpoint: Endpoint | None = None
        self._acts = {s.id: s for s in spec.reflexes if s.id in assignment.runs}

    def take_over(self, state: dict[str, Any]) -> None:
        """Puts the reflex where the durable engine is: call it before `open`."""
        self._reflex.restore(unpack(pack(state)))  # a copy: the engine goes on changing its own

    async def open(self, port: int, chance: Chance) -> None:
        """Listens on 127.0.0.1; raises ``host.port-taken``."""
        self._endpoint = await Endpoint.open(port=port, handler=self.handle, random=chance, settings=COAP)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        assert self._endpoint is not None
        return self._endpoint.address

    async def close(self) -> None:
        """Stops listening; commands under way are given up."""
        for command in tuple(self._commands):
            command.cancel()
        if self._endpoint is not None:
            await self._endpoint.close()

    def snapshot(self) -> dict[str, Any]:
        """What decides the next reflexes, for `resume`."""
        lines = [[stream, origin, line.reflexed] for (stream, origin), line in self._lines.items()]
        return {"graph": self._reflex.snapshot(), "lines": lines}

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on from a snapshot of another time: call it before the first request."""
        self._reflex.restore(state["graph"])
        for stream, origin, reflexed in state["lines"]:
            self._lines[stream, origin] = _Line(reflexed, reflexed, ended=False, lock=asyncio.Lock())

    def handle(self, request: Request) -> Response | Awaitable[Response]:
        """POST s/STREAM with SenML rows, or s/STREAM/end with the origin's name."""
        self._decided = []
        response = self._handle(request)
        self.on_request(request, tuple(self._decided))
        return response

    def _handle(self, request: Request) -> Response | Awaitable[Response]:
        received_ns = self._clock.monotonic_ns()
        self.counts.messages += 1
        path = request.path
        if request.method != Code.POST or len(path) not in (2, 3) or path[0] != "s":
            self.counts.refused += 1
            return Response(Code.NOT_FOUND, b"post rows to s/STREAM")
        stream = path[1]
        if stream not in self.streams:
            self.counts.refused += 1
            return Response(Code.NOT_FOUND, f"no stream {stream!r} comes from devices here".encode())
        try:
            item = self._decode(request, stream)
        except DataError as error:
            self.counts.bad += 1
            return Response(Code.BAD_REQUEST, str(error).encode())
        if path_of(item.origin) not in self._paths:
            self.counts.refused += 1
            return Response(Code.FORBIDDEN, f"{item.origin!r} does not belong to this gateway".encode())
        if not is_name(item.origin):  # an end mark's; SenML has named the others
            self.counts.bad += 1
            return Response(Code.BAD_REQUEST, f"{item.origin!r} names no origin".encode())
        line = self._line(item)
        if line is None:
            self.counts.refused += 1
            return Response(
                Code.FORBIDDEN, f"this gateway has {LINES_MAX} streams of origins already".encode()
            )
        if isinstance(item, Batch):
            self.counts.rows += len(item)
            self._react(item, line, request, received_ns)
        return self._store(item, line)

    def _decode(self, request: Request, stream: str) -> Arrived:
        if len(request.path) == 3 and request.path[2] == "end":
            return End(stream, request.payload.decode("ascii", "replace"))
        return decode(request.payload, stream, self._spec[stream].schema)

    def _line(self, item: Arrived) -> _Line | None:
        """None for one more than there may be; those that are known go on."""
        key = (item.stream, item.origin)
        line = self._lines.get(key)
        if line is None and len(self._lines) < LINES_MAX:
            last = self._last_seq(*key)
            line = self._lines[key] = _Line(last, last, ended=False, lock=asyncio.Lock())
        return line

    def _react(self, batch: Batch, line: _Line, request: Request, received_ns: int) -> None:
        """The reflex: before any await, on rows no reflex has seen."""
        fresh = batch if batch.first_seq > line.reflexed else batch.take(batch.seq > line.reflexed)
        if not len(fresh):
            return
        line.reflexed = fresh.last_seq
        for emission in self._reflex.push(fresh):
            self._command(emission, request.peer, received_ns)

    def _command(self, emission: Emission, peer: Any, received_ns: int) -> None:
        assert isinstance(emission.item, Batch) and self._endpoint is not None
        act: ActStage = self._acts[emission.stage]
        for seq in emission.item.seq.tolist():
            self.counts.commands += 1
            command_id = f"{act.id}:{emission.item.origin}:{seq}"
            self._decided.append(command_id)
            if len(self._commands) >= COMMANDS_MAX:
                self.counts.commands_failed += 1
                continue
            payload = pack({"verb": act.verb, "id": command_id, "seq": seq})
            commanded_ns = (
                self._clock.monotonic_ns()
            )  # before: the device may have it before the call returns
            try:
                command = self._endpoint.begin(
                    (peer[0], peer[1]), Code.PUT, f"a/{act.actuator}", payload, 60, COMMAND_TIMEOUT_NS
                )
            except ConnectorError:
                self.counts.commands_failed += 1
                continue
            self.reactions.append(Reaction(command_id, received_ns, commanded_ns))
            self._commands.add(command)
            command.add_done_callback(self._commanded)

    def _commanded(self, command: asyncio.Future[Response]) -> None:
        self._commands.discard(command)
        if not command.cancelled():
            self.counts.commands_failed += command.exception() is not None or not command.result().ok

    async def _store(self, item: Arrived, line: _Line) -> Response:
        async with line.lock:
            if isinstance(item, Batch):
                old = int((item.seq <= line.stored).sum())
                self.counts.duplicated_rows += old
                if old == len(item):
                    return Response(Code.CHANGED)
                if old:
                    item = item.take(item.seq > line.stored)
            elif line.ended:
                return Response(Code.CHANGED)
            try:
                await self._append(item, encode(item))
            except MessagingError as error:
                self.counts.unavailable += 1
                return Response(Code.SERVICE_UNAVAILABLE, str(error).encode())
            if isinstance(item, Batch):
                line.stored = item.last_seq
                line.ended = False  # it came back: its next end is news again
            else:
                line.ended = True
        return Response(Code.CHANGED)
