"""A process full of emulated devices of one gateway, and the truth about what they did, for the run's report."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from ganglion.core.batch import Batch
from ganglion.core.errors import DataError, HostError
from ganglion.device.emulated import EmulatedDevice
from ganglion.device.emulation import DeviceHostConfig, Emulation
from ganglion.device.firmware.boards import Boards
from ganglion.device.firmware.box import Core, ledger_json
from ganglion.device.firmware.choice import (
    Made,
    boards_for,
    firmware_for,
    limits_for,
    qemu_for,
)
from ganglion.device.firmware.device import FirmwareDevice
from ganglion.device.firmware.hosted import HostedFirmware
from ganglion.device.firmware.qemu import Link, QemuBoards
from ganglion.device.firmware.warming import FRAMES_MAX, walk_through
from ganglion.device.firmware.wired import QemuDevice
from ganglion.device.player import Player, shot_frames_min
from ganglion.device.recording import Event, load_recording
from ganglion.device.uplink import UplinkCounts
from ganglion.engine.meter import Work
from ganglion.engine.operators import Counts
from ganglion.flow.assignment import path_of
from ganglion.flow.load import load_flow
from ganglion.host.ports import Host
from ganglion.host.threads import to_its_end
from ganglion.kernels.loading import load
from ganglion.kernels.running import Libraries, claims

DEVICES_MAX = 1000
LOG_EVERY_NS = 500_000_000
BOOTS_MAX = 1 << 20
DRAIN_NS_MAX = 60_000_000_000


@dataclass(frozen=True, slots=True)
class _Counted:
    """What one device counted: per stream, per stage, and its energy ledger; devices in Python keep none."""

    origin: str
    streams: Mapping[str, UplinkCounts]
    stages: Mapping[str, Counts]
    ledger: dict[str, int] | None


class DeviceHost:
    """Opens, plays, stops and reports its devices."""

    def __init__(self, config: DeviceHostConfig, host: Host) -> None:
        assert 0 < len(config.devices) <= DEVICES_MAX
        self._config = config
        self._host = host
        self._lines: list[bytes] = []
        self._commands = 0
        self._last_report: dict[str, Any] | None = None
        self._stop = asyncio.Event()
        self._spec = load_flow(config.flow_dir)
        events = load_recording(config.data_dir, self._spec.sources[0].schema.fields[0].type)
        self._boot = self._next_boot()
        runs = frozenset(stage for d in config.devices for stage in d.assignment.runs)
        libraries = load(self._spec.kernels(runs), config.kernel_dir, self._spec.folds(runs))
        self._kernels = self._spec.ran_as(runs, libraries)
        self._builds = claims(libraries, self._spec.computed_by(runs))
        self._made = self._firmware()
        self.devices: list[EmulatedDevice | FirmwareDevice] = []
        self._warm(events)
        for d in config.devices:
            player = Player(
                events,
                index=d.index,
                stride=d.stride,
                period_frames=config.period_frames,
                lead_frames=d.lead_frames,
            )
            made = self._made.get(path_of(d.origin))
            self.devices.append(
                self._in_python(d, player, libraries) if made is None else self._in_c(d, player, made)
            )

    def _firmware(self) -> dict[str, Made]:
        """The device part of the plan as C, by path; empty for devices in Python."""
        config = self._config
        assignments = {path_of(d.origin): d.assignment for d in config.devices}
        limits = limits_for([d.origin for d in config.devices])
        if config.runs_as == "board":
            log = self._host.disk.root / "boards.txt"
            return boards_for(self._spec, assignments, limits, config.kernel_dir, self._host.processes, log)
        if config.runs_as in ("qemu", "qemu-serial"):
            link: Link = "serial" if config.runs_as == "qemu-serial" else "ethernet"
            log = self._host.disk.root / "qemu.txt"
            processes, devices = self._host.processes, len(config.devices)
            return qemu_for(self._spec, assignments, limits, config.kernel_dir, processes, log, devices, link)
        if config.runs_as == "firmware":
            return firmware_for(self._spec, assignments, limits, config.kernel_dir)
        return {}

    def _warm(self, events: Sequence[Event]) -> None:
        """Walks a board of each image through the first events: nobody's reflex waits for code to be translated."""
        for made in self._made.values():
            if isinstance(made, Boards):
                player = Player(events, index=0, stride=1, period_frames=shot_frames_min(events))
                frames = (player.next_frame() for _ in range(FRAMES_MAX))
                walk_through(made.firmware, made.device(), frames)

    def _in_c(self, emulation: Emulation, player: Player, made: Made) -> FirmwareDevice:
        origin, actuators = emulation.origin, self._config.actuators
        if isinstance(made, QemuBoards):
            return QemuDevice(
                origin,
                made,
                player,
                boot=self._boot,
                host=self._host,
                actuators=actuators,
                on_acknowledged=self._acknowledged,
            )
        core = Core(made.firmware, made.device(), origin, actuators)
        return FirmwareDevice(
            origin, core, player, boot=self._boot, clock=self._host.clock, on_acknowledged=self._acknowledged
        )

    def _in_python(self, emulation: Emulation, player: Player, libraries: Libraries) -> EmulatedDevice:
        return EmulatedDevice(
            emulation.origin,
            self._spec,
            emulation.assignment,
            player,
            boot=self._boot,
            clock=self._host.clock,
            actuators=self._config.actuators,
            on_acknowledged=self._acknowledged,
            libraries=libraries,
        )

    def _next_boot(self) -> int:
        """Counts this host's starts on disk, so that sequence numbers never repeat."""
        saved = self._host.disk.read("boot") or b"0"
        if not saved.isdigit() or int(saved) >= BOOTS_MAX:
            raise DataError(
                "device.boot",
                f"the boot counter of {self._config.name} reads {saved[:20]!r}",
                why="it counts this host's starts, so that sequence numbers never repeat",
                next_step="start from a fresh --run-dir: with a lower count the gateway would skip rows as repeated",
            )
        boot = int(saved) + 1
        self._host.disk.replace("boot", str(boot).encode())
        return boot

    async def run(self) -> None:
        """Plays until `stop`; returns when everything is acknowledged or a minute has passed.

        Raises an `ExceptionGroup` of what ended a device or the log for good, a full disk for one.
        """
        try:
            await self._play()
        finally:
            with contextlib.suppress(HostError):  # the boards may be what failed
                self._last_report = self.report()
            for made in self._made.values():
                if isinstance(made, Boards):
                    made.close()

    async def _play(self) -> None:
        try:
            for device in self.devices:
                await device.open(self._config.gateway, self._host.chances.stream(f"coap/{device.origin}"))
            start_ns = self._host.clock.monotonic_ns() + 200_000_000
            async with asyncio.TaskGroup() as group:
                logging = group.create_task(self._log())
                playing = [
                    group.create_task(device.play(start_ns + emulation.phase_ns, self._stop))
                    for device, emulation in zip(self.devices, self._config.devices, strict=True)
                ]
                await self._stop.wait()
                await asyncio.wait(playing, timeout=DRAIN_NS_MAX / 1e9)
                for task in (*playing, logging):
                    task.cancel()
        finally:
            for device in self.devices:
                await device.close()
        try:
            await self._write()
        except HostError as error:
            raise ExceptionGroup("the last lines of the log could not be written", [error]) from None

    def stop(self) -> None:
        """Ends the play at the next frame."""
        self._stop.set()

    def _acknowledged(self, batch: Batch) -> None:
        line = [batch.stream, batch.origin, batch.seq.tolist(), batch.row_digests()]
        self._lines.append(orjson.dumps(line))

    async def _log(self) -> None:
        await self._host.clock.sleep_ns(int(LOG_EVERY_NS * self._host.chances.stream("log").random()))
        while True:
            await self._host.clock.sleep_ns(LOG_EVERY_NS)
            await self._write()

    async def _write(self) -> None:
        """Appends what is new, in a thread: a frame is never late because of a log."""
        lines, self._lines = self._lines, []
        commands = [c for device in self.devices for c in device.take_commands()]
        self._commands += len(commands)
        shots = [_shot(device, s) for device in self.devices for s in device.player.take_finished()]
        report = await self._look()
        files = {
            "acked.jsonl": lines,
            "commands.jsonl": [orjson.dumps(asdict(c)) for c in commands],
            "shots.jsonl": [orjson.dumps(s) for s in shots],
        }
        try:
            await to_its_end(self._append, files, orjson.dumps(report))
        except asyncio.CancelledError as cancelled:
            if isinstance(cancelled.__cause__, HostError):
                raise cancelled.__cause__ from None  # these lines are lost, and nobody else would say so
            raise

    def _append(self, files: dict[str, list[bytes]], report: bytes) -> None:
        for name, content in files.items():
            if content:
                self._host.disk.append(name, b"\n".join(content) + b"\n")
        self._host.disk.replace("report.json", report)

    async def _look(self) -> dict[str, Any]:
        """The report; between devices others have their turn, since a board's counts take a tenth of a millisecond."""
        parts = []
        for device in self.devices:
            parts.append(_counts(device))
            await asyncio.sleep(0)
        return self._report(parts)

    def report(self) -> dict[str, Any]:
        """Totals over the host's devices; after `run` the last ones."""
        if self._last_report is not None:
            return self._last_report
        return self._report([_counts(d) for d in self.devices])

    def _report(self, parts: Sequence[_Counted]) -> dict[str, Any]:
        streams: dict[str, dict[str, int]] = {}
        stages: dict[str, dict[str, int]] = {}
        for part in parts:
            _add(streams, {s: asdict(counts) for s, counts in part.streams.items()})
            _add(stages, {s: counts.to_json() for s, counts in part.stages.items()})
        works: dict[str, Work] = {}
        for device in self.devices:
            for name, work in device.meter.works.items():
                works[name] = works.get(name, Work()).plus(work)
        return {
            "name": self._config.name,
            "works": {name: work.to_json() for name, work in works.items()},
            "devices": len(self.devices),
            "frames": sum(d.frames for d in self.devices),
            "frames_of": {d.origin: d.frames for d in self.devices},
            "raw_bytes": sum(d.raw_bytes for d in self.devices),
            "commands": self._commands,
            "streams": streams,
            "stages": stages,
            "kernels": self._ran_kernels(),
            "kernel_builds": self._kernel_builds(),
            "ran_as": self._ran_as(),
            "ledgers": {p.origin: p.ledger for p in parts if p.ledger is not None},
        }

    def _ran_kernels(self) -> dict[str, list[str]]:
        """Per map stage: ``compiled``, ``board`` (builds that were tried), ``board-untried``, ``numpy``."""
        ways = {_way(made) for made in self._made_of_devices() if made is not None}
        found = {stage: set(ways) for stage in self._kernels}
        if None in self._made_of_devices():
            for stage, way in self._kernels.items():
                found[stage].add(way)
        return {stage: sorted(ways) for stage, ways in found.items()}

    def _kernel_builds(self) -> dict[str, list[str]]:
        """Per map stage: the builds that computed it, and what each was tried on."""
        devices = self._made_of_devices()
        claims_of_images = {made.claim for made in devices if made is not None and made.claim}
        own = self._builds if None in devices else {}
        found = {s: claims_of_images | ({own[s]} if s in own else set()) for s in self._kernels}
        return {stage: sorted(builds) for stage, builds in found.items()}

    def _made_of_devices(self) -> list[Made | None]:
        return [self._made.get(path_of(d.origin)) for d in self.devices]

    def _ran_as(self) -> dict[str, int]:
        kinds = self._made_of_devices()
        found = {
            name: sum(isinstance(k, kind) for k in kinds)
            for name, kind in (("board", Boards), ("qemu", QemuBoards), ("firmware", HostedFirmware))
        }
        return found | {"python": len(kinds) - sum(found.values())}


def _way(made: Made) -> str:
    if isinstance(made, HostedFirmware):
        return "compiled"
    return "board" if made.claim else "board-untried"


def _counts(device: EmulatedDevice | FirmwareDevice) -> _Counted:
    if isinstance(device, FirmwareDevice):
        report = device.report()  # asked once: a board takes a tenth of a millisecond to answer
        return _Counted(device.origin, *device.tallies(report), ledger_json(report))
    streams = {s: u.counts for s, u in device.uplinks.items()}
    return _Counted(device.origin, streams, device.graph.counts, None)


def _add(total: dict[str, dict[str, int]], more: Mapping[str, Mapping[str, int]]) -> None:
    for name, counts in more.items():
        sums = total.setdefault(name, dict.fromkeys(counts, 0))
        for key, value in counts.items():
            sums[key] += value


def _shot(device: EmulatedDevice | FirmwareDevice, shot: Any) -> dict[str, Any]:
    first = device.frame_seq(0)
    return {
        "origin": device.origin,
        "row": shot.event.row,
        "kind": shot.event.kind,
        "is_fault": shot.event.is_fault,
        "inception_seq": first + shot.inception_frame,
        "first_seq": first + shot.first_frame,
        "end_seq": first + shot.end_frame,
        "inception_ns": device.frame_done_ns(first + shot.inception_frame),
    }
