"""Records what came into a gateway, in a ring of files of bounded size, so that it can be played again.

Two inputs decide all that a gateway does: requests of devices, in the order in which they came (the reflex decides at
once), and journal entries, in the order in which the journal has them (the durable engine decides). Each file begins
with the state both were in, so each can be played alone. Recording never holds up a node: what cannot be written in
time is left out, and said.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ganglion.core.errors import DataError, HostError
from ganglion.core.packing import pack, unpack
from ganglion.core.units import NS_PER_S
from ganglion.engine.durable import Entry, Journal, Outbox
from ganglion.host.ports import Clock, Disk
from ganglion.host.threads import to_its_end

DIRECTORY = "recording"
FILES = 4
WRITE_EVERY_NS = NS_PER_S
RECORDING_BYTES_MIN = 64_000
FORMAT = 1
_HEAD_BYTES = 8


@dataclass(frozen=True, slots=True)
class Start:
    """Where a file of the ring begins: who recorded, which part of which plan, and both states."""

    number: int
    site: str
    flow_dir: str
    assignment: dict[str, Any]
    gather: bool
    streams: tuple[str, ...]
    paths: tuple[str, ...]
    wall_ns: int
    monotonic_ns: int
    ordinal: int
    reflex: dict[str, Any]
    durable: bytes


@dataclass(frozen=True, slots=True)
class Arrival:
    """A device's request, and the ids of the commands that were decided by it."""

    at_ns: int
    peer: tuple[str, int]
    method: int
    path: tuple[str, ...]
    payload: bytes
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """A journal entry as the durable engine took it; ``payload`` None is a tick."""

    at_ns: int
    seq: int
    payload: bytes | None


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that the durable engine gave to the outbox; ``crc``: CRC-32 of stream, origin and payload."""

    at_ns: int
    ordinal: int
    stream: str
    origin: str
    crc: int


Record = Start | Arrival | Taken | Sent
_KINDS: dict[str, type[Record]] = {"start": Start, "arrival": Arrival, "taken": Taken, "sent": Sent}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def encode(record: Record) -> bytes:
    """Length, CRC-32, and CBOR of [format, kind, fields]."""
    fields = [getattr(record, name) for name in type(record).__dataclass_fields__]
    body = pack([FORMAT, _NAMES[type(record)], fields])
    return len(body).to_bytes(4, "big") + zlib.crc32(body).to_bytes(4, "big") + body


def decode(content: bytes) -> Iterator[Record]:
    """The records of a file; a torn end, as a crash leaves it, is left out.

    Raises `DataError` ``replay.recording`` for what is no recording.
    """
    at, count = 0, 0
    while at + _HEAD_BYTES <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        body = content[at + _HEAD_BYTES : at + _HEAD_BYTES + size]
        if len(body) < size or zlib.crc32(body) != int.from_bytes(content[at + 4 : at + 8], "big"):
            break
        yield _record(body)
        at, count = at + _HEAD_BYTES + size, count + 1
    if count == 0:
        raise not_a_recording("it does not begin with a whole record")


def _record(body: bytes) -> Record:
    try:
        number, name, fields = unpack(body)
        if number != FORMAT:
            raise not_a_recording(f"its format is {number}, this program reads {FORMAT}")
        kind: Callable[..., Record] = _KINDS[name]
        return kind(*(tuple(f) if isinstance(f, list) else f for f in fields))
    except (KeyError, TypeError, ValueError) as error:
        raise not_a_recording(f"{type(error).__name__}: {error}") from error


def not_a_recording(why: str) -> DataError:
    """The file cannot be played."""
    return DataError(
        "replay.recording",
        "this is not a recording of a gateway's inputs",
        why=why,
        next_step="name a file or the directory `recording` of a node that ran with --record",
    )


class InputRecorder:
    """Keeps the newest `bytes_max` of records on a node's disk. ``start`` gives the states of now."""

    def __init__(self, disk: Disk, clock: Clock, bytes_max: int) -> None:
        assert bytes_max >= RECORDING_BYTES_MIN
        self.start: Callable[[int], Start] | None = None
        self.left_out = 0
        self._disk_trouble = ""
        self._state_trouble = ""
        self._disk = disk
        self._clock = clock
        self._file_bytes_max = bytes_max // FILES
        self._number = 0
        self._written_number = 0  # of the last file that was written to, or failed
        self._failed_number = 0
        self._ended = False
        self._waiting: list[tuple[int, bytes]] = []
        self._size_bytes = 0
        self._recording = False

    async def open(self) -> None:
        """Finds where an earlier life left off."""
        numbers = [0]
        for index in range(FILES):
            content = await to_its_end(self._disk.read, _name(index))
            if content:
                try:
                    first = next(decode(content))
                except DataError:
                    continue
                if isinstance(first, Start):
                    numbers.append(first.number)
        self._number = self._written_number = max(numbers)

    @property
    def trouble(self) -> str:
        """Why inputs are not recorded now; "" when they are."""
        return self._state_trouble or self._disk_trouble

    @property
    def wants_start(self) -> bool:
        """True when the next file of the ring is due; it begins with `begin`, between two entries."""
        return not self._recording or self._ended or self._size_bytes >= self._file_bytes_max * 3 // 4

    def begin(self) -> None:
        """Starts the next file with the states of now, unless a whole ring waits for the disk already."""
        if self.start is None or self._number - self._written_number >= FILES:
            return
        self._number += 1
        content = encode(self.start(self._number))
        if len(content) > self._file_bytes_max // 2:
            # Asked again only when the recording is begun anew: a state does not shrink.
            self.start, self._recording = None, False
            self._state_trouble = f"inputs are not recorded: the state alone takes {len(content)} bytes"
            return
        self._waiting.append((self._number, content))
        self._size_bytes = len(content)
        self._recording, self._ended = True, False

    def arrival(self, record: Arrival) -> None:
        """A request came, and this was decided."""
        self._add(record)

    def _add(self, record: Record) -> None:
        if not self._recording:
            return
        content = encode(record)
        if self._ended or self._size_bytes + len(content) > self._file_bytes_max:
            # No moment between two entries came to begin a new file: the rest of this one is left out, small records
            # too, for what comes after a gap cannot be played.
            self._ended = True
            self.left_out += 1
            return
        self._waiting.append((self._number, content))
        self._size_bytes += len(content)

    async def run(self) -> None:
        """Writes what waits, for ever."""
        while True:
            await self._clock.sleep_ns(WRITE_EVERY_NS)
            await self.write()

    async def write(self) -> None:
        """Writes what waits; on a full disk it is left out, and the ring goes on with a new file."""
        waiting, self._waiting = self._waiting, []
        for number, group in groupby(waiting, key=lambda one: one[0]):
            records = [record for _, record in group]
            if number == self._failed_number:
                # They came while the disk was asked to take what is missing before them.
                self.left_out += len(records)
                continue
            fresh = number != self._written_number
            write: Callable[[str, bytes], object] = self._disk.replace if fresh else self._disk.append
            self._written_number = number
            try:
                await to_its_end(write, _name(number % FILES), b"".join(records))
                self._disk_trouble = ""
            except HostError as error:
                self._disk_trouble = str(error)
                self.left_out += len(records)
                self._failed_number = number
                self._recording = self._recording and number != self._number

    def journal(self, journal: Journal) -> Journal:
        """The same journal, with what is taken from it recorded."""
        return _RecordedJournal(journal, self)

    def outbox(self, outbox: Outbox) -> Outbox:
        """The same outbox, with what is given to it recorded."""
        return _RecordedOutbox(outbox, self)

    def taken(self, entry: Entry) -> None:
        self._add(Taken(self._clock.monotonic_ns(), entry.seq, entry.payload))

    def sent(self, ordinal: int, stream: str, origin: str, payload: bytes) -> None:
        self._add(Sent(self._clock.monotonic_ns(), ordinal, stream, origin, crc(stream, origin, payload)))


def crc(stream: str, origin: str, payload: bytes) -> int:
    """What two messages are told apart by."""
    return zlib.crc32(payload, zlib.crc32(f"{stream}/{origin}/".encode()))


class _RecordedJournal:
    def __init__(self, journal: Journal, recorder: InputRecorder) -> None:
        self._journal = journal
        self._recorder = recorder

    async def read(self, after_seq: int) -> AsyncIterator[Entry]:
        async for entry in self._journal.read(after_seq):
            # Whoever asks for the next entry has taken the one before: now, states are whole.
            if self._recorder.wants_start:
                self._recorder.begin()
            self._recorder.taken(entry)
            yield entry

    async def last_seq(self) -> int | None:
        return await self._journal.last_seq()


class _RecordedOutbox:
    def __init__(self, outbox: Outbox, recorder: InputRecorder) -> None:
        self._outbox = outbox
        self._recorder = recorder

    async def last_ordinal(self) -> int:
        return await self._outbox.last_ordinal()

    async def append(self, ordinal: int, stream: str, origin: str, payload: bytes) -> None:
        self._recorder.sent(ordinal, stream, origin, payload)
        await self._outbox.append(ordinal, stream, origin, payload)


def _name(index: int) -> str:
    return f"{DIRECTORY}/{index}.glog"
