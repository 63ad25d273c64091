"""Plays a gateway's recorded inputs through today's code, on virtual time, and shows what it decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganglion.agent.ingest import Ingest
from ganglion.agent.inputs import Arrival, Record, Sent, Start, Taken, crc, decode, not_a_recording
from ganglion.connectors.coap.exchange import Request
from ganglion.core.errors import DataError, GanglionError
from ganglion.core.packing import unpack
from ganglion.core.wire import Item
from ganglion.engine.checkpoints import CHECKPOINT
from ganglion.engine.durable import Durable, Entry
from ganglion.engine.graph import Graph
from ganglion.engine.seen import Seen
from ganglion.flow.assignment import Assignment
from ganglion.flow.load import load_flow
from ganglion.flow.spec import FlowSpec
from ganglion.sim.virtual import loop as virtual
from ganglion.sim.virtual.chance import SeededChances
from ganglion.sim.virtual.clock import VirtualClock
from ganglion.sim.virtual.disk import Platter, VirtualDisk
from ganglion.sim.virtual.loop import VirtualLoop
from ganglion.sim.virtual.network import Network
from ganglion.sim.virtual.paths import Weather
from ganglion.sim.virtual.trace import Trace

RECORDING_BYTES_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class Decision:
    """A command: when the row that asked for it came (nanoseconds since the epoch), and whether then and now agree."""

    at_ns: int
    command_id: str
    then: bool
    now: bool

    def to_json(self) -> dict[str, Any]:
        return {"at_ns": self.at_ns, "command": self.command_id, "recorded": self.then, "replayed": self.now}


@dataclass(slots=True)
class Replay:
    """One file of a recording, played."""

    start: Start
    digest: str
    until_ns: int = 0
    arrivals: int = 0
    entries: int = 0
    decisions: list[Decision] = field(default_factory=list)
    messages_then: dict[int, tuple[str, str, int]] = field(default_factory=dict)
    messages_now: dict[int, tuple[str, str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def same_flow(self) -> bool:
        return bool(self.digest == self.start.assignment["flow_digest"])

    @property
    def differing_messages(self) -> list[int]:
        """Numbers of outbox messages that are not what they were. Those after the recording's end are not compared."""
        then, now = self.messages_then, self.messages_now
        return [n for n in sorted(then.keys() | now.keys()) if then.get(n) != now.get(n)]

    @property
    def same(self) -> bool:
        return all(d.then == d.now for d in self.decisions) and not self.differing_messages

    def to_json(self) -> dict[str, Any]:
        """One object of `ganglion replay --json`."""
        return {
            "site": self.start.site,
            "number": self.start.number,
            "from_ns": self.start.wall_ns,
            "until_ns": self.until_ns,
            "same_flow": self.same_flow,
            "same": self.same,
            "requests": self.arrivals,
            "entries": self.entries,
            "decisions": [d.to_json() for d in self.decisions],
            "messages": len(self.messages_now),
            "differing_messages": self.differing_messages,
            "notes": self.notes,
        }


def read_recordings(path: Path) -> list[list[Record]]:
    """The files of a recording (or the one named), oldest first; raises `DataError` ``replay.recording``."""
    names = sorted(path.glob("*.glog")) if path.is_dir() else [path]
    if not names:
        raise not_a_recording(f"{path} holds no .glog files")
    found = []
    for name in names:
        try:
            if name.stat().st_size > RECORDING_BYTES_MAX:
                raise not_a_recording(f"{name} is larger than {RECORDING_BYTES_MAX} bytes")
            records = list(decode(name.read_bytes()))
        except OSError as error:
            raise not_a_recording(f"{name}: {error.strerror}") from error
        if not isinstance(records[0], Start):
            raise not_a_recording(f"{name} does not begin with a state")
        found.append(records)
    return sorted(found, key=_number)


def _number(records: list[Record]) -> int:
    assert isinstance(records[0], Start)
    return records[0].number


def replay(records: list[Record], flow_dir: Path | None = None) -> Replay:
    """Plays one file. ``flow_dir``: another flow than the recorded one; its code decides from the same inputs.

    Raises what `load_flow` raises.
    """
    start = records[0]
    assert isinstance(start, Start)
    spec = load_flow(flow_dir or Path(start.flow_dir))
    result = Replay(start, spec.digest)
    times_ns = [r.at_ns for r in records if not isinstance(r, Start)]
    result.until_ns = start.wall_ns + max(times_ns, default=start.monotonic_ns) - start.monotonic_ns
    assignment = Assignment.from_json({**start.assignment, "flow_digest": spec.digest})
    unknown = (set(assignment.runs) | set(assignment.exports)) - {s.id for s in spec.stages}
    if unknown:
        raise DataError(
            "replay.flow",
            f"the flow {spec.name} cannot play this recording",
            why=f"it lacks what the gateway ran: {', '.join(sorted(unknown))}",
            next_step="name a flow with the same stages: --flow FLOW_DIR",
        )
    virtual.run(lambda loop: _play(loop, result, spec, assignment, records))
    return result


async def _play(
    loop: VirtualLoop, result: Replay, spec: FlowSpec, assignment: Assignment, records: list[Record]
) -> None:
    last_seq = await _durable(loop, result, spec, assignment, records)
    await _reflex(loop, result, spec, assignment, [r for r in records if isinstance(r, Arrival)], last_seq)


async def _durable(
    loop: VirtualLoop, result: Replay, spec: FlowSpec, assignment: Assignment, records: list[Record]
) -> Callable[[str, str], int]:
    """The journal's entries through the durable engine; returns what it had taken of each line before them."""
    start = result.start
    state = unpack(start.durable)
    disk = VirtualDisk(Platter(), Path("/virtual/replay"))
    skipped = 0
    if result.same_flow:
        disk.replace(CHECKPOINT, start.durable)
    else:
        skipped = state["input_seq"]
        result.notes.append("the flow is another: windows and kernels begin without the state of then")
    taken = [r for r in records if isinstance(r, Taken)]
    whole = [r for i, r in enumerate(taken) if r.seq == state["input_seq"] + 1 + i]
    if len(whole) < len(taken):
        result.notes.append(f"{len(taken) - len(whole)} entries after a gap in the recording are not played")
    result.entries = len(whole)
    result.messages_then = {r.ordinal: (r.stream, r.origin, r.crc) for r in records if isinstance(r, Sent)}
    outbox = _Outbox(start.ordinal if result.same_flow else 0, start.ordinal, result.messages_now)
    journal = _Entries([Entry(r.seq - skipped, r.payload) for r in whole])
    clock = VirtualClock(loop.virtual_time)
    engine = Durable(spec, assignment, journal, outbox, disk=disk, clock=clock, gather=start.gather)
    held = {(stream, origin): Seen.restored(seen).last_seq for stream, origin, seen in state["seen"]}
    running = loop.create_task(engine.run())
    await asyncio.wait(
        {running, asyncio.ensure_future(journal.drained.wait())}, return_when=asyncio.FIRST_COMPLETED
    )
    if running.done():
        running.result()
    running.cancel()
    await asyncio.wait({running})
    _cut_at_the_end(result)
    return lambda stream, origin: held.get((stream, origin), -1)


def _cut_at_the_end(result: Replay) -> None:
    """A recording may end between a message and its record: what one side lacks at the very end is no difference."""
    then, now = result.messages_then, result.messages_now
    if then and now and result.same_flow:
        last = min(max(then), max(now))
        for side in (then, now):
            for number in [n for n in side if n > last]:
                del side[number]


async def _reflex(
    loop: VirtualLoop,
    result: Replay,
    spec: FlowSpec,
    assignment: Assignment,
    arrivals: list[Arrival],
    last_seq: Callable[[str, str], int],
) -> None:
    """The devices' requests through the ingest, each at its moment."""
    start = result.start
    chances = SeededChances(0, "replay")
    network = Network(lambda: loop.virtual_time.now_ns, chances, Trace(), Weather())
    loop.outside = _Alone(loop, network)

    async def append(_item: Item, _payload: bytes) -> None:
        """The journal took it then."""

    clock = VirtualClock(loop.virtual_time)
    ingest = Ingest(
        spec,
        assignment,
        Graph(spec, assignment, "reflex"),
        append,
        streams=frozenset(start.streams),
        paths=frozenset(start.paths),
        last_seq=last_seq,
        clock=clock,
    )
    try:
        ingest.resume(start.reflex)
    except (KeyError, TypeError, ValueError, GanglionError):
        result.notes.append("the reflex begins without the state of then: the flow's kernels are others")
    decided: list[str] = []
    ingest.on_request = lambda _request, commands: decided.extend(commands)
    await ingest.open(0, chances.stream("coap"))
    began_ns = loop.virtual_time.now_ns
    answers: list[asyncio.Future[Any]] = []
    for arrival in arrivals:
        await clock.sleep_until_ns(began_ns + max(0, arrival.at_ns - start.monotonic_ns))
        decided.clear()
        request = Request(arrival.peer, arrival.method, arrival.path, (), None, None, arrival.payload, True)
        answer = ingest.handle(request)
        if asyncio.iscoroutine(answer):
            answers.append(asyncio.ensure_future(answer))
        at_ns = start.wall_ns + arrival.at_ns - start.monotonic_ns
        for command in dict.fromkeys((*arrival.commands, *decided)):
            result.decisions.append(Decision(at_ns, command, command in arrival.commands, command in decided))
    result.arrivals = len(arrivals)
    await asyncio.gather(*answers)
    await ingest.close()


class _Entries:
    """A journal that holds what was recorded; ``drained`` is set when the engine has asked for more."""

    def __init__(self, entries: list[Entry]) -> None:
        self.drained = asyncio.Event()
        self._entries = entries

    async def read(self, after_seq: int) -> AsyncIterator[Entry]:
        for entry in self._entries:
            if entry.seq > after_seq:
                yield entry
        self.drained.set()
        await asyncio.Event().wait()

    async def last_seq(self) -> int:
        return self._entries[-1].seq if self._entries else 1 << 62


class _Outbox:
    """Takes what the engine sends. ``numbered_from``: what is added to its numbers when it begins at 0."""

    def __init__(
        self, last_ordinal: int, numbered_from: int, messages: dict[int, tuple[str, str, int]]
    ) -> None:
        self._last = last_ordinal
        self._shift = numbered_from - last_ordinal
        self._messages = messages

    async def last_ordinal(self) -> int:
        return self._last

    async def append(self, ordinal: int, stream: str, origin: str, payload: bytes) -> None:
        self._last = ordinal
        self._messages[ordinal + self._shift] = (stream, origin, crc(stream, origin, payload))


class _Alone:
    """`Outside` with one machine on the network and nobody else."""

    name = "replay"
    alive = True
    disk_slowness = 1

    def __init__(self, loop: VirtualLoop, network: Network) -> None:
        self._loop = loop
        self._network = network
        self.chances = SeededChances(0)

    def touch(self) -> None:
        """No faults aim here."""

    def call(self, function: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._loop.call_soon(virtual.settle, future, function)
        return future

    async def datagrams(
        self, protocol: asyncio.DatagramProtocol, address: tuple[str, int]
    ) -> asyncio.DatagramTransport:
        return self._network.open(self, protocol, address)

    async def stream(self, protocol: asyncio.Protocol, address: tuple[str, int]) -> asyncio.Transport:
        raise ConnectionRefusedError("nobody is here")
