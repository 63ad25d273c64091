"""How a value of a program is read in C: where it lies, or what computes it, as an expression for one element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.c.layout import VIEWS, Layout, contiguous_offset, origin, squeezed, state_dtype
from ganglion.kernels.ir.program import Node, Program
from ganglion.kernels.ops import OPS
from ganglion.kernels.ops.op import Array, flat_index
from ganglion.kernels.ops.reduction import C_TYPES

INDENT = "  "
MASKED_ABOVE = 8


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


@dataclass(slots=True)
class Text:
    """The C so far: a scan's program is written into the same text as the one round it."""

    lines: list[str] = field(default_factory=list)
    definitions: dict[str, tuple[str, str]] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    table_names: dict[tuple[str, bytes], str] = field(default_factory=dict)
    depth: int = 1
    names: int = 0

    def beside(self) -> Text:
        """Text of another function of the same file, which may use what stands before both."""
        return Text(definitions=self.definitions, tables=self.tables, table_names=self.table_names)

    def before(self) -> list[str]:
        """What stands before the functions: C of operations, then constant arrays."""
        return [*(text for _, text in self.definitions.values()), *self.tables]


class Reader:
    """The values of one program, and the text they are read in.

    ``inputs``: C pointers to the program's inputs; ``base``: where its working memory begins.
    """

    def __init__(
        self,
        program: Program,
        symbol: str,
        layout: Layout,
        inputs: Sequence[str],
        text: Text | None = None,
        base: int = 0,
    ) -> None:
        self._program = program
        self._symbol = symbol
        self._layout = layout
        self._text = text or Text()
        self._base = base
        self._prefix = "" if text is None else f"{self.name()}_"
        self._stored = set(layout.stored)
        self._inputs = {number: pointer for (_, number), pointer in zip(program.inputs, inputs, strict=True)}
        self._state = {s.node: s.name for s in program.state}
        self._state_dtype = state_dtype(program)

    def name(self) -> str:
        self._text.names += 1
        return f"t{self._text.names}"

    def line(self, text: str) -> None:
        self._text.lines.append(INDENT * self._text.depth + text)

    def loop(self, extents: Sequence[int]) -> list[str]:
        index: list[str] = []
        for axis, extent in enumerate(extents):
            inner = axis == len(extents) - 1 and extent > MASKED_ABOVE
            if extent == 1:
                index.append("0")
                self.line("{")
            else:
                i = self.name()
                index.append(i)
                masked = "GG_MASKED " if inner and extent % 8 else ""
                self.line(f"{masked}for (int {i} = 0; {i} < {extent}; {i}++) {{")
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

    def element(self, number: int, index: list[str]) -> str:
        """An expression for one element of a value: where it lies, or what computes it."""
        node = self._program.nodes[number]
        if node.op == "const":
            return self._constant(node, index)
        if number in self._stored and not node.type.shape:
            return self._whole(number, self._scalar(number))
        flat = self.memory(number)
        if flat is not None:
            base, offset = flat
            place = flat_index(index, node.type.shape)
            if offset:
                place = str(offset) if place == "0" else f"{place} + {offset}"
            return self._whole(number, f"{base}[{self._place(number, place)}]")
        if node.op in VIEWS:
            return self.element(node.inputs[0], self._through(node, index))
        return self._computed(node, index)

    def stored(self, number: int, index: list[str]) -> str:
        """What is stored of a value's element: any NaN is the one."""
        node, value = self._program.nodes[number], self.element(number, index)
        one = node.type.dtype != "f32" or (node.op in OPS and OPS[node.op].one_nan)
        return value if one else f"gg_canonical({value})"

    def _whole(self, number: int, stored: str) -> str:
        """The number that an element in memory stands for."""
        less = self._layout.lessened.get(origin(self._program, number))
        if less is None:
            return stored
        return f"((int32_t){stored} + {less})" if less else f"((int32_t){stored})"

    def _kept(self, number: int, value: str) -> str:
        """What is put into memory for a number."""
        less = self._layout.lessened.get(number)
        if less is None:
            return value
        return f"(int8_t)({value} - {less})" if less else f"(int8_t){value}"

    def _kept_type(self, number: int) -> str:
        """The C type of a stored value's elements in memory."""
        return (
            "int8_t" if number in self._layout.lessened else C_TYPES[self._program.nodes[number].type.dtype]
        )

    def _scalar(self, number: int) -> str:
        """The local variable of a stored value without axes."""
        return f"{self._prefix}v{number}"

    def _place(self, _number: int, place: str) -> str:
        """Where the element at ``place`` of a value in memory lies."""
        return place

    def _computed(self, node: Node, index: list[str]) -> str:
        types = [self._program.nodes[i].type for i in node.inputs]
        operands = []
        for source, kind in zip(node.inputs, types, strict=True):
            own = index[len(index) - len(kind.shape) :] if kind.shape else []
            own = ["0" if extent == 1 else i for i, extent in zip(own, kind.shape, strict=True)]
            operands.append(self.element(source, own))
        element = OPS[node.op].element
        assert element is not None, node.op
        return element(types, node.attributes, operands)

    def _constant(self, node: Node, index: list[str]) -> str:
        value = np.asarray(node.attributes["value"])
        first = value.ravel()[0]
        if value.tobytes() == np.full(value.shape, first).tobytes():
            return literal(first, node.type.dtype)
        return f"{self.table(value)}[{flat_index(index, node.type.shape)}]"

    def memory(self, number: int) -> tuple[str, int] | None:
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
            return self.memory(source)
        if node.op == "pick":
            kind = C_TYPES[node.type.dtype]
            block = f"{self._prefix}b{node.inputs[0]}"
            return f"((const {kind} *)({block} + {node.attributes['offset']}))", 0
        if node.op == "slice":
            return self._contiguous(node)
        return None

    def _contiguous(self, node: Node) -> tuple[str, int] | None:
        below = self.memory(node.inputs[0])
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


def _stepped(index: str, start: int, step: int) -> str:
    scaled = index if step == 1 else f"{index} * {step}"
    if index == "0":
        return str(start)
    return f"({scaled} + {start})" if start else (scaled if step == 1 else f"({scaled})")
