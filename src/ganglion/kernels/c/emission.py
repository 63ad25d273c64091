"""Straight C from a program: one function for a frame, one for rows with a table of states.

The C has no heap, no library and no static data that is written; working memory is an argument, so it is re-entrant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.c.layout import (
    GIVEN,
    VIEWS,
    Layout,
    Planner,
    aligned,
    contiguous_offset,
    copy_scattered,
    size_bytes,
    squeezed,
    state_dtype,
)
from ganglion.kernels.ir.passes import isolate_state
from ganglion.kernels.ir.program import Node, Program
from ganglion.kernels.ops import OPS
from ganglion.kernels.ops.elementwise import c_of_cast
from ganglion.kernels.ops.op import Array
from ganglion.kernels.ops.reduction import C_TYPES

RUNTIME_VERSION = 1
"""Changes with every change of the C that could change a result."""
INDENT = "  "


def runtime_header() -> str:
    """The text of ``kernel_runtime.h``."""
    return files("ganglion.kernels.c").joinpath("kernel_runtime.h").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Emitted:
    """C source that includes ``kernel_runtime.h``, its symbols' prefix, and the memory it asks for."""

    source: str
    symbol: str
    workspace_bytes: int
    state: np.dtype[np.void]


def literal(value: object, dtype: str) -> str:
    """A constant, exactly."""
    if dtype != "f32":
        whole = int(value)  # type: ignore[call-overload] # a NumPy scalar of an integer or truth type
        return "(-2147483647 - 1)" if whole == -(1 << 31) else str(whole)
    number = float(value)  # type: ignore[arg-type] # a NumPy scalar
    if math.isnan(number):
        return "gg_float(0x7fc00000u)"
    if math.isinf(number):
        return f"gg_float({'0x7f800000u' if number > 0 else '0xff800000u'})"
    text = f"{number.hex()}f"
    return f"({text})" if text.startswith("-") else text


def flat_index(index: Sequence[str], shape: Sequence[int]) -> str:
    """The place of an element in C order."""
    terms = []
    stride = 1
    for position, extent in zip(reversed(index), reversed(shape), strict=True):
        if extent != 1 and position != "0":
            terms.append(position if stride == 1 else f"{position} * {stride}")
        stride *= extent
    return " + ".join(reversed(terms)) or "0"


@dataclass(slots=True)
class _Text:
    """The C so far: a scan's program is written into the same text as the one round it."""

    lines: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    table_names: dict[tuple[str, bytes], str] = field(default_factory=dict)
    depth: int = 1
    names: int = 0


class Emitter:
    """Writes one program; it is the `Writer` of each operation in turn.

    ``inputs``: C pointers to the program's inputs; ``base``: where its working memory begins.
    """

    def __init__(
        self,
        program: Program,
        symbol: str,
        layout: Layout,
        inputs: Sequence[str],
        text: _Text | None = None,
        base: int = 0,
    ) -> None:
        self._program = program
        self._symbol = symbol
        self._layout = layout
        self._text = text or _Text()
        self._base = base
        self._prefix = "" if text is None else f"{self.name()}_"
        self._current = 0
        self._scratch_used = 0
        self._stored = set(layout.stored)
        self._inputs = {number: pointer for (_, number), pointer in zip(program.inputs, inputs, strict=True)}
        self._state = {s.node: s.name for s in program.state}
        self._state_dtype = state_dtype(program)

    # --- what operations use ---

    def name(self) -> str:
        self._text.names += 1
        return f"t{self._text.names}"

    def line(self, text: str) -> None:
        self._text.lines.append(INDENT * self._text.depth + text)

    def loop(self, extents: Sequence[int]) -> list[str]:
        index = []
        for extent in extents:
            if extent == 1:
                index.append("0")
                self.line("{")
            else:
                i = self.name()
                index.append(i)
                self.line(f"for (int {i} = 0; {i} < {extent}; {i}++) {{")
            self._text.depth += 1
        if not extents:
            self.line("{")
            self._text.depth += 1
        return index

    def end(self, loops: int = 1) -> None:
        for _ in range(loops):
            self._text.depth -= 1
            self.line("}")

    def table(self, values: Array) -> str:
        kind = TensorType.of(values)
        key = (str(kind), np.ascontiguousarray(values).tobytes())
        if key not in self._text.table_names:
            name = f"{self._symbol}_c{len(self._text.table_names)}"
            self._text.table_names[key] = name
            numbers = ", ".join(literal(v, kind.dtype) for v in values.ravel())
            self._text.tables.append(
                f"static const {C_TYPES[kind.dtype]} {name}[{kind.elements}] = {{{numbers}}};"
            )
        return self._text.table_names[key]

    def scratch(self, dtype: str, elements: int) -> str:
        name = self.name()
        kind = C_TYPES[dtype]
        at = self._take(size_bytes(TensorType(dtype, (elements,))))
        self.line(f"{kind} *const {name} = ({kind} *)(work + {at});")
        return name

    def _take(self, size: int) -> int:
        """The place of ``size`` bytes of the operation's working memory."""
        at = self._base + self._layout.scratch[self._current] + self._scratch_used
        self._scratch_used += aligned(size)
        assert self._scratch_used <= scratch_bytes(self._program, self._current)
        return at

    def pointer(self, operand: int) -> str:
        number = self._program.nodes[self._current].inputs[operand]
        node = self._program.nodes[number]
        if node.op == "const":
            return self.table(np.asarray(node.attributes["value"]).reshape(-1))
        if number in self._stored and not node.type.shape:
            return f"(&{self._prefix}v{number})"
        flat = self._memory(number)
        assert flat is not None
        return f"({flat[0]} + {flat[1]})"

    def program(self, body: Program, inputs: Sequence[str]) -> Callable[[int, Sequence[str]], str]:
        whole = copy_scattered(body)
        layout = plan_of(whole)
        base = self._take(layout.workspace_bytes)
        inner = Emitter(whole, self._symbol, layout, inputs, self._text, base)
        inner.statements()
        return lambda number, index: inner._element(whole.outputs[number][1], list(index))

    def read(self, operand: int, index: Sequence[str]) -> str:
        return self._element(self._program.nodes[self._current].inputs[operand], list(index))

    def result(self, index: Sequence[str]) -> str:
        kind = self._program.nodes[self._current].type
        if not kind.shape:
            return f"{self._prefix}v{self._current}"
        return f"r[{flat_index(index, kind.shape)}]"

    # --- reading a value ---

    def _element(self, number: int, index: list[str]) -> str:
        node = self._program.nodes[number]
        if node.op == "const":
            return self._constant(node, index)
        if number in self._stored and not node.type.shape:
            return f"{self._prefix}v{number}"
        flat = self._memory(number)
        if flat is not None:
            base, offset = flat
            place = flat_index(index, node.type.shape)
            if offset:
                place = str(offset) if place == "0" else f"{place} + {offset}"
            return f"{base}[{place}]"
        if node.op in VIEWS:
            return self._element(node.inputs[0], self._through(node, index))
        return self._computed(node, index)

    def _computed(self, node: Node, index: list[str]) -> str:
        types = [self._program.nodes[i].type for i in node.inputs]
        operands = []
        for source, kind in zip(node.inputs, types, strict=True):
            own = index[len(index) - len(kind.shape) :] if kind.shape else []
            own = ["0" if extent == 1 else i for i, extent in zip(own, kind.shape, strict=True)]
            operands.append(self._element(source, own))
        if node.op == "cast":
            return c_of_cast(types[0].dtype, node.type.dtype, operands[0])
        element = OPS[node.op].element
        assert element is not None, node.op
        return element(types, operands)

    def _constant(self, node: Node, index: list[str]) -> str:
        value = np.asarray(node.attributes["value"])
        first = value.ravel()[0]
        if value.tobytes() == np.full(value.shape, first).tobytes():
            return literal(first, node.type.dtype)
        return f"{self.table(value)}[{flat_index(index, node.type.shape)}]"

    def _memory(self, number: int) -> tuple[str, int] | None:
        """Where a value lies as one contiguous array: (pointer, offset in elements)."""
        node = self._program.nodes[number]
        if number in self._stored:
            return (f"{self._prefix}b{number}", 0) if node.type.shape else None
        if node.op == "input":
            return self._inputs[number], 0
        if node.op == "state":
            return f"s_{self._state[number]}", 0
        if node.op == "reshape":
            source = node.inputs[0]
            if self._program.nodes[source].op == "const":
                value = np.asarray(self._program.nodes[source].attributes["value"])
                return self.table(value), 0
            return self._memory(source)
        if node.op == "pick":
            kind = C_TYPES[node.type.dtype]
            block = f"{self._prefix}b{node.inputs[0]}"
            return f"((const {kind} *)({block} + {node.attributes['offset']}))", 0
        if node.op == "slice":
            return self._contiguous(node)
        return None

    def _contiguous(self, node: Node) -> tuple[str, int] | None:
        below = self._memory(node.inputs[0])
        shape = self._program.nodes[node.inputs[0]].type.shape
        offset = contiguous_offset(node.attributes["parts"], shape)
        return None if below is None or offset is None else (below[0], below[1] + offset)

    def _through(self, node: Node, index: list[str]) -> list[str]:
        """The index into a view's source."""
        source = self._program.nodes[node.inputs[0]].type
        if node.op == "slice":
            left = iter(index)
            return [
                str(start) if step is None else _stepped(next(left), start, step)
                for start, step, _ in node.attributes["parts"]
            ]
        if node.op == "transpose":
            place = dict(zip(node.attributes["axes"], index, strict=True))
            return [place[axis] for axis in range(len(index))]
        if node.op == "broadcast":
            own = index[len(index) - len(source.shape) :] if source.shape else []
            return ["0" if extent == 1 else i for i, extent in zip(own, source.shape, strict=True)]
        assert squeezed(source.shape) == squeezed(node.type.shape), node
        left = iter([i for i, extent in zip(index, node.type.shape, strict=True) if extent != 1])
        return ["0" if extent == 1 else next(left) for extent in source.shape]

    # --- writing ---

    def body(self) -> list[str]:
        """The statements of the step function."""
        for k, (_, number) in enumerate(self._program.inputs):
            kind = C_TYPES[self._program.nodes[number].type.dtype]
            self.line(f"const {kind} *const {self._inputs[number]} = (const {kind} *)in[{k}];")
        for entry in self._program.state:
            offset = self._offset(entry.name)
            kind = C_TYPES[self._program.nodes[entry.node].type.dtype]
            self.line(f"const {kind} *const s_{entry.name} = (const {kind} *)(state + {offset});")
        self.statements()
        self._leave()
        return self._text.lines

    def statements(self) -> None:
        """Everything that is stored, in order."""
        for number, offset in self._layout.offsets.items():
            kind = C_TYPES[self._program.nodes[number].type.dtype]
            self.line(f"{kind} *const {self._prefix}b{number} = ({kind} *)(work + {self._base + offset});")
        for number in self._layout.stored:
            self._store(number)

    def _offset(self, name: str) -> int:
        fields = self._state_dtype.fields
        assert fields is not None
        return int(fields[name][1])

    def _store(self, number: int) -> None:
        node = self._program.nodes[number]
        self._current = number
        self._scratch_used = 0
        kind = C_TYPES[node.type.dtype]
        write = OPS[node.op].write
        if not node.type.shape:
            if write is None:
                self.line(f"const {kind} {self._prefix}v{number} = {self._computed(node, [])};")
                return
            self.line(f"{kind} {self._prefix}v{number};")
            write(self, self._types(node), node.attributes, node.type)
            return
        self.line("{")
        self._text.depth += 1
        self.line(f"{kind} *restrict const r = {self._prefix}b{number};")
        if write is not None:
            write(self, self._types(node), node.attributes, node.type)
        else:
            index = self.loop(node.type.shape)
            self.line(f"{self.result(index)} = {self._computed(node, index)};")
            self.end(len(node.type.shape))
        self.end()

    def _types(self, node: Node) -> list[TensorType]:
        return [self._program.nodes[i].type for i in node.inputs]

    def _leave(self) -> None:
        for k, (_, number) in enumerate(self._program.outputs):
            kind = self._program.nodes[number].type
            self._copy(number, f"({C_TYPES[kind.dtype]} *)out[{k}]")
        if self._program.emit is not None:
            self.line(f"*emit = {self._element(self._program.emit, [])};")
        else:
            self.line("*emit = 1;")
        for entry in self._program.state:
            if entry.after != entry.node:
                kind = self._program.nodes[entry.after].type
                self._copy(entry.after, f"({C_TYPES[kind.dtype]} *)(next + {self._offset(entry.name)})")

    def _copy(self, number: int, target: str) -> None:
        node = self._program.nodes[number]
        self.line("{")
        self._text.depth += 1
        self.line(f"{C_TYPES[node.type.dtype]} *restrict const r = {target};")
        index = self.loop(node.type.shape)
        value = self._element(number, index)
        stored = f"gg_canonical({value})" if node.type.dtype == "f32" else value
        self.line(f"r[{flat_index(index, node.type.shape)}] = {stored};")
        self.end(len(node.type.shape) or 1)
        self.end()

    def tables(self) -> list[str]:
        """Constant arrays, complete after `body`."""
        return self._text.tables


def _stepped(index: str, start: int, step: int) -> str:
    scaled = index if step == 1 else f"{index} * {step}"
    if index == "0":
        return str(start)
    return f"({scaled} + {start})" if start else (scaled if step == 1 else f"({scaled})")


_TEMPLATE = """\
/* Generated by Ganglion from kernel {name} ({digest}), runtime {version}. Do not edit. */
#include "kernel_runtime.h"

{tables}
static void {symbol}_frame(const void *const *restrict in, const uint8_t *state, uint8_t *next,
                           void *const *restrict out, uint8_t *restrict emit, uint8_t *restrict work) {{
  (void)in; (void)state; (void)next; (void)work;
{body}
}}

const uint32_t {symbol}_workspace_bytes = {workspace};
const uint32_t {symbol}_state_bytes = {state_bytes};

/* One frame: state is read and then written in place. */
void {symbol}_step(const void *const *in, void *state, void *const *out, uint8_t *emit, void *work) {{
  {symbol}_frame(in, (const uint8_t *)state, (uint8_t *)state, out, emit, (uint8_t *)work);
}}

/* Rows in order; row b continues the state table[key[b]]. */
void {symbol}_rows(int32_t n, const void *const *in, const int32_t *key, void *table, void *const *out,
                   uint8_t *emit, void *work) {{
  for (int32_t b = 0; b < n; b++) {{
    const void *in_b[{inputs_n}] = {{{in_b}}};
    void *out_b[{outputs_n}] = {{{out_b}}};
    uint8_t *state = (uint8_t *)table + (size_t)(key ? key[b] : 0) * {state_bytes}u;
    {symbol}_frame(in_b, state, state, out_b, emit + b, (uint8_t *)work);
  }}
}}
"""


def emit(program: Program, symbol: str) -> Emitted:
    """C for a checked program; ``symbol`` is the prefix of its public names."""
    program = copy_scattered(isolate_state(program))
    layout = plan_of(program)
    emitter = Emitter(program, symbol, layout, [f"x{k}" for k in range(len(program.inputs))])
    body = "\n".join(emitter.body())
    state = state_dtype(program)
    inputs = [program.nodes[n].type for _, n in program.inputs]
    outputs = [program.nodes[n].type for _, n in program.outputs]
    source = _TEMPLATE.format(
        name=program.name,
        digest=program.digest[:16],
        version=RUNTIME_VERSION,
        tables="\n".join(emitter.tables()),
        symbol=symbol,
        body=body,
        workspace=layout.workspace_bytes,
        state_bytes=state.itemsize,
        inputs_n=len(inputs),
        outputs_n=len(outputs),
        in_b=", ".join(
            f"(const {C_TYPES[t.dtype]} *)in[{k}] + (size_t)b * {t.elements}" for k, t in enumerate(inputs)
        ),
        out_b=", ".join(
            f"({C_TYPES[t.dtype]} *)out[{k}] + (size_t)b * {t.elements}" for k, t in enumerate(outputs)
        ),
    )
    return Emitted(source, symbol, layout.workspace_bytes, state)


def plan_of(program: Program) -> Layout:
    """The layout of a program, with working memory for its operations."""
    wanted = {n: size for n in range(len(program.nodes)) if (size := scratch_bytes(program, n))}
    return Planner(program, wanted).plan()


def scratch_bytes(program: Program, number: int) -> int:
    """Working memory that an operation needs beside its operands and result."""
    node = program.nodes[number]
    if node.op == "rfft":
        return 4 * 4 * (program.nodes[node.inputs[0]].type.elements // 2)
    if node.op == "scan":
        body, carries = node.attributes["body"], node.attributes["carries"]
        drafts = [body.nodes[n].type for _, n in body.outputs[:carries]]
        return sum(aligned(size_bytes(k)) for k in drafts) + aligned(
            plan_of(copy_scattered(body)).workspace_bytes
        )
    return 0


assert set(GIVEN) | set(VIEWS) <= set(OPS)
