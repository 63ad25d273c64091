"""Operations on single elements: arithmetic, comparison, logic, choice, conversion, mathematics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.ops import mathematics
from ganglion.kernels.ops.op import Array, Attributes, Op, Types, align, broadcast, require

Evaluate = Callable[..., Array]


def _same(types: Types) -> str:
    dtypes = {t.dtype for t in types}
    require(len(dtypes) == 1, f"operands have types {', '.join(str(t) for t in types)}")
    return dtypes.pop()


def _op(
    name: str,
    evaluate: Evaluate,
    f32: str = "",
    i32: str = "",
    boolean: str = "",
    *,
    gives: str = "",
    cost: int = 1,
    one_nan: bool = False,
) -> Op:
    """An operation whose operands have one dtype. C by dtype, empty where there is none; ``gives``: another dtype."""
    c = {"f32": f32, "i32": i32, "bool": boolean}

    def infer(types: Types, _attributes: Attributes) -> TensorType:
        dtype = _same(types)
        require(bool(c[dtype]), f"{name} does not take {dtype}")
        return TensorType(gives or dtype, broadcast(types))

    def reference(arrays: Sequence[Array], _attributes: Attributes, result: TensorType) -> Array:
        level = [align(a, len(result.shape)) for a in arrays]
        with np.errstate(all="ignore"):
            return np.asarray(evaluate(*level)).astype(result.numpy, copy=False)

    def element(types: Types, _attributes: Attributes, operands: Sequence[str]) -> str:
        return c[types[0].dtype].format(*operands)

    def count(_types: Types, _attributes: Attributes, result: TensorType) -> int:
        return cost * result.elements

    return Op(name, infer, reference, element, cost=count, one_nan=one_nan)


def _minimum(a: Array, b: Array) -> Array:
    return np.where(np.isnan(a) | (a < b), a, b)


def _maximum(a: Array, b: Array) -> Array:
    return np.where(np.isnan(a) | (a > b), a, b)


def _left(a: Array, n: Array) -> Array:
    inside = (n >= 0) & (n < 32)
    return np.where(inside, a << np.where(inside, n, 0), 0)


def _right(a: Array, n: Array) -> Array:
    inside = (n >= 0) & (n < 32)
    return np.where(inside, a >> np.where(inside, n, 0), np.where(a < 0, -1, 0))


def _divided(a: Array, b: Array) -> Array:
    wide = np.where(b == 0, 0, a.astype(np.int64) // np.where(b == 0, 1, b))
    return wide.astype(np.int32)


def _remainder(a: Array, b: Array) -> Array:
    wide = np.where(b == 0, 0, a.astype(np.int64) % np.where(b == 0, 1, b))
    return wide.astype(np.int32)


def _where_type(types: Types, _attributes: Attributes) -> TensorType:
    require(types[0].dtype == "bool", f"the condition is {types[0].dtype}, not bool")
    return TensorType(_same(types[1:]), broadcast(types))


def _where(arrays: Sequence[Array], _attributes: Attributes, result: TensorType) -> Array:
    condition, a, b = (align(x, len(result.shape)) for x in arrays)
    return np.where(condition, a, b).astype(result.numpy, copy=False)


CASTS = {
    ("f32", "i32"): "gg_to_i32({0})",
    ("f32", "bool"): "({0} != 0.0f)",
    ("i32", "f32"): "(float){0}",
    ("i32", "bool"): "({0} != 0)",
    ("bool", "f32"): "(float){0}",
    ("bool", "i32"): "(int32_t){0}",
}


def _cast_type(types: Types, attributes: Attributes) -> TensorType:
    require((types[0].dtype, attributes["dtype"]) in CASTS, f"{types[0].dtype} to {attributes['dtype']}")
    return TensorType(attributes["dtype"], types[0].shape)


def _cast(arrays: Sequence[Array], _attributes: Attributes, result: TensorType) -> Array:
    if result.dtype == "i32" and arrays[0].dtype == np.float32:
        return mathematics.to_i32(arrays[0])
    with np.errstate(all="ignore"):
        return arrays[0].astype(result.numpy)


def _cast_c(types: Types, attributes: Attributes, operands: Sequence[str]) -> str:
    return CASTS[types[0].dtype, attributes["dtype"]].format(*operands)


ELEMENTWISE = (
    _op("add", np.add, "({0} + {1})", "gg_addi({0}, {1})", "({0} | {1})"),
    _op("sub", np.subtract, "({0} - {1})", "gg_subi({0}, {1})"),
    _op("mul", np.multiply, "({0} * {1})", "gg_muli({0}, {1})", "({0} & {1})"),
    _op("div", np.divide, "gg_div({0}, {1})", cost=14),
    _op("floordiv", _divided, "", "gg_divi({0}, {1})", cost=8),
    _op("mod", _remainder, "", "gg_modi({0}, {1})", cost=8),
    _op("neg", np.negative, "(-{0})", "gg_negi({0})"),
    _op("abs", np.abs, "gg_abs({0})", "gg_absi({0})"),
    _op("min", _minimum, "gg_min({0}, {1})", "gg_mini({0}, {1})", "({0} & {1})"),
    _op("max", _maximum, "gg_max({0}, {1})", "gg_maxi({0}, {1})", "({0} | {1})"),
    _op("lt", np.less, "({0} < {1})", "({0} < {1})", "({0} < {1})", gives="bool"),
    _op("le", np.less_equal, "({0} <= {1})", "({0} <= {1})", "({0} <= {1})", gives="bool"),
    _op("eq", np.equal, "({0} == {1})", "({0} == {1})", "({0} == {1})", gives="bool"),
    _op("ne", np.not_equal, "({0} != {1})", "({0} != {1})", "({0} != {1})", gives="bool"),
    _op("and", np.bitwise_and, "", "({0} & {1})", "({0} & {1})"),
    _op("or", np.bitwise_or, "", "({0} | {1})", "({0} | {1})"),
    _op("xor", np.bitwise_xor, "", "({0} ^ {1})", "({0} ^ {1})"),
    _op("not", np.invert, "", "(~{0})", "(!{0})"),
    _op("shl", _left, "", "gg_shli({0}, {1})"),
    _op("shr", _right, "", "gg_shri({0}, {1})"),
    _op("isnan", np.isnan, "((gg_bits({0}) & 0x7fffffffu) > 0x7f800000u)", gives="bool"),
    _op("isfinite", np.isfinite, "((gg_bits({0}) & 0x7f800000u) != 0x7f800000u)", gives="bool"),
    _op("sqrt", np.sqrt, "gg_sqrt({0})", cost=14),
    _op("floor", mathematics.floor, "gg_floor({0})", cost=8),
    _op("rint", mathematics.rint, "gg_rint({0})", cost=6),
    _op("exp", mathematics.exp, "gg_exp({0})", cost=35),
    _op("log", mathematics.log, "gg_log({0})", cost=35, one_nan=True),
    _op("sin", mathematics.sin, "gg_sin({0})", cost=35, one_nan=True),
    _op("cos", mathematics.cos, "gg_cos({0})", cost=35, one_nan=True),
    _op("tanh", mathematics.tanh, "gg_tanh({0})", cost=40, one_nan=True),
    _op("sigmoid", mathematics.sigmoid, "gg_sigmoid({0})", cost=60),
    _op("copy", lambda a: a, "{0}", "{0}", "{0}", cost=0),
    Op(
        "where",
        _where_type,
        _where,
        lambda _types, _attributes, operands: f"({operands[0]} ? {operands[1]} : {operands[2]})",
    ),
    Op("cast", _cast_type, _cast, _cast_c),
)
