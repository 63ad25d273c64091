"""Boards in QEMU, with a clock, interrupts and Ethernet of their own, do what the other boards and the library do."""

from __future__ import annotations

import asyncio
import importlib.util
import random
from dataclasses import replace
from pathlib import Path

import pytest

from ganglion.core.batch import Batch
from ganglion.core.errors import FlowError, HostError
from ganglion.device.firmware import qemu
from ganglion.device.firmware.boards import Boards
from ganglion.device.firmware.box import Core, Memory
from ganglion.device.firmware.build import build
from ganglion.device.firmware.device import FirmwareDevice
from ganglion.device.firmware.hosted import HostedFirmware
from ganglion.device.firmware.layout import Limits
from ganglion.device.firmware.qemu import MESSAGE_BYTES, QemuBoards, lacks_qemu, qemu_boards
from ganglion.device.firmware.wired import QemuDevice
from ganglion.host.loopback import SystemPorts
from ganglion.host.ports import Host
from ganglion.host.system import SystemChances, SystemDisk, SystemProcesses
from ganglion.kernels.c.targets import TARGETS
from ganglion.kernels.c.toolchain import compilers
from tests.device import bays
from tests.device.gateways import Gateway, HastyClock, run, until
from tests.device.recordings import player, recording

NEEDED = [m for m in ("ziglang", "unicorn", "elftools") if importlib.util.find_spec(m) is None]
pytestmark = [
    pytest.mark.skipif(bool(NEEDED), reason=f"{', '.join(NEEDED)} is not installed"),
    pytest.mark.skipif(lacks_qemu() is not None, reason=str(lacks_qemu())),
]
LIMITS = Limits(message_bytes=MESSAGE_BYTES)
FRAMES_N = 90


@pytest.fixture(scope="module", params=["ethernet", "serial"])
def boards(folder: Path, request: pytest.FixtureRequest) -> QemuBoards:
    assignment, log = bays.assigned(bays.DECIDES), folder / "qemu.txt"
    return qemu_boards(bays.SPEC, assignment, folder, log, path=bays.PATH, limits=LIMITS, link=request.param)


def host(folder: Path) -> Host:
    return Host(
        bays.SteadyClock(), SystemDisk(folder / "state"), SystemProcesses(), SystemPorts(), SystemChances(3)
    )


class Played:
    """What a gateway and the actuators saw of one device that played `FRAMES_N` frames."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Batch]] = {}
        self.commands: list[tuple[str, str, str, int]] = []
        self.acknowledged: list[Batch] = []
        self.frames = 0
        self.shed = 0

    async def play(self, device: FirmwareDevice) -> Played:
        gateway = await Gateway({e.stage.id: e.stage.schema for e in device.core.firmware.streams}).open()
        try:
            await device.open(gateway.address, random.Random(4))
            stop = asyncio.Event()
            playing = asyncio.ensure_future(device.play(HastyClock().monotonic_ns(), stop))
            await until(lambda: device.frames >= FRAMES_N or playing.done())
            stop.set()
            await playing
            self.frames = device.frames
            self.commands = [(c.actuator, c.verb, c.command_id, c.seq) for c in device.take_commands()]
            self.rows = {s: gateway.batches(s) for s in ("level", "trips")}
            self.shed = sum(u.counts.shed for u in device.uplinks.values())
            assert device.graph.counts["level"].rows == device.frames, "no frame was lost on the wire"
        finally:
            await device.close()
            await gateway.close()
        return self

    def decided(self) -> dict[tuple[str, int], bytes]:
        """Bytes of every row that reached the gateway, by stream and number."""
        found = {}
        for stream, batches in self.rows.items():
            for batch in batches:
                for i, seq in enumerate(batch.seq.tolist()):
                    if seq & 0xFFFFFFFF < FRAMES_N:
                        found[stream, seq] = b"".join(c[i].tobytes() for c in batch.columns.values())
        return found


def test_qemu_unicorn_and_the_library_decide_the_same(
    boards: QemuBoards, folder: Path, tmp_path: Path
) -> None:
    events = recording(tmp_path / "recording")
    image = build(bays.SPEC, bays.assigned(bays.DECIDES), TARGETS["cortex-m4f"], folder, limits=LIMITS)
    emulated = Boards(image, SystemProcesses(), folder / "boards.txt")
    hosted = HostedFirmware.build(image.firmware, compilers()[0], folder)
    present = frozenset({"breaker"})

    async def story() -> None:
        seen = [Played() for _ in range(3)]
        in_qemu = QemuDevice(
            bays.ORIGIN,
            boards,
            player(events),
            boot=bays.BOOT,
            host=host(tmp_path),
            actuators=present,
            on_acknowledged=seen[0].acknowledged.append,
        )
        await seen[0].play(in_qemu)
        others: list[Memory] = [emulated.device(), hosted.device()]
        for played, memory in zip(seen[1:], others, strict=True):
            core = Core(image.firmware, memory, bays.ORIGIN, present)
            device = FirmwareDevice(
                bays.ORIGIN,
                core,
                player(events),
                boot=bays.BOOT,
                clock=bays.SteadyClock(),
                on_acknowledged=played.acknowledged.append,
            )
            await played.play(device)
        first = seen[0]
        assert first.shed == 0
        assert len([k for k in first.decided() if k[0] == "level"]) == FRAMES_N
        assert any(k[0] == "trips" for k in first.decided()) and first.commands
        for other in seen[1:]:
            assert other.decided() == first.decided()
            assert [c for c in other.commands if c[3] & 0xFFFFFFFF < FRAMES_N] == [
                c for c in first.commands if c[3] & 0xFFFFFFFF < FRAMES_N
            ]
        acknowledged = [s for b in first.acknowledged if b.stream == "level" for s in b.seq.tolist()]
        assert sorted(acknowledged) == [bays.BOOT << 40 | n for n in range(first.frames)]

    try:
        run(story())
    finally:
        emulated.close()


def test_a_board_that_ends_is_one_clear_error(boards: QemuBoards, tmp_path: Path) -> None:
    async def story() -> None:
        gateway = await Gateway({e.stage.id: e.stage.schema for e in boards.firmware.streams}).open()
        device = QemuDevice(
            bays.ORIGIN,
            replace(boards, log=tmp_path / "qemu.txt"),
            player(recording(tmp_path / "recording")),
            boot=bays.BOOT,
            host=host(tmp_path),
            actuators=frozenset(),
            on_acknowledged=lambda _batch: None,
        )
        try:
            await device.open(gateway.address, random.Random(4))
            playing = asyncio.ensure_future(device.play(HastyClock().monotonic_ns(), asyncio.Event()))
            await until(lambda: device.frames >= 10)
            assert device._process is not None
            device._process.kill()
            with pytest.raises(HostError) as caught:
                await playing
            assert caught.value.code == "firmware.board" and "QEMU ended" in str(caught.value)
        finally:
            await device.close()
            await gateway.close()

    run(story())


def test_without_qemu_it_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "PROGRAM", "qemu-system-nowhere")
    with pytest.raises(HostError) as caught:
        qemu_boards(
            bays.SPEC, bays.assigned(bays.DECIDES), folder, folder / "q", path=bays.PATH, limits=LIMITS
        )
    assert caught.value.code == "firmware.qemu" and "qemu-system-nowhere is not installed" in str(
        caught.value
    )


def test_what_has_no_room_in_a_packet_is_refused(folder: Path) -> None:
    assignment = bays.assigned(bays.DECIDES)
    with pytest.raises(FlowError) as caught:
        qemu_boards(
            *(bays.SPEC, assignment, folder, folder / "q"), path=bays.PATH, limits=Limits(message_bytes=1536)
        )
    assert caught.value.code == "firmware.packet"
