"""What one call of a kernel costs, counted from its program, not timed: the same number on every machine."""

from __future__ import annotations

from dataclasses import dataclass

from ganglion.kernels.ir.program import Program
from ganglion.kernels.ops import OPS


@dataclass(frozen=True, slots=True)
class Cost:
    """Per frame: ``calls`` of a compiled function, and ``operations``: additions and what costs as much.

    A topology's node classes say how long each takes.
    """

    calls: int = 0
    operations: int = 0


def cost_of(program: Program) -> Cost:
    """Every operation of the program, weighted by its kind, and each element that is read or stored."""
    stored = [program.nodes[n].type.elements for n in program.results]
    read = [program.nodes[n].type.elements for _, n in program.inputs]
    return Cost(1, operations(program) + sum(stored) + sum(read))


def operations(program: Program) -> int:
    """The operations of all nodes, weighted by their kind."""
    total = 0
    for node in program.nodes:
        types = [program.nodes[i].type for i in node.inputs]
        total += OPS[node.op].cost(types, node.attributes, node.type)
    return total
