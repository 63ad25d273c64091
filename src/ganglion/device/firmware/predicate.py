"""A recorded predicate as a C expression that gives NumPy's value for every row."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np

from ganglion.core.errors import FlowError
from ganglion.core.schema import Field
from ganglion.device.firmware.layout import RowLayout
from ganglion.flow.expression import Expression
from ganglion.flow.stages import WhereStage
from ganglion.kernels.c.reading import literal

C_NAMES = {
    "float32": "float",
    "float64": "double",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "bool": "uint8_t",
}
_COMPARED = ("<", "<=", ">", ">=", "==", "!=")
_WRAPPING = {"+": "+", "-": "-", "*": "*"}


def predicate_of(stage: WhereStage, row: str) -> str:
    """A C expression of a row's fields at the pointer ``row``. Raises `FlowError` ``firmware.predicate``."""
    return _Writer(stage, row).text(stage.predicate)


class _Writer:
    """Writes one predicate; types are those NumPy gives the same expression."""

    def __init__(self, stage: WhereStage, row: str) -> None:
        self._stage = stage
        self._row = row
        self._layout = RowLayout(stage.schema)
        self._probe = {
            f.name: f.physical(np.zeros((1, *f.type.shape), f.type.numpy)) for f in stage.schema.fields
        }

    def text(self, node: Expression) -> str:
        if node.op == "field":
            return self._field(self._stage.schema[node.args[0]])
        assert node.op != "const", "a constant stands beside a field"
        dtype = self._dtype(node)
        if node.op in ("~", "neg", "abs"):
            return _unary(node.op, dtype, self.text(node.args[0]))
        if node.op in _COMPARED:
            dtype = self._met(node)
        left, right = (self._operand(a, dtype) for a in node.args)
        if node.op in _COMPARED:
            return f"({left} {node.op} {right})"
        return self._binary(node.op, dtype, left, right)

    def _dtype(self, node: Expression) -> np.dtype[Any]:
        with np.errstate(all="ignore"):
            return np.asarray(node.evaluate(self._probe)).dtype

    def _met(self, node: Expression) -> np.dtype[Any]:
        """What the two sides of a comparison become; whole numbers are compared as such, whatever their size."""
        sides = [a.args[0] if a.op == "const" else self._dtype(a) for a in node.args]
        whole = [isinstance(s, int) and not isinstance(s, bool) for s in sides]
        dtype = np.result_type(*sides)
        return np.dtype(np.int64) if any(whole) and dtype.kind == "i" else dtype

    def _operand(self, node: Expression, dtype: np.dtype[Any]) -> str:
        if node.op == "const":
            return self._constant(node.args[0], dtype)
        text = self.text(node)
        return text if self._dtype(node) == dtype else f"(({C_NAMES[dtype.name]}){text})"

    def _constant(self, value: float, dtype: np.dtype[Any]) -> str:
        if dtype.name == "float64":
            number = float(value)
            return f"({number.hex()})" if math.isfinite(number) else self._refuse(f"{value} is too large")
        if dtype.name == "int64":
            if not -(2**63) < value < 2**63:
                self._refuse(f"{value} does not fit 64 bits")
            return f"INT64_C({int(value)})" if value >= 0 else f"(-INT64_C({-int(value)}))"
        with np.errstate(all="ignore"):
            return literal(dtype.type(value), {"float32": "f32", "bool": "bool"}.get(dtype.name, "i32"))

    def _field(self, field: Field) -> str:
        if field.type.shape:
            self._refuse(f"{field.name} is not one number")
        offset = self._layout.offsets[self._stage.schema.names.index(field.name)]
        text = f"(*(const {C_NAMES[field.type.numpy.name]} *)({self._row} + {offset}))"
        if not field.scale:
            return text
        return f"((float){text} * {literal(np.float32(field.scale[0]), 'f32')})"

    def _binary(self, op: str, dtype: np.dtype[Any], left: str, right: str) -> str:
        kind = C_NAMES[dtype.name]
        if dtype.name == "bool":
            return f"({left} {'&' if op in '&*' else '|'} {right})"
        if op == "/":
            return f"gg_div({left}, {right})" if dtype.name == "float32" else f"({left} / {right})"
        if dtype.kind == "f":
            return f"({left} {op} {right})"
        if op in "&|":
            return f"(({kind})({left} {op} {right}))"
        wide = "uint64_t" if dtype.itemsize == 8 else "uint32_t"
        return f"(({kind})(({wide}){left} {_WRAPPING[op]} ({wide}){right}))"

    def _refuse(self, why: str) -> NoReturn:
        raise FlowError(
            "firmware.predicate",
            f"{self._stage.id}: {self._stage.predicate} cannot be written in C",
            why=why,
            next_step="compute the truth value in a kernel",
        )


def _unary(op: str, dtype: np.dtype[Any], text: str) -> str:
    kind = C_NAMES[dtype.name]
    if dtype.name == "bool":
        return f"(!{text})" if op == "~" else text
    if op == "~":
        return f"(({kind})~{text})"
    if dtype.name == "float32":
        return f"gg_abs({text})" if op == "abs" else f"(-{text})"
    if dtype.kind == "f":
        return f"__builtin_fabs({text})" if op == "abs" else f"(-{text})"
    wide = "uint64_t" if dtype.itemsize == 8 else "uint32_t"
    negated = f"(({kind})(0u - ({wide}){text}))"
    return negated if op == "neg" else f"({text} < 0 ? {negated} : {text})"
