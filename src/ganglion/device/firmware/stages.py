"""The C of single stages: kernels called, predicates asked, rings filled, rows offered, actuators told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ganglion.core.errors import FlowError
from ganglion.core.schema import Field, TensorType
from ganglion.device.firmware.layout import Limits, RowLayout, up
from ganglion.device.firmware.predicate import C_NAMES, predicate_of
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import ActStage, AroundStage, MapStage, SourceStage, Stage, WhereStage
from ganglion.kernels.c.emission import Emitted, emit
from ganglion.kernels.c.reading import literal
from ganglion.kernels.ir.program import Program
from ganglion.kernels.tracing.trace import WHOLE

if TYPE_CHECKING:
    from ganglion.device.firmware.generate import Exported

WORK_ALIGNMENT_BYTES = 16
_APART = """\
/* Not copied into its callers: what is tried on hostile frames is then what they call. */
__attribute__((noinline)) void {symbol}_step(const void *const *in, void *state, void *const *out, uint8_t *emit,
                                             void *work);

"""


def text(content: str) -> str:
    """A ``gd_text`` of ASCII or UTF-8, whatever stands in it."""
    encoded = content.encode()
    return '{"' + "".join(f"\\{byte:03o}" for byte in encoded) + f'", {len(encoded)}}}'


class StageWriter:
    """Writes the stages of one device; asks nothing about order, which is the generator's."""

    def __init__(
        self,
        spec: FlowSpec,
        operators: Sequence[Stage],
        streams: Mapping[str, int],
        actuators: Sequence[str],
    ) -> None:
        self.streams = streams
        self.kernels: list[str] = []
        self._spec = spec
        self._operators = operators
        self._actuators = actuators
        self._layouts = {s.id: RowLayout(s.schema) for s in spec.stages}
        self._place = {s.id: k for k, s in enumerate(operators)}
        self._emitted: dict[str, Emitted] = {}
        for stage in operators:
            if isinstance(stage, MapStage) and stage.kernel.digest not in self._emitted:
                written = emit(stage.kernel.program, f"gg_k{len(self._emitted)}")
                self._emitted[stage.kernel.digest] = written
                self.kernels.append(_APART.format(symbol=written.symbol) + written.source)

    @property
    def programs(self) -> tuple[tuple[str, Program], ...]:
        """The kernels' programs by the prefix of their functions."""
        maps = {s.kernel.digest: s.kernel.program for s in self._operators if isinstance(s, MapStage)}
        return tuple((written.symbol, maps[digest]) for digest, written in self._emitted.items())

    # --- statements ---

    def guarded(self, current: str, start: str, steps: Sequence[str]) -> list[str]:
        """The steps of one item, done only when there is one."""
        if not steps:
            return []
        if current == start:
            return [f"  {step}" for step in steps]
        return [f"  if (has_{current}) {{", *(f"    {step}" for step in steps), "  }"]

    def offer(self, stream: str) -> str:
        """A row goes to the gateway."""
        size = self._layouts[stream].row_bytes
        return f"gd_offer(&f->device, {self.streams[stream]}, head, r_{stream}, {size});"

    def step(self, stage: Stage, source: str) -> list[str]:
        """What a stage does with a row of ``source``."""
        match stage:
            case MapStage():
                return self._map(stage, source)
            case WhereStage():
                return self._where(stage, source)
            case AroundStage():
                return self._around(stage, source)
            case ActStage():
                actuator, act = self._actuators.index(stage.actuator), text(stage.id)
                return [
                    f"gd_act(&f->device, {actuator}, (gd_text){text(stage.verb)}, (gd_text){act}, head.seq);"
                ]
            case _:
                raise AssertionError(stage)

    def _map(self, stage: MapStage, source: str) -> list[str]:
        written = self._emitted[stage.kernel.digest]
        program = stage.kernel.program
        lines = ["{"]
        inputs = []
        for name, number in program.inputs:
            field = self._spec[source].schema.fields[0] if name == WHOLE else self._spec[source].schema[name]
            inputs.append(self._input(stage, source, field, program.nodes[number].type, lines))
        layout = self._layouts[stage.id]
        outputs = [
            f"f->row_{stage.id} + {layout.offsets[stage.schema.names.index(n)]}" for n, _ in program.outputs
        ]
        state = f"f->state_{stage.id}" if written.state.itemsize else "0"
        lines += [
            f"  const void *in[] = {{{', '.join(inputs)}}};",
            f"  void *out[] = {{{', '.join(outputs)}}};",
            f"  {written.symbol}_step(in, {state}, out, &has_{stage.id}, f->work);",
            *(f"  {line}" for line in self._counted(stage)),
            "}",
        ]
        return lines

    def _counted(self, stage: Stage) -> list[str]:
        place = f"f->device.stage[{self._place[stage.id]}]"
        return [f"{place}.rows++;", f"{place}.out += has_{stage.id} != 0;"]

    def _input(self, stage: MapStage, source: str, field: Field, kind: TensorType, lines: list[str]) -> str:
        """Where the kernel finds an input: in the row, or converted into working memory (see `Field.physical`)."""
        layout = self._layouts[source]
        at = f"r_{source} + {layout.offsets[self._spec[source].schema.names.index(field.name)]}"
        wanted, stored = kind.dtype, field.type.dtype
        if not field.scale and wanted == stored:
            return at
        if (
            stored not in ("i16", "i32", "f32", "bool")
            or (field.scale and wanted != "f32")
            or wanted == "bool"
        ):
            raise FlowError(
                "firmware.type",
                f"{stage.id} reads {field.name} of {source} as {wanted}, it is {field.type}",
                why="a device turns i16 and i32 into f32 or i32, and scaled numbers into f32",
                next_step="declare the source as i16, i32 or f32",
            )
        from_c, to_c = C_NAMES[field.type.numpy.name], C_NAMES[kind.numpy.name]
        factor = ""
        if len(field.scale) > 1:
            table = ", ".join(literal(np.float32(s), "f32") for s in field.scale)
            lines.append(f"  static const float scale[] = {{{table}}};")
            factor = f" * scale[i / {field.type.elements // len(field.scale)}]"
        elif field.scale:
            factor = f" * {literal(np.float32(field.scale[0]), 'f32')}"
        lines.append(
            f"  for (uint32_t i = 0; i < {field.type.elements}; i++) "
            f"(({to_c} *)f->input)[i] = ({to_c})((const {from_c} *)({at}))[i]{factor};"
        )
        return "f->input"

    def _where(self, stage: WhereStage, source: str) -> list[str]:
        return [
            f"has_{stage.id} = (uint8_t){predicate_of(stage, f'r_{source}')};",
            f"r_{stage.id} = r_{source};",
            *self._counted(stage),
        ]

    def _around(self, stage: AroundStage, source: str) -> list[str]:
        ring, place = f"&f->ring_{stage.id}", f"&f->device.stage[{self._place[stage.id]}]"
        memory, size = f"f->kept_{stage.id}", self._layouts[stage.id].row_bytes
        lines = []
        if source == stage.inputs[0]:
            lines += [
                "{",
                f"  const uint8_t *near = gd_ring_row({ring}, {memory}, head, r_{source}, {size}, {place});",
                f"  if (near) gd_row_{stage.id}(f, head, near + 16);",
                "}",
            ]
        if source == stage.inputs[1]:
            lines += [
                f"gd_ring_trigger({ring}, head);",
                f"for (uint32_t i = 0; i < (f->ring_{stage.id}).rows; i++) {{",
                f"  const uint8_t *near = gd_ring_take({ring}, {memory}, i, {place});",
                "  if (near) {",
                "    gd_row then;",
                "    gd_copy(&then, near, 16);",
                f"    gd_row_{stage.id}(f, then, near + 16);",
                "  }",
                "}",
            ]
        return lines

    # --- the parts of the file ---

    @staticmethod
    def places(spec: FlowSpec, stage: AroundStage) -> int:
        """Rows a ring holds: those that a trigger can reach back to, and two for a clock that is not exact."""
        source = spec[spec.chain(stage.inputs[0])[0]]
        assert isinstance(source, SourceStage)
        return stage.before_ns // source.every_ns + 3

    def tables(self, streams: Sequence[Exported], limits: Limits) -> str:
        """Constants: streams with their fields, actuators, first states."""
        lines = []
        rows = []
        for k, exported in enumerate(streams):
            layout = exported.layout
            fields = [
                f"{{{text(f.name)}, {text(f.unit)}, {at}, {f.type.size_bytes}}}"
                for f, at in zip(layout.schema.fields, layout.offsets, strict=True)
            ]
            lines.append(f"static const gd_field gd_fields_{k}[] = {{{', '.join(fields)}}};")
            rows.append(
                f"{{{text(exported.stage.id)}, gd_fields_{k}, {len(fields)}, {layout.stride}, "
                f"{layout.rows_max(limits)}, {int(exported.urgent)}}}"
            )
        empty = "{{0, 0}, 0, 0, 0, 0, 0}"
        lines.append(f"static const gd_stream gd_streams[] = {{{', '.join(rows) or empty}}};")
        names = ", ".join(text(a) for a in self._actuators) or "{0, 0}"
        lines.append(f"static const gd_text gd_actuators[] = {{{names}}};")
        for stage in self._operators:
            if isinstance(stage, MapStage) and (first := self._first_state(stage)):
                numbers = ", ".join(str(b) for b in first)
                lines.append(f"static const uint8_t gd_first_{stage.id}[{len(first)}] = {{{numbers}}};")
        return "\n".join(lines) + "\n\n"

    def _first_state(self, stage: MapStage) -> bytes:
        state: np.ndarray[Any, Any] = np.zeros(1, self._emitted[stage.kernel.digest].state)
        for field in stage.kernel.program.state:
            state[field.name] = field.initial
        return state.tobytes()

    def flow_type(self) -> str:
        """All memory of a device: the runtime's, rows under way, states, rings, working memory."""
        work = max((w.workspace_bytes for w in self._emitted.values()), default=0)
        inputs = max((4 * s.schema.fields[0].type.elements for s in self._spec.sources), default=4)
        lines = [
            "typedef struct {",
            "  gd_device device;",
            f"  GD_ALIGNED({WORK_ALIGNMENT_BYTES}) uint8_t work[{max(work, 16)}];",
            f"  GD_ALIGNED({WORK_ALIGNMENT_BYTES}) uint8_t input[{up(inputs, 16)}];",
        ]
        for stage in self._operators:
            layout = self._layouts[stage.id]
            if isinstance(stage, MapStage):
                lines.append(f"  GD_ALIGNED(8) uint8_t row_{stage.id}[{layout.row_bytes}];")
                if size := self._emitted[stage.kernel.digest].state.itemsize:
                    lines.append(f"  GD_ALIGNED(16) uint8_t state_{stage.id}[{size}];")
            if isinstance(stage, AroundStage):
                lines.append(f"  gd_ring ring_{stage.id};")
                room = self.places(self._spec, stage) * (layout.stride + 8)
                lines.append(f"  GD_ALIGNED(8) uint8_t kept_{stage.id}[{room}];")
        return "\n".join([*lines, "} gd_flow;", "", ""])

    def start_function(self) -> str:
        """The first state of everything, in memory that was zero."""
        lines = [
            "void gd_flow_start(gd_flow *f) {",
            "  gd_start(&f->device, gd_streams, gd_actuators);",
        ]
        for stage in self._operators:
            if isinstance(stage, MapStage) and (first := self._first_state(stage)):
                lines.append(f"  gd_copy(f->state_{stage.id}, gd_first_{stage.id}, {len(first)});")
            if isinstance(stage, AroundStage):
                places, stride = self.places(self._spec, stage), self._layouts[stage.id].stride + 8
                before, after = stage.before_ns, stage.after_ns
                lines.append(
                    f"  f->ring_{stage.id} = (gd_ring){{{places}, {stride}, 0, 0, "
                    f"INT64_C({before}), INT64_C({after}), 0, 0}};"
                )
                lines.append(f"  gd_ring_start(&f->ring_{stage.id});")
        return "\n".join([*lines, "}", "", ""])

    def _locals(self, start: str, body: Sequence[str]) -> list[str]:
        """One truth value and one pointer per stage that the body speaks of."""
        joined = "\n".join(body)
        lines = []
        for stage in self._operators:
            if stage.id == start or f"has_{stage.id}" not in joined:
                continue
            first = f"f->row_{stage.id}" if isinstance(stage, MapStage) else "0"
            lines.append(f"  uint8_t has_{stage.id} = 0;")
            lines.append(f"  const uint8_t *r_{stage.id} = {first};")
            lines.append(f"  (void)r_{stage.id};")
        return lines

    def row_function(self, stage: str, body: Sequence[str]) -> str:
        """What follows a row that an around stage gives."""
        head = f"static void gd_row_{stage}(gd_flow *f, gd_row head, const uint8_t *r_{stage}) {{"
        unused = f"  (void)f; (void)head; (void)r_{stage};"
        return "\n".join([head, unused, *self._locals(stage, body), *body, "}", "", ""])

    def frame_function(self, source: SourceStage, body: Sequence[str]) -> str:
        """One frame, as stored, through all stages. ``number``: frames since the device started."""
        return "\n".join(
            [
                "void gd_flow_frame(gd_flow *f, const uint8_t *stored, uint64_t number, int64_t time_ns) {",
                "  gd_row head = {(int64_t)(f->device.boot << GD_BOOT_BITS | number), time_ns};",
                f"  const uint8_t *r_{source.id} = stored;",
                f"  (void)r_{source.id};",
                "  f->device.ledger.frames++;",
                *self._locals(source.id, body),
                *body,
                "}",
                "",
                "",
            ]
        )
