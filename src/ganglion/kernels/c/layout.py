"""Where a program's values live in the C that computes it: in place, in a local variable, or in working memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.ir.check import check
from ganglion.kernels.ir.passes import rebuilt
from ganglion.kernels.ir.program import Node, Program
from ganglion.kernels.ops import OPS
from ganglion.kernels.ops.shape import Part

GIVEN = ("input", "state", "const")
VIEWS = ("slice", "reshape", "transpose", "broadcast", "pick")
ALIGNMENT_BYTES = 16
NESTED_MAX = 32
"""Operations and views in one expression: compilers nest 256 parentheses at most, and some operations take several."""
_SIZES = {"f32": 4, "i32": 4, "bool": 1}


def size_bytes(kind: TensorType) -> int:
    """Bytes of a value in memory; a truth value takes one."""
    return kind.elements * _SIZES[kind.dtype]


def aligned(size: int) -> int:
    """Bytes rounded up, so that what follows is aligned for vectors."""
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def state_dtype(program: Program) -> np.dtype[np.void]:
    """One key's state as a NumPy structure, laid out as the C struct is."""
    return np.dtype([(s.name, s.initial.dtype, s.initial.shape) for s in program.state], align=True)


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The extents that are not 1."""
    return tuple(e for e in shape if e != 1)


def rearranges(program: Program, node: Node) -> bool:
    """True for a reshape that does more than add or drop axes of extent 1."""
    return squeezed(program.nodes[node.inputs[0]].type.shape) != squeezed(node.type.shape)


def lies_in_memory(program: Program, node: Node) -> range | tuple[int, ...]:
    """The operands that a node reads by address: what a reshape rearranges, what a scan runs along or takes in."""
    if node.op == "scan":
        return range(node.attributes["carries"], len(node.inputs))
    if node.op == "network":
        return (0,)
    return (0,) if node.op == "reshape" and rearranges(program, node) else ()


def origin(program: Program, number: int) -> int:
    """The value that a view, or a view of views, looks at; the value itself when it is none."""
    while program.nodes[number].op in VIEWS:
        number = program.nodes[number].inputs[0]
    return number


def kept_as_bytes(program: Program) -> dict[int, int]:
    """Values that take a byte in memory, less what is named here so that it is one of int8.

    Not those that a scan reads by address: its program takes whole words.
    """
    nodes = program.nodes
    leasts = {
        n: least for n, node in enumerate(nodes) if (least := OPS[node.op].least(node.attributes)) is not None
    }
    for node in nodes:
        if node.op == "scan":
            for place in lies_in_memory(program, node):
                leasts.pop(origin(program, node.inputs[place]), None)
    return {number: least + 128 for number, least in leasts.items()}


def contiguous_offset(parts: Sequence[Part], shape: Sequence[int]) -> int | None:
    """Where a slice begins in its source, in elements; None when its elements do not lie side by side."""
    offset, stride, whole = 0, 1, True
    for (start, step, count), extent in zip(reversed(parts), reversed(shape), strict=True):
        taken = 1 if step is None else count
        if taken > 1 and (step != 1 or not whole):
            return None
        whole = whole and taken == extent
        offset += start * stride
        stride *= extent
    return offset


def is_flat(program: Program, number: int) -> bool:
    """True when the value can lie, or be found, in memory in C order without being copied."""
    node = program.nodes[number]
    if node.op in ("transpose", "broadcast"):
        return False
    if node.op == "pick":
        return True
    if node.op in ("reshape", "slice") and _is_variable(program.nodes[node.inputs[0]]):
        return False
    if node.op == "reshape":
        return is_flat(program, node.inputs[0])
    if node.op == "slice":
        shape = program.nodes[node.inputs[0]].type.shape
        return contiguous_offset(node.attributes["parts"], shape) is not None and is_flat(
            program, node.inputs[0]
        )
    return True


def _is_variable(node: Node) -> bool:
    """True for what is kept in a variable of the C, which has no memory to look at through a view."""
    return not node.type.shape and node.op not in (*GIVEN, *VIEWS)


def copy_scattered(program: Program) -> Program:
    """What needs an operand in memory, and is given a view whose elements lie apart, gets a copy to work on.

    So does a network that is given anything but bytes of its own range: its copy is of bytes, and within the range.
    And so does the last of `NESTED_MAX` views of views.
    """
    nodes: list[Node] = []
    deep: dict[int, int] = {}
    beyond: set[int] = set()
    """The copies of deep views, and views of those: what they show no longer lies in the memory of their origin."""
    lessened = kept_as_bytes(program)

    def as_bytes(node: Node) -> bool:
        source, least = origin(program, node.inputs[0]), OPS[node.op].least(node.attributes)
        found = lessened.get(source)
        alone = source == node.inputs[0] or program.nodes[source].type.shape
        return least is not None and found == least + 128 and bool(alone) and is_flat(program, node.inputs[0])

    def make(_number: int, node: Node, operands: list[int]) -> int:
        for place in lies_in_memory(program, node):
            if node.op == "network":
                if operands[0] in beyond or not as_bytes(node):
                    source = nodes[operands[0]]
                    least = {"least": OPS[node.op].least(node.attributes)}
                    nodes.append(Node("saturate", (operands[0],), source.type, least, node.source))
                    operands[0] = len(nodes) - 1
            elif not is_flat(program, node.inputs[place]):
                source = nodes[operands[place]]
                nodes.append(Node("copy", (operands[place],), source.type, {}, node.source))
                operands[place] = len(nodes) - 1
        nodes.append(Node(node.op, tuple(operands), node.type, node.attributes, node.source))
        if node.op in VIEWS:
            last = len(nodes) - 1
            deep[last] = deep.get(operands[0], 0) + 1
            if deep[last] == NESTED_MAX:
                nodes.append(Node("copy", (last,), node.type, {}, node.source))
            if deep[last] == NESTED_MAX or operands[0] in beyond:
                beyond.add(len(nodes) - 1)
        return len(nodes) - 1

    return check(rebuilt(program, make, nodes))


@dataclass(slots=True)
class Layout:
    """``stored``: nodes that get memory or a local, in order; the others are computed or found where they are read.

    ``offsets``: place of each stored array in working memory; ``workspace_bytes``: how much of that there is;
    ``lessened``: see `kept_as_bytes`.
    """

    stored: list[int] = field(default_factory=list)
    offsets: dict[int, int] = field(default_factory=dict)
    scratch: dict[int, int] = field(default_factory=dict)
    workspace_bytes: int = 0
    lessened: dict[int, int] = field(default_factory=dict)


class Planner:
    """Decides what is stored, and packs the working memory by the values' lifetimes.

    ``apart``: values computed once for a group of rows, and kept to the end when what runs for each row reads them.
    """

    def __init__(
        self,
        program: Program,
        scratch_bytes: dict[int, int] | None = None,
        apart: frozenset[int] = frozenset(),
    ) -> None:
        self.program = program
        self._scratch_bytes = scratch_bytes or {}
        self._apart = apart
        self.uses: dict[int, list[tuple[int, int]]] = {n: [] for n in range(len(program.nodes))}
        for number, node in enumerate(program.nodes):
            for operand, source in enumerate(node.inputs):
                self.uses[source].append((number, operand))
        self._leaving: dict[int, int] = {}
        for number in program.results:
            self._leaving[number] = self._leaving.get(number, 0) + 1
        self._needs_flat = self._flat_sources()

    def plan(self) -> Layout:
        """The layout."""
        layout = Layout(lessened=kept_as_bytes(self.program))
        layout.stored = self._stored_nodes()
        self._pack(layout)
        return layout

    def _stored_nodes(self) -> list[int]:
        """What is stored, in order: also where an expression would be nested deeper than compilers read."""
        stored: list[int] = []
        nested: dict[int, int] = {}
        for number, node in enumerate(self.program.nodes):
            depth = 1 + max((nested.get(i, 0) for i in node.inputs), default=0)
            if self._is_stored(number) or (depth > NESTED_MAX and node.op not in (*GIVEN, *VIEWS)):
                stored.append(number)
            elif node.op not in GIVEN:
                nested[number] = depth
        return stored

    def _is_stored(self, number: int) -> bool:
        node = self.program.nodes[number]
        if node.op in GIVEN or node.op in VIEWS:
            return False
        if OPS[node.op].write is not None or not node.type.shape or node.op == "copy":
            return True
        return number in self._needs_flat or not self._read_once(number)

    def _flat_sources(self) -> set[int]:
        """Values that are read by address, so they must lie in memory as they are."""
        wanted: set[int] = set()
        for node in self.program.nodes:
            for place in lies_in_memory(self.program, node):
                wanted.add(origin(self.program, node.inputs[place]))
        return wanted

    def _read_once(self, number: int) -> bool:
        """True when each element is read at most once, so that it can be computed where it is read."""
        uses, leaving = self.uses[number], self._leaving.get(number, 0)
        if len(uses) + leaving != 1:
            return False
        if leaving:
            return True
        reader, operand = uses[0]
        node = self.program.nodes[reader]
        if node.op in ("slice", "transpose", "reshape"):
            return self._read_once(reader)
        if node.op == "broadcast":
            return False
        if node.op == "matmul":
            rows, columns = node.type.shape
            return columns == 1 if operand == 0 else rows == 1
        if node.op in ("banded", "scan"):
            return False
        if OPS[node.op].write is not None:
            return True
        # Its reader is stored, or computed where its own reader is: either way once.
        return node.type.elements == self.program.nodes[number].type.elements

    def _last_reader(self, number: int, memo: dict[int, int]) -> int:
        """Position of the last stored node (or the end) that reads the value, through what is not stored."""
        if number not in memo:
            last = len(self.program.nodes) if self._leaving.get(number) else -1
            for reader, _ in self.uses[number]:
                if number in self._apart and reader not in self._apart:
                    last = len(self.program.nodes)
                last = max(last, reader if reader in self._stored else self._last_reader(reader, memo))
            memo[number] = last
        return memo[number]

    def _pack(self, layout: Layout) -> None:
        self._stored = set(layout.stored)
        memo: dict[int, int] = {}
        live: list[tuple[int, int, int]] = []  # (offset, end, last reader)
        for number in layout.stored:
            live = [block for block in live if block[2] >= number]
            kind = self.program.nodes[number].type
            if kind.shape:
                last = max(number, self._last_reader(number, memo))
                size = kind.elements if number in layout.lessened else size_bytes(kind)
                layout.offsets[number] = self._place(layout, live, size, last)
            if number in self._scratch_bytes:
                layout.scratch[number] = self._place(layout, live, self._scratch_bytes[number], number)

    def _place(self, layout: Layout, live: list[tuple[int, int, int]], size: int, last: int) -> int:
        """First fit."""
        size = aligned(size)
        at = 0
        for start, end, _ in sorted(live):
            if at + size <= start:
                break
            at = max(at, end)
        live.append((at, at + size, last))
        layout.workspace_bytes = max(layout.workspace_bytes, at + size)
        return at
