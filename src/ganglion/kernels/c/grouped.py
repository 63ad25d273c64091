"""Rows in groups: what does not hang on state is computed for ``GG_WIDE`` rows side by side, the rest in turn.

The values of a group lie as (element, row), so every operation fills vectors with rows, whatever its own shape, and
each row's operations keep their order: the bits are those of one row after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ganglion.kernels.c.emission import Emitter, Group, plan_of
from ganglion.kernels.c.flat import flat_of
from ganglion.kernels.c.layout import GIVEN, VIEWS, Layout, aligned, lies_in_memory, size_bytes
from ganglion.kernels.c.reading import Text
from ganglion.kernels.cost import operations
from ganglion.kernels.ir.program import Node, Program, State
from ganglion.kernels.ops import OPS
from ganglion.kernels.ops.op import flat_index
from ganglion.kernels.ops.reduction import C_TYPES

WORTH_ELEMENTS = 4
"""Rows are grouped for an operation with an operand or a result of at least so many elements."""


ROWS, FEWER_ROWS = 16, 8
"""Rows in a group: two vectors of AVX2 or one of AVX-512; fewer where their memory would leave the nearest cache."""
OPERATIONS_FOR_EACH_MOVED = 2
"""Rows with state are grouped when they do so many operations for each element that is moved."""
NEAR_BYTES = 32_768


def moved(program: Program) -> int:
    """Elements of inputs, outputs and, both ways, of state: what is brought together and taken apart for a group."""
    leaving = [*program.inputs, *program.outputs, *((s.name, s.node) for s in program.state)]
    leaving += [(s.name, s.after) for s in program.state]
    return sum(program.nodes[number].type.elements for _, number in leaving)


def apart_from_state(program: Program, *, stateful: bool = False) -> frozenset[int]:
    """The nodes that can be computed for several rows side by side; empty when it is not worth it.

    ``stateful``: of rows that have each a state of its own, so that those that hang on state can be, too.
    """
    found: set[int] = set()
    for number, node in enumerate(program.nodes):
        able = (stateful or node.op != "state") and _able(node)
        if able and all(i in found for i in node.inputs):
            found.add(number)
    # An operation on one row reads some of its operands as contiguous memory, through views too.
    for number, node in reversed(list(enumerate(program.nodes))):
        if number not in found and node.op not in GIVEN:
            whole = () if _able(node) else node.inputs
            for source in (*(node.inputs[p] for p in lies_in_memory(program, node)), *whole):
                _exclude(program, source, found)
    worth = stateful or any(
        program.nodes[n].op not in (*GIVEN, *VIEWS)
        and max(program.nodes[i].type.elements for i in (n, *program.nodes[n].inputs)) >= WORTH_ELEMENTS
        for n in found
    )
    return frozenset(found) if worth else frozenset()


def _able(node: Node) -> bool:
    """True when the operation can be written for rows side by side."""
    if node.op == "scan":
        return all(map(_able, node.attributes["body"].nodes))
    op = OPS[node.op]
    return node.op in GIVEN or node.op in VIEWS or op.write is None or op.grouped


def _exclude(program: Program, number: int, found: set[int]) -> None:
    """A value that is wanted for one row, and whatever reads it beside."""
    left = [number]
    while left:
        one = left.pop()
        node = program.nodes[one]
        if node.op in GIVEN or one not in found:
            continue
        found.discard(one)
        left += [reader for reader, other in enumerate(program.nodes) if one in other.inputs]
        if node.op in VIEWS:
            left.append(node.inputs[0])


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


_FUNCTION = """\
static void {name}(const void *const *restrict in, const int32_t *key, void *table,
                   void *const *restrict out, uint8_t *restrict emit, uint8_t *restrict work) {{
  (void)in; (void)key; (void)table; (void)work;
{body}
}}

"""
_ARGUMENTS = "(in_b, key ? key + b : key, table, out_b, emit + b, (uint8_t *)work);"


def group_of(program: Program, symbol: str, text: Text) -> Group | None:
    """The functions for a group of rows; None when rows one after the other are as good."""
    flat = flat_of(program, symbol, text)
    if flat is not None:
        return flat
    whole = frozenset(range(len(program.nodes)))
    able = apart_from_state(program, stateful=True) == whole
    worth = operations(program) >= OPERATIONS_FOR_EACH_MOVED * moved(program)
    apart = whole if able and not program.state else apart_from_state(program)
    functions, row_bytes = "", 0
    calls = {"distinct": "", "turn": f"{symbol}_turn(b, b + GG_WIDE, in, key, table, out, emit, work);"}
    for case, chosen in (
        ("turn", apart),
        ("distinct", whole if able and program.state and worth else frozenset()),
    ):
        if chosen:
            emitter = GroupEmitter(*sorted_apart(program, chosen), symbol, text)
            name = f"{symbol}_{case}_group"
            functions += _FUNCTION.format(name=name, body="\n".join(emitter.group()))
            calls[case] = name + _ARGUMENTS
            row_bytes = max(row_bytes, emitter.workspace_bytes)
            text = text.beside()
    if not functions:
        return None
    call = calls["turn"]
    if calls["distinct"]:
        call = f"if (key && gg_distinct(key + b)) {calls['distinct']}\n    else {call}"
    return Group(functions, call, row_bytes, ROWS if row_bytes * ROWS <= NEAR_BYTES else FEWER_ROWS)


class SideBySide(Emitter):
    """Writes what is computed for all rows of a group: each value lies as (element, row)."""

    _apart: frozenset[int]
    _shared: frozenset[int] = frozenset()
    _side_by_side = True
    _base_group = False

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
        return f"({place}) * GG_WIDE + q" if self._lies_apart(number) else place

    def _lies_apart(self, number: int) -> bool:
        """True for a value in memory, or a view of one, whose elements lie apart for each row."""
        node = self._program.nodes[number]
        while node.op in VIEWS and number not in self._stored:
            number = node.inputs[0]
            node = self._program.nodes[number]
        if node.op in ("input", "state"):
            return self._side_by_side and number not in self._shared
        return number in self._apart and number in self._stored

    def memory(self, number: int) -> tuple[str, int] | None:
        node = self._program.nodes[number]
        if node.op == "input" and self._side_by_side and self._base_group:
            return f"w{self._inputs[number][1:]}", 0
        if node.op == "pick" and self._lies_apart(number):
            block = f"{self._prefix}b{node.inputs[0]}"
            return (
                f"((const {C_TYPES[node.type.dtype]} *)({block} + {node.attributes['offset']} * GG_WIDE))",
                0,
            )
        return super().memory(number)

    def place(self, index: str) -> str:
        return f"({index}) * GG_WIDE + q" if self._side_by_side else index

    def span(self, elements: str) -> str:
        return f"({elements}) * GG_WIDE" if self._side_by_side else elements

    def pointer(self, operand: int) -> str:
        number = self._program.nodes[self._current].inputs[operand]
        node = self._program.nodes[number]
        if not self._side_by_side or node.op == "const":
            return super().pointer(operand)
        if number in self._stored and not node.type.shape:
            return f"{self._prefix}v{number}"
        flat = self.memory(number)
        assert flat is not None
        return f"({flat[0]} + {flat[1]}{' * GG_WIDE' if self._lies_apart(number) else ''})"

    def _inner(
        self, whole: Program, layout: Layout, inputs: Sequence[str], shared: Sequence[bool], base: int
    ) -> Emitter:
        if not self._side_by_side:
            return super()._inner(whole, layout, inputs, shared, base)
        return _BodyEmitter(self, whole, layout, inputs, shared, base)

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


class _BodyEmitter(SideBySide):
    """A scan's program, for rows side by side."""

    def __init__(
        self, outer: SideBySide, whole: Program, layout: Layout, inputs: Sequence[str], shared: Sequence[bool],
        base: int,
    ) -> None:  # fmt: skip
        super().__init__(whole, outer._symbol, layout, inputs, outer._text, base)
        self._apart = frozenset(range(len(whole.nodes)))
        self._shared = frozenset(n for (_, n), same in zip(whole.inputs, shared, strict=True) if same)


class GroupEmitter(SideBySide):
    """Writes a program for a group of rows. Its workspace is ``workspace_bytes`` times ``GG_WIDE``."""

    _base_group = True

    def __init__(self, program: Program, apart: frozenset[int], symbol: str, text: Text) -> None:
        layout = plan_of(program, apart)
        super().__init__(program, symbol, layout, [f"x{k}" for k in range(len(program.inputs))], text)
        self._apart = apart
        self._rest = [n for n in layout.stored if n not in apart]
        self._held = [s for s in program.state if s.node in apart]
        wanted = {n for _, n in program.outputs} | {s.after for s in self._held} | {program.emit}
        read = {i for n in apart for i in program.nodes[n].inputs} | (wanted & apart)
        self._turned = [(k, n) for k, (_, n) in enumerate(program.inputs) if n in read]
        self._places: dict[int, int] = {}
        self.workspace_bytes = layout.workspace_bytes
        for k, number in self._turned:
            self._places[k] = self._more(size_bytes(program.nodes[number].type))
        self._state_places = {s.name: self._more(size_bytes(program.nodes[s.node].type)) for s in self._held}
        leaving = [n for _, n in program.outputs if n in apart] + [s.after for s in self._held]
        kinds = [program.nodes[n].type for n in leaving]
        self._draft = self._more(max((size_bytes(k) for k in kinds), default=0))

    def _more(self, size: int) -> int:
        at = self.workspace_bytes
        self.workspace_bytes += aligned(size)
        return at

    def group(self) -> list[str]:
        """The statements for a group: the rows together, then each in turn."""
        nodes = self._program.nodes
        for k, number in self._turned:
            kind, size = nodes[number].type, "byte" if nodes[number].type.dtype == "bool" else "word"
            c_type = C_TYPES[kind.dtype]
            self.line(f"{c_type} *restrict const w{k} = ({c_type} *)(work + {self._places[k]} * GG_WIDE);")
            self.line(f"gg_{size}s_together(in[{k}], {kind.size_bytes}, NULL, w{k}, {kind.elements});")
        for entry in self._held:
            self._take_in(entry)
        for number, offset in self._layout.offsets.items():
            kind_c = self._kept_type(number)
            self.line(
                f"{kind_c} *const {self._prefix}b{number} = ({kind_c} *)(work + {self._offset_of(offset)});"
            )
        for number in self._layout.stored:
            if number in self._apart:
                self._store(number)
        for k, (_, number) in enumerate(self._program.outputs):
            if number in self._apart:
                self._give(number, f"out[{k}]", nodes[number].type.size_bytes, "NULL")
        if self._held or not (self._rest or self._program.state):
            emit = self._program.emit
            self.line(f"{self.rows}emit[q] = {'1' if emit is None else self.element(emit, [])};")
            for entry in self._held:
                if entry.after != entry.node:
                    self._give(entry.after, self._field(entry), self._state_dtype.itemsize, "key")
            return self._text.lines
        self._side_by_side = False
        self._in_turn()
        return self._text.lines

    def _field(self, entry: State) -> str:
        return f"((uint8_t *)table + {self._offset(entry.name)})"

    def _take_in(self, entry: State) -> None:
        kind = self._program.nodes[entry.node].type
        c_type, size = C_TYPES[kind.dtype], "byte" if kind.dtype == "bool" else "word"
        place = self._state_places[entry.name]
        self.line(f"{c_type} *restrict const s_{entry.name} = ({c_type} *)(work + {place} * GG_WIDE);")
        arguments = (
            f"{self._field(entry)}, {self._state_dtype.itemsize}, key, s_{entry.name}, {kind.elements}"
        )
        self.line(f"gg_{size}s_together({arguments});")

    def _give(self, number: int, target: str, step_bytes: int, key: str) -> None:
        """An output or state of all rows, from (element, row) to (row, element)."""
        kind = self._program.nodes[number].type
        c_type = C_TYPES[kind.dtype]
        whole = kind.elements == 1 and key == "NULL"
        self.line("{")
        self._text.depth += 1
        place = target if whole else f"(work + {self._draft} * GG_WIDE)"
        self.line(f"{c_type} *restrict const r = ({c_type} *){place};")
        index = self.loop(kind.shape)
        self.line(
            f"{self.rows}r[({flat_index(index, kind.shape)}) * GG_WIDE + q] = {self.stored(number, index)};"
        )
        self.end(len(kind.shape) or 1)
        if not whole:
            size = "byte" if kind.dtype == "bool" else "word"
            self.line(f"gg_{size}s_apart(r, {target}, {step_bytes}, {key}, {kind.elements});")
        self.end()

    def _in_turn(self) -> None:
        program = self._program
        left = [(k, n) for k, (_, n) in enumerate(program.outputs) if n not in self._apart]
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
