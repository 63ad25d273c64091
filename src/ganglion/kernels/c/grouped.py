"""Rows in groups: what does not hang on state is computed for ``GG_WIDE`` rows side by side, the rest in turn.

The values of a group lie as (element, row), so every operation fills vectors with rows, whatever its own shape, and
each row's operations keep their order: the bits are those of one row after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ganglion.kernels.c.emission import Emitter, Group, plan_of
from ganglion.kernels.c.layout import GIVEN, VIEWS, aligned, lies_in_memory, size_bytes
from ganglion.kernels.c.reading import Text, flat_index
from ganglion.kernels.ir.program import Node, Program, State
from ganglion.kernels.ops import OPS
from ganglion.kernels.ops.reduction import C_TYPES

WORTH_ELEMENTS = 8
"""Rows are grouped for an operation with an operand or a result of at least so many elements."""


def apart_from_state(program: Program) -> frozenset[int]:
    """The nodes that can be computed for several rows side by side; empty when it is not worth it."""
    found: set[int] = set()
    for number, node in enumerate(program.nodes):
        able = node.op != "state" and (
            node.op in GIVEN or node.op in VIEWS or OPS[node.op].write is None or OPS[node.op].grouped
        )
        if able and node.op != "pick" and all(i in found for i in node.inputs):
            found.add(number)
    # An operation on one row reads some of its operands as contiguous memory, through views too.
    for number, node in reversed(list(enumerate(program.nodes))):
        if number not in found and node.op not in GIVEN:
            whole = node.inputs if OPS[node.op].write is not None and not OPS[node.op].grouped else ()
            for source in (*(node.inputs[p] for p in lies_in_memory(program, node)), *whole):
                _exclude(program, source, found)
    worth = any(
        program.nodes[n].op not in (*GIVEN, *VIEWS)
        and max(program.nodes[i].type.elements for i in (n, *program.nodes[n].inputs)) >= WORTH_ELEMENTS
        for n in found
    )
    return frozenset(found) if worth else frozenset()


def _exclude(program: Program, number: int, found: set[int]) -> None:
    """A value that is wanted for one row, and whatever reads it beside."""
    if program.nodes[number].op in GIVEN or number not in found:
        return
    found.discard(number)
    for reader, node in enumerate(program.nodes):
        if number in node.inputs:
            _exclude(program, reader, found)
    if program.nodes[number].op in VIEWS:
        _exclude(program, program.nodes[number].inputs[0], found)


def sorted_apart(program: Program, apart: frozenset[int]) -> tuple[Program, frozenset[int]]:
    """The same program with those nodes first, so that memory is planned in the order they are computed in."""
    order = sorted(range(len(program.nodes)), key=lambda n: n not in apart)
    new = {old: place for place, old in enumerate(order)}
    nodes = tuple(
        Node(n.op, tuple(new[i] for i in n.inputs), n.type, n.attributes, n.source)
        for n in (program.nodes[old] for old in order)
    )
    moved = Program(
        program.name,
        nodes,
        tuple((name, new[n]) for name, n in program.inputs),
        tuple((name, new[n]) for name, n in program.outputs),
        None if program.emit is None else new[program.emit],
        tuple(State(s.name, new[s.node], s.initial, new[s.after]) for s in program.state),
    )
    return moved, frozenset(new[n] for n in apart)


def group_of(program: Program, symbol: str, text: Text) -> Group | None:
    """The function for a group of rows; None when rows one after the other are as good."""
    apart = apart_from_state(program)
    if not apart:
        return None
    emitter = GroupEmitter(*sorted_apart(program, apart), symbol, text)
    return Group("\n".join(emitter.group()), emitter.workspace_bytes)


class GroupEmitter(Emitter):
    """Writes a program for a group of rows. Its workspace is ``workspace_bytes`` times ``GG_WIDE``."""

    def __init__(self, program: Program, apart: frozenset[int], symbol: str, text: Text) -> None:
        layout = plan_of(program, apart)
        super().__init__(program, symbol, layout, [f"x{k}" for k in range(len(program.inputs))], text)
        self._apart = apart
        self._side_by_side = True
        self._rest = [n for n in layout.stored if n not in apart]
        read = {i for n in apart for i in program.nodes[n].inputs} | {n for _, n in program.outputs if n in apart}
        self._turned = [(k, n) for k, (_, n) in enumerate(program.inputs) if n in read]
        self._places: dict[int, int] = {}
        self.workspace_bytes = layout.workspace_bytes
        for k, number in self._turned:
            self._places[k] = self._more(size_bytes(program.nodes[number].type))
        kinds = [program.nodes[n].type for _, n in program.outputs if n in apart]
        self._draft = self._more(max((size_bytes(k) for k in kinds if k.elements > 1), default=0))

    def _more(self, size: int) -> int:
        at = self.workspace_bytes
        self.workspace_bytes += aligned(size)
        return at

    @property
    def rows(self) -> str:
        return "GG_ROWS(q) " if self._side_by_side else ""

    def local(self, dtype: str, elements: int = 1) -> Callable[[str], str]:
        if not self._side_by_side:
            return super().local(dtype, elements)
        name = self.name()
        self.line(f"{C_TYPES[dtype]} {name}[{elements} * GG_WIDE];")
        return lambda index: f"{name}[q]" if elements == 1 else f"{name}[({index}) * GG_WIDE + q]"

    def room(self, dtype: str, elements: int) -> Callable[[str], str]:
        if not self._side_by_side:
            return super().room(dtype, elements)
        pointer, name = self.scratch(dtype, elements), self.name()
        self.line(f"{C_TYPES[dtype]} *restrict const {name} = {pointer};")
        return lambda index: f"{name}[({index}) * GG_WIDE + q]"

    def _offset_of(self, at: int) -> str:
        return f"{at} * GG_WIDE"

    def _scalar(self, number: int) -> str:
        name = super()._scalar(number)
        return f"{name}[q]" if number in self._apart else name

    def _place(self, number: int, place: str) -> str:
        node = self._program.nodes[number]
        while node.op in VIEWS and number not in self._stored:
            number = node.inputs[0]
            node = self._program.nodes[number]
        given = node.op == "input" and self._side_by_side
        stored = number in self._apart and number in self._stored
        return f"({place}) * GG_WIDE + q" if given or stored else place

    def memory(self, number: int) -> tuple[str, int] | None:
        found = super().memory(number)
        if found is not None and self._side_by_side and self._program.nodes[number].op == "input":
            return f"w{self._inputs[number][1:]}", found[1]
        return found

    def result(self, index: Sequence[str]) -> str:
        kind = self._program.nodes[self._current].type
        if not kind.shape:
            return self._scalar(self._current)
        place = flat_index(index, kind.shape)
        return f"r[({place}) * GG_WIDE + q]" if self._side_by_side else f"r[{place}]"

    def _declare(self, number: int, kind: str, value: str = "") -> None:
        if not self._side_by_side:
            super()._declare(number, kind, value)
            return
        self.line(f"{kind} {self._prefix}v{number}[GG_WIDE];")
        if value:
            self.line(f"{self.rows}{self._scalar(number)} = {value};")

    def group(self) -> list[str]:
        """The statements for a group: the rows together, then each in turn."""
        nodes = self._program.nodes
        for k, number in self._turned:
            kind, size = nodes[number].type, "byte" if nodes[number].type.dtype == "bool" else "word"
            c_type = C_TYPES[kind.dtype]
            self.line(f"{c_type} *restrict const w{k} = ({c_type} *)(work + {self._places[k]} * GG_WIDE);")
            self.line(f"gg_{size}s_together(in[{k}], w{k}, {kind.elements});")
        for number, offset in self._layout.offsets.items():
            kind_c = C_TYPES[nodes[number].type.dtype]
            self.line(
                f"{kind_c} *const {self._prefix}b{number} = ({kind_c} *)(work + {self._offset_of(offset)});"
            )
        for number in self._layout.stored:
            if number in self._apart:
                self._store(number)
        for k, (_, number) in enumerate(self._program.outputs):
            if number in self._apart:
                self._give(k, number)
        self._side_by_side = False
        self._in_turn()
        return self._text.lines

    def _give(self, k: int, number: int) -> None:
        """An output of all rows, from (element, row) to (row, element)."""
        kind = self._program.nodes[number].type
        c_type = C_TYPES[kind.dtype]
        whole = kind.elements == 1
        self.line("{")
        self._text.depth += 1
        target = f"out[{k}]" if whole else f"(work + {self._draft} * GG_WIDE)"
        self.line(f"{c_type} *restrict const r = ({c_type} *){target};")
        index = self.loop(kind.shape)
        value = self.element(number, index)
        stored = f"gg_canonical({value})" if kind.dtype == "f32" else value
        self.line(f"{self.rows}r[({flat_index(index, kind.shape)}) * GG_WIDE + q] = {stored};")
        self.end(len(kind.shape) or 1)
        if not whole:
            size = "byte" if kind.dtype == "bool" else "word"
            self.line(f"gg_{size}s_apart(r, out[{k}], {kind.elements});")
        self.end()

    def _in_turn(self) -> None:
        program = self._program
        left = [(k, n) for k, (_, n) in enumerate(program.outputs) if n not in self._apart]
        if not self._rest and not left and not program.state and program.emit is None:
            self.line("GG_ROWS(q) emit[q] = 1;")
            return
        self.line("for (int q = 0; q < GG_WIDE; q++) {")
        self._text.depth += 1
        for k, (_, number) in enumerate(program.inputs):
            kind = program.nodes[number].type
            c_type = C_TYPES[kind.dtype]
            self.line(f"const {c_type} *const x{k} = (const {c_type} *)in[{k}] + q * {kind.elements};")
            self.line(f"(void)x{k};")
        size = self._state_dtype.itemsize
        self.line(f"uint8_t *const state = (uint8_t *)table + (size_t)(key ? key[q] : 0) * {size}u;")
        self.line("uint8_t *const next = state;")
        self.line("(void)next;")
        for entry in program.state:
            kind_c = C_TYPES[program.nodes[entry.node].type.dtype]
            offset = self._offset(entry.name)
            self.line(f"const {kind_c} *const s_{entry.name} = (const {kind_c} *)(state + {offset});")
        for number in self._rest:
            self._store(number)
        for k, number in left:
            kind = program.nodes[number].type
            self._copy(number, f"({C_TYPES[kind.dtype]} *)out[{k}] + q * {kind.elements}")
        self._leave_state("emit[q]")
        self.end()
