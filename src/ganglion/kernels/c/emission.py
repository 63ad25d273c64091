"""Straight C from a program: one function for a frame, one for rows with a table of states.

The C has no heap, no library and no static data that is written; working memory is an argument, so it is re-entrant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.c.layout import (
    GIVEN,
    VIEWS,
    Layout,
    Planner,
    aligned,
    copy_scattered,
    size_bytes,
    state_dtype,
)
from ganglion.kernels.c.reading import Reader, Text
from ganglion.kernels.ir.passes import isolate_state
from ganglion.kernels.ir.program import Node, Program
from ganglion.kernels.ops import OPS
from ganglion.kernels.ops.op import flat_index
from ganglion.kernels.ops.reduction import C_TYPES

RUNTIME_VERSION = 4
"""Changes with every change of the C that could change a result."""


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


class Emitter(Reader):
    """Writes one program; it is the `Writer` of each operation in turn."""

    _current = 0
    _scratch_used = 0

    @property
    def rows(self) -> str:
        return ""

    def local(self, dtype: str, elements: int = 1) -> Callable[[str], str]:
        name = self.name()
        self.line(f"{C_TYPES[dtype]} {name}{f'[{elements}]' if elements > 1 else ''};")
        return lambda index: f"{name}[{index}]" if elements > 1 else name

    def scratch(self, dtype: str, elements: int) -> str:
        name = self.name()
        kind = C_TYPES[dtype]
        at = self._take(size_bytes(TensorType(dtype, (elements,))))
        self.line(f"{kind} *const {name} = ({kind} *)(work + {self._offset_of(at)});")
        return name

    def room(self, dtype: str, elements: int) -> Callable[[str], str]:
        pointer, name = self.scratch(dtype, elements), self.name()
        self.line(f"{C_TYPES[dtype]} *restrict const {name} = {pointer};")
        return lambda index: f"{name}[{index}]"

    def _offset_of(self, at: int) -> str:
        """The place in working memory of what the layout has put at ``at``."""
        return str(at)

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
        flat = self.memory(number)
        assert flat is not None
        return f"({flat[0]} + {flat[1]})"

    def shared(self, operand: int) -> bool:
        number = self._program.nodes[self._current].inputs[operand]
        return self._program.nodes[number].op == "const"

    def place(self, index: str) -> str:
        return index

    def span(self, elements: str) -> str:
        return elements

    def program(
        self, body: Program, inputs: Sequence[str], shared: Sequence[bool]
    ) -> Callable[[int, Sequence[str]], str]:
        whole = copy_scattered(body)
        layout = plan_of(whole)
        base = self._take(layout.workspace_bytes)
        inner = self._inner(whole, layout, inputs, shared, base)
        inner.statements()
        return lambda number, index: inner.element(whole.outputs[number][1], list(index))

    def _inner(
        self, whole: Program, layout: Layout, inputs: Sequence[str], _shared: Sequence[bool], base: int
    ) -> Emitter:
        return Emitter(whole, self._symbol, layout, inputs, self._text, base)

    def define(self, key: str, text: Callable[[str], str]) -> str:
        prefix = f"{self._symbol}_n{len(self._text.definitions)}"
        if key not in self._text.definitions:
            self._text.definitions[key] = (prefix, text(prefix))
        return self._text.definitions[key][0]

    def read(self, operand: int, index: Sequence[str]) -> str:
        return self.element(self._program.nodes[self._current].inputs[operand], list(index))

    def result(self, index: Sequence[str]) -> str:
        kind = self._program.nodes[self._current].type
        if not kind.shape:
            return f"{self._prefix}v{self._current}"
        return f"r[{flat_index(index, kind.shape)}]"

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
            kind = self._kept_type(number)
            place = self._offset_of(self._base + offset)
            self.line(f"{kind} *const {self._prefix}b{number} = ({kind} *)(work + {place});")
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
        kind = self._kept_type(number)
        write = OPS[node.op].write
        if not node.type.shape:
            if write is None:
                self._declare(number, kind, self._kept(number, self._computed(node, [])))
                return
            self._declare(number, kind)
            write(self, self._types(node), node.attributes, node.type)
            return
        self.line("{")
        self._text.depth += 1
        self.line(f"{kind} *restrict const r = {self._prefix}b{number};")
        if write is not None:
            write(self, self._types(node), node.attributes, node.type)
        else:
            index = self.loop(node.type.shape)
            self.line(f"{self.rows}{self.result(index)} = {self._kept(number, self._computed(node, index))};")
            self.end(len(node.type.shape))
        self.end()

    def _declare(self, number: int, kind: str, value: str = "") -> None:
        """A local variable for a value without axes, with its value if that is one expression."""
        self.line(
            f"const {kind} {self._scalar(number)} = {value};" if value else f"{kind} {self._scalar(number)};"
        )

    def _types(self, node: Node) -> list[TensorType]:
        return [self._program.nodes[i].type for i in node.inputs]

    def _leave(self) -> None:
        for k, (_, number) in enumerate(self._program.outputs):
            kind = self._program.nodes[number].type
            self._copy(number, f"({C_TYPES[kind.dtype]} *)out[{k}]")
        self._leave_state("*emit")

    def _leave_state(self, emit: str) -> None:
        emitted = "1" if self._program.emit is None else self.element(self._program.emit, [])
        self.line(f"{emit} = {emitted};")
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
        self.line(f"r[{flat_index(index, node.type.shape)}] = {self.stored(number, index)};")
        self.end(len(node.type.shape) or 1)
        self.end()

    def text(self) -> Text:
        """What was written, complete after `body`."""
        return self._text


_TEMPLATE = """\
/* Generated by Ganglion from kernel {name} ({digest}), runtime {version}. Do not edit. */
{wide}#include "kernel_runtime.h"

{definitions}
static void {symbol}_frame(const void *const *restrict in, const uint8_t *state, uint8_t *next,
                           void *const *restrict out, uint8_t *restrict emit, uint8_t *restrict work) {{
  (void)in; (void)state; (void)next; (void)work;
{body}
}}

{group}const uint32_t {symbol}_workspace_bytes = {workspace};
const uint32_t {symbol}_state_bytes = {state_bytes};

/* One frame: state is read and then written in place. */
void {symbol}_step(const void *const *in, void *state, void *const *out, uint8_t *emit, void *work) {{
  {symbol}_frame(in, (const uint8_t *)state, (uint8_t *)state, out, emit, (uint8_t *)work);
}}

static void {symbol}_turn(int32_t b, int32_t n, const void *const *in, const int32_t *key, void *table,
                          void *const *out, uint8_t *emit, void *work) {{
  for (; b < n; b++) {{
    const void *in_b[{inputs_n}] = {{{in_b}}};
    void *out_b[{outputs_n}] = {{{out_b}}};
    uint8_t *state = (uint8_t *)table + (size_t)(key ? key[b] : 0) * {state_bytes}u;
    {symbol}_frame(in_b, state, state, out_b, emit + b, (uint8_t *)work);
  }}
}}

/* Rows in order; row b continues the state table[key[b]]. */
void {symbol}_rows(int32_t n, const void *const *in, const int32_t *key, void *table, void *const *out,
                   uint8_t *emit, void *work) {{
  int32_t b = 0;
{groups}  {symbol}_turn(b, n, in, key, table, out, emit, work);
}}
"""


@dataclass(frozen=True, slots=True)
class Group:
    """Functions that compute ``GG_WIDE`` rows, and the statement that calls them for those from ``b`` on.

    ``rows``: how many are best, 0 when the statement is for all rows at once; ``row_bytes``: working memory for each.
    """

    functions: str
    call: str
    row_bytes: int
    rows: int


_GROUPS = """\
  for (; b + GG_WIDE <= n; b += GG_WIDE) {{
    const void *in_b[{inputs_n}] = {{{in_b}}};
    void *out_b[{outputs_n}] = {{{out_b}}};
    {call}
  }}
"""


def _loop_over_groups(group: Group, places: dict[str, object]) -> str:
    return _GROUPS.format(call=group.call, **places) if group.rows else f"  {group.call}\n"


def emit(
    program: Program, symbol: str, group: Callable[[Program, str, Text], Group | None] | None = None
) -> Emitted:
    """C for a checked program; ``symbol`` is the prefix of its public names.

    ``group`` writes the function for rows side by side (`grouped.group_of`): for machines with wide vectors and memory.
    """
    program = copy_scattered(isolate_state(program))
    layout = plan_of(program)
    emitter = Emitter(program, symbol, layout, [f"x{k}" for k in range(len(program.inputs))])
    body = "\n".join(emitter.body())
    state = state_dtype(program)
    inputs = [program.nodes[n].type for _, n in program.inputs]
    outputs = [program.nodes[n].type for _, n in program.outputs]
    text = emitter.text()
    grouped = group(program, symbol, text.beside()) if group else None
    places: dict[str, object] = {
        "inputs_n": len(inputs),
        "outputs_n": len(outputs),
        "in_b": ", ".join(
            f"(const {C_TYPES[t.dtype]} *)in[{k}] + (size_t)b * {t.elements}" for k, t in enumerate(inputs)
        ),
        "out_b": ", ".join(
            f"({C_TYPES[t.dtype]} *)out[{k}] + (size_t)b * {t.elements}" for k, t in enumerate(outputs)
        ),
    }
    workspace = str(layout.workspace_bytes)
    if grouped and grouped.rows:
        workspace = f"GG_LARGER({workspace}u, {grouped.row_bytes}u * GG_WIDE)"
    source = _TEMPLATE.format(
        name=program.name,
        digest=program.digest[:16],
        version=RUNTIME_VERSION,
        definitions="\n".join(text.before()),
        symbol=symbol,
        body=body,
        wide=f"#ifndef GG_WIDE\n#define GG_WIDE {grouped.rows}\n#endif\n" if grouped and grouped.rows else "",
        group=grouped.functions if grouped else "",
        groups=_loop_over_groups(grouped, places) if grouped else "",
        workspace=workspace,
        state_bytes=state.itemsize,
        **places,
    )
    return Emitted(source, symbol, layout.workspace_bytes, state)


def plan_of(program: Program, apart: frozenset[int] = frozenset()) -> Layout:
    """The layout of a program, with working memory for its operations; ``apart``: see `Planner`."""
    wanted = {n: size for n in range(len(program.nodes)) if (size := scratch_bytes(program, n))}
    return Planner(program, wanted, apart).plan()


def scratch_bytes(program: Program, number: int) -> int:
    """Working memory that an operation needs beside its operands and result."""
    node = program.nodes[number]
    if node.op == "scan":
        body, carries = node.attributes["body"], node.attributes["carries"]
        drafts = [body.nodes[n].type for _, n in body.outputs[:carries]]
        return sum(aligned(size_bytes(k)) for k in drafts) + aligned(
            plan_of(copy_scattered(body)).workspace_bytes
        )
    return OPS[node.op].scratch_bytes([program.nodes[i].type for i in node.inputs], node.attributes)


assert set(GIVEN) | set(VIEWS) <= set(OPS)
