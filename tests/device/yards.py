"""One device host with its gateway, its disk and its logs."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ganglion.core.errors import HostError
from ganglion.device.devicehost import DeviceHost
from ganglion.device.emulation import DeviceHostConfig, Emulation
from ganglion.device.player import shot_frames_min
from ganglion.flow.assignment import Assignment, origin_name
from ganglion.host.loopback import SystemPorts
from ganglion.host.ports import Host
from ganglion.host.system import SystemChances, SystemDisk, SystemProcesses
from tests.device.gateways import BAY, Gateway, HastyClock, bay, run, until
from tests.device.recordings import recording, write_recording

PATH = "gw1-relay"
SPEC = bay()
PERIOD_NS = SPEC.sources[0].every_ns
LOGS = ("acked.jsonl", "commands.jsonl", "shots.jsonl")
RUNS = ("level", "trips", "breaker_open")


class FragileDisk(SystemDisk):
    """A real disk that becomes full, and may get room again."""

    full = False

    def append(self, name: str, content: bytes) -> int:
        if self.full:
            raise HostError("host.disk-full", f"no space left for {name}", why=os.strerror(errno.ENOSPC))
        return super().append(name, content)


class Yard:
    """One start of a device host with its gateway."""

    def __init__(self, folder: Path, devices: int = 2, stride: int = 2, runs_as: str = "python") -> None:
        self.folder = folder
        self.data = write_recording(folder / "data")
        self.gateway = Gateway({s.id: s.schema for s in SPEC.stages if s.id in ("level", "trips")})
        self.disk = FragileDisk(folder / "state")
        self.devices = devices
        self.stride = stride
        self.runs_as = runs_as
        self.host: DeviceHost
        self.running: asyncio.Future[None]

    def config(self, **changes: Any) -> DeviceHostConfig:
        stages = frozenset({PATH})
        exports = {"level": stages, "trips": stages}
        assignment = Assignment("n", "s", "device", SPEC.digest, dict.fromkeys(RUNS, stages), exports)
        parts: dict[str, Any] = {
            "name": "yard",
            "flow_dir": BAY,
            "data_dir": self.data,
            "kernel_dir": self.folder.parent / "kernels",  # one for all tests: images take seconds
            "gateway": self.gateway.address,
            "actuators": frozenset({"breaker"}),
            "runs_as": self.runs_as,
            "period_frames": shot_frames_min(recording(self.data)),
            "devices": tuple(
                Emulation(origin_name(PATH, n), assignment, n, self.stride, 3 * n, n * PERIOD_NS // 4)
                for n in range(self.devices)
            ),
        }
        return DeviceHostConfig(**(parts | changes))

    def make(self, **changes: Any) -> DeviceHost:
        ports = Host(HastyClock(), self.disk, SystemProcesses(), SystemPorts(), SystemChances(9))
        return DeviceHost(self.config(**changes), ports)

    async def start(self, **changes: Any) -> None:
        self.host = self.make(**changes)
        self.running = asyncio.ensure_future(self.host.run())

    async def frames(self, count: int) -> None:
        """Every device has measured so many frames, or the host has ended."""
        await until(lambda: all(d.frames >= count for d in self.host.devices) or self.running.done())

    async def stop(self) -> None:
        self.host.stop()
        await self.running

    def log(self, name: str) -> list[Any]:
        content = self.disk.read(name) or b""
        assert not content or content.endswith(b"\n"), "whole lines"
        return [json.loads(line) for line in content.splitlines()]

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.disk.read("report.json") or b"{}")
        return report


def scenario(yard: Yard, story: Callable[[Yard], Awaitable[None]]) -> Yard:
    async def whole() -> Yard:
        await yard.gateway.open()
        try:
            await story(yard)
        finally:
            await yard.gateway.close()
        return yard

    return run(whole())


async def two_shots(yard: Yard) -> None:
    await yard.start()
    await yard.frames(2 * yard.config().period_frames + 10)
    await yard.stop()


def acknowledged(yard: Yard, stream: str) -> list[tuple[str, int, int]]:
    return [
        (origin, seq, digest)
        for name, origin, seqs, digests in yard.log("acked.jsonl")
        for seq, digest in zip(seqs, digests, strict=True)
        if name == stream
    ]


def of(origin: str, rows: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    return [row for row in rows if row[0] == origin]
