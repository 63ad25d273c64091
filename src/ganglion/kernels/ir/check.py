"""What must hold of a program after tracing and after every pass. A violation is a bug, or a damaged file."""

from __future__ import annotations

import numpy as np

from ganglion.core.errors import DataError, FlowError
from ganglion.core.schema import TensorType
from ganglion.kernels.ir.program import Node, Program
from ganglion.kernels.ops import OPS
from ganglion.kernels.ops.op import COMPUTED

NODES_MAX = 20_000


def check(program: Program) -> Program:
    """Returns the program; raises `DataError` ``kernel.program`` naming the first node that breaks a rule."""
    nodes = program.nodes
    if len(nodes) > NODES_MAX:
        raise _wrong(program, f"{len(nodes)} nodes", f"at most {NODES_MAX}")
    for number, node in enumerate(nodes):
        _check_node(program, number, node)
    for number in (*program.results, *(n for _, n in program.inputs), *(s.node for s in program.state)):
        if not 0 <= number < len(nodes):
            raise _wrong(program, f"node {number} is named", f"there are {len(nodes)}")
    _check_ends(program)
    return program


def _check_node(program: Program, number: int, node: Node) -> None:
    where = f"node {number} ({node.op}, {node.source or 'no source'})"
    if node.op not in OPS:
        raise _wrong(program, where, "there is no such operation")
    if any(not 0 <= i < number for i in node.inputs):
        raise _wrong(program, where, f"its operands {list(node.inputs)} do not all come before it")
    if node.type.dtype not in COMPUTED:
        raise _wrong(program, where, f"it is {node.type}, kernels compute in {', '.join(COMPUTED)}")
    operands = [program.nodes[i].type for i in node.inputs]
    try:
        inferred = OPS[node.op].infer(operands, node.attributes)
    except (ValueError, KeyError, TypeError, IndexError, FlowError) as error:
        raise _wrong(program, where, f"its operands are wrong: {error}") from error
    if node.op == "scan":
        check(node.attributes["body"])
    if inferred != node.type:
        raise _wrong(program, where, f"it says {node.type}, its operands give {inferred}")


def _check_ends(program: Program) -> None:
    given = [("input", n) for _, n in program.inputs] + [("state", s.node) for s in program.state]
    for op, number in given:
        if program.nodes[number].op != op:
            raise _wrong(program, f"node {number}", f"it is {program.nodes[number].op}, not {op}")
    listed = {number for _, number in given}
    for number, node in enumerate(program.nodes):
        if node.op in ("input", "state") and number not in listed:
            raise _wrong(program, f"node {number}", f"an {node.op} that the program does not name")
    for field in program.state:
        kind, after = program.nodes[field.node].type, program.nodes[field.after].type
        if not kind == after == TensorType.of(field.initial):
            raise _wrong(program, f"state {field.name}", f"{kind}, then {after}")
    if program.emit is not None and program.nodes[program.emit].type != TensorType("bool"):
        raise _wrong(program, "emit", f"it is {program.nodes[program.emit].type}, not one bool")
    names = [name for name, _ in program.outputs]
    if not names or len(set(names)) != len(names):
        raise _wrong(program, "outputs", f"{names} are not different names")
    assert all(isinstance(s.initial, np.ndarray) for s in program.state)


def _wrong(program: Program, what: str, why: str) -> DataError:
    return DataError(
        "kernel.program",
        f"program {program.name}: {what}",
        why=why,
        next_step="if it was read from a file, build it again; else report it, with the kernel's source",
    )
