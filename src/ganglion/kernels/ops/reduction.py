"""Operations that fold one axis, in an order that is part of their meaning.

Fewer than `LANES_FROM` elements are folded one after the other. More go into eight lanes (element ``j`` into lane
``j mod 8``), which are folded as a tree: lane ``l`` with ``l + 4``, then with ``l + 2``, then with ``l + 1``. So a
compiler may use vectors, and every machine gets the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.ops.elementwise import ELEMENTWISE
from ganglion.kernels.ops.op import Array, Attributes, Op, Types, Writer, require

LANES = 8
LANES_FROM = 16
BINS_MAX = 65_536
C_TYPES = {"f32": "float", "i32": "int32_t", "bool": "uint8_t"}
_BY_NAME = {op.name: op for op in ELEMENTWISE}

Fold = Callable[[Array, Array], Array]


def fold_lanes(array: Array, fold: Fold) -> Array:
    """Folds the last axis in the order of this module."""
    n = array.shape[-1]
    if n < LANES_FROM:
        total = array[..., 0]
        for j in range(1, n):
            total = fold(total, array[..., j])
        return total
    lanes = array[..., :LANES].copy()
    whole = n // LANES * LANES
    for j in range(LANES, whole, LANES):
        lanes = fold(lanes, array[..., j : j + LANES])
    if whole < n:
        lanes[..., : n - whole] = fold(lanes[..., : n - whole], array[..., whole:])
    for width in (4, 2, 1):
        lanes = fold(lanes[..., :width], lanes[..., width : 2 * width])
    return lanes[..., 0]


def write_lanes(
    writer: Writer, dtype: str, n: int, read: Callable[[str], str], fold: Callable[[str, str], str]
) -> str:
    """C that folds ``read(j)`` for ``j`` in 0..n-1; returns the expression that holds the result."""
    if writer.rows:
        return _write_rows_lanes(writer, dtype, n, read, fold)
    lanes, kind = writer.name(), C_TYPES[dtype]
    if n < LANES_FROM:
        writer.line(f"{kind} {lanes} = {read('0')};")
        if n > 1:
            j = writer.name()
            writer.line(f"for (int {j} = 1; {j} < {n}; {j}++) {lanes} = {fold(lanes, read(j))};")
        return lanes
    whole = n // LANES * LANES
    j, lane = writer.name(), writer.name()
    each = f"for (int {lane} = 0; {lane} < {LANES}; {lane}++)"
    writer.line(f"{kind} {lanes}[{LANES}];")
    writer.line(f"{each} {lanes}[{lane}] = {read(lane)};")
    at = f"{lanes}[{lane}]"
    if whole > LANES:
        writer.line(f"for (int {j} = {LANES}; {j} < {whole}; {j} += {LANES})")
        writer.line(f"  {each} {at} = {fold(at, read(f'({j} + {lane})'))};")
    if whole < n:
        rest = f"for (int {lane} = 0; {lane} < {n - whole}; {lane}++)"
        writer.line(f"{rest} {at} = {fold(at, read(f'({whole} + {lane})'))};")
    for width in (4, 2, 1):
        half = f"for (int {lane} = 0; {lane} < {width}; {lane}++)"
        writer.line(f"{half} {at} = {fold(at, f'{lanes}[{lane} + {width}]')};")
    return f"{lanes}[0]"


def _write_rows_lanes(
    writer: Writer, dtype: str, n: int, read: Callable[[str], str], fold: Callable[[str, str], str]
) -> str:
    """The same order for rows side by side: one lane after the other, since the rows fill the vectors."""

    def folded(total: str, first: str, end: int, step: int, offset: str = "") -> None:
        j = writer.name()
        each = f"for (int {j} = {first}; {j} < {end}; {j} += {step})"
        writer.line(f"{each} {writer.rows}{total} = {fold(total, read(f'({j}{offset})'))};")

    if n < LANES_FROM:
        total = writer.local(dtype)("0")
        writer.line(f"{writer.rows}{total} = {read('0')};")
        if n > 1:
            folded(total, "1", n, 1)
        return total
    lanes, lane = writer.local(dtype, LANES), writer.name()
    writer.line(f"for (int {lane} = 0; {lane} < {LANES}; {lane}++) {{")
    total = writer.local(dtype)("0")
    writer.line(f"{writer.rows}{total} = {read(lane)};")
    whole = n // LANES * LANES
    folded(total, str(LANES), whole, LANES, f" + {lane}")
    if whole < n:
        last = fold(total, read(f"({whole} + {lane})"))
        writer.line(f"if ({lane} < {n - whole}) {writer.rows}{total} = {last};")
    writer.line(f"{writer.rows}{lanes(lane)} = {total};")
    writer.line("}")
    for width in (4, 2, 1):
        pair = fold(lanes(lane), lanes(f"({lane} + {width})"))
        half = f"for (int {lane} = 0; {lane} < {width}; {lane}++)"
        writer.line(f"{half} {writer.rows}{lanes(lane)} = {pair};")
    return lanes("0")


def _reduced(types: Types, attributes: Attributes) -> TensorType:
    axis, shape = attributes["axis"], types[0].shape
    require(0 <= axis < len(shape), f"axis {axis} of {types[0]}")
    return TensorType(types[0].dtype, shape[:axis] + shape[axis + 1 :])


def _reduce(name: str, by: str) -> Op:
    step = _BY_NAME[by]

    def fold(a: Array, b: Array) -> Array:
        kind = {"f": "f32", "i": "i32", "b": "bool"}[a.dtype.kind]
        return step.evaluate([a, b], {}, TensorType(kind, np.broadcast_shapes(a.shape, b.shape)[1:]))

    def evaluate(arrays: Sequence[Array], attributes: Attributes, _result: TensorType) -> Array:
        return fold_lanes(np.moveaxis(arrays[0], attributes["axis"] + 1, -1), fold)

    def write(writer: Writer, types: Types, attributes: Attributes, result: TensorType) -> None:
        axis = attributes["axis"]
        index = writer.loop(result.shape)
        element = step.element
        assert element is not None
        pair = (types[0], types[0])

        def read(j: str) -> str:
            return writer.read(0, [*index[:axis], j, *index[axis:]])

        total = write_lanes(
            writer, result.dtype, types[0].shape[axis], read, lambda a, b: element(pair, {}, (a, b))
        )
        writer.line(f"{writer.rows}{writer.result(index)} = {total};")
        writer.end(len(result.shape) or 1)

    def infer(types: Types, attributes: Attributes) -> TensorType:
        step.infer((types[0], types[0]), {})
        return _reduced(types, attributes)

    return Op(name, infer, evaluate, None, write, lambda types, _a, _r: types[0].elements, grouped=True)


def _arg_type(types: Types, attributes: Attributes) -> TensorType:
    require(types[0].dtype != "bool", "argmax of truth values")
    return TensorType("i32", _reduced(types, attributes).shape)


def _argmax(arrays: Sequence[Array], attributes: Attributes, _result: TensorType) -> Array:
    return np.asarray(np.argmax(arrays[0], axis=attributes["axis"] + 1), np.int32)


def _write_argmax(writer: Writer, types: Types, attributes: Attributes, result: TensorType) -> None:
    axis = attributes["axis"]
    index = writer.loop(result.shape)
    kind = types[0].dtype
    best, at, j = writer.local(kind)("0"), writer.local("i32")("0"), writer.name()
    value, better = writer.local(kind)("0"), writer.name()

    def read(position: str) -> str:
        return writer.read(0, [*index[:axis], position, *index[axis:]])

    writer.line(f"{writer.rows}{{ {best} = {read('0')}; {at} = 0; }}")
    writer.line(f"for (int {j} = 1; {j} < {types[0].shape[axis]}; {j}++) {{")
    # The first NaN wins, as in NumPy; then the first largest.
    writer.line(f"  {writer.rows}{{")
    writer.line(f"    {value} = {read(j)};")
    writer.line(f"    const int {better} = ({best} == {best}) & !({value} <= {best});")
    writer.line(f"    {best} = {better} ? {value} : {best};")
    writer.line(f"    {at} = {better} ? {j} : {at};")
    writer.line("  }")
    writer.line("}")
    writer.line(f"{writer.rows}{writer.result(index)} = {at};")
    writer.end(len(result.shape) or 1)


def _bincount_type(types: Types, attributes: Attributes) -> TensorType:
    require(types[0].dtype == "i32" and len(types[0].shape) == 1, f"bincount of {types[0]}: one axis of i32")
    require(1 <= attributes["length"] <= BINS_MAX, f"bincount needs minlength from 1 to {BINS_MAX}")
    return TensorType("i32", (attributes["length"],))


def _bincount(arrays: Sequence[Array], _attributes: Attributes, result: TensorType) -> Array:
    """All frames in one count, each in bins of its own."""
    values, bins = arrays[0].astype(np.int64), result.shape[0]
    frames = values.shape[0]
    places = values + np.arange(frames)[:, np.newaxis] * bins
    counts = np.bincount(places[(values >= 0) & (values < bins)], minlength=frames * bins)
    return counts.reshape(frames, bins).astype(np.int32)


def _write_bincount(writer: Writer, types: Types, _attributes: Attributes, result: TensorType) -> None:
    i = writer.name()
    writer.line(f"for (int {i} = 0; {i} < {result.shape[0]}; {i}++) {writer.rows}{writer.result([i])} = 0;")
    writer.line(f"for (int {i} = 0; {i} < {types[0].shape[0]}; {i}++) {{")
    value = writer.local("i32")("0")
    writer.line(f"{writer.rows}{value} = {writer.read(0, [i])};")
    inside = f"if ({value} >= 0 && {value} < {result.shape[0]})"
    writer.line(f"{writer.rows}{inside} {writer.result([value])} += 1;")
    writer.line("}")


REDUCTION = (
    _reduce("sum", "add"),
    _reduce("largest", "max"),
    _reduce("smallest", "min"),
    Op(
        "bincount",
        _bincount_type,
        _bincount,
        None,
        _write_bincount,
        lambda types, _a, result: 3 * types[0].elements + result.elements,
        grouped=True,
    ),
    Op(
        "argmax",
        _arg_type,
        _argmax,
        None,
        _write_argmax,
        lambda types, _a, _r: types[0].elements,
        grouped=True,
    ),
)
