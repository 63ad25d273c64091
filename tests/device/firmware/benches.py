"""Firmware beside the Python device: flows, frames, and a gateway that answers within the same call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from ganglion.connectors.batch_senml import decode
from ganglion.connectors.coap import message as wire
from ganglion.connectors.coap.message import Code, Message, MessageType, Option
from ganglion.core.batch import Batch, sequence
from ganglion.device.firmware.box import Address, Core, Memory, Obeyed, Record, Sent
from ganglion.device.firmware.generate import Firmware, generate
from ganglion.device.firmware.layout import Limits
from ganglion.engine.graph import Graph
from ganglion.flow.assignment import Assignment
from ganglion.flow.load import load_flow
from ganglion.flow.spec import FlowSpec
from ganglion.kernels.c.toolchain import compilers
from ganglion.kernels.loading import load
from ganglion.kernels.running import Libraries

PATH, ORIGIN, BOOT = "gw1-relay", "gw1-relay-03", 6
GATEWAY: Address = ("127.0.0.1", 5683)
HERE = Path(__file__).parent
FEEDER = HERE.parents[2] / "examples" / "feeder"
START_NS = 1_790_000_000_123_456_789
needs_compiler = pytest.mark.skipif(not compilers(), reason="there is no C compiler: set GANGLION_CC")

FEEDER_STAGES = ("features", "decide", "trips", "breaker_open", "incident", "trend")
FEEDER_PART: Mapping[str, tuple[str, ...]] = {
    "runs": FEEDER_STAGES,
    "exports": ("trips", "incident", "trend"),
}
PLANT_PART: Mapping[str, tuple[str, ...]] = {
    "runs": (
        *("level", "every_third", "busy", "alarms", "siren_on", "worse", "valve_shut"),
        *("near", "shapes", "levels_near"),
    ),
    "exports": ("raw", "level", "every_third", "busy", "alarms", "worse", "near", "shapes", "levels_near"),
}


WATCH_PART: Mapping[str, tuple[str, ...]] = {
    "runs": ("centred", "found", "falls", "siren_on"),
    "exports": ("centred", "found", "falls"),
}
needs_onnx = pytest.mark.skipif(find_spec("onnx") is None, reason="onnx is not installed")


@cache
def flow_of(folder: Path) -> FlowSpec:
    return load_flow(folder)


def feeder() -> FlowSpec:
    return flow_of(FEEDER)


def plant() -> FlowSpec:
    return flow_of(HERE / "plant")


def assigned(spec: FlowSpec, part: Mapping[str, Iterable[str]], path: str = PATH) -> Assignment:
    runs, exports = ({s: frozenset({path}) for s in part[what]} for what in ("runs", "exports"))
    return Assignment("gw1-relay", "gw1", "device", spec.digest, runs, exports)


def firmware_of(spec: FlowSpec, part: Mapping[str, Iterable[str]], limits: Limits | None = None) -> Firmware:
    return generate(spec, assigned(spec, part), limits=limits)


def plant_frames(rng: np.random.Generator, count: int) -> np.ndarray:
    """Mostly quiet, with bursts, and now and then the ends of the range."""
    frames = rng.integers(-20, 20, (count, 2, 4))
    bursts = rng.random(count) < 0.08
    frames[bursts] *= rng.integers(5, 60, (int(bursts.sum()), 1, 1))
    wild = rng.random(count) < 0.03
    frames[wild] = rng.integers(-32768, 32768, (int(wild.sum()), 2, 4))
    return frames.astype(np.int16)


def feeder_frames(rng: np.random.Generator, count: int) -> np.ndarray:
    """Three-phase load, dead line and faults by turns of 60 frames, with noise; some frames are noise only."""
    angle = 2 * np.pi * np.arange(64) / 64
    turns = np.array([0, -2 * np.pi / 3, 2 * np.pi / 3])
    frames = np.empty((count, 6, 64))
    for n in range(count):
        turn, within = divmod(n, 60)
        fault = np.ones(3)
        if within >= 40:
            fault[turn % 3] = rng.uniform(5, 12)
        live = within < 50
        volts = 7000 / 0.25 * np.cos(angle + turns[:, None]) * live
        amps = 100 * fault[:, None] * np.cos(angle - 0.3 + turns[:, None]) * live
        frames[n] = np.concatenate([volts, amps]) + rng.normal(0, 1, (6, 64))
    wild = rng.random(count) < 0.01
    frames[wild] = rng.integers(-32768, 32768, (int(wild.sum()), 6, 64))
    return np.clip(frames, -32768, 32767).astype(np.int16)


def watch_frames(rng: np.random.Generator, count: int) -> np.ndarray:
    """Swings of a few kinds, each for some frames, with noise; some frames are at the ends of the range."""
    time = np.arange(32) / 32
    frames = np.empty((count, 3, 32))
    for n in range(count):
        kind = n // 7 % 5
        swing = np.sin(2 * np.pi * ((kind + 1) * time[None] + np.arange(3)[:, None] * kind / 5))
        frames[n] = 300 * (kind + 1) * swing + rng.normal(0, 60, (3, 32))
    wild = rng.random(count) < 0.03
    frames[wild] = rng.choice([-32768, 0, 32767], (int(wild.sum()), 3, 32))
    return np.clip(frames, -32768, 32767).astype(np.int16)


FRAMES: Mapping[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "plant": plant_frames,
    "feeder-protection": feeder_frames,
    "watch": watch_frames,
}


class Reference:
    """The engine as the emulated device runs it: rows of each exported stream, and command ids in order."""

    def __init__(self, spec: FlowSpec, part: Mapping[str, Iterable[str]], libraries: Libraries) -> None:
        self.graph = Graph(spec, assigned(spec, part), libraries=libraries)
        self.spec = spec
        self.exported: dict[str, list[Batch]] = {s: [] for s in part["exports"]}
        self.acts: list[tuple[str, str, str, int]] = []

    def frame(self, number: int, time_ns: int, frame: np.ndarray) -> None:
        source = self.spec.sources[0]
        seq = np.array([sequence(BOOT, number)], np.int64)
        batch = Batch(source.id, ORIGIN, seq, np.array([time_ns], np.int64), {"frame": frame[np.newaxis]})
        for emission in self.graph.push(batch):
            assert isinstance(emission.item, Batch)
            if emission.kind == "export":
                self.exported[emission.stage].append(emission.item)
            else:
                act = next(a for a in self.spec.reflexes if a.id == emission.stage)
                self.acts += [
                    (act.actuator, act.verb, f"{act.id}:{ORIGIN}:{s}", s) for s in emission.item.seq.tolist()
                ]


def proven(spec: FlowSpec, part: Mapping[str, Iterable[str]], folder: Path) -> Libraries:
    """Compiled kernels with the reference's bits: plain NumPy promises none."""
    kernels = spec.kernels(frozenset(part["runs"]))
    libraries = load(kernels, folder)
    assert all(k.digest in libraries for k in kernels)
    return libraries


class Answering:
    """A gateway in the same call: takes what a core sends, remembers payloads, and answers with `code`."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.code = int(Code.CHANGED)
        self.payloads: dict[str, list[bytes]] = {e.stage.id: [] for e in core.firmware.streams}
        self.ends: list[str] = []
        self.acts: list[tuple[str, str, str, int]] = []
        self.repeated = 0
        self.acknowledged: list[Batch] = []

    def take(self, now_ns: int, records: list[Record]) -> None:
        todo = list(records)
        while todo:
            record = todo.pop(0)
            if isinstance(record, Sent):
                todo += self.core.receive(now_ns, GATEWAY, self.answer(record))
            elif isinstance(record, Obeyed):
                self.repeated += record.repeated
                if not record.repeated:
                    self.acts.append((record.actuator, record.verb, record.command_id, record.seq))
            else:
                self.acknowledged.append(record)

    def answer(self, sent: Sent) -> bytes:
        assert sent.to == GATEWAY
        asked = wire.decode(sent.datagram)
        assert asked.type is MessageType.CON and asked.code == Code.POST
        assert wire.encode(asked) == sent.datagram, "written as our own encoder writes it"
        path = wire.texts(asked.options, Option.URI_PATH)
        assert path[0] == "s"
        if path[2:] == ("end",):
            assert asked.payload == ORIGIN.encode()
            self.ends.append(path[1])
        else:
            assert wire.uint(asked.options, Option.CONTENT_FORMAT) == wire.CONTENT_FORMAT_SENML_CBOR
            self.payloads[path[1]].append(asked.payload)
        return wire.encode(Message(MessageType.ACK, self.code, asked.message_id, asked.token))


def play(core: Core, frames: np.ndarray, *, every_ns: int, until_done: bool = True) -> Answering:
    """All frames in virtual time, then the end."""
    gateway = Answering(core)
    gateway.take(0, core.start(0, GATEWAY, BOOT, 77))
    now_ns = 0
    for number, frame in enumerate(frames):
        now_ns = (number + 1) * every_ns
        while core.next_ns < now_ns:
            gateway.take(core.next_ns, core.poll(core.next_ns))
        gateway.take(now_ns, core.frame(now_ns, number, START_NS + now_ns, frame.tobytes()))
    gateway.take(now_ns, core.close(now_ns))
    assert core.done or not until_done
    return gateway


def rows_of(spec: FlowSpec, stream: str, payloads: Iterable[bytes]) -> Batch | None:
    batches = [decode(p, stream, spec[stream].schema) for p in payloads]
    return Batch.concat(batches) if batches else None


def same_rows(a: Batch | None, b: Batch | None) -> bool:
    """Numbers, times and the bytes of every column."""
    if a is None or b is None:
        return a is b
    return (
        a.seq.tobytes() == b.seq.tobytes()
        and a.time_ns.tobytes() == b.time_ns.tobytes()
        and all(a.columns[n].tobytes() == b.columns[n].tobytes() for n in b.columns)
    )


def stage(name: str) -> tuple[FlowSpec, Mapping[str, tuple[str, ...]]]:
    if name == "watch":
        return flow_of(HERE / "watch"), WATCH_PART
    return (feeder(), FEEDER_PART) if name == "feeder-protection" else (plant(), PLANT_PART)


def core_of(
    firmware: Firmware, memory: Memory, present: Iterable[str] = ("breaker", "siren", "valve")
) -> Core:
    return Core(firmware, memory, ORIGIN, frozenset(present))
