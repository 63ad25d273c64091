"""What a device host is told: which devices it emulates, and how.

Apart from the host itself, which needs compilers, emulators and images: an agent reads every kind of configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ganglion.flow.assignment import Assignment

RunsAs = Literal["board", "qemu", "qemu-serial", "firmware", "python"]
"""What devices run."""


@dataclass(frozen=True, slots=True)
class Emulation:
    """One device of a host: its origin, its assignment, which events it plays, and when it begins.

    It measures ``phase_ns`` later than the host's start, and is steady for ``lead_frames`` before its first shot.
    """

    origin: str
    assignment: Assignment
    index: int
    stride: int
    lead_frames: int
    phase_ns: int


@dataclass(frozen=True, slots=True)
class DeviceHostConfig:
    """Everything a device host is told. ``gateway`` is its CoAP address (numeric host, port).

    ``runs_as``: ``board``: the flow's image on emulated Cortex-M; ``qemu``, ``qemu-serial``: its image for QEMU's
    board, at Ethernet or at a serial line; ``firmware``: its C, compiled for this machine; ``python``: the engine.
    Where there is no compiler, and for stages that a device cannot run in C, ``firmware`` is ``python``.
    """

    name: str
    flow_dir: Path
    data_dir: Path
    kernel_dir: Path
    gateway: tuple[str, int]
    actuators: frozenset[str]
    period_frames: int
    runs_as: RunsAs
    devices: tuple[Emulation, ...]
