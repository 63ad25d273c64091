"""What the devices of a host run: the flow's image on emulated boards, its C compiled for this machine, or Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ganglion.core.errors import FlowError, KernelError
from ganglion.device.firmware.boards import BOARD, Boards
from ganglion.device.firmware.build import build
from ganglion.device.firmware.generate import generate
from ganglion.device.firmware.hosted import HostedFirmware
from ganglion.device.firmware.layout import Limits
from ganglion.flow.assignment import Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.host.ports import Processes
from ganglion.kernels.c.targets import TARGETS
from ganglion.kernels.c.toolchain import compilers

RunsAs = Literal["board", "firmware", "python"]
"""What devices run."""
Made = HostedFirmware | Boards


def boards_for(
    spec: FlowSpec,
    assignments: Mapping[str, Assignment],
    limits: Limits,
    directory: Path,
    processes: Processes,
    log: Path,
) -> dict[str, Made]:
    """Emulated boards for each path. Blocks for seconds.

    Raises as `build` and `Boards` do: who asks for boards is told why there are none.
    """
    images = {
        path: build(spec, assignment, TARGETS[BOARD], directory, path=path, limits=limits)
        for path, assignment in assignments.items()
    }
    return {path: Boards(image, processes, log) for path, image in images.items()}


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
