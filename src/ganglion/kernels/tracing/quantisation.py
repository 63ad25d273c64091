"""``gg.quantize`` and ``gg.dequantize``: real numbers as whole numbers of 8 bits, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from ganglion.kernels.networks import arithmetic
from ganglion.kernels.ops.quantisation import RANGES
from ganglion.kernels.tracing.builder import refuse
from ganglion.kernels.tracing.traced import Traced, innermost, lift


def quantize(x: Any, scale: Any, zero: Any = 0, dtype: Any = np.int8) -> Any:
    """ONNX's QuantizeLinear: ``x / scale`` to the nearest whole number, halves to even, plus ``zero``; saturating.

    Gives i32 within the range of ``dtype``, `numpy.int8` or `numpy.uint8`; NaN gives the least of it. ``scale`` and
    ``zero`` broadcast with ``x``: one for each channel is an array. Raises `KernelError` ``kernel.constant`` for a
    scale that is not positive and finite or a zero point outside the range, ``kernel.unsupported`` for another
    ``dtype``.
    """
    name = _range(dtype)
    _check_scale(scale)
    low, high = RANGES[name]
    _check_zero(zero, name, low, high)
    values = (x, scale, zero)
    if not any(isinstance(v, Traced) for v in values):
        return arithmetic.quantised(*values, low, high)
    builder = innermost(values)
    numbers = [_operand(builder, v, kind) for v, kind in zip(values, ("f32", "f32", "i32"), strict=True)]
    return Traced(builder, builder.add("quantize", numbers, dtype=name))


def dequantize(q: Any, scale: Any, zero: Any = 0) -> Any:
    """ONNX's DequantizeLinear: ``(q - zero) * scale`` in f32, of whole numbers ``q``.

    ``scale`` and ``zero`` broadcast with ``q``. Raises `KernelError` ``kernel.constant`` for a scale that is not
    positive and finite or a zero point that is no i32, ``kernel.unsupported`` for real numbers.
    """
    _check_scale(scale)
    _check_zero(zero, "i32", -(1 << 31), (1 << 31) - 1)
    values = (q, scale, zero)
    traced = [v for v in values if isinstance(v, Traced)]
    dtype = q.dtype if isinstance(q, Traced) else np.asarray(q).dtype
    if dtype.kind == "f":
        raise refuse(
            "kernel.unsupported",
            "dequantize of real numbers",
            "it takes the whole numbers that a quantize or a network gave",
            "leave it out, or write .astype(np.int32) first",
        )
    if not traced:
        return arithmetic.dequantised(*values)
    builder = innermost(values)
    numbers = [_operand(builder, v, kind) for v, kind in zip(values, ("i32", "f32", "i32"), strict=True)]
    return Traced(builder, builder.add("dequantize", numbers))


def _operand(builder: Any, value: Any, kind: str) -> int:
    if not isinstance(value, Traced):
        value = np.asarray(value, np.float32 if kind == "f32" else np.int32)
    number: int = builder.cast(lift(builder, value).number, kind)
    return number


def _range(dtype: Any) -> str:
    try:
        name = str(np.dtype(dtype).name)
    except TypeError:
        name = str(dtype)
    if name not in RANGES:
        raise refuse(
            "kernel.unsupported",
            f"quantize to {name}",
            f"whole numbers of 8 bits are {' or '.join(RANGES)}",
            "give dtype=np.int8 or np.uint8",
        )
    return name


def _check_zero(zero: Any, name: str, low: int, high: int) -> None:
    if isinstance(zero, Traced):
        return
    given = np.asarray(zero)
    if not np.all((given >= low) & (given <= high) & (given == np.rint(given))):
        raise refuse(
            "kernel.constant",
            f"a zero point {zero} is not {name}",
            "it is the integer that stands for 0",
            f"give a whole number from {low} to {high}",
        )


def _check_scale(scale: Any) -> None:
    if isinstance(scale, Traced):
        return
    with np.errstate(all="ignore"):
        narrow = np.asarray(scale, np.float32)
    if not np.all(np.isfinite(narrow) & (narrow > 0)):
        raise refuse(
            "kernel.constant",
            f"a scale {scale} is not positive and finite in single precision",
            "a real number is scale * (integer - zero)",
            "give the step between two integers, such as 0.05",
        )
