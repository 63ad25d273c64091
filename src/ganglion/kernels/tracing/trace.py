"""From a Python function of one frame to a program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np

from ganglion.core.errors import KernelError
from ganglion.core.schema import Schema, TensorType
from ganglion.kernels.ir.passes import simplify
from ganglion.kernels.ir.program import Program, State
from ganglion.kernels.ops.mathematics import canonical
from ganglion.kernels.ops.op import Array
from ganglion.kernels.tracing import functions  # noqa: F401 # fills the table of functions
from ganglion.kernels.tracing.builder import Builder
from ganglion.kernels.tracing.traced import Traced, lift

WHOLE = "frame"
"""The input's name when a kernel takes one tensor."""


def trace(
    function: FunctionType,
    name: str,
    given: TensorType | Schema,
    initial: Mapping[str, Array] | None,
) -> Program:
    """Runs the function once on traced values and returns the simplified program.

    Raises `KernelError` ``kernel.branch``, ``kernel.scalar``, ``kernel.unsupported``, ``kernel.assign``,
    ``kernel.index``, ``kernel.shape``, ``kernel.constant``, ``kernel.size`` with the line of the source, and
    ``kernel.form`` when it returns something else than outputs, or outputs, emit and state.
    """
    builder = Builder()
    fields = {WHOLE: given} if isinstance(given, TensorType) else {f.name: f.type for f in given.fields}
    inputs = [(n, builder.add("input", name=n, dtype=_computed(t), shape=t.shape)) for n, t in fields.items()]
    traced = {n: Traced(builder, number) for n, number in inputs}
    frame = traced[WHOLE] if isinstance(given, TensorType) else SimpleNamespace(**traced)
    held = {
        n: builder.add("state", name=n, dtype=TensorType.of(v).dtype, shape=v.shape)
        for n, v in (initial or {}).items()
    }
    args: tuple[Any, ...] = (frame,)
    if initial is not None:
        args += (SimpleNamespace(**{n: Traced(builder, number) for n, number in held.items()}),)
    result = function(*args)
    code = function.__code__
    named = f"{name} at {Path(code.co_filename).name}:{code.co_firstlineno}"
    outputs, emit, after = _parts(named, result, stateful=initial is not None)
    leaving = tuple((n, lift(builder, v).number) for n, v in outputs.items())
    emitted = _emitted(builder, named, emit)
    if unknown := after.keys() - held.keys():
        raise KernelError(
            "kernel.form",
            f"kernel {named} returned state {', '.join(sorted(unknown))}",
            why=f"it was declared with {', '.join(held)}",
            next_step="declare it in state=, or leave it out",
        )
    state = tuple(_next(builder, named, n, held[n], v, after) for n, v in (initial or {}).items())
    return simplify(Program(name, tuple(builder.nodes), tuple(inputs), leaving, emitted, state))


def _computed(kind: TensorType) -> str:
    return "i32" if kind.dtype == "i16" else kind.dtype


def _parts(name: str, result: Any, *, stateful: bool) -> tuple[Mapping[str, Any], Any, Mapping[str, Any]]:
    if not stateful and isinstance(result, Mapping) and result:
        return result, None, {}
    if stateful and isinstance(result, tuple) and len(result) == 3:
        outputs, emit, after = result
        if isinstance(outputs, Mapping) and outputs and isinstance(after, Mapping):
            return outputs, emit, after
    wanted = "outputs, emit, state" if stateful else "a dict of outputs"
    raise KernelError(
        "kernel.form",
        f"kernel {name} returned {type(result).__name__}",
        why=f"it must return {wanted}",
        next_step="fix the return statement",
    )


def _emitted(builder: Builder, kernel: str, emit: Any) -> int | None:
    """The node that says whether a row leaves; None: every row does."""
    if np.shape(emit) != ():
        raise KernelError(
            "kernel.form",
            f"kernel {kernel} returned emit of shape {list(np.shape(emit))}",
            why="it says of the whole frame whether its outputs leave",
            next_step="reduce it with np.any or np.all",
        )
    if not isinstance(emit, Traced):
        return None if emit is None or bool(emit) else lift(builder, np.False_).number
    return builder.cast(emit.number, "bool")


def _next(
    builder: Builder, kernel: str, name: str, held: int, first: Array, after: Mapping[str, Any]
) -> State:
    kind = builder.type_of(held)
    if name not in after:
        raise KernelError(
            "kernel.form",
            f"kernel {kernel} returned state {', '.join(after) or 'nothing'}",
            why=f"it was declared with {name}",
            next_step="return every field of the state on every path",
        )
    value = lift(builder, after[name], kind.dtype)
    if value.type != kind:
        raise KernelError(
            "kernel.form",
            f"state {name} of kernel {kernel} becomes {value.type}",
            why=f"it is declared {kind}",
            next_step="return the same shape and the same kind of number, and start state with it: 0.0, 0 or False",
        )
    begins = np.asarray(first, kind.numpy)
    return State(name, held, canonical(begins) if kind.dtype == "f32" else begins, value.number)
