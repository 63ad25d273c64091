"""Matrix products in a fixed order: sequential over the contracted axis, or in lanes where the result is narrow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.ops.op import Array, Attributes, Op, Types, Writer, require
from ganglion.kernels.ops.reduction import fold_lanes, write_lanes

NARROW_MAX = 3
"""Results with at most so many columns are computed in lanes along the contracted axis."""


LOCAL_MAX = 32
"""Results with at most so many columns are summed in registers."""
BLOCK_MAX = 6
"""So many columns are summed at a time when rows lie side by side: sums that do not wait for each other."""
QUARTERS_FROM = 16
"""From so many products on, narrow results are four sums side by side: one alone would wait for itself."""
ORDERS = ("lanes", "quarters", "sequential")


def _matmul_type(types: Types, attributes: Attributes) -> TensorType:
    a, b = types
    require(a.dtype == b.dtype == "f32", f"matrix product of {a} and {b}")
    require(len(a.shape) == len(b.shape) == 2, f"matrix product of {a} and {b}")
    require(a.shape[1] == b.shape[0], f"{list(a.shape)} @ {list(b.shape)}: {a.shape[1]} is not {b.shape[0]}")
    require(attributes["order"] in ORDERS, f"the order is one of {', '.join(ORDERS)}")
    return TensorType("f32", (a.shape[0], b.shape[1]))


def order_of(inner: int, columns: int) -> str:
    """The order a product with this contracted extent and so many result columns is computed in."""
    if columns <= NARROW_MAX:
        return "lanes"
    return "quarters" if columns <= LOCAL_MAX and inner >= QUARTERS_FROM else "sequential"


def _matmul(arrays: Sequence[Array], attributes: Attributes, _result: TensorType) -> Array:
    a, b = arrays
    with np.errstate(all="ignore"):
        if attributes["order"] == "lanes":
            return fold_lanes(a[:, :, np.newaxis, :] * np.swapaxes(b, 1, 2)[:, np.newaxis], np.add)
        sums = []
        parts = 4 if attributes["order"] == "quarters" else 1
        for part in range(parts):
            total = a[:, :, part : part + 1] * b[:, part : part + 1, :]
            for k in range(part + parts, a.shape[2], parts):
                total = total + a[:, :, k : k + 1] * b[:, k : k + 1, :]
            sums.append(total)
        return (sums[0] + sums[2]) + (sums[1] + sums[3]) if parts == 4 else sums[0]


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
        writer.line(f"{writer.rows}{writer.result([i, j])} = {total};")
        writer.end(2)
        return
    (i,) = writer.loop((rows,))
    if writer.rows:
        _write_rows(writer, i, inner, columns, 4 if attributes["order"] == "quarters" else 1)
    elif attributes["order"] == "quarters":
        _write_quarters(writer, i, inner, columns)
    else:
        _write_sequential(writer, i, inner, columns)
    writer.end()


def _write_sequential(writer: Writer, i: str, inner: int, columns: int) -> None:
    j = writer.name()
    each = f"for (int {j} = 0; {j} < {columns}; {j}++)"
    local = writer.name() if columns <= LOCAL_MAX else ""
    target = f"{local}[{j}]" if local else writer.result([i, j])
    if local:
        writer.line(f"float {local}[{columns}];")
    writer.line(f"{each} {target} = {writer.read(0, [i, '0'])} * {writer.read(1, ['0', j])};")
    if inner > 1:
        k, factor = writer.name(), writer.name()
        writer.line(f"for (int {k} = 1; {k} < {inner}; {k}++) {{")
        writer.line(f"  const float {factor} = {writer.read(0, [i, k])};")
        writer.line(f"  {each} {target} = {target} + {factor} * {writer.read(1, [k, j])};")
        writer.line("}")
    if local:
        writer.line(f"{each} {writer.result([i, j])} = {target};")


def _write_quarters(writer: Writer, i: str, inner: int, columns: int) -> None:
    sums, j, k = [writer.name() for _ in range(4)], writer.name(), writer.name()
    each = f"for (int {j} = 0; {j} < {columns}; {j}++)"
    whole = inner // 4 * 4

    def product(place: str) -> str:
        return f"{writer.read(0, [i, place])} * {writer.read(1, [place, j])}"

    writer.line(f"float {', '.join(f'{name}[{columns}]' for name in sums)};")
    for part, name in enumerate(sums):
        writer.line(f"{each} {name}[{j}] = {product(str(part))};")
    writer.line(f"for (int {k} = 4; {k} < {whole}; {k} += 4) {{")
    for part, name in enumerate(sums):
        writer.line(f"  {each} {name}[{j}] = {name}[{j}] + {product(f'({k} + {part})')};")
    writer.line("}")
    for part in range(inner - whole):
        writer.line(f"{each} {sums[part]}[{j}] = {sums[part]}[{j}] + {product(str(whole + part))};")
    a, b, c, d = (f"{name}[{j}]" for name in sums)
    writer.line(f"{each} {writer.result([i, j])} = ({a} + {c}) + ({b} + {d});")


def _write_rows(writer: Writer, i: str, inner: int, columns: int, parts: int) -> None:
    """Rows side by side: a block of columns at a time stays in registers, one part of the sum after the other."""
    width = -(-columns // -(-columns // BLOCK_MAX))
    first = writer.name()
    whole = columns // width * width
    writer.line(f"for (int {first} = 0; {first} < {whole}; {first} += {width}) {{")
    _write_block(writer, i, [f"({first} + {c})" for c in range(width)], inner, parts)
    writer.line("}")
    if whole < columns:
        writer.line("{")
        _write_block(writer, i, [str(c) for c in range(whole, columns)], inner, parts)
        writer.line("}")


def _write_block(writer: Writer, i: str, columns: list[str], inner: int, parts: int) -> None:
    sums = [[writer.local("f32")("0") for _ in columns] for _ in range(parts)]
    for part, totals in enumerate(sums):
        k, factor = writer.name(), writer.name()
        writer.line(f"{writer.rows}{{")
        writer.line(f"  const float {factor} = {writer.read(0, [i, str(part)])};")
        for total, j in zip(totals, columns, strict=True):
            writer.line(f"  {total} = {factor} * {writer.read(1, [str(part), j])};")
        writer.line("}")
        if part + parts >= inner:
            continue
        writer.line(f"for (int {k} = {part + parts}; {k} < {inner}; {k} += {parts}) {writer.rows}{{")
        writer.line(f"  const float {factor} = {writer.read(0, [i, k])};")
        for total, j in zip(totals, columns, strict=True):
            writer.line(f"  {total} = {total} + {factor} * {writer.read(1, [k, j])};")
        writer.line("}")
    for c, j in enumerate(columns):
        total = sums[0][c] if parts == 1 else f"({sums[0][c]} + {sums[2][c]}) + ({sums[1][c]} + {sums[3][c]})"
        writer.line(f"{writer.rows}{writer.result([i, j])} = {total};")


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
    total, k = writer.local("f32")("0"), writer.name()

    def product(at: str) -> str:
        weight = writer.read(1, [f"({starts}[{j}] + {at} - {firsts}[{j}])"])
        return f"{writer.read(0, [i, at])} * {weight}"

    writer.line(f"{writer.rows}{total} = 0.0f;")
    if writer.rows:  # A choice in the loop would keep the rows from filling vectors.
        writer.line(f"if ({firsts}[{j}] < {lasts}[{j}]) {writer.rows}{total} = {product(f'{firsts}[{j}]')};")
        writer.line(f"for (int {k} = {firsts}[{j}] + 1; {k} < {lasts}[{j}]; {k}++)")
        writer.line(f"  {writer.rows}{total} = {total} + {product(k)};")
    else:
        writer.line(f"for (int {k} = {firsts}[{j}]; {k} < {lasts}[{j}]; {k}++)")
        writer.line(f"  {total} = {k} == {firsts}[{j}] ? {product(k)} : {total} + {product(k)};")
    writer.line(f"{writer.rows}{writer.result([i, j])} = {total};")
    writer.end(2)


LINEAR = (
    Op(
        "matmul",
        _matmul_type,
        _matmul,
        None,
        _write_matmul,
        lambda types, _a, result: 2 * types[0].shape[1] * result.elements,
        grouped=True,
    ),
    Op(
        "banded",
        _banded_type,
        _banded,
        None,
        _write_banded,
        lambda types, _a, _r: 2 * types[0].shape[0] * types[1].elements,
        grouped=True,
    ),
)
