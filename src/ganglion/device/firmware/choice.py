"""What the devices of a host run: the flow's image on emulated boards, its C compiled for this machine, or Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ganglion.core.errors import FlowError, HostError, KernelError
from ganglion.device.emulation import RunsAs
from ganglion.device.firmware.boards import BOARD, Boards
from ganglion.device.firmware.box import HEAD
from ganglion.device.firmware.build import build
from ganglion.device.firmware.calls import lacks_emulator
from ganglion.device.firmware.generate import generate
from ganglion.device.firmware.hosted import HostedFirmware
from ganglion.device.firmware.layout import Limits
from ganglion.device.firmware.qemu import DEVICES_MAX, MESSAGE_BYTES, Link, QemuBoards, qemu_boards
from ganglion.device.firmware.trial import tried
from ganglion.flow.assignment import Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.host.ports import Processes
from ganglion.kernels.c.targets import TARGETS
from ganglion.kernels.c.toolchain import compilers

Made = HostedFirmware | Boards | QemuBoards
BOARD_FRAMES_PER_S_MAX = 1200
"""Frames of all devices of a run that are measured on boards when nobody says what devices run. A frame takes about
0.25 ms there, so this is a third of a processor; hosted firmware takes a fiftieth of it."""


LOG = "emulator.txt"
"""What the emulator says while images are tried."""
LINE_BYTES_PER_S = 11_520
"""115,200 baud with a start and a stop bit. QEMU's line is not slower than that, and not much faster."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What devices run, and ``why`` it is not boards ("" when it is, or when it was asked for)."""

    runs_as: RunsAs
    why: str = ""


def choose(
    asked: RunsAs | None,
    frames_per_s: float,
    spec: FlowSpec,
    assignments: Mapping[str, Assignment],
    limits: Limits,
    directory: Path,
    processes: Processes,
) -> Chosen:
    """What devices of a run are to be: what was asked for, else boards where they can be emulated in time.

    Blocks for seconds: images are built and tried in ``directory``, where device hosts find them.
    """
    if asked is not None:
        return Chosen(asked)
    if (lacking := lacks_emulator()) is not None:
        return Chosen("firmware", lacking)
    if frames_per_s > BOARD_FRAMES_PER_S_MAX:
        return Chosen(
            "firmware",
            f"{frames_per_s:.0f} frames a second, unasked at most {BOARD_FRAMES_PER_S_MAX} are emulated",
        )
    try:
        for path, assignment in assignments.items():
            image = build(spec, assignment, TARGETS[BOARD], directory, path=path, limits=limits)
            tried(image, processes, directory / LOG)
    except (FlowError, HostError, KernelError) as error:
        return Chosen("firmware", f"{error.what}: {error.why}")
    return Chosen("board")


def boards_for(
    spec: FlowSpec,
    assignments: Mapping[str, Assignment],
    limits: Limits,
    directory: Path,
    processes: Processes,
    log: Path,
) -> dict[str, Made]:
    """Emulated boards for each path. Blocks for seconds.

    Raises as `build`, `tried` and `Boards` do: who asks for boards is told why there are none.
    """
    images = {
        path: build(spec, assignment, TARGETS[BOARD], directory, path=path, limits=limits)
        for path, assignment in assignments.items()
    }
    for image in images.values():
        tried(image, processes, log)
    return {path: Boards(image, processes, log) for path, image in images.items()}


def qemu_for(
    spec: FlowSpec,
    assignments: Mapping[str, Assignment],
    limits: Limits,
    directory: Path,
    processes: Processes,
    log: Path,
    devices: int,
    link: Link,
) -> dict[str, Made]:
    """Boards in QEMU for each path, at most `DEVICES_MAX` devices. Blocks for seconds.

    Raises ``firmware.qemu`` when there are more, ``firmware.line`` when a serial line is too slow for the frames, and
    as `qemu_boards` and `tried` do.
    """
    if devices > DEVICES_MAX:
        raise HostError(
            "firmware.qemu",
            f"{devices} boards are too many for QEMU",
            why=f"each is a process; a device host starts {DEVICES_MAX} at most",
            next_step="run fewer --devices, or --devices-as board",
        )
    source = spec.sources[0]
    needed = (source.schema.row_bytes + HEAD.size) * 1e9 / source.every_ns
    if link == "serial" and needed > LINE_BYTES_PER_S:
        raise FlowError(
            "firmware.line",
            f"{spec.name} measures {needed:,.0f} bytes a second",
            why=f"a serial line of 115,200 baud brings {LINE_BYTES_PER_S:,} to the board",
            next_step="--devices-as qemu has Ethernet; or measure smaller frames, or fewer",
        )
    smaller = replace(limits, message_bytes=MESSAGE_BYTES)
    made = {
        path: qemu_boards(spec, assignment, directory, log, path=path, limits=smaller, link=link)
        for path, assignment in assignments.items()
    }
    for boards in made.values():
        tried(boards.image, processes, log)
    return dict(made)


def firmware_for(
    spec: FlowSpec, assignments: Mapping[str, Assignment], limits: Limits, directory: Path
) -> dict[str, Made]:
    """The C of each path, from the first compiler whose build gives the reference's bytes.

    A path is missing when there is no such compiler, or when its stages cannot run in C: its devices run in Python.
    """
    made: dict[str, Made] = {}
    for path, assignment in assignments.items():
        try:
            firmware = generate(spec, assignment, path=path, limits=limits)
        except FlowError:
            continue
        for compiler in compilers():
            try:
                made[path] = HostedFirmware.build(firmware, compiler, directory)
            except KernelError:
                continue
            break
    return made


def limits_for(origins: list[str]) -> Limits:
    """Room for the longest of these names."""
    return Limits(origin_bytes_max=max(Limits().origin_bytes_max, *(len(o) for o in origins)))
