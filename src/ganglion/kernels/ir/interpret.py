"""The reference: a program computed node by node in NumPy, many frames at once, in the order that the C has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.ir.program import Node, Program, State
from ganglion.kernels.ops import OPS
from ganglion.kernels.ops.loop import evaluate_scan
from ganglion.kernels.ops.mathematics import canonical
from ganglion.kernels.ops.op import Array


@dataclass(frozen=True, slots=True)
class Computed:
    """Arrays with a leading axis of frames: outputs by name, ``emit`` (bool per frame), next state by name."""

    outputs: dict[str, Array]
    emit: Array
    state: dict[str, Array]


def evaluate(node: Node, operands: Sequence[Array]) -> Array:
    """One node on arrays with a leading frame axis."""
    if node.op == "scan":
        return evaluate_scan(lambda body, given: interpret(body, given).outputs, operands, node.attributes)
    return OPS[node.op].evaluate(operands, node.attributes, node.type)


def interpret(
    program: Program, inputs: Mapping[str, Array], state: Mapping[str, Array] | None = None
) -> Computed:
    """``inputs``: field -> (frames, *shape); ``state``: name -> (frames, *shape) or (1, *shape), default initial.

    Every frame is computed on its own: for one key's frames in turn, call it frame by frame.
    """
    frames = next(iter(inputs.values())).shape[0]
    values: list[Array | None] = [None] * len(program.nodes)
    for name, number in program.inputs:
        values[number] = np.asarray(inputs[name], program.nodes[number].type.numpy)
    for field in program.state:
        given = field.initial[np.newaxis] if state is None else state[field.name]
        values[field.node] = np.asarray(given, program.nodes[field.node].type.numpy)
    last = {i: number for number, node in enumerate(program.nodes) for i in node.inputs}
    leaving = set(program.results)
    for number, node in enumerate(program.nodes):
        if values[number] is None:
            operands = [_known(values[i]) for i in node.inputs]
            values[number] = evaluate(node, operands)
        for i in node.inputs:
            if last[i] == number and i not in leaving:
                values[i] = None  # hundreds of frames of every value at once would not fit a gateway

    def leave(number: int) -> Array:
        return _leaving(_known(values[number]), program.nodes[number].type, frames)

    def kept(field: State) -> Array:
        """State that stays what it was is not stored again."""
        same = field.after == field.node
        return _whole(_known(values[field.node]), field.initial.shape, frames) if same else leave(field.after)

    emit = np.ones(frames, np.bool_) if program.emit is None else leave(program.emit)
    return Computed(
        {name: leave(n) for name, n in program.outputs}, emit, {s.name: kept(s) for s in program.state}
    )


def _known(value: Array | None) -> Array:
    assert value is not None
    return value


def _leaving(value: Array, kind: TensorType, frames: int) -> Array:
    """What is stored has one NaN only, whatever computed it."""
    whole = _whole(value, kind.shape, frames)
    return canonical(whole) if kind.dtype == "f32" else whole


def _whole(value: Array, shape: tuple[int, ...], frames: int) -> Array:
    return np.broadcast_to(value, (frames, *shape)).copy()
