"""From a flow and a device's assignment to one C file: sizes, runtime, kernels, and the stages in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from ganglion.core.errors import FlowError
from ganglion.device.firmware.layout import (
    COUNT_BYTES,
    DATAGRAM_BYTES_MIN,
    Limits,
    RowLayout,
    datagram_bytes,
    up,
)
from ganglion.device.firmware.stages import StageWriter
from ganglion.flow.assignment import Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import ActStage, AroundStage, MapStage, SourceStage, Stage, WhereStage
from ganglion.kernels.ir.program import Program

ACTUATORS_MAX = 32
STREAMS_MAX = 64
PARTS = (
    "cbor.c",
    "senml.c",
    "coap.c",
    "store.c",
    "uplink.c",
    "serving.c",
    "around.c",
    "ledger.c",
    "device.c",
    "memory.c",
)
"""The runtime, in the order in which it is put into one file."""
UPLINK_COUNTS, STAGE_COUNTS, LEDGER_COUNTS, COAP_COUNTS = 7, 3, 8, 7
SEQ_DIGITS_MAX = 20
_OWN = tuple(f'#include "{name}.h"' for name in ("device", "flow", "loop", "slip"))


@dataclass(frozen=True, slots=True)
class Exported:
    """A stream a device sends; ``urgent``: at once, as it leads to an actuator above."""

    stage: Stage
    urgent: bool
    layout: RowLayout


@dataclass(frozen=True, slots=True)
class Firmware:
    """C of one device class, and what its host has to know to drive it.

    ``kernels``: the programs it holds, by the prefix of their functions.
    ``stages``: the operators in the order of their counts; ``actuators``: the flow's, in the order of their bits.
    ``memory`` and ``code``: the flow's own parts of ``source``, its type and what runs on it.
    """

    source: str
    memory: str
    code: str
    spec: FlowSpec
    kernels: tuple[tuple[str, Program], ...]
    measured: SourceStage
    streams: tuple[Exported, ...]
    stages: tuple[str, ...]
    actuators: tuple[str, ...]
    sizes: Mapping[str, int]
    limits: Limits


def resource(name: str) -> str:
    """The text of a file of the runtime, without what includes others: it becomes a part of one file."""
    text = files("ganglion.device.firmware").joinpath("runtime", name).read_text(encoding="utf-8")
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(_OWN))


def runtime(sizes: Mapping[str, int]) -> str:
    """The runtime with these sizes (GD_ names) as one piece of C."""
    defines = "".join(f"#define {name} {value}\n" for name, value in sizes.items())
    return defines + resource("device.h") + "".join(resource(part) for part in PARTS)


def path_of_class(assignment: Assignment) -> str:
    """The one path an assignment speaks of. Raises `FlowError` ``firmware.path`` when there is not one."""
    paths = {p for group in (assignment.runs, assignment.exports) for of in group.values() for p in of}
    if len(paths) != 1:
        raise FlowError(
            "firmware.path",
            f"the assignment of {assignment.node} speaks of {len(paths)} kinds of devices",
            why=f"an image is for one of them: {', '.join(sorted(paths)) or 'there is none'}",
            next_step="name one with path=",
        )
    return paths.pop()


def generate(
    spec: FlowSpec, assignment: Assignment, *, path: str | None = None, limits: Limits | None = None
) -> Firmware:
    """C for the devices of ``path`` (the assignment's only one when None).

    Raises `FlowError` ``firmware.*`` for what a device cannot run or hold, naming the stage.
    """
    return _Generator(spec, assignment, path or path_of_class(assignment), limits or Limits()).firmware()


class _Generator:
    def __init__(self, spec: FlowSpec, assignment: Assignment, path: str, limits: Limits) -> None:
        self._spec, self._limits = spec, limits
        self._runs = {s.id for s in spec.stages if s.inputs and path in assignment.runs.get(s.id, ())}
        self._source = spec.sources[0]
        if self._source.schema.names != ("frame",):
            raise FlowError(
                "firmware.rows",
                f"a device cannot measure {self._source.id}",
                why="its sampler fills frames, and this source has plain rows",
                next_step="declare it as gg.Frame(...), or let devices send it over MQTT: docs/how-to/mqtt.md",
            )
        reached = self._reached()
        self._operators = tuple(s for s in spec.stages if s.id in reached and not isinstance(s, ActStage))
        self._streams = tuple(
            Exported(s, self._is_urgent(s.id), RowLayout(s.schema))
            for s in spec.stages
            if path in assignment.exports.get(s.id, ()) and s.id in reached | {self._source.id}
        )
        self._actuators = tuple(dict.fromkeys(a.actuator for a in spec.reflexes))
        self._check()

    def _reached(self) -> set[str]:
        """The stages that run and get rows of the device's source."""
        found = {self._source.id}
        for stage in self._spec.stages:
            if stage.id in self._runs and found.intersection(stage.inputs):
                found.add(stage.id)
        return found - {self._source.id}

    def _is_urgent(self, stream: str) -> bool:
        """True when a consumer of the stream that runs above the device leads to an actuator."""
        leading = {x for act in self._spec.reflexes for x in (*self._spec.ancestors(act.id), act.id)}
        return stream in leading and any(
            c.id in leading and c.id not in self._runs for c in self._spec.consumers(stream)
        )

    def _check(self) -> None:
        for stage in self._spec.stages:
            if stage.id in self._runs and not isinstance(
                stage, MapStage | WhereStage | AroundStage | ActStage
            ):
                raise FlowError(
                    "firmware.stage",
                    f"{stage.id} is a {stage.kind}, which firmware cannot run",
                    why="a device runs map, where, around and act",
                    next_step=f"let it run elsewhere: cannot_run: [{stage.kind}] in the topology's device class",
                )
            if isinstance(stage, AroundStage) and stage.id in self._runs:
                self._check_around(stage)
        self._check_count("streams", len(self._streams), STREAMS_MAX)
        self._check_count("actuators", len(self._actuators), ACTUATORS_MAX)
        self._check_count("messages", len(self._streams) + 1, self._limits.messages_max)

    def _check_count(self, what: str, count: int, count_max: int) -> None:
        if count > count_max:
            raise FlowError(
                "firmware.limits",
                f"{self._spec.name} needs {count} {what} on a device, {count - count_max} too many",
                why=f"there is room for {count_max}",
                next_step="raise messages_max" if what == "messages" else "run fewer stages on the device",
            )

    def _check_around(self, stage: AroundStage) -> None:
        for other in sorted(x for i in stage.inputs for x in self._spec.ancestors(i) | {i}):
            if isinstance(self._spec[other], AroundStage) and other in self._runs:
                raise FlowError(
                    "firmware.around",
                    f"{stage.id} reads what {other} gives",
                    why="firmware keeps one ring of rows for each path from the source",
                    next_step=f"let {stage.id} run at the gateway",
                )

    # --- writing ---

    def firmware(self) -> Firmware:
        writer = StageWriter(
            self._spec, self._operators, {e.stage.id: k for k, e in enumerate(self._streams)}, self._actuators
        )
        frame = self._walk(writer, self._source.id)
        rings = [s for s in self._operators if isinstance(s, AroundStage)]
        behind = [writer.row_function(s.id, self._walk(writer, s.id)) for s in rings]
        sizes = self._sizes()
        memory = writer.flow_type()
        code = "".join(
            (
                *writer.kernels,
                writer.tables(self._streams, self._limits),
                writer.start_function(),
                *behind,
                writer.frame_function(self._source, frame),
            )
        )
        head = f"/* Generated by Ganglion from flow {self._spec.name}. Do not edit. */\n"
        source = "".join((head, runtime(sizes), memory, code, resource("box.c")))
        names = tuple(s.id for s in self._operators)
        return Firmware(
            source,
            memory,
            code,
            self._spec,
            writer.programs,
            self._source,
            self._streams,
            names,
            self._actuators,
            sizes,
            self._limits,
        )

    def _walk(self, writer: StageWriter, start: str) -> list[str]:
        """Statements for one row of ``start``, in the order in which the engine's queue takes items."""
        todo, lines = deque([start]), []
        while todo:
            current = todo.popleft()
            steps: list[str] = []
            if current in writer.streams:
                steps.append(writer.offer(current))
            for stage in self._spec.consumers(current):
                if stage.id not in self._runs:
                    continue
                steps += writer.step(stage, current)
                if isinstance(stage, MapStage | WhereStage):
                    todo.append(stage.id)
            lines += writer.guarded(current, start, steps)
        return lines

    def _sizes(self) -> dict[str, int]:
        limits = self._limits
        datagram = max(
            (datagram_bytes(e.stage.id, e.layout, limits) for e in self._streams), default=DATAGRAM_BYTES_MIN
        )
        slot = max((e.layout.rows_max(limits) * e.layout.stride for e in self._streams), default=8)
        acts = [s for s in self._spec.reflexes if s.id in self._runs]
        command_id = max((len(a.id) for a in self._spec.reflexes), default=0) + 2 + limits.origin_bytes_max
        command_id += SEQ_DIGITS_MAX
        rows = 1 + sum(
            StageWriter.places(self._spec, s) for s in self._operators if isinstance(s, AroundStage)
        )
        counts = UPLINK_COUNTS * len(self._streams) + STAGE_COUNTS * len(self._operators)
        report = 24 + COUNT_BYTES * (counts + LEDGER_COUNTS + COAP_COUNTS)
        # One frame, datagram or poll: each stream's request, an answer, what was acknowledged, the commands.
        out = (len(self._streams) + 1) * (64 + datagram) + 24 + slot
        out += 24 + datagram + len(acts) * rows * (32 + up(command_id + 64, 8))
        frame = RowLayout(self._source.schema).row_bytes
        return {
            "GD_STREAMS": len(self._streams),
            "GD_STAGES": len(self._operators),
            "GD_ACTUATORS": len(self._actuators),
            "GD_MESSAGES": limits.messages_max,
            "GD_SLOT_BYTES": up(slot, 8),
            "GD_DATAGRAM_BYTES": datagram,
            "GD_ORIGIN_BYTES": limits.origin_bytes_max,
            "GD_COMMANDS": limits.commands_max,
            "GD_COMMAND_ID_BYTES": up(command_id, 4),
            "GD_REMEMBERED": limits.remembered_max,
            "GD_STACK_BYTES": limits.stack_bytes,
            "GD_FRAME_BYTES": frame,
            "GD_IN_BYTES": up(max(frame, datagram + 8, 16 + limits.origin_bytes_max), 8),
            "GD_OUT_BYTES": up(max(out, report), 8),
        }
