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
from ganglion.kernels.c.reading import Reader
from ganglion.kernels.ir.passes import isolate_state
from ganglion.kernels.ir.program import Node, Program
from ganglion.kernels.ops import OPS
from ganglion.kernels.ops.op import flat_index
from ganglion.kernels.ops.reduction import C_TYPES

RUNTIME_VERSION = 1
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
        flat = self.memory(number)
        assert flat is not None
        return f"({flat[0]} + {flat[1]})"

    def program(self, body: Program, inputs: Sequence[str]) -> Callable[[int, Sequence[str]], str]:
        whole = copy_scattered(body)
        layout = plan_of(whole)
        base = self._take(layout.workspace_bytes)
        inner = Emitter(whole, self._symbol, layout, inputs, self._text, base)
        inner.statements()
        return lambda number, index: inner.element(whole.outputs[number][1], list(index))

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
            self.line(f"*emit = {self.element(self._program.emit, [])};")
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
        value = self.element(number, index)
        stored = f"gg_canonical({value})" if node.type.dtype == "f32" else value
        self.line(f"r[{flat_index(index, node.type.shape)}] = {stored};")
        self.end(len(node.type.shape) or 1)
        self.end()

    def definitions(self) -> list[str]:
        """What stands before the functions, complete after `body`: C of operations, then constant arrays."""
        return [*(text for _, text in self._text.definitions.values()), *self._text.tables]


_TEMPLATE = """\
/* Generated by Ganglion from kernel {name} ({digest}), runtime {version}. Do not edit. */
#include "kernel_runtime.h"

{definitions}
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
        definitions="\n".join(emitter.definitions()),
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
    if node.op == "scan":
        body, carries = node.attributes["body"], node.attributes["carries"]
        drafts = [body.nodes[n].type for _, n in body.outputs[:carries]]
        return sum(aligned(size_bytes(k)) for k in drafts) + aligned(
            plan_of(copy_scattered(body)).workspace_bytes
        )
    return OPS[node.op].scratch_bytes([program.nodes[i].type for i in node.inputs], node.attributes)


assert set(GIVEN) | set(VIEWS) <= set(OPS)
