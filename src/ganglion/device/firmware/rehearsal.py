"""A device played in virtual time against a gateway that takes everything: what frames cost it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ganglion.connectors.coap import message as wire
from ganglion.connectors.coap.message import Code, Message, MessageType
from ganglion.core.schema import TensorType
from ganglion.device.firmware.boards import Boards
from ganglion.device.firmware.box import Core, Memory, Record, Report, Sent
from ganglion.device.firmware.build import Image
from ganglion.device.firmware.generate import Firmware
from ganglion.device.player import DEAD_FRAMES, Player, shot_frames_min
from ganglion.device.recording import Event
from ganglion.host.ports import Processes
from ganglion.kernels import vectors

ORIGIN = "x-0"
GATEWAY = ("127.0.0.1", 5683)
EPOCH_NS = 1_700_000_000_000_000_000
DRAIN_NS_MAX = 60_000_000_000
EACH_N = 24
"""Frames of a kind that a build is counted with."""
SEED = 7


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """``frame_instructions``: of the call for each frame, without answers and timers; 0 where nobody counts.

    ``played_ns``: from the start to the last frame; the device's counts are of that time, its end is left out.
    """

    frame_instructions: tuple[int, ...]
    report: Report
    played_ns: int


def rehearse(firmware: Firmware, memory: Memory, frames: Iterable[bytes], *, answer_ns: int = 0) -> Rehearsed:
    """Plays frames at the source's rate; the gateway's acknowledgement comes ``answer_ns`` after each message."""
    core = Core(firmware, memory, ORIGIN, frozenset(firmware.actuators))
    every_ns = firmware.measured.every_ns
    answers: list[tuple[int, bytes]] = []

    def send(now_ns: int, records: Iterable[Record]) -> None:
        for record in records:
            if isinstance(record, Sent):
                asked = wire.decode(record.datagram)
                reply = Message(MessageType.ACK, Code.CHANGED, asked.message_id, asked.token)
                heapq.heappush(answers, (now_ns + answer_ns, wire.encode(reply)))

    def until(then_ns: int) -> None:
        while (now_ns := min(core.next_ns, answers[0][0] if answers else then_ns)) < then_ns:
            if answers and answers[0][0] <= now_ns:
                send(now_ns, core.receive(now_ns, GATEWAY, heapq.heappop(answers)[1]))
            else:
                send(now_ns, core.poll(now_ns))

    send(0, core.start(0, GATEWAY, 1, SEED))
    counts: list[int] = []
    now_ns = 0
    for number, frame in enumerate(frames):
        now_ns = (number + 1) * every_ns
        until(now_ns)
        before = memory.instructions
        send(now_ns, core.frame(now_ns, number, EPOCH_NS + now_ns, frame))
        counts.append(memory.instructions - before)
    return Rehearsed(tuple(counts), core.report(), now_ns)


def hostile(frame: TensorType, count: int = EACH_N) -> list[bytes]:
    """Frames at the ends of the type's range and at random in it; NaNs, infinities and subnormals of floats."""
    if frame.dtype in ("f32", "bool"):
        return [f.tobytes() for f in vectors.frames(frame, count, SEED)]
    rng = np.random.default_rng(SEED)
    numpy = frame.numpy
    if frame.dtype == "f64":
        bits = rng.integers(0, 1 << 64, (count, *frame.shape), dtype=np.uint64)
        return [f.tobytes() for f in bits]
    ends = np.iinfo(numpy)
    found = rng.integers(ends.min, ends.max, (count, *frame.shape), dtype=numpy, endpoint=True)
    found[0], found[1] = ends.min, ends.max
    found[2::4] = np.where(rng.random(found[2::4].shape) < 0.5, ends.min, ends.max)
    return [f.tobytes() for f in found]


def waves(frame: TensorType, count: int = 3 * EACH_N) -> list[bytes]:
    """Sine waves with noise that jump between sizes every eight frames, as loads and faults do: ordinary signals.

    Integers go up to half of their range, floats to 300.
    """
    rng = np.random.default_rng(SEED)
    last = frame.shape[-1] if frame.shape else 1
    top = np.iinfo(frame.numpy).max if frame.numpy.kind == "i" else 600.0
    steps = top * np.array([0.003, 0.003, 0.1, 0.003, 0.5, 0.0, 0.02, 0.3, 0.003])
    size = np.resize(np.repeat(steps, 8), count).reshape(count, *(1 for _ in frame.shape))
    phase = rng.uniform(0, 2 * np.pi, (*frame.shape[:-1], *(1 for _ in frame.shape[-1:])))
    noise = rng.normal(0, 0.01, (count, *frame.shape))
    values = size * (np.sin(2 * np.pi * np.arange(last) / last + phase) + noise)
    return [v.astype(frame.numpy).tobytes() for v in values]


def played(events: Sequence[Event]) -> list[bytes]:
    """The first of the recorded events as a device plays it, steady state before and a dead line after."""
    period = shot_frames_min(events[:1]) + DEAD_FRAMES
    player = Player(events[:1], index=0, stride=1, period_frames=period)
    return [player.next_frame().tobytes() for _ in range(period)]


@dataclass(frozen=True, slots=True)
class Instructions:
    """Instructions for one frame, with the messages that it makes at once: the median and the worst of ``frames``.

    ``kinds``: the median and the worst of each kind of frame.
    """

    frames: int
    median: int
    worst: int
    kinds: Mapping[str, tuple[int, int]]


def count(
    image: Image, processes: Processes, log: Path, events: Sequence[Event] | None = None
) -> Instructions:
    """Counts an image's instructions per frame on an emulated board: hostile frames, and ``events`` or else waves.

    Raises `HostError` ``firmware.emulator`` where nothing can be emulated, ``host.process`` when it fails.
    """
    frame = image.firmware.measured.schema.fields[0].type
    kinds = {"hostile": hostile(frame)}
    kinds["recorded" if events else "waves"] = played(events) if events else waves(frame)
    boards = Boards(image, processes, log, counting=True)
    try:
        # A board of its own for each kind, or what one left in a state would make the other's frames dear.
        counts = {
            kind: rehearse(image.firmware, boards.device(), frames).frame_instructions
            for kind, frames in kinds.items()
        }
    finally:
        boards.close()
    every = [n for found in counts.values() for n in found]
    return Instructions(
        len(every),
        int(np.median(every)),
        max(every),
        {kind: (int(np.median(found)), max(found)) for kind, found in counts.items()},
    )
