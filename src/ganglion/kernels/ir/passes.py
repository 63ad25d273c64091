"""Passes that shorten a program and change no bit of what it computes."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from ganglion.kernels.ir.check import check
from ganglion.kernels.ir.interpret import evaluate
from ganglion.kernels.ir.program import Node, Program, State, node_json

FOLDED_ELEMENTS_MAX = 65_536


def simplify(program: Program) -> Program:
    """Constants folded, equal nodes merged, dead nodes removed; checked after every pass."""
    for step in (fold_constants, merge_equal, remove_dead):
        program = check(step(program))
    return program


def rebuilt(program: Program, make: Callable[[int, Node, list[int]], int], nodes: list[Node]) -> Program:
    """Runs ``make(old number, node, new operands)`` over the nodes; it appends to ``nodes`` or names an equal one."""
    new: list[int] = []
    for number, node in enumerate(program.nodes):
        new.append(make(number, node, [new[i] for i in node.inputs]))
    return Program(
        program.name,
        tuple(nodes),
        tuple((name, new[n]) for name, n in program.inputs),
        tuple((name, new[n]) for name, n in program.outputs),
        None if program.emit is None else new[program.emit],
        tuple(State(s.name, new[s.node], s.initial, new[s.after]) for s in program.state),
    )


def fold_constants(program: Program) -> Program:
    """Nodes whose operands are all constant become constants, computed by the reference."""
    nodes: list[Node] = []

    def make(_number: int, node: Node, operands: list[int]) -> int:
        known = [nodes[i] for i in operands]
        if operands and all(k.op == "const" for k in known) and node.type.elements <= FOLDED_ELEMENTS_MAX:
            arrays = [np.asarray(k.attributes["value"])[np.newaxis] for k in known]
            value = np.array(evaluate(node, arrays)[0], node.type.numpy, order="C")
            nodes.append(Node("const", (), node.type, {"value": value}, node.source))
        else:
            nodes.append(Node(node.op, tuple(operands), node.type, node.attributes, node.source))
        return len(nodes) - 1

    return rebuilt(program, make, nodes)


def merge_equal(program: Program) -> Program:
    """Nodes with the same operation, operands and attributes are computed once."""
    nodes: list[Node] = []
    known: dict[str, int] = {}

    def make(_number: int, node: Node, operands: list[int]) -> int:
        moved = Node(node.op, tuple(operands), node.type, node.attributes, node.source)
        key = json.dumps(node_json(moved, sources=False), sort_keys=True)
        if node.op in ("input", "state"):
            key += str(len(nodes))
        if key not in known:
            nodes.append(moved)
            known[key] = len(nodes) - 1
        return known[key]

    return rebuilt(program, make, nodes)


def remove_dead(program: Program) -> Program:
    """Nodes that no result needs go; inputs and state stay, as they are part of the form."""
    needed = set(program.results)
    for number in range(len(program.nodes) - 1, -1, -1):
        if number in needed:
            needed.update(program.nodes[number].inputs)
    nodes: list[Node] = []

    def make(number: int, node: Node, operands: list[int]) -> int:
        if number not in needed and node.op not in ("input", "state"):
            return -1
        nodes.append(Node(node.op, tuple(operands), node.type, node.attributes, node.source))
        return len(nodes) - 1

    return rebuilt(program, make, nodes)


def isolate_state(program: Program) -> Program:
    """Next state that is computed from state gets a ``copy`` of its own: it is written when all is read.

    The C keeps a ``copy`` in working memory, so a table of states can be updated in place.
    """
    nodes = list(program.nodes)
    touching = [node.op == "state" for node in nodes]
    for number, node in enumerate(nodes):
        touching[number] = touching[number] or any(touching[i] for i in node.inputs)
    state = []
    for field in program.state:
        after = field.after
        if after != field.node and touching[after]:
            nodes.append(Node("copy", (after,), nodes[after].type, {}, nodes[after].source))
            after = len(nodes) - 1
        state.append(State(field.name, field.node, field.initial, after))
    return check(
        Program(program.name, tuple(nodes), program.inputs, program.outputs, program.emit, tuple(state))
    )
