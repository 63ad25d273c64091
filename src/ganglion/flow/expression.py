"""Predicates as data: ``lambda t: t.trip & (t.rms > 5)`` is recorded once and evaluated on columns.

An expression is a frozen tree of JSON-able tuples, so a flow stays plain data and prints stably.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import FlowError
from ganglion.core.schema import Schema

_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
    "&": np.bitwise_and,  # on booleans the logical one; on integers what Python and NumPy mean by &
    "|": np.bitwise_or,
}
_UNARY: dict[str, Callable[[Any], Any]] = {"~": np.invert, "neg": np.negative, "abs": np.abs}


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """One node: ``("field", name)``, ``("const", value)`` or ``(operator, *operands)``."""

    op: str
    args: tuple[Any, ...]

    __array_ufunc__ = None  # a NumPy scalar on the left leaves the operator to us

    @property
    def fields(self) -> frozenset[str]:
        """The fields it reads."""
        if self.op == "field":
            return frozenset({self.args[0]})
        return frozenset().union(*(a.fields for a in self.args if isinstance(a, Expression)))

    def evaluate(self, columns: Mapping[str, npt.NDArray[Any]]) -> Any:
        """The value for all rows at once, as NumPy gives it; columns are (n, ...) arrays."""
        if self.op == "field":
            return columns[self.args[0]]
        if self.op == "const":
            return self.args[0]
        operands = [a.evaluate(columns) for a in self.args]
        if self.op in _UNARY:
            return _UNARY[self.op](operands[0])
        return _BINARY[self.op](operands[0], operands[1])

    def to_json(self) -> list[Any]:
        return [self.op, *(a.to_json() if isinstance(a, Expression) else a for a in self.args)]

    def __str__(self) -> str:
        if self.op in ("field", "const"):
            return str(self.args[0])  # constants are plain Python numbers
        if self.op in _UNARY:
            return f"{'-' if self.op == 'neg' else self.op}({self.args[0]})"
        return f"({self.args[0]} {self.op} {self.args[1]})"

    def __add__(self, other: Any) -> Expression:
        return _make("+", self, other)

    def __sub__(self, other: Any) -> Expression:
        return _make("-", self, other)

    def __mul__(self, other: Any) -> Expression:
        return _make("*", self, other)

    def __truediv__(self, other: Any) -> Expression:
        return _make("/", self, other)

    def __radd__(self, other: Any) -> Expression:
        return _make("+", other, self)

    def __rsub__(self, other: Any) -> Expression:
        return _make("-", other, self)

    def __rmul__(self, other: Any) -> Expression:
        return _make("*", other, self)

    def __rtruediv__(self, other: Any) -> Expression:
        return _make("/", other, self)

    def __rand__(self, other: Any) -> Expression:
        return _make("&", other, self)

    def __ror__(self, other: Any) -> Expression:
        return _make("|", other, self)

    def __lt__(self, other: Any) -> Expression:
        return _make("<", self, other)

    def __le__(self, other: Any) -> Expression:
        return _make("<=", self, other)

    def __gt__(self, other: Any) -> Expression:
        return _make(">", self, other)

    def __ge__(self, other: Any) -> Expression:
        return _make(">=", self, other)

    def __eq__(self, other: object) -> Expression:  # type: ignore[override]  # records, does not compare
        return _make("==", self, other)

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]  # records, does not compare
        return _make("!=", self, other)

    def __and__(self, other: Any) -> Expression:
        return _make("&", self, other)

    def __or__(self, other: Any) -> Expression:
        return _make("|", self, other)

    def __invert__(self) -> Expression:
        return Expression("~", (self,))

    def __neg__(self) -> Expression:
        return Expression("neg", (self,))

    def __abs__(self) -> Expression:
        return Expression("abs", (self,))

    def __bool__(self) -> NoReturn:
        raise FlowError(
            "flow.predicate",
            "a predicate was used as a plain truth value",
            why="`and`, `or`, `not`, `if` and chained comparisons cannot be recorded",
            next_step="write & for and, | for or, ~ for not, with parentheses round comparisons",
        )

    __hash__ = None  # type: ignore[assignment]  # == records, so a hash would lie


class _Fields:
    """Stands for a row while a predicate is recorded."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def __getattr__(self, name: str) -> Expression:
        if name.startswith("__"):
            raise AttributeError(name)
        self._schema[name]
        return Expression("field", (name,))


def record(predicate: Callable[[Any], Any], schema: Schema) -> Expression:
    """Records ``predicate`` over rows of ``schema``.

    Raises ``schema.unknown-field``, or ``flow.predicate`` when it cannot be recorded or gives no truth value per row.
    """
    try:
        expression = predicate(_Fields(schema))
        value = _tried(expression, schema) if isinstance(expression, Expression) else None
    except FlowError:
        raise
    except Exception as error:
        raise FlowError(
            "flow.predicate",
            f"the predicate failed: {type(error).__name__}: {error}",
            why="it is recorded once with fields, then tried on zeros of their types",
            next_step="use fields, numbers and + - * / < <= > >= == != & | ~ abs(), & | ~ on truth values",
        ) from error
    if value is None or not isinstance(expression, Expression):
        raise FlowError(
            "flow.predicate",
            f"the predicate gave {type(expression).__name__}",
            why="it must use the row's fields",
            next_step="write it like: lambda t: t.trip & (t.rms > 5)",
        )
    if value.shape != (2,) or value.dtype != np.bool_:
        raise FlowError(
            "flow.predicate",
            f"{expression} gives {value.dtype} of shape {value.shape[1:]} per row",
            why="a predicate gives one truth value per row",
            next_step="compare a scalar field with a number; reduce arrays in a kernel",
        )
    return expression


def _tried(expression: Expression, schema: Schema) -> npt.NDArray[Any]:
    probe = {f.name: np.zeros((2, *f.type.shape), f.type.numpy) for f in schema.fields}
    with np.errstate(all="ignore"):
        return np.asarray(expression.evaluate(probe))


def _make(op: str, left: Any, right: Any) -> Expression:
    return Expression(op, (_operand(left), _operand(right)))


def _operand(value: Any) -> Expression:
    if isinstance(value, Expression):
        return value
    if isinstance(value, np.generic):
        value = value.item()  # a plain number: it prints stably and takes the field's precision
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return Expression("const", (value,))
    raise FlowError(
        "flow.predicate",
        f"{value!r} cannot stand in a predicate",
        why="constants are finite numbers and booleans",
        next_step="use a number; look for inf and nan in a kernel",
    )
