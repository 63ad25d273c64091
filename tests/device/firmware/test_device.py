"""Firmware in the place of an emulated device: real sockets, the same rows to the gateway, the same commands."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganglion.connectors.coap import Code, Endpoint
from ganglion.core.batch import Batch
from ganglion.core.errors import KernelError
from ganglion.core.packing import pack
from ganglion.device.emulated import EmulatedDevice
from ganglion.device.firmware.box import Core
from ganglion.device.firmware.choice import firmware_for
from ganglion.device.firmware.device import FirmwareDevice
from ganglion.device.firmware.generate import generate
from ganglion.device.firmware.hosted import HostedFirmware
from ganglion.device.firmware.layout import Limits
from ganglion.flow.assignment import path_of
from ganglion.kernels.c import toolchain
from ganglion.kernels.c.emission import runtime_header
from ganglion.kernels.c.toolchain import compilers
from ganglion.kernels.loading import load
from tests.device.bays import BOOT, DECIDES, ORIGIN, RAW, SPEC, SteadyClock, assigned
from tests.device.firmware.benches import needs_compiler, same_rows
from tests.device.gateways import Gateway, HastyClock, run, until
from tests.device.recordings import player, recording

pytestmark = needs_compiler


class Pair:
    """The same recording through both devices at once, each with a gateway of its own."""

    def __init__(self, folder: Path, part) -> None:
        self.events = recording(folder / "recording")
        assignment = assigned(part)
        schemas = {s.id: s.schema for s in SPEC.stages}
        self.gateways = Gateway(schemas), Gateway(schemas)
        self.acknowledged: tuple[list[Batch], list[Batch]] = [], []
        firmware = generate(SPEC, assignment)
        made = HostedFirmware.build(firmware, compilers()[0], folder)
        actuators = frozenset({"breaker"})
        libraries = load(SPEC.kernels(frozenset(part["runs"])), folder)
        self.python = EmulatedDevice(
            ORIGIN,
            SPEC,
            assignment,
            player(self.events),
            boot=BOOT,
            clock=SteadyClock(),
            actuators=actuators,
            on_acknowledged=self.acknowledged[0].append,
            libraries=libraries,
        )
        self.firmware = FirmwareDevice(
            ORIGIN,
            Core(firmware, made.device(), ORIGIN, actuators),
            player(self.events),
            boot=BOOT,
            clock=SteadyClock(),
            on_acknowledged=self.acknowledged[1].append,
        )
        self.stop = asyncio.Event()

    async def play(self, frames: int, meanwhile=None) -> None:
        devices: tuple[Any, Any] = (self.python, self.firmware)
        for gateway, device in zip(self.gateways, devices, strict=True):
            await gateway.open()
            await device.open(gateway.address, random.Random(4))
        try:
            start_ns = HastyClock().monotonic_ns()
            playing = [asyncio.ensure_future(d.play(start_ns, self.stop)) for d in devices]
            if meanwhile is not None:
                await meanwhile()
            await until(lambda: min(d.frames for d in devices) >= frames or any(p.done() for p in playing))
            self.stop.set()
            await asyncio.gather(*playing)
        finally:
            for gateway, device in zip(self.gateways, devices, strict=True):
                await device.close()
                await gateway.close()

    def rows(self, which: int, stream: str, last_seq: int) -> Batch:
        rows = Batch.concat(self.gateways[which].batches(stream))
        return rows.take(rows.seq <= last_seq)


@pytest.mark.parametrize("part", [DECIDES, RAW], ids=["decides", "raw"])
def test_the_gateway_gets_the_same_rows_from_both(tmp_path: Path, part) -> None:
    pair = Pair(tmp_path, part)
    run(pair.play(130))
    last = pair.python.frame_seq(min(pair.python.frames, pair.firmware.frames) - 1)
    for stream in part["exports"]:
        python, firmware = (pair.rows(k, stream, last) for k in range(2))
        assert len(python) > 1 and same_rows(firmware, python), stream
        assert len(pair.gateways[1].ends(stream)) == 1
    ids = [
        [
            (c.actuator, c.verb, c.command_id, c.origin, c.seq, c.repeated)
            for c in d.take_commands()
            if c.seq <= last
        ]
        for d in (pair.python, pair.firmware)
    ]
    assert ids[0] == ids[1] and bool(ids[0]) == ("breaker_open" in part["runs"])
    for stream in part["exports"]:
        counts = pair.firmware.uplinks[stream].counts
        assert (
            counts.offered
            == counts.acknowledged
            == sum(len(b) for b in pair.acknowledged[1] if b.stream == stream)
        )
        assert counts.messages == len(pair.gateways[1].batches(stream))
        assert counts.payload_bytes == sum(
            len(h.payload) for h in pair.gateways[1].heard if h.path == ("s", stream)
        )
    assert pair.firmware.raw_bytes == pair.firmware.frames * 32
    assert pair.firmware.graph.counts.keys() == pair.python.graph.counts.keys()


def test_a_gateway_that_was_deaf_gets_every_row_once(tmp_path: Path) -> None:
    pair = Pair(tmp_path, RAW)

    async def deaf_for_a_while() -> None:
        lossy = random.Random(7)
        pair.gateways[1].lost = lambda _data: lossy.random() < 0.3
        pair.gateways[1].answer = lambda _r: (
            Code.SERVICE_UNAVAILABLE if lossy.random() < 0.3 else Code.CHANGED
        )
        await until(lambda: pair.firmware.frames >= 12)
        pair.gateways[1].lost = lambda _data: False
        pair.gateways[1].answer = lambda _r: Code.CHANGED

    run(pair.play(20, deaf_for_a_while))
    counts = pair.firmware.uplinks["frames"].counts
    assert counts.acknowledged + counts.shed == counts.offered == pair.firmware.frames
    seqs = [s for b in pair.gateways[1].batches("frames") for s in b.seq.tolist()]
    assert seqs == sorted(set(seqs)) and len(seqs) == counts.acknowledged


def test_commands_come_to_the_address_rows_come_from(tmp_path: Path) -> None:
    pair = Pair(tmp_path, DECIDES)
    answers = []

    async def command() -> None:
        await until(lambda: pair.gateways[1].peers)
        async with await Endpoint.open(handler=None, random=random.Random(5)) as peer:
            assert pair.gateways[1].peers[0] == pair.firmware.address
            for name in ("x:1", "x:1", "x:2"):
                asked = pack({"verb": "open", "id": name, "seq": pair.firmware.frame_seq(1)})
                answers.append((await peer.request(pair.firmware.address, Code.PUT, "a/breaker", asked)).code)
            asked = pack({"verb": "open", "id": "x:3", "seq": 1})
            answers.append((await peer.request(pair.firmware.address, Code.PUT, "a/horn", asked)).code)

    run(pair.play(10, command))
    assert answers == [Code.CHANGED, Code.CHANGED, Code.CHANGED, Code.NOT_FOUND]
    told = [c for c in pair.firmware.take_commands() if c.command_id.startswith("x:")]
    assert [(c.command_id, c.repeated) for c in told] == [("x:1", False), ("x:1", True), ("x:2", False)]
    assert all(c.frame_done_ns == pair.firmware.frame_done_ns(c.seq) for c in told)
    assert pair.firmware.commands_unknown == 1
    report = pair.firmware.report()
    assert report.ledger.frames == pair.firmware.frames and report.coap.malformed == 0


def test_two_devices_of_one_library_do_not_share_memory(tmp_path: Path) -> None:
    firmware = generate(SPEC, assigned(DECIDES))
    made = HostedFirmware.build(firmware, compilers()[0], tmp_path)
    one, other = made.device(), made.device()
    assert one is not other and not np.shares_memory(one._flow, other._flow)


def test_firmware_whose_kernels_are_not_the_reference_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = runtime_header().replace("0x7fc00000u : u); }", "0x7fc00001u : u); }")
    assert header != runtime_header()
    monkeypatch.setattr(toolchain, "runtime_header", lambda: header)
    with pytest.raises(KernelError) as caught:
        HostedFirmware.build(generate(SPEC, assigned(DECIDES)), compilers()[0], tmp_path)
    assert caught.value.code == "kernel.bits"
    assert firmware_for(SPEC, {path_of(ORIGIN): assigned(DECIDES)}, Limits(), tmp_path) == {}
