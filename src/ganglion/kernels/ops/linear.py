"""Matrix products in a fixed order: sequential over the contracted axis, or in lanes where the result is narrow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.ops.op import Array, Attributes, Op, Types, Writer, require
from ganglion.kernels.ops.reduction import fold_lanes, write_lanes

NARROW_MAX = 3
"""Results with at most so many columns are computed in lanes along the contracted axis."""


def _matmul_type(types: Types, attributes: Attributes) -> TensorType:
    a, b = types
    require(a.dtype == b.dtype == "f32", f"matrix product of {a} and {b}")
    require(len(a.shape) == len(b.shape) == 2, f"matrix product of {a} and {b}")
    require(a.shape[1] == b.shape[0], f"{list(a.shape)} @ {list(b.shape)}: {a.shape[1]} is not {b.shape[0]}")
    require(attributes["order"] in ("lanes", "sequential"), "order is lanes or sequential")
    return TensorType("f32", (a.shape[0], b.shape[1]))


def order_of(columns: int) -> str:
    """The order a product with so many result columns is computed in."""
    return "lanes" if columns <= NARROW_MAX else "sequential"


def _matmul(arrays: Sequence[Array], attributes: Attributes, _result: TensorType) -> Array:
    a, b = arrays
    with np.errstate(all="ignore"):
        if attributes["order"] == "lanes":
            return fold_lanes(a[:, :, np.newaxis, :] * np.swapaxes(b, 1, 2)[:, np.newaxis], np.add)
        total = a[:, :, :1] * b[:, :1, :]
        for k in range(1, a.shape[2]):
            total = total + a[:, :, k : k + 1] * b[:, k : k + 1, :]
        return total


def _write_matmul(writer: Writer, types: Types, attributes: Attributes, result: TensorType) -> None:
    rows, inner, columns = types[0].shape[0], types[0].shape[1], result.shape[1]
    if attributes["order"] == "lanes":
        i, j = writer.loop((rows, columns))
        total = write_lanes(
            writer,
            "f32",
            inner,
            lambda k: f"({writer.read(0, [i, k])} * {writer.read(1, [k, j])})",
            lambda x, y: f"({x} + {y})",
        )
        writer.line(f"{writer.result([i, j])} = {total};")
        writer.end(2)
        return
    (i,) = writer.loop((rows,))
    j = writer.name()
    each = f"for (int {j} = 0; {j} < {columns}; {j}++)"
    target = writer.result([i, j])
    writer.line(f"{each} {target} = {writer.read(0, [i, '0'])} * {writer.read(1, ['0', j])};")
    if inner > 1:
        k, factor = writer.name(), writer.name()
        writer.line(f"for (int {k} = 1; {k} < {inner}; {k}++) {{")
        writer.line(f"  const float {factor} = {writer.read(0, [i, k])};")
        writer.line(f"  {each} {target} = {target} + {factor} * {writer.read(1, [k, j])};")
        writer.line("}")
    writer.end()


def _banded_type(types: Types, attributes: Attributes) -> TensorType:
    a, weights = types
    bands = attributes["bands"]
    require(a.dtype == weights.dtype == "f32" and len(a.shape) == 2, f"banded product of {a}")
    require(all(0 <= first <= last <= a.shape[1] for first, last in bands), "a band leaves the operand")
    require(
        sum(last - first for first, last in bands) == weights.elements,
        "one weight for each element of a band",
    )
    return TensorType("f32", (a.shape[0], len(bands)))


def _banded(arrays: Sequence[Array], attributes: Attributes, result: TensorType) -> Array:
    a, weights = arrays
    out = np.zeros((a.shape[0], *result.shape), np.float32)
    at = 0
    with np.errstate(all="ignore"):
        for column, (first, last) in enumerate(attributes["bands"]):
            for k in range(first, last):
                product = a[:, :, k] * weights[:, at : at + 1]
                out[:, :, column] = product if k == first else out[:, :, column] + product
                at += 1
    return out


def _write_banded(writer: Writer, _types: Types, attributes: Attributes, result: TensorType) -> None:
    bands = np.array(attributes["bands"], np.int32).reshape(-1, 2)
    offsets = np.concatenate([[0], np.cumsum(bands[:, 1] - bands[:, 0])[:-1]]).astype(np.int32)
    firsts, lasts, starts = (writer.table(v) for v in (bands[:, 0].copy(), bands[:, 1].copy(), offsets))
    i, j = writer.loop(result.shape)
    total, k = writer.name(), writer.name()
    weight = writer.read(1, [f"({starts}[{j}] + {k} - {firsts}[{j}])"])
    product = f"{writer.read(0, [i, k])} * {weight}"
    writer.line(f"float {total} = 0.0f;")
    writer.line(f"for (int {k} = {firsts}[{j}]; {k} < {lasts}[{j}]; {k}++)")
    writer.line(f"  {total} = {k} == {firsts}[{j}] ? {product} : {total} + {product};")
    writer.line(f"{writer.result([i, j])} = {total};")
    writer.end(2)


LINEAR = (
    Op(
        "matmul",
        _matmul_type,
        _matmul,
        None,
        _write_matmul,
        lambda types, _a, result: 2 * types[0].shape[1] * result.elements,
    ),
    Op(
        "banded",
        _banded_type,
        _banded,
        None,
        _write_banded,
        lambda types, _a, _r: 2 * types[0].shape[0] * types[1].elements,
    ),
)
