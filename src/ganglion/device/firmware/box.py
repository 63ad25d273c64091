"""Driving firmware through its box: what goes in, what comes out, whoever runs the C (see ``runtime/box.c``)."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np

from ganglion.core.batch import Batch
from ganglion.device.firmware.generate import Firmware
from ganglion.device.uplink import UplinkCounts
from ganglion.engine.operators import Counts

HEAD = struct.Struct("<IIqqqI32sIqII")
RECORD = struct.Struct("<IIIIq")
PEER_BYTES = 32
_REPEATED = 1 << 31

Address = tuple[str, int]


class Op(IntEnum):
    """What the device is asked to do."""

    START = 1
    FRAME = 2
    RECEIVE = 3
    POLL = 4
    CLOSE = 5
    REPORT = 6


@dataclass(frozen=True, slots=True)
class Sent:
    """A datagram for the network."""

    to: Address
    datagram: bytes


@dataclass(frozen=True, slots=True)
class Obeyed:
    """A command that reached its actuator; ``repeated``: it had obeyed this id before, and did nothing."""

    actuator: str
    verb: str
    command_id: str
    seq: int
    repeated: bool


Record = Sent | Obeyed | Batch
"""A `Batch` are rows that the gateway has on its disk."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a device's energy follows from; ``instructions`` and ``cycles`` are 0 where nobody counts them."""

    frames: int
    wakeups: int
    sent: int
    sent_bytes: int
    received: int
    received_bytes: int
    instructions: int
    cycles: int


@dataclass(frozen=True, slots=True)
class CoapCounts:
    """What the device's CoAP endpoint saw."""

    retransmitted: int
    expired: int
    duplicates: int
    malformed: int
    unmatched: int
    commands: int
    commands_unknown: int


@dataclass(frozen=True, slots=True)
class Report:
    """All counts of a device since it started."""

    uplinks: Mapping[str, UplinkCounts]
    stages: Mapping[str, Counts]
    ledger: Ledger
    coap: CoapCounts


class Memory(Protocol):
    """Whoever holds a device's memory and runs its code. ``instructions``: how many it has run, 0 when uncounted."""

    @property
    def instructions(self) -> int: ...

    def run(self, head: bytes, content: bytes) -> tuple[bytes, bytes]:
        """Puts ``head`` and ``content`` into the box, runs the device once, returns the head and the records."""

    def close(self) -> None:
        """Lets the device go."""


def peer_bytes(address: Address) -> bytes:
    """An address as the device compares it: the numeric host's bytes, then the port's."""
    return ipaddress.ip_address(address[0]).packed + address[1].to_bytes(2, "big")


def peer_address(packed: bytes) -> Address:
    """What `peer_bytes` packed."""
    return str(ipaddress.ip_address(packed[:-2])), int.from_bytes(packed[-2:], "big")


class Core:
    """One device without a network and without a clock: every call says what time it is."""

    def __init__(self, firmware: Firmware, memory: Memory, origin: str, present: frozenset[str]) -> None:
        assert len(origin) <= firmware.limits.origin_bytes_max, origin
        self.firmware = firmware
        self.origin = origin
        self.next_ns = 0
        """When `poll` has something to do, if nothing happens before."""
        self.done = False
        """True when the device was closed and the gateway has all and was told so."""
        self._memory = memory
        self._present = sum(1 << k for k, name in enumerate(firmware.actuators) if name in present)
        self._dtypes = [e.layout.dtype() for e in firmware.streams]

    def start(self, now_ns: int, gateway: Address, boot: int, chance: int) -> list[Record]:
        """Starts afresh; ``chance``: 32 random bits."""
        content = struct.pack("<QII", boot, self._present, chance or 1) + self.origin.encode()
        return self._run(Op.START, now_ns, content, peer=peer_bytes(gateway))

    def frame(self, now_ns: int, number: int, time_ns: int, frame: bytes) -> list[Record]:
        """The ``number``-th frame since the start, as it is stored, complete at ``time_ns``."""
        assert len(frame) == self.firmware.measured.schema.row_bytes
        return self._run(Op.FRAME, now_ns, frame, number=number, time_ns=time_ns)

    def receive(self, now_ns: int, sender: Address, datagram: bytes) -> list[Record]:
        """A datagram came in; what is larger than the device's memory for it is cut and found too large."""
        cut = datagram[: self.firmware.sizes["GD_IN_BYTES"]]
        return self._run(Op.RECEIVE, now_ns, cut, peer=peer_bytes(sender))

    def poll(self, now_ns: int) -> list[Record]:
        """Time has passed."""
        return self._run(Op.POLL, now_ns, b"")

    def close(self, now_ns: int) -> list[Record]:
        """No more frames will come: everything is sent, then each stream's end."""
        return self._run(Op.CLOSE, now_ns, b"")

    def report(self) -> Report:
        """All counts until now."""
        counted = self._memory.instructions
        _, out = self._memory.run(HEAD.pack(Op.REPORT, 0, 0, 0, 0, 0, b"", 0, counted, 0, 0), b"")
        values = iter(np.frombuffer(out[RECORD.size :], "<u8").tolist())

        def take(count: int) -> list[int]:
            return [next(values) for _ in range(count)]

        uplinks = {e.stage.id: UplinkCounts(*take(7)) for e in self.firmware.streams}
        stages = {}
        for stage in self.firmware.stages:
            rows, out_rows, dropped = take(3)
            stages[stage] = Counts(rows=rows, out=out_rows, dropped=dropped)
        return Report(uplinks, stages, Ledger(*take(8)), CoapCounts(*take(7)))

    def release(self) -> None:
        """Lets the memory go."""
        self._memory.close()

    def _run(
        self, op: Op, now_ns: int, content: bytes, *, number: int = 0, time_ns: int = 0, peer: bytes = b""
    ) -> list[Record]:
        counted = self._memory.instructions
        head = HEAD.pack(op, len(content), now_ns, number, time_ns, len(peer), peer, 0, counted, 0, 0)
        after, out = self._memory.run(head, content)
        *_, lost, self.next_ns, done, _ = HEAD.unpack(after)
        assert not lost, "the box is too small for what the device did"
        self.done = bool(done)
        return list(self._records(out))

    def _records(self, out: bytes) -> Iterator[Record]:
        at = 0
        while at < len(out):
            kind, size, a, b, c = RECORD.unpack_from(out, at)
            at += RECORD.size
            content = out[at : at + size]
            at += -(-size // 8) * 8
            if kind == 1:
                yield Sent(peer_address(content[:a]), content[PEER_BYTES:])
            elif kind == 2:
                actuator = self.firmware.actuators[a & ~_REPEATED]
                verb, name = content[:b].decode(), content[b:].decode()
                yield Obeyed(actuator, verb, name, c, bool(a & _REPEATED))
            else:
                yield self._batch(a, content)

    def _batch(self, stream: int, content: bytes) -> Batch:
        rows = np.frombuffer(content, self._dtypes[stream])
        exported = self.firmware.streams[stream]
        columns = {
            f.name: np.ascontiguousarray(rows[f.name], f.type.numpy) for f in exported.layout.schema.fields
        }
        return Batch(
            exported.stage.id,
            self.origin,
            rows["Seq"].astype(np.int64),
            rows["Time"].astype(np.int64),
            columns,
        )


def ledger_json(report: Report) -> dict[str, int]:
    """The energy ledger as `GET ledger` gives it: the same counts under the same names."""
    uplinks = report.uplinks.values()
    offered, acknowledged, shed, refused = (
        sum(getattr(u, name) for u in uplinks) for name in ("offered", "acknowledged", "shed", "refused")
    )
    return asdict(report.ledger) | {
        "retransmitted": report.coap.retransmitted,
        "rows_stored": offered - acknowledged - shed - refused,
        "rows_acknowledged": acknowledged,
        "rows_shed": shed,
        "rows_refused": refused,
    }
