"""Walks a board through what firmware does, before it counts: an emulator translates code when it is first run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt

from ganglion.connectors.coap import message as wire
from ganglion.connectors.coap.message import Code, Message, MessageType
from ganglion.core.packing import pack
from ganglion.device.firmware.box import Address, Core, Memory, Record, Sent
from ganglion.device.firmware.generate import Firmware

FRAMES_MAX = 1024
"""Frames a board is walked through; some 0.2 s."""
_GATEWAY: Address = ("127.0.0.1", 9)
_ORIGIN = "warming"
_SILENCE_NS = 5_000_000_000


def walk_through(firmware: Firmware, memory: Memory, frames: Iterable[npt.NDArray[Any]]) -> None:
    """Plays ``frames`` to a device that nobody hears of, with a gateway that answers, commands, and is silent once.

    ``memory`` is let go afterwards.
    """
    every_ns = firmware.measured.every_ns
    core = Core(firmware, memory, _ORIGIN, frozenset(firmware.actuators))
    _answer(core, 0, core.start(0, _GATEWAY, 1, 1))
    now_ns = 0
    for number, frame in zip(range(FRAMES_MAX), frames, strict=False):
        now_ns += every_ns
        while core.next_ns < now_ns:
            _answer(core, core.next_ns, core.poll(core.next_ns))
        _answer(core, now_ns, core.frame(now_ns, number, now_ns, frame.tobytes()))
    for message_id, actuator in enumerate(firmware.actuators):
        command = pack({"verb": "open", "id": f"{_ORIGIN}:{message_id}", "seq": 1})
        options = wire.request_options(("a", actuator))
        datagram = wire.encode(Message(MessageType.CON, Code.PUT, message_id, b"\1", options, command))
        for _ in range(2):  # the second time it is a repetition
            core.receive(now_ns, _GATEWAY, datagram)
    core.receive(now_ns, _GATEWAY, b"\0")
    core.close(now_ns)  # nobody answers: all of it is sent again
    until_ns = now_ns + _SILENCE_NS
    while not core.done and now_ns < until_ns:
        now_ns = max(now_ns + 1, min(core.next_ns, until_ns))
        _answer(core, now_ns, core.poll(now_ns))
    core.report()
    core.release()


def _answer(core: Core, now_ns: int, records: list[Record]) -> None:
    """Whatever asks for an answer is answered at once, and so is what that brings forth."""
    todo = list(records)
    while todo:
        record = todo.pop(0)
        if isinstance(record, Sent):
            asked = wire.decode(record.datagram)
            if asked.type is MessageType.CON:
                reply = Message(MessageType.ACK, Code.CHANGED, asked.message_id, asked.token)
                todo += core.receive(now_ns, _GATEWAY, wire.encode(reply))
