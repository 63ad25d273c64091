"""Convolutions, depthwise ones and matrix products: all become one kind of layer."""

from __future__ import annotations

import math

import numpy as np

from ganglion.core.errors import KernelError
from ganglion.kernels.networks import arithmetic, faults
from ganglion.kernels.networks.graph import GraphNode
from ganglion.kernels.networks.layers import Array, Convolution, Quantised, Window
from ganglion.kernels.networks.lowering import Held, Lowering, Weights
from ganglion.kernels.networks.validity import bounded
from ganglion.kernels.networks.windows import image, results_shape, window


def conv(low: Lowering, node: GraphNode, given: list[Held | Weights | None], after: Quantised | None) -> Held:
    """Conv between DequantizeLinear and QuantizeLinear."""
    source, weights, bias = _operands(node, given)
    assert after is not None
    return _convolution(low, node, source, weights, bias, after)


def qlinear_conv(
    low: Lowering, node: GraphNode, _: list[Held | Weights | None], __: Quantised | None
) -> Held:
    """QLinearConv: x, scale, zero, w, scale, zero, y's scale, zero, bias."""
    source = low.value(node, 0, low.quantised(node, 1, 2))
    return _convolution(
        low, node, source, _constants(low, node, 3), low.constant(node, 8), low.quantised(node, 6, 7)
    )


def gemm(low: Lowering, node: GraphNode, given: list[Held | Weights | None], after: Quantised | None) -> Held:
    """Gemm, or MatMul with constant weights, between DequantizeLinear and QuantizeLinear."""
    source, weights, bias = _operands(node, given)
    assert after is not None
    return _matrix(low, node, source, weights, bias, after)


def qgemm(low: Lowering, node: GraphNode, _: list[Held | Weights | None], __: Quantised | None) -> Held:
    """QGemm: a, scale, zero, b, scale, zero, bias, y's scale, zero."""
    source = low.value(node, 0, low.quantised(node, 1, 2))
    return _matrix(
        low, node, source, _constants(low, node, 3), low.constant(node, 6), low.quantised(node, 7, 8)
    )


def qlinear_matmul(
    low: Lowering, node: GraphNode, _: list[Held | Weights | None], __: Quantised | None
) -> Held:
    """QLinearMatMul with constant weights: a, scale, zero, b, scale, zero, y's scale, zero."""
    source = low.value(node, 0, low.quantised(node, 1, 2))
    return _matrix(low, node, source, _constants(low, node, 3), None, low.quantised(node, 6, 7))


def _operands(node: GraphNode, given: list[Held | Weights | None]) -> tuple[Held, Weights, Array | None]:
    source, weights, *rest = given
    if not isinstance(source, Held) or not isinstance(weights, Weights):
        raise faults.unsupported(node, "its first operand must be computed and its second constant")
    bias = rest[0] if rest else None
    if len(node.inputs) > 2 and node.inputs[2] and not isinstance(bias, Weights):
        raise faults.weights(node, "its bias is not quantised")
    return source, weights, bias.integers if isinstance(bias, Weights) else None


def _constants(low: Lowering, node: GraphNode, first: int) -> Weights:
    integers, scale, zero = (low.constant(node, first + k) for k in range(3))
    if integers is None or scale is None or zero is None:
        raise faults.weights(node, "weights, a scale or a zero point are missing")
    return Weights(integers, scale, zero, None)


def _check(node: GraphNode, weights: Weights, bias: Array | None, results: int, axis: int) -> Array:
    """The bias as int64, one per result; ``axis``: that of the weights along which the results lie."""
    if weights.integers.dtype != np.int8 or np.any(weights.zero != 0):
        raise faults.weights(node, "weights are not int8 with a zero point of 0")
    if not (np.isfinite(weights.scale).all() and np.all(weights.scale > 0)):
        raise faults.weights(node, "a scale is not positive")
    if weights.scale.size not in (1, results):
        raise faults.weights(node, f"there are {weights.scale.size} scales for {results} results")
    along, rank = weights.axis, weights.integers.ndim
    if weights.scale.size > 1 and along is not None and along not in (axis, axis - rank):
        raise faults.weights(node, f"their scales lie along axis {along}, the results along axis {axis}")
    if bias is None:
        return np.zeros(results, np.int64)
    if bias.dtype != np.int32 or bias.size not in (1, results):
        raise faults.weights(node, "the bias is not int32, one for each result")
    return np.broadcast_to(bias.ravel(), results).astype(np.int64)


def _bounded(node: GraphNode, weights: Array, bias: Array, zero: int) -> None:
    """No sum may leave 32 bits: processors would agree, but the result would mean nothing."""
    if not bounded(weights, bias, zero):
        raise KernelError(
            "network.overflow",
            f"a sum of {node.operator} ({node.label}) may not fit 32 bits",
            why="its bias or its number of weights is too large for the scales",
            next_step="quantise again with other calibration frames, or split the layer",
        )


def _convolution(
    low: Lowering, node: GraphNode, source: Held, weights: Weights, bias: Array | None, after: Quantised
) -> Held:
    source = low.ordered(source, plain=False)
    rows, columns, channels = image(node, source.shape)
    integers = weights.integers
    if integers.ndim != len(source.shape):
        raise faults.weights(node, "weights do not have the axes of the operand")
    results, taken = integers.shape[:2]
    groups = int(node.attributes.get("group", 1))
    depthwise = groups == channels and taken == 1 and groups > 1 and results % groups == 0
    if not depthwise and (groups != 1 or taken != channels):
        raise faults.unsupported(node, f"{groups} groups over {channels} channels; 1 or one per channel")
    moved = window(node, source.shape, integers.shape[2:])
    if moved.kernel != ((1, *integers.shape[2:]) if integers.ndim == 3 else integers.shape[2:]):
        raise faults.weights(node, "kernel_shape is not that of the weights")
    whole = _check(node, weights, bias, results, 0)
    last = np.moveaxis(integers.reshape(results, taken, *moved.kernel), 1, 3)
    assert source.scale is not None
    _bounded(node, last, whole, source.scale.zero)
    layer = Convolution(
        source.number,
        (rows, columns, channels),
        moved,
        np.ascontiguousarray(last),
        whole,
        arithmetic.sum_scales(source.scale, weights.scale, after, results),
        source.scale.zero,
        after.zero,
        depthwise,
    )
    return low.add(layer, results_shape(source.shape, layer.result), after)


def _matrix(
    low: Lowering, node: GraphNode, source: Held, weights: Weights, bias: Array | None, after: Quantised
) -> Held:
    """The last axis of the operand, times a constant matrix: a filter of one position."""
    attributes = node.attributes
    factors = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    if attributes.get("transA", 0) or factors != (1.0, 1.0) or weights.integers.ndim != 2:
        raise faults.unsupported(node, "only a plain product with a constant matrix is computed")
    turned = bool(attributes.get("transB", 0))
    matrix = weights.integers if turned else weights.integers.T
    source = low.ordered(source, plain=True)
    *outer, taken = source.shape
    if matrix.shape[1] != taken:
        raise faults.weights(node, f"the matrix takes {matrix.shape[1]} values of {taken}")
    whole = _check(node, weights, bias, len(matrix), 0 if turned else 1)
    assert source.scale is not None
    _bounded(node, matrix, whole, source.scale.zero)
    layer = Convolution(
        source.number,
        (1, math.prod(outer), taken),
        Window((1, 1)),
        np.ascontiguousarray(matrix).reshape(len(matrix), 1, 1, taken),
        whole,
        arithmetic.sum_scales(source.scale, weights.scale, after, len(matrix)),
        source.scale.zero,
        after.zero,
    )
    return low.add(layer, (*outer, len(matrix)), after, plain=True)
