"""Real numbers as whole numbers of 8 bits and back: ONNX's QuantizeLinear and DequantizeLinear.

A real number is ``scale * (integer - zero)``. The integers are i32 within the range of int8 or uint8; scale and zero
point broadcast, so one for all elements and one for each channel are the same operation.
"""

from __future__ import annotations

from collections.abc import Sequence

from ganglion.core.schema import TensorType
from ganglion.kernels.networks import arithmetic
from ganglion.kernels.ops.op import Array, Attributes, Op, Types, align, broadcast, require

RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


def _quantize_type(types: Types, attributes: Attributes) -> TensorType:
    x, scale, zero = types
    require(attributes["dtype"] in RANGES, f"{attributes['dtype']} is not {' or '.join(RANGES)}")
    require(x.dtype == scale.dtype == "f32" and zero.dtype == "i32", f"quantize of {x} by {scale} and {zero}")
    return TensorType("i32", broadcast(types))


def _quantize(arrays: Sequence[Array], attributes: Attributes, result: TensorType) -> Array:
    x, scale, zero = (align(a, len(result.shape)) for a in arrays)
    return arithmetic.quantised(x, scale, zero, *RANGES[attributes["dtype"]])


def _quantize_c(_types: Types, attributes: Attributes, operands: Sequence[str]) -> str:
    low, high = RANGES[attributes["dtype"]]
    return f"gg_quantize({', '.join(operands)}, {low}, {high})"


def _dequantize_type(types: Types, _attributes: Attributes) -> TensorType:
    q, scale, zero = types
    require(
        q.dtype == zero.dtype == "i32" and scale.dtype == "f32", f"dequantize of {q} by {scale} and {zero}"
    )
    return TensorType("f32", broadcast(types))


def _dequantize(arrays: Sequence[Array], _attributes: Attributes, result: TensorType) -> Array:
    q, scale, zero = (align(a, len(result.shape)) for a in arrays)
    return arithmetic.dequantised(q, scale, zero)


def _dequantize_c(_types: Types, _attributes: Attributes, operands: Sequence[str]) -> str:
    q, scale, zero = operands
    return f"((float)gg_subi({q}, {zero}) * {scale})"


QUANTISATION = (
    Op(
        "quantize",
        _quantize_type,
        _quantize,
        _quantize_c,
        cost=lambda _types, _attributes, result: 20 * result.elements,
    ),
    Op(
        "dequantize",
        _dequantize_type,
        _dequantize,
        _dequantize_c,
        cost=lambda _types, _attributes, result: 3 * result.elements,
    ),
)
