"""What one call of a kernel costs, counted from its program, not timed: the same number on every machine."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ganglion.kernels.ir.program import Program
from ganglion.kernels.networks.layers import Network
from ganglion.kernels.networks.memory import plan
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


def constant_bytes(program: Program) -> int:
    """Bytes of a program's constants, as they lie in flash: tables, and the weights of its networks."""
    arrays = [a for node in program.nodes for value in node.attributes.values() for a in _arrays(value)]
    return sum(a.nbytes for a in arrays if a.size > 1)  # single numbers are in the code


def _arrays(value: object) -> list[np.ndarray]:
    if isinstance(value, np.ndarray):
        return [value]
    if not isinstance(value, Network):
        return []
    parts = [getattr(layer, f.name) for layer in value.layers for f in fields(layer)]
    return [a for a in parts if isinstance(a, np.ndarray)]


def network_memory_bytes(program: Program) -> int:
    """Working memory of the program's networks, which run one after the other in the same stretch."""
    networks = [v for node in program.nodes for v in node.attributes.values() if isinstance(v, Network)]
    return max((plan(network).workspace_bytes for network in networks), default=0)


def operations(program: Program) -> int:
    """The operations of all nodes, weighted by their kind."""
    total = 0
    for node in program.nodes:
        types = [program.nodes[i].type for i in node.inputs]
        total += OPS[node.op].cost(types, node.attributes, node.type)
    return total
