"""What an operation of the kernel IR is: a rule for its type, a reference in NumPy, and its C.

The reference is the meaning. It computes in the types and in the order that the C has, so both give the same bits
wherever floating point is IEEE 754 and nothing is contracted or reassociated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ganglion.core.schema import TensorType

Array = npt.NDArray[Any]
Types = Sequence[TensorType]
Attributes = Mapping[str, Any]

COMPUTED = ("bool", "i32", "f32")
"""The dtypes kernels compute in, each one promoting to the next."""


class Writer(Protocol):
    """The C being written, as an operation sees it. Indices are C expressions, one per axis, outermost first.

    The same operation is written for one row, or for several rows side by side: then ``rows`` is a loop over them that
    stands before each statement, and what `read`, `result` and `local` name lies apart for each row.
    """

    @property
    def rows(self) -> str:
        """What stands before a statement that all rows do; empty where there is one row."""

    def local(self, dtype: str, elements: int = 1) -> Callable[[str], str]:
        """Declares a variable, or an array of several elements; returns how the element at an index is written."""

    def read(self, operand: int, index: Sequence[str]) -> str:
        """An expression for one element of an operand."""

    def result(self, index: Sequence[str]) -> str:
        """An lvalue for one element of the operation's result."""

    def name(self) -> str:
        """A new C identifier."""

    def table(self, values: Array) -> str:
        """The name of a constant array with these values, in C order."""

    def scratch(self, dtype: str, elements: int) -> str:
        """The name of a pointer to working memory that is free during this operation."""

    def room(self, dtype: str, elements: int) -> Callable[[str], str]:
        """As `local`, in working memory that is free during this operation: for what is too large for a stack."""

    def pointer(self, operand: int) -> str:
        """An operand that lies in memory, as a pointer to its first element."""

    def shared(self, operand: int) -> bool:
        """True for a constant: all rows have the same one, so it does not lie apart for each."""

    def place(self, index: str) -> str:
        """Where the element at an index lies behind a pointer to what each row has its own of."""

    def span(self, elements: str) -> str:
        """How far behind such a pointer lies what comes after so many elements."""

    def program(
        self, body: Any, inputs: Sequence[str], shared: Sequence[bool]
    ) -> Callable[[int, Sequence[str]], str]:
        """Writes a whole program that reads ``inputs`` (pointers); returns how to read its n-th output."""

    def define(self, key: str, text: Callable[[str], str]) -> str:
        """C at the level of the file, written once for a key; ``text`` is given the prefix of its names."""

    def line(self, text: str) -> None:
        """One line of C."""

    def loop(self, extents: Sequence[int]) -> list[str]:
        """Opens nested loops over the extents and returns their indices; `end` closes them."""

    def end(self, loops: int = 1) -> None:
        """Closes the innermost loops or blocks."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operation.

    ``infer(types, attributes)`` gives the result's type and raises ``ValueError`` with a reason for wrong operands.
    ``evaluate(arrays, attributes, type)`` takes and gives arrays with a leading axis of frames (1 broadcasts).
    ``element(types, attributes, operands)`` is C for one element from one element of each operand of the same index;
    an operation without it (None) writes its loops with ``write(writer, types, attributes, type)``, and may take up to
    ``scratch_bytes(types, attributes)`` of working memory for it. ``cost`` counts arithmetic operations. ``grouped``:
    its ``write`` puts ``writer.rows`` before all statements on values and declares them by ``writer.local``, so it can
    be written for rows side by side. ``least(attributes)``: the lowest of the 256 whole numbers among which every
    element of the result is, so that it takes a byte in memory (``c/layout.py``); None where it may be any number.
    ``one_nan``: its C gives no other NaN than 0x7fc00000, so none has to be looked for where the result is stored.
    """

    name: str
    infer: Callable[[Types, Attributes], TensorType]
    evaluate: Callable[[Sequence[Array], Attributes, TensorType], Array]
    element: Callable[[Types, Attributes, Sequence[str]], str] | None = None
    write: Callable[[Writer, Types, Attributes, TensorType], None] | None = None
    cost: Callable[[Types, Attributes, TensorType], int] = lambda _types, _attributes, result: result.elements
    scratch_bytes: Callable[[Types, Attributes], int] = lambda _types, _attributes: 0
    grouped: bool = False
    least: Callable[[Attributes], int | None] = lambda _attributes: None
    one_nan: bool = False


def broadcast(types: Types) -> tuple[int, ...]:
    """The common shape; raises ``ValueError`` when there is none."""
    try:
        return np.broadcast_shapes(*[t.shape for t in types])
    except ValueError:
        shapes = " and ".join(str(list(t.shape)) for t in types)
        raise ValueError(f"shapes {shapes} do not broadcast") from None


def promoted(types: Types) -> str:
    """The dtype that all of ``types`` are computed in."""
    return COMPUTED[max(COMPUTED.index(t.dtype) for t in types)]


def require(condition: bool, reason: str) -> None:
    """Raises ``ValueError(reason)`` unless the condition holds."""
    if not condition:
        raise ValueError(reason)


def flat_index(index: Sequence[str], shape: Sequence[int]) -> str:
    """The place of an element in C order."""
    terms = []
    stride = 1
    for position, extent in zip(reversed(index), reversed(shape), strict=True):
        if extent != 1 and position != "0":
            terms.append(position if stride == 1 else f"{position} * {stride}")
        stride *= extent
    return " + ".join(reversed(terms)) or "0"


def align(array: Array, rank: int) -> Array:
    """Frames of lower rank get axes of extent 1 behind the frame axis, so that they broadcast as frames do."""
    missing = rank + 1 - array.ndim
    return array.reshape(array.shape[:1] + (1,) * missing + array.shape[1:]) if missing > 0 else array
