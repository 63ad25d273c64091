"""What ONNX Runtime computes once per network and not per frame: scales of sums, tables, fixed parts.

Every number here is in single precision, in the order of ONNX Runtime's own CPU kernels: its integers follow from it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ganglion.core.errors import KernelError
from ganglion.kernels.networks.layers import Array, Quantised

RATIO_MIN, RATIO_MAX = 2.0**-16, 2.0**10
"""Within these, a sum of two products is exact in double precision, so one rounding gives what a fused one does."""


def fused(a: Array, b: float, c: Array | np.float32) -> Array:
    """``a * b + c``, rounded once to single precision; ``a`` are whole numbers of 8 bits."""
    total = np.asarray(a, np.float64) * np.float64(b) + np.asarray(c, np.float64)
    return np.asarray(total, np.float32)


def sum_scales(before: Quantised, weights: Array, after: Quantised, results: int) -> Array:
    """The unit of a sum of products, in the unit of the result: one per result."""
    with np.errstate(over="ignore"):  # `check_layers` refuses what is not finite
        scales = np.float32(before.scale) * np.asarray(weights, np.float32).ravel() / np.float32(after.scale)
    return np.broadcast_to(scales, results).astype(np.float32)


def add_terms(
    first: Quantised, second: Quantised, after: Quantised, lift: int
) -> tuple[tuple[float, float], float]:
    """(ratios, fixed part) of a quantised addition of values that are ``lift`` less than the file's.

    Raises `KernelError` ``network.scale`` when a ratio is so extreme that the sum cannot be computed exactly.
    """
    ratio_a = np.float32(first.scale) / np.float32(after.scale)
    ratio_b = np.float32(second.scale) / np.float32(after.scale)
    if not all(RATIO_MIN <= r <= RATIO_MAX for r in (float(ratio_a), float(ratio_b))):
        raise KernelError(
            "network.scale",
            f"the scales of an addition are too far apart: {first.scale:g}, {second.scale:g} to {after.scale:g}",
            why="its sum would not be the same on every processor",
            next_step="calibrate the quantisation with frames like those it will see",
        )
    zero_a, zero_b, zero = (one.zero + lift for one in (first, second, after))
    inner = fused(np.asarray(zero_a), float(ratio_a), ratio_b * np.float32(zero_b))
    return (float(ratio_a), float(ratio_b)), float(np.float32(zero) - inner)


def quantised(values: Any, scale: Any, zero: Any, low: int, high: int) -> Array:
    """ONNX's QuantizeLinear: real numbers to i32 in ``low`` to ``high``, half to even, saturating.

    NaN gives ``low``, as in ONNX Runtime on x86-64; a zero point outside the range counts as its nearest end.
    """
    centre = np.clip(np.asarray(zero, np.int32), low, high)
    with np.errstate(all="ignore"):
        steps = np.asarray(values, np.float32) / np.asarray(scale, np.float32)
    first, last = ((end - centre).astype(np.float32) for end in (low, high))
    cut = np.where(steps > first, np.minimum(steps, last), first)
    return np.asarray(np.rint(cut).astype(np.int32) + centre, np.int32)


def dequantised(values: Any, scale: Any, zero: Any) -> Array:
    """ONNX's DequantizeLinear: whole numbers of i32 to real ones in single precision."""
    with np.errstate(all="ignore"):
        whole = np.asarray(values, np.int32) - np.asarray(zero, np.int32)
        return np.asarray(whole.astype(np.float32) * np.asarray(scale, np.float32))


def dequantise(values: Array, scale: Quantised) -> Array:
    """Values of one scale as real numbers."""
    return dequantised(values, np.float32(scale.scale), np.int32(scale.zero))


def quantise(values: Array, scale: Quantised) -> Array:
    """Real numbers to int8 of one scale."""
    return quantised(values, np.float32(scale.scale), np.int32(scale.zero), -128, 127).astype(np.int8)


def lookup_table(before: Quantised, after: Quantised, low: float, high: float) -> Array:
    """int8[256]: the value of ``i - 128``, clipped to [low, high] as a real number and quantised again."""
    real = dequantise(np.arange(-128, 128), before)
    clipped = np.minimum(np.maximum(real, np.float32(low)), np.float32(high))
    return quantise(clipped, after)


def exponentials(scale: float, length: int) -> Array:
    """float32[256]: exponentials of ``(i - 255) * scale``, lifted so that a sum of ``length`` does not overflow."""
    step = float(np.float32(scale))
    room = math.log(float(np.float32(np.finfo(np.float32).max) / np.float32(length))) - 5.0
    lift = max(0.0, room) / step
    return np.array([math.exp((i - 255 + lift) * step) for i in range(256)]).astype(np.float32)


def global_scale(before: Quantised, after: Quantised, positions: int) -> float:
    """The unit of a sum over ``positions``, in the unit of its mean's result."""
    return float(np.float32(before.scale) / (np.float32(after.scale) * np.float32(positions)))
