"""A network and a gateway in virtual time: datagrams are lost, repeated, late and out of order, as the test draws."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ganglion.connectors.batch_senml import decode
from ganglion.connectors.coap import message as wire
from ganglion.connectors.coap.message import Code, Message, MessageType, Option
from ganglion.core.batch import Batch, sequence
from ganglion.device.firmware.box import Core, Obeyed, Record, Sent
from tests.device.firmware.benches import BOOT, GATEWAY, START_NS

MS = 1_000_000
S = 1000 * MS


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a datagram: when each copy arrives (none: lost)."""

    delays_ns: tuple[int, ...] = (MS,)


WELL = Fate()
LOST = Fate(())


@dataclass(slots=True)
class Asked:
    """One datagram of the device as it left."""

    at_ns: int
    message: Message

    @property
    def path(self) -> tuple[str, ...]:
        return wire.texts(self.message.options, Option.URI_PATH)


@dataclass
class Site:
    """A device, its network, and a gateway that journals rows once, in the order of their numbers."""

    core: Core
    fate: Callable[[], Fate] = lambda: WELL
    answers: Callable[[Asked], int] = lambda _asked: Code.CHANGED
    apart: Callable[[], bool] = lambda: False
    """Whether a response goes apart from the acknowledgement."""
    now_ns: int = 0
    silent: bool = False
    asked: list[Asked] = field(default_factory=list)
    commands: list[Obeyed] = field(default_factory=list)
    acknowledged: list[Batch] = field(default_factory=list)
    replies: list[Message] = field(default_factory=list)
    """What the device answered or rejected."""
    journal: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    _on_way: list[tuple[int, int, bool, bytes]] = field(default_factory=list)
    _count: int = 0
    _answered: dict[bytes, list[bytes]] = field(default_factory=dict)
    _id: int = 0x7000
    _number: int = 0

    def start(self, chance: int = 99) -> Site:
        self._take(self.core.start(self.now_ns, GATEWAY, BOOT, chance))
        return self

    def frame(self, frame: np.ndarray) -> None:
        time_ns = START_NS + self.now_ns
        self._take(self.core.frame(self.now_ns, self._number, time_ns, frame.tobytes()))
        self._number += 1

    def close(self) -> None:
        self._take(self.core.close(self.now_ns))

    def until(self, then_ns: int) -> None:
        """Lets time pass."""
        while True:
            next_ns = min(self.core.next_ns, self._on_way[0][0] if self._on_way else then_ns)
            if next_ns > then_ns:
                break
            self.now_ns = max(self.now_ns, next_ns)
            if self._on_way and self._on_way[0][0] <= self.now_ns:
                _, _, up, data = heapq.heappop(self._on_way)
                if up:
                    self._at_gateway(data)
                else:
                    self._take(self.core.receive(self.now_ns, GATEWAY, data))
            elif self.core.next_ns <= self.now_ns:
                self._take(self.core.poll(self.now_ns))
            else:
                break
        self.now_ns = then_ns

    def drain(self, within_ns: int = 600 * S) -> None:
        """Closes, and lets time pass until the device is done."""
        self.close()
        end_ns = self.now_ns + within_ns
        while not self.core.done:
            assert self.now_ns < end_ns, "it does not come to an end"
            self.until(self.now_ns + 100 * MS)

    def send_down(self, message: Message) -> None:
        """A request of the gateway's, without a detour."""
        self._take(self.core.receive(self.now_ns, GATEWAY, wire.encode(message)))

    def _take(self, records: list[Record]) -> None:
        for record in records:
            if isinstance(record, Sent):
                message = wire.decode(record.datagram)
                if wire.is_request(message.code):
                    self.asked.append(Asked(self.now_ns, message))
                    self._post(True, record.datagram)
                else:
                    self.replies.append(message)
                    if message.type is not MessageType.RST and message.code:
                        continue
                    self._post(True, record.datagram)
            elif isinstance(record, Obeyed):
                self.commands.append(record)
            else:
                self.acknowledged.append(record)

    def _post(self, up: bool, data: bytes) -> None:
        for delay_ns in self.fate().delays_ns:
            self._count += 1
            heapq.heappush(self._on_way, (self.now_ns + delay_ns, self._count, up, data))

    def _at_gateway(self, data: bytes) -> None:
        message = wire.decode(data)
        if self.silent or not wire.is_request(message.code):
            return
        if data in self._answered:  # a repeat is answered and not done again
            for answer in self._answered[data]:
                self._post(False, answer)
            return
        asked = Asked(self.now_ns, message)
        code = self.answers(asked)
        if code >> 5 == 2:
            self._journal(asked)
        if code == 0:
            answers = [wire.encode(Message(MessageType.RST, 0, message.message_id))]
        elif self.apart():
            self._id += 1
            answers = [
                wire.encode(Message(MessageType.ACK, 0, message.message_id)),
                wire.encode(Message(MessageType.CON, code, self._id, message.token)),
            ]
        else:
            answers = [wire.encode(Message(MessageType.ACK, code, message.message_id, message.token))]
        self._answered[data] = answers
        for answer in answers:
            self._post(False, answer)

    def _journal(self, asked: Asked) -> None:
        stream = asked.path[1]
        if asked.path[2:] == ("end",):
            self.ended.append(stream)
            return
        schema = next(e.stage.schema for e in self.core.firmware.streams if e.stage.id == stream)
        batch = decode(asked.message.payload, stream, schema)
        rows = self.journal.setdefault(stream, [])
        for k, seq in enumerate(batch.seq.tolist()):
            content = b"".join(c[k].tobytes() for c in batch.columns.values())
            if rows and seq <= rows[-1][0]:
                assert (seq, content) in rows, "a row came late, behind a later one"
                continue
            rows.append((seq, content))

    def numbers(self, stream: str) -> list[int]:
        """Frame numbers of the rows the gateway has."""
        return [seq - sequence(BOOT, 0) for seq, _ in self.journal.get(stream, [])]


def measure(site: Site, frames: np.ndarray, every_ns: int = 10 * MS) -> None:
    """One frame after the other."""
    for frame in frames:
        site.until(site.now_ns + every_ns)
        site.frame(frame)


URGENT_PART: Mapping[str, tuple[str, ...]] = {
    "runs": ("level", "every_third"),
    "exports": ("level", "every_third"),
}
"""`level` leads to reflexes at the gateway, so it is urgent; `every_third` is not."""
