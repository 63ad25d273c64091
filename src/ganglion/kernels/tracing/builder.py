"""The program under construction while a kernel's function runs, and where in the user's source it stands."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Sequence
from pathlib import Path
from traceback import walk_tb
from typing import Any

import numpy as np

from ganglion.core.errors import FlowError, KernelError
from ganglion.core.schema import TensorType
from ganglion.kernels.ir.program import Node
from ganglion.kernels.ops import OPS
from ganglion.kernels.ops.op import promoted

NODES_MAX = 20_000
_OURS = str(Path(__file__).parents[1])
_NUMPY = str(Path(np.__file__).parent)


def place() -> tuple[str, int, str]:
    """File, line and text of the statement of the user's that is running."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_OURS, _NUMPY)):
        frame = frame.f_back
    name, line = frame.f_code.co_filename, frame.f_lineno
    return name, line, linecache.getline(name, line).strip()


def failed_at(error: Exception) -> str:
    """Where in the user's source an exception began: `` at file:line: text``; empty when it did not."""
    found = [
        (frame.f_code.co_filename, line)
        for frame, line in walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith((_OURS, _NUMPY))
    ]
    if not found:
        return ""
    name, line = found[-1]
    text = linecache.getline(name, line).strip()
    return f" at {Path(name).name}:{line}" + (f": {text}" if text else "")


def refuse(code: str, what: str, why: str, next_step: str) -> KernelError:
    """The error for what a kernel must not do, with the line that does it."""
    name, line, text = place()
    shown = f": {text}" if text else ""
    return KernelError(code, f"{what} at {Path(name).name}:{line}{shown}", why=why, next_step=next_step)


class Builder:
    """Nodes in the order in which the function computes them. A step of a scan has a builder within ``outer``."""

    def __init__(self, outer: Builder | None = None) -> None:
        self.nodes: list[Node] = []
        self.outer = outer
        self.depth: int = 0 if outer is None else outer.depth + 1
        self.captured: list[tuple[str, int, int]] = []
        """What a step takes in from round it: input's name, its node here, the node outside."""

    def capture(self, builder: Builder, number: int) -> int:
        """The node here that stands for a value of a builder further out."""
        assert self.outer is not None
        if builder is not self.outer:
            number = self.outer.capture(builder, number)
        for _, here, outside in self.captured:
            if outside == number:
                return here
        kind, name = self.outer.type_of(number), f"o{len(self.captured)}"
        here = self.add("input", name=name, dtype=kind.dtype, shape=kind.shape)
        self.captured.append((name, here, number))
        return here

    def add(self, op: str, inputs: Sequence[int] = (), **attributes: Any) -> int:
        """Appends a node and returns its number. Raises ``kernel.shape`` when the operands do not fit."""
        types = [self.nodes[i].type for i in inputs]
        try:
            kind = OPS[op].infer(types, attributes)
        except ValueError as error:
            raise refuse(
                "kernel.shape",
                f"{op} of {' and '.join(map(str, types))}",
                str(error),
                "reshape or slice the operands so that they fit; shapes are fixed when the kernel is defined",
            ) from error
        except FlowError as error:
            raise refuse(
                "kernel.shape", f"{op} of {' and '.join(map(str, types))}", error.why, error.next_step
            ) from error
        if len(self.nodes) >= NODES_MAX:
            raise refuse(
                "kernel.size",
                f"the kernel has more than {NODES_MAX} operations",
                "a Python loop is unrolled when the kernel is traced",
                "compute with whole arrays instead of looping over their elements",
            )
        name, line, _ = place()
        self.nodes.append(Node(op, tuple(inputs), kind, attributes, f"{Path(name).name}:{line}"))
        return len(self.nodes) - 1

    def constant(self, value: Any) -> int:
        """A constant of the program; float64 narrows to f32, wider integers to i32 if the values fit."""
        array = np.asarray(value)
        try:
            kind = TensorType.of(array)
        except FlowError as error:
            raise refuse("kernel.constant", "a constant of the kernel", error.why, error.next_step) from error
        if kind.dtype == "i16":
            kind = TensorType("i32", kind.shape)
        if kind.dtype == "i32" and array.size and (array.min() < -(1 << 31) or array.max() >= 1 << 31):
            raise refuse(
                "kernel.constant",
                f"a constant {array.max()} does not fit i32",
                "kernels compute in 32 bits",
                "use a smaller number, or a float",
            )
        return self.add("const", (), value=np.array(array, kind.numpy, order="C"))

    def cast(self, number: int, dtype: str) -> int:
        """The value in another dtype; itself when it has it already."""
        if self.nodes[number].type.dtype == dtype:
            return number
        return self.add("cast", (number,), dtype=dtype)

    def elementwise(self, op: str, numbers: Sequence[int], dtype: str = "") -> int:
        """An operation on operands brought to one dtype: ``dtype``, or the one they all promote to."""
        wanted = dtype or promoted([self.nodes[n].type for n in numbers])
        return self.add(op, [self.cast(n, wanted) for n in numbers])

    def type_of(self, number: int) -> TensorType:
        """The type of a node."""
        return self.nodes[number].type
