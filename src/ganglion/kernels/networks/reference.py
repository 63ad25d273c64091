"""What a network gives, in NumPy over many frames at once: ONNX Runtime's integers, exactly.

The meaning is that of ONNX Runtime's CPU kernels on x86-64 at full graph optimisation; every C build is compared with
this.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from ganglion.kernels.networks import arithmetic, layers
from ganglion.kernels.networks.layers import Array, Layer, Network

FRAMES_AT_ONCE, CELLS_MAX = 64, 1 << 23
"""Columns of a convolution are laid out for so many frames, and at most so many cells; more only cost memory."""


def compute(network: Network, frames: Array) -> Array:
    """int8 (n, *input shape) to int8 (n, *output shape)."""
    assert frames.dtype == np.int8 and frames.shape[1:] == network.input_shape, frames.shape
    convolutions = [layer for layer in network.layers if isinstance(layer, layers.Convolution)]
    widest = max((prod(c.result[:2]) * prod(c.window.kernel) * c.shape[2] for c in convolutions), default=1)
    step = max(1, min(FRAMES_AT_ONCE, CELLS_MAX // widest))
    parts = [_compute(network, frames[k : k + step]) for k in range(0, len(frames), step)]
    return np.concatenate(parts) if parts else np.zeros((0, *network.output_shape), np.int8)


def _compute(network: Network, frames: Array) -> Array:
    n = len(frames)
    values = [frames.reshape(n, -1)]
    for layer in network.layers:
        values.append(_OF[type(layer)](layer, values).reshape(n, -1))
    return values[network.output].reshape(n, *network.output_shape)


def _requantised(sums: Array, scale: Array | np.float32, zero: int) -> Array:
    """Whole sums in another unit: one product in single precision, cut to the range, half to even."""
    steps = np.asarray(sums, np.int32).astype(np.float32) * scale
    return np.asarray(np.rint(np.clip(steps, -128.0 - zero, 127.0 - zero)) + zero, np.int8)


def _windows(image: Array, window: layers.Window, fill: Any) -> Array:
    """(n, rows, columns, channels, kernel rows, kernel columns) of an image that is padded with ``fill``."""
    top, left, bottom, right = window.pads
    padded = np.pad(image, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    reach = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilations, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))
    return views[
        :, :: window.strides[0], :: window.strides[1], :, :: window.dilations[0], :: window.dilations[1]
    ]


def _convolution(layer: layers.Convolution, values: list[Array]) -> Array:
    image = values[layer.source].reshape(-1, *layer.shape).astype(np.float64) - layer.zero_in
    views = _windows(image, layer.window, 0.0)
    results = len(layer.weights)
    weights = layer.weights.astype(np.float64)
    if layer.depthwise:
        views = np.repeat(views, results // layer.shape[2], axis=3)
        sums = np.einsum("nhwcij,cij->nhwc", views, weights[..., 0])
    else:
        rows = np.moveaxis(views, 3, 5).reshape(*views.shape[:3], -1)
        sums = rows @ weights.reshape(results, -1).T
    # Sums of 53 bits are exact in double precision; that they fit 32 bits was checked when the file was read.
    return _requantised(sums + layer.bias, layer.scales, layer.zero)


def _max_pool(layer: layers.MaxPool, values: list[Array]) -> Array:
    return np.asarray(
        _windows(values[layer.source].reshape(-1, *layer.shape), layer.window, -128).max((4, 5))
    )


def _average_pool(layer: layers.AveragePool, values: list[Array]) -> Array:
    image = values[layer.source].reshape(-1, *layer.shape)
    real = _windows(arithmetic.dequantise(image, layer.before), layer.window, 0.0)
    inside = _windows(np.ones((1, *layer.shape[:2], 1), np.float32), layer.window, 0.0)
    total = np.zeros(real.shape[:4], np.float32)
    for row in range(layer.window.kernel[0]):
        for column in range(layer.window.kernel[1]):
            # What is padded adds a zero, which changes nothing.
            total = total + real[..., row, column]
    count = np.float32(prod(layer.window.kernel)) if layer.count_pads else inside.sum((4, 5), np.float32)
    steps = (total / count) / np.float32(layer.after.scale) + np.float32(layer.after.zero + layer.lift)
    return np.asarray(np.clip(np.rint(steps) - layer.lift, -128, 127), np.int8)


def _global_average(layer: layers.GlobalAverage, values: list[Array]) -> Array:
    image = values[layer.source].reshape(-1, *layer.shape).astype(np.int32) - layer.zero_in
    return _requantised(image.sum((1, 2)), np.float32(layer.scale), layer.zero)


def _add(layer: layers.Add, values: list[Array]) -> Array:
    first, second = (values[s].astype(np.int16) + layer.lift for s in (layer.source, layer.second))
    inner = arithmetic.fused(second, layer.ratios[1], np.float32(layer.fixed))
    outer = arithmetic.fused(first, layer.ratios[0], inner)
    return np.asarray(np.clip(np.rint(outer) - layer.lift, -128, 127), np.int8)


def _lookup(layer: layers.Lookup, values: list[Array]) -> Array:
    return np.asarray(layer.table[values[layer.source].astype(np.int16) + 128])


def _softmax(layer: layers.Softmax, values: list[Array]) -> Array:
    rows = values[layer.source].reshape(-1, layer.rows, layer.length).astype(np.int16)
    shares = layer.exponentials[255 - (rows.max(2, keepdims=True) - rows)]
    total = np.zeros(shares.shape[:2], np.float32)
    for k in range(layer.length):
        total = total + shares[..., k]
    parts = np.rint((shares * np.float32(layer.parts)) / total[..., None]).astype(np.int32) + layer.zero
    return np.asarray(np.minimum(parts, 127), np.int8)


def _permute(layer: layers.Permute, values: list[Array]) -> Array:
    value = values[layer.source].reshape(-1, *layer.shape)
    return np.transpose(value, (0, *(a + 1 for a in layer.axes)))


def _join(layer: layers.Join, values: list[Array]) -> Array:
    return np.concatenate([values[s].reshape(-1, layer.outer, b) for s, b in _blocks(layer)], axis=2)


def _blocks(layer: layers.Join) -> list[tuple[int, int]]:
    return list(zip(layer.sources, layer.blocks, strict=True))


def _pad(layer: layers.Pad, values: list[Array]) -> Array:
    image = values[layer.source].reshape(-1, *layer.shape)
    frame = [(0, 0), *zip(layer.before, layer.after, strict=True)]
    return np.pad(image, frame, constant_values=layer.value)


_OF: dict[type[Layer], Callable[[Any, list[Array]], Array]] = {
    layers.Convolution: _convolution,
    layers.MaxPool: _max_pool,
    layers.AveragePool: _average_pool,
    layers.GlobalAverage: _global_average,
    layers.Add: _add,
    layers.Lookup: _lookup,
    layers.Softmax: _softmax,
    layers.Permute: _permute,
    layers.Join: _join,
    layers.Pad: _pad,
}
