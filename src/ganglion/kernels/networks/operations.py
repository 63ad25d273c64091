"""Every operator that is read, but for products: pools, additions, softmax and what only moves values."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ganglion.core.errors import KernelError
from ganglion.kernels.networks import arithmetic, faults, products
from ganglion.kernels.networks.graph import Graph, GraphNode
from ganglion.kernels.networks.layers import (
    Add,
    AveragePool,
    GlobalAverage,
    Join,
    Lookup,
    MaxPool,
    Network,
    Pad,
    Quantised,
    Softmax,
    Window,
)
from ganglion.kernels.networks.lowering import Held, Lowering, Operation, Real, Weights
from ganglion.kernels.networks.validity import check_layers
from ganglion.kernels.networks.windows import image, results_shape, window

Given = list[Held | Weights | None]


def lower(graph: Graph) -> Network:
    """The layers of a quantised graph. Raises `KernelError` for what cannot be computed with the same integers."""
    network = Lowering(graph).walk(QUANTISED, MOVED)
    try:
        check_layers(network)
    except ValueError as error:
        raise KernelError(
            "network.form",
            f"the network {network.name} has numbers that no layer can have",
            why=str(error),
            next_step="look at that layer in the file; quantise again with frames like those it will see",
        ) from error
    return network


def _first(node: GraphNode, given: Given) -> Held:
    if not given or not isinstance(given[0], Held):
        raise faults.unsupported(node, "its operand is constant")
    return given[0]


def _axis(node: GraphNode, value: object, rank: int) -> int:
    if not isinstance(value, int) or not -rank <= value < rank:
        raise faults.unsupported(node, f"its operand has no axis {value}")
    return value % rank


def _both(held: Held, after: Quantised | None) -> tuple[Quantised, Quantised]:
    assert held.scale is not None and after is not None
    return held.scale, after


# --- pools ---


def _check_pool(node: GraphNode, moved: Window) -> None:
    if moved.dilations != (1, 1):
        raise faults.unsupported(node, "windows with gaps (dilations) are not computed")
    if any(pad >= size for pad, size in zip(moved.pads, moved.kernel * 2, strict=True)):
        raise faults.unsupported(node, "a window may lie in the padding alone")


def _max_pool(low: Lowering, node: GraphNode, given: Given, after: Quantised | None) -> Held:
    source = low.ordered(_first(node, given), plain=False)
    moved = window(node, source.shape)
    _check_pool(node, moved)
    layer = MaxPool(source.number, image(node, source.shape), moved)
    return _scaled(low, low.add(layer, results_shape(source.shape, layer.result), source.scale), after)


def _global_max(low: Lowering, node: GraphNode, given: Given, after: Quantised | None) -> Held:
    source = low.ordered(_first(node, given), plain=False)
    rows, columns, channels = image(node, source.shape)
    layer = MaxPool(source.number, (rows, columns, channels), Window((rows, columns)))
    return _scaled(low, low.add(layer, results_shape(source.shape, (1, 1, channels)), source.scale), after)


def _average_pool(low: Lowering, node: GraphNode, given: Given, after: Quantised | None) -> Held:
    source = low.ordered(_first(node, given), plain=False)
    moved = window(node, source.shape)
    _check_pool(node, moved)
    count_pads = bool(node.attributes.get("count_include_pad", 0))
    before, then = _both(source, after)
    layer = AveragePool(source.number, image(node, source.shape), moved, before, then, count_pads, low.lift)
    return low.add(layer, results_shape(source.shape, layer.result), after)


def _global_average(low: Lowering, node: GraphNode, given: Given, after: Quantised | None) -> Held:
    source = low.ordered(_first(node, given), plain=False)
    rows, columns, channels = image(node, source.shape)
    before, then = _both(source, after)
    scale = arithmetic.global_scale(before, then, rows * columns)
    layer = GlobalAverage(source.number, (rows, columns, channels), before.zero, scale, then.zero)
    return low.add(layer, results_shape(source.shape, (1, 1, channels)), after)


def _q_pool(low: Lowering, node: GraphNode, _: Given, __: Quantised | None) -> Held:
    source = low.value(node, 0, low.quantised(node, 1, 2))
    if node.attributes.get("channels_last", 0):
        raise faults.unsupported(node, "it reads channels last; an export for other processors does not")
    pool = _average_pool if node.operator == "QLinearAveragePool" else _global_average
    return pool(low, node, [source], low.quantised(node, 3, 4))


# --- additions, softmax, joining ---


def _sum(low: Lowering, node: GraphNode, given: Given, after: Quantised | None) -> Held:
    first, second = given
    if not isinstance(first, Held) or not isinstance(second, Held) or first.shape != second.shape:
        raise faults.unsupported(node, "both operands must be computed and of one shape")
    plain = first.plain and second.plain
    first, second = low.ordered(first, plain=plain), low.ordered(second, plain=plain)
    before, then = _both(first, after)
    assert second.scale is not None
    ratios, fixed = arithmetic.add_terms(before, second.scale, then, low.lift)
    layer = Add(first.number, second.number, math.prod(first.shape), ratios, fixed, low.lift)
    return low.add(layer, first.shape, after, plain=plain)


def _q_add(low: Lowering, node: GraphNode, _: Given, __: Quantised | None) -> Held:
    first = low.value(node, 0, low.quantised(node, 1, 2))
    second = low.value(node, 3, low.quantised(node, 4, 5))
    return _sum(low, node, [first, second], low.quantised(node, 6, 7))


def _softmax(low: Lowering, node: GraphNode, given: Given, after: Quantised | None) -> Held:
    source = low.ordered(_first(node, given), plain=True)
    rank = len(source.shape)
    opset = int(node.attributes.get("opset", low.graph.opset))
    axis = _axis(node, node.attributes.get("axis", 1 if opset < 13 else -1), rank)
    inner = source.shape[axis:] if opset < 13 else source.shape[axis : axis + 1]
    order = [a for a in range(rank) if a != axis] + [axis]
    whole = low.permuted(source, source.shape, tuple(order)) if opset >= 13 else source
    before, then = _both(source, after)
    if then.scale != 1 / 256:
        raise faults.unsupported(node, "the scale of its result is not 1/256, which quantize_static writes")
    length = math.prod(inner)
    if length < 2:  # ONNX Runtime's own numbers overflow there
        raise faults.unsupported(node, "it shares out one value")
    rows = math.prod(source.shape) // length
    parts = float(np.floor(np.float32(1.0) / np.float32(then.scale)))
    table = arithmetic.exponentials(before.scale, length)
    held = low.add(
        Softmax(whole.number, rows, length, table, parts, then.zero), source.shape, after, plain=True
    )
    if opset < 13:
        return held
    back = tuple(order.index(a) for a in range(rank))
    return low.permuted(held, tuple(source.shape[a] for a in order), back)


def _q_softmax(low: Lowering, node: GraphNode, _: Given, __: Quantised | None) -> Held:
    source = low.value(node, 0, low.quantised(node, 1, 2))
    return _softmax(low, node, [source], low.quantised(node, 3, 4))


def _concat(low: Lowering, node: GraphNode, given: Given, after: Quantised | None) -> Held:
    parts = [g for g in given if isinstance(g, Held)]
    if len(parts) != len(given) or not parts:
        raise faults.unsupported(node, "an operand is constant")
    axis = _axis(node, node.attributes.get("axis"), len(parts[0].shape))
    across = {(*p.shape[:axis], *p.shape[axis + 1 :]) for p in parts}
    if len(across) != 1 or axis == 0:
        raise faults.unsupported(node, "its operands do not fit beside each other in one frame")
    if after is not None:
        parts = [_scaled(low, p, after) for p in parts]
    plain = all(p.plain for p in parts)
    parts = [low.ordered(p, plain=plain) for p in parts]
    rank = len(parts[0].shape)
    order = [*range(rank)] if plain or rank < 3 else [0, *range(2, rank), 1]
    place = order.index(axis)
    outer = math.prod(parts[0].shape[a] for a in order[:place])
    blocks = tuple(math.prod(p.shape) // outer for p in parts)
    shape = list(parts[0].shape)
    shape[axis] = sum(p.shape[axis] for p in parts)
    layer = Join(tuple(p.number for p in parts), outer, blocks)
    return low.add(layer, tuple(shape), after or parts[0].scale, plain=plain)


def _q_concat(low: Lowering, node: GraphNode, _: Given, __: Quantised | None) -> Held:
    parts: Given = []
    for k in range(2, len(node.inputs), 3):
        parts.append(low.value(node, k, low.quantised(node, k + 1, k + 2)))
    return _concat(low, node, parts, low.quantised(node, 0, 1))


# --- what only moves values ---


def _scaled(low: Lowering, held: Held, after: Quantised | None) -> Held:
    if after is None or held.scale is None:
        return held
    return low.again(Real(held, held.scale), after)


def _reshape(low: Lowering, node: GraphNode, given: Given, after: Quantised | None) -> Held:
    source = low.ordered(_first(node, given), plain=True)
    shape = _new_shape(low, node, source.shape)
    if not shape or math.prod(shape) != math.prod(source.shape) or shape[0] != 1 or min(shape) < 1:
        raise faults.unsupported(node, f"{source.shape} becomes {shape}; the batch axis has to stay")
    return _scaled(low, replace(source, shape=shape, plain=True), after)


def _new_shape(low: Lowering, node: GraphNode, shape: tuple[int, ...]) -> tuple[int, ...]:
    if node.operator == "Flatten":
        axis = _axis(node, node.attributes.get("axis", 1), len(shape) + 1)
        return (math.prod(shape[:axis]), math.prod(shape[axis:]))
    found = low.constant(node, 1)
    wanted = [int(v) for v in (node.attributes.get("axes", []) if found is None else found.ravel())]
    if node.operator == "Reshape":
        kept = [shape[k] if v == 0 and k < len(shape) else v for k, v in enumerate(wanted)]
        rest = max(1, -math.prod(kept))
        return tuple(math.prod(shape) // rest if v == -1 else v for v in kept)
    if node.operator == "Squeeze":
        given = {_axis(node, a, len(shape)) for a in wanted}
        axes = given or {k for k, v in enumerate(shape) if v == 1}
        return tuple(v for k, v in enumerate(shape) if k not in axes)
    rank = len(shape) + len(wanted)
    old = iter(shape)
    places = {_axis(node, a, rank) for a in wanted}
    if len(places) != len(wanted):
        raise faults.unsupported(node, "an axis is named twice")
    return tuple(1 if k in places else next(old) for k in range(rank))


def _transpose(low: Lowering, node: GraphNode, given: Given, after: Quantised | None) -> Held:
    source = low.ordered(_first(node, given), plain=True)
    axes = tuple(node.attributes.get("perm", reversed(range(len(source.shape)))))
    if sorted(axes) != list(range(len(source.shape))):
        raise faults.unsupported(node, f"{axes} is no order of its operand's axes")
    shape = tuple(source.shape[a] for a in axes)
    moved = low.permuted(source, source.shape, axes)
    if shape[0] != 1:
        raise faults.unsupported(node, f"{source.shape} becomes {shape}; the batch axis has to stay")
    return _scaled(low, replace(moved, shape=shape), after)


def _pad(low: Lowering, node: GraphNode, given: Given, after: Quantised | None) -> Held:
    source = low.ordered(_scaled(low, _first(node, given), after), plain=False)
    rank = len(source.shape)
    pads = low.constant(node, 1)
    if node.attributes.get("mode", "constant") != "constant" or pads is None or pads.size != 2 * rank:
        raise faults.unsupported(node, "only a frame of one value, given for every axis, is added")
    if rank not in (2, 3, 4) or pads.min() < 0 or pads[0] or pads[rank]:
        raise faults.unsupported(node, "frames are not negative and leave the batch axis alone")
    order = {2: (None, None, 1), 3: (None, 2, 1), 4: (2, 3, 1)}[rank]
    extents = [1 if a is None else source.shape[a] for a in order]
    before = [0 if a is None else int(pads[a]) for a in order]
    behind = [0 if a is None else int(pads[a + rank]) for a in order]
    layer = Pad(
        source.number,
        (extents[0], extents[1], extents[2]),
        (before[0], before[1], before[2]),
        (behind[0], behind[1], behind[2]),
        _pad_value(low, node, given, after),
    )
    shape = tuple(s + int(pads[k]) + int(pads[k + rank]) for k, s in enumerate(source.shape))
    return low.add(layer, shape, source.scale)


def _pad_value(low: Lowering, node: GraphNode, given: Given, after: Quantised | None) -> int:
    known = given[2] if len(given) > 2 else None
    if isinstance(known, Weights):
        scale = Quantised(float(known.scale.ravel()[0]), int(known.zero.ravel()[0]))
        real = arithmetic.dequantise(known.integers, scale)
    else:
        found = low.constant(node, 2)
        real = np.zeros(1) if found is None else found
    if after is None:
        return int(real.ravel()[0]) - low.lift
    return int(arithmetic.quantise(real.ravel()[:1], after)[0])


def _clip(low: Lowering, node: GraphNode, given: Given, _: Quantised | None) -> Held:
    """On whole numbers themselves; between DequantizeLinear and QuantizeLinear it is a `Pending`'s bounds."""
    source = _first(node, given)
    first, last = low.bounds(node)
    every = np.arange(-128, 128)
    table = np.clip(every + low.lift, max(first, -128), min(last, 255)) - low.lift
    layer = Lookup(source.number, math.prod(source.shape), np.clip(table, -128, 127).astype(np.int8))
    return low.add(layer, source.shape, source.scale, plain=source.plain)


def _identity(low: Lowering, node: GraphNode, given: Given, after: Quantised | None) -> Held:
    return _scaled(low, _first(node, given), after)


MOVED: dict[str, Operation] = {
    "MaxPool": _max_pool,
    "GlobalMaxPool": _global_max,
    "Relu": _clip,
    "Clip": _clip,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Pad": _pad,
    "Concat": _concat,
    "Identity": _identity,
}
QUANTISED: dict[str, Operation] = {
    "Conv": products.conv,
    "Gemm": products.gemm,
    "MatMul": products.gemm,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "Add": _sum,
    "Softmax": _softmax,
    "QLinearConv": products.qlinear_conv,
    "QGemm": products.qgemm,
    "QLinearMatMul": products.qlinear_matmul,
    "QLinearAveragePool": _q_pool,
    "QLinearGlobalAveragePool": _q_pool,
    "QLinearAdd": _q_add,
    "QLinearSoftmax": _q_softmax,
    "QLinearConcat": _q_concat,
}
