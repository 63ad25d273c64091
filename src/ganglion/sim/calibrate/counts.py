"""Instructions of a flow's kernels on a microcontroller, counted by the emulator in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ganglion.core.calibration import StageFigures
from ganglion.core.errors import TopologyError
from ganglion.core.schema import TensorType
from ganglion.core.topology import NodeClass
from ganglion.device.firmware.calls import Calls, lacks_emulator
from ganglion.device.firmware.image import Elf
from ganglion.device.firmware.stepping import step
from ganglion.device.player import Player, shot_frames_min
from ganglion.device.recording import Event
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import AroundStage, MapStage, SourceStage, WhereStage
from ganglion.host.ports import Host
from ganglion.kernels.c.emission import emit
from ganglion.kernels.c.targets import TARGETS, Target
from ganglion.kernels.c.toolchain import Compiler, build_image, compilers
from ganglion.kernels.ops.op import Array
from ganglion.kernels.running import NumpyRunner
from ganglion.kernels.tracing.trace import WHOLE
from ganglion.sim.calibrate.stages import spread

FRAMES = 160
"""Enough for one whole shot: steady, a fault, dead."""
FLASH_AT, RAM_AT = 0x0001_0000, 0x2000_0000
REGION_BYTES = 0x0400_0000
SYMBOL = "gg_kernel"
Columns = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Counted:
    """Digest -> figures, and where they were counted."""

    where: str
    stages: Mapping[str, StageFigures]


def target_of(name: str, kind: NodeClass) -> Target:
    """The core of a class. Raises `TopologyError` ``topology.core`` for one that kernels are not counted on."""
    known = {n: t for n, t in TARGETS.items() if t.triple.startswith("thumb")}
    if kind.core not in known:
        raise TopologyError(
            "topology.core",
            f"class {name} has the core {kind.core}",
            why=f"instructions are counted on {', '.join(known)}",
            next_step="name one of those as core of the class, or leave it out",
        )
    return known[kind.core]


def missing() -> str:
    """What keeps instructions from being counted here; empty when nothing does."""
    if (lacking := lacks_emulator()) is not None:
        return f"{lacking}: pip install 'ganglion[emulator]'"
    if not any(c.kind == "zig" for c in compilers()):
        return "zig is not installed: pip install 'ganglion[device]'"
    return ""


def count_class(
    spec: FlowSpec, name: str, kind: NodeClass, events: Sequence[Event], directory: Path, host: Host
) -> Counted | str:
    """The kernels of the flow on the class's core, over one recorded shot; or why they could not be counted.

    Raises `TopologyError` ``topology.core``. Blocks for seconds.
    """
    target = target_of(name, kind)
    if why := missing():
        return why
    zig = next(c for c in compilers() if c.kind == "zig")
    figures = {}
    for stage, columns in _inputs(spec, events):
        figures[stage.kernel.digest] = _count(stage, columns, target, zig, directory, host)
    return Counted(f"emulated {target.name}, {zig.version.splitlines()[0][:100]}", figures)


def _inputs(spec: FlowSpec, events: Sequence[Event]) -> list[tuple[MapStage, Columns]]:
    """Every map with the rows that come to it, as its kernel takes them; none behind a window."""
    player = Player(events, index=0, stride=1, period_frames=shot_frames_min(events))
    frames = np.stack([player.next_frame() for _ in range(FRAMES)])
    rows: dict[str, Columns] = {}
    found = []
    for stage in spec.stages:
        if isinstance(stage, SourceStage):
            rows[stage.id] = {stage.schema.fields[0].name: frames}
        elif stage.inputs[0] not in rows:
            continue
        elif isinstance(stage, WhereStage | AroundStage):
            rows[stage.id] = rows[stage.inputs[0]]
        elif isinstance(stage, MapStage):
            given = rows[stage.inputs[0]]
            if isinstance(stage.kernel.input, TensorType):
                field = spec[stage.inputs[0]].schema.fields[0]
                given = {WHOLE: field.physical(given[field.name])}
            found.append((stage, given))
            runner = NumpyRunner(stage.kernel)
            ran = runner.rows(given, runner.fresh())
            rows[stage.id] = ran.columns
    return found


def _count(
    stage: MapStage, columns: Columns, target: Target, zig: Compiler, directory: Path, host: Host
) -> StageFigures:
    program = stage.kernel.program
    written = emit(program, SYMBOL)
    entry = f"{SYMBOL}_step"
    image = build_image(written.source, target, zig, directory, entry=entry, flash=FLASH_AT, ram=RAM_AT)
    table = np.zeros(1, written.state)
    for field in program.state:
        table[field.name] = field.initial
    log = directory / "counter.txt"
    with Calls(image, target.name, host.processes, log, counting=True) as calls:
        counts = step(calls, program, SYMBOL, written.workspace_bytes, columns, table).instructions
    elf = Elf.read(image)
    _, variables = elf.bytes_at(RAM_AT, RAM_AT + REGION_BYTES)
    flash, _ = elf.bytes_at(FLASH_AT, FLASH_AT + REGION_BYTES)
    return StageFigures(
        stage=stage.id,
        instructions=spread([float(c) for c in counts]),
        flash_bytes=flash,
        ram_bytes=variables + written.workspace_bytes,
    )
