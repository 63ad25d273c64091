"""What must hold of a network's layers: every index they make lies inside what they read and write."""

from __future__ import annotations

import math
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from ganglion.kernels.networks import layers
from ganglion.kernels.networks.layers import Array, Network, Window, sources

LAYERS_MAX, ELEMENTS_MAX = 1000, 1 << 24
WEIGHTS_MAX, PRODUCTS_MAX = 4 << 20, 1 << 28
"""Each weight is a number in the text of the C, and a byte of flash. Every frame of a proof makes all products."""
AXES_MAX = 8
EXTENT_MAX = 1 << 20


def check_network(network: Network) -> None:
    """Raises `ValueError` naming the first layer that breaks a rule, or for one that no kernel may hold."""
    check_layers(network)
    _need(not oversized(network), "it has too many weights, or products")


def check_layers(network: Network) -> None:
    """The same for a network of any size."""
    _need(isinstance(network.name, str), "its name is no text")
    _need(isinstance(network.layers, tuple) and len(network.layers) <= LAYERS_MAX, "it has too many layers")
    for shape in (network.input_shape, network.output_shape):
        _extents(shape)
    for k, layer in enumerate(network.layers):
        try:
            _need(type(layer) in _RULES, "it is no layer")
            _need(all(_whole(s, 0, k) for s in sources(layer)), "it reads what comes later")
            _RULES[type(layer)](layer, network)
            _extents(layer.result)
        except (ValueError, TypeError, AttributeError, IndexError, ZeroDivisionError) as error:
            raise ValueError(f"layer {k} ({type(layer).__name__}): {error}") from error
    _need(_whole(network.output, 0, len(network.layers)), "nothing gives its output")
    _need(network.elements(network.output) == prod(network.output_shape), "its output has another shape")
    for scale in (network.input_scale, network.output_scale):
        if scale is not None:
            _quantised(scale)
    for flag in (network.unsigned, network.real_input, network.real_output):
        _need(isinstance(flag, bool), "a flag is none")
    _need(network.input_scale is not None or not network.real_input, "its input has no scale")
    _need(network.output_scale is not None or not network.real_output, "its output has no scale")


def oversized(network: Network) -> bool:
    """True when a kernel may not hold it."""
    convolutions = [layer for layer in network.layers if isinstance(layer, layers.Convolution)]
    weights = sum(int(c.weights.size) for c in convolutions)
    return weights > WEIGHTS_MAX or network.products > PRODUCTS_MAX


def _need(condition: bool, why: str) -> None:
    if not condition:
        raise ValueError(why)


def _whole(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _extents(shape: Any) -> None:
    _need(isinstance(shape, tuple) and len(shape) <= AXES_MAX, "it has too many axes")
    _need(
        all(_whole(d, 1, EXTENT_MAX) for d in shape) and prod(shape) <= ELEMENTS_MAX, f"{shape} is no shape"
    )


def _operand(network: Network, source: int, elements: int) -> None:
    _need(network.elements(source) == elements, f"it reads {elements} values of {network.elements(source)}")


def _image(layer: Any, network: Network) -> None:
    _extents(layer.shape)
    _need(len(layer.shape) == 3, "its operand has not three axes")
    _operand(network, layer.source, prod(layer.shape))


def _byte(*values: object) -> None:
    _need(all(_whole(v, -128, 127) for v in values), "a zero point or value is not int8")


def _finite(*values: object) -> None:
    _need(all(isinstance(v, float) and math.isfinite(v) for v in values), "a number is not finite")


def _quantised(scale: Any) -> None:
    _finite(scale.scale)
    _need(scale.scale > 0, "a scale is not positive")
    _byte(scale.zero)


def _array(array: Any, dtype: type, shape: tuple[int, ...]) -> None:
    fits = isinstance(array, np.ndarray) and array.dtype == dtype and array.shape == shape
    _need(fits, f"a table is not {np.dtype(dtype).name}{list(shape)}")
    _need(dtype is not np.float32 or bool(np.isfinite(array).all()), "a table is not finite")


def _window(window: Any, shape: tuple[int, ...]) -> None:
    _need(isinstance(window, Window), "it has no window")
    for pair in (window.kernel, window.strides, window.dilations):
        _need(len(pair) == 2 and all(_whole(v, 1, EXTENT_MAX) for v in pair), "its window has no extent")
    _need(len(window.pads) == 4 and all(_whole(v, 0, EXTENT_MAX) for v in window.pads), "its pads are wrong")
    top, left, bottom, right = window.pads
    padded = (shape[0] + top + bottom) * (shape[1] + left + right) * shape[2]
    _need(padded <= ELEMENTS_MAX, "it is padded too far")


def bounded(weights: Array, bias: Array, zero: int) -> bool:
    """True when no sum of products, nor a part of one, can leave 32 bits."""
    flat = weights.reshape(len(weights), -1).astype(np.int64)
    reach = np.abs(flat).sum(1) * max(127 - zero, 128 + zero, 128) + np.abs(bias)
    reach = reach + np.abs(flat.sum(1) * zero)
    return not reach.size or int(reach.max()) < 1 << 31


def _convolution(layer: layers.Convolution, network: Network) -> None:
    _image(layer, network)
    _window(layer.window, layer.shape)
    _byte(layer.zero_in, layer.zero)
    channels = layer.shape[2]
    results = len(layer.weights)
    _need(isinstance(layer.depthwise, bool), "a flag is none")
    taken = 1 if layer.depthwise else channels
    _array(layer.weights, np.int8, (results, *layer.window.kernel, taken))
    _need(results >= 1 and (not layer.depthwise or results % channels == 0), "its weights do not fit")
    _array(layer.bias, np.int64, (results,))
    _array(layer.scales, np.float32, (results,))
    _need(bool(np.all(layer.scales >= 0)), "a scale is negative")
    _need(bool(np.all(np.abs(layer.bias) < 1 << 31)), "a bias is not of 32 bits")
    _need(bounded(layer.weights, layer.bias, layer.zero_in), "a sum may not fit 32 bits")


def _pool(layer: Any, network: Network) -> None:
    _image(layer, network)
    _window(layer.window, layer.shape)
    _need(layer.window.dilations == (1, 1), "its window has gaps")
    whole = all(p < k for p, k in zip(layer.window.pads, layer.window.kernel * 2, strict=True))
    _need(whole, "its window may lie in padding")


def _average(layer: layers.AveragePool, network: Network) -> None:
    _pool(layer, network)
    _quantised(layer.before)
    _quantised(layer.after)
    _need(layer.lift in (0, 128) and isinstance(layer.count_pads, bool), "a flag is none")


def _global(layer: layers.GlobalAverage, network: Network) -> None:
    _image(layer, network)
    _finite(layer.scale)
    _byte(layer.zero_in, layer.zero)


def _add(layer: layers.Add, network: Network) -> None:
    for source in (layer.source, layer.second):
        _operand(network, source, layer.elements)
    _need(len(layer.ratios) == 2 and layer.lift in (0, 128), "a number is missing")
    _finite(*layer.ratios, layer.fixed)
    # What gg_whole rounds.
    reach = 256 * (abs(layer.ratios[0]) + abs(layer.ratios[1])) + abs(layer.fixed)
    _need(reach < 2.0**21, "its ratios are too large")


def _lookup(layer: layers.Lookup, network: Network) -> None:
    _operand(network, layer.source, layer.elements)
    _array(layer.table, np.int8, (256,))


def _softmax(layer: layers.Softmax, network: Network) -> None:
    _need(_whole(layer.rows, 1, EXTENT_MAX) and _whole(layer.length, 2, EXTENT_MAX), "it has no length")
    _operand(network, layer.source, layer.rows * layer.length)
    _array(layer.exponentials, np.float32, (256,))
    _need(bool(np.all(layer.exponentials >= 0)) and layer.exponentials[255] > 0, "its table is none")
    _finite(layer.parts)
    _need(0 <= layer.parts <= 256, "its parts are not 8 bits")
    most = float(layer.exponentials.max()) * max(layer.length, layer.parts)
    _need(most <= float(np.finfo(np.float32).max), "its sum overflows")
    _byte(layer.zero)


def _permute(layer: layers.Permute, network: Network) -> None:
    _extents(layer.shape)
    _need(len(layer.shape) <= 4 and sorted(layer.axes) == list(range(len(layer.shape))), "its axes are wrong")
    _operand(network, layer.source, prod(layer.shape))


def _join(layer: layers.Join, network: Network) -> None:
    _need(len(layer.sources) == len(layer.blocks) > 0, "its blocks are not those of its operands")
    _need(_whole(layer.outer, 1, ELEMENTS_MAX), "it has no rows")
    for source, block in zip(layer.sources, layer.blocks, strict=True):
        _need(_whole(block, 1, ELEMENTS_MAX), "a block is empty")
        _operand(network, source, layer.outer * block)


def _pad(layer: layers.Pad, network: Network) -> None:
    _image(layer, network)
    for frame in (layer.before, layer.after):
        _need(len(frame) == 3 and all(_whole(v, 0, EXTENT_MAX) for v in frame), "its frame is wrong")
    _byte(layer.value)


_RULES: dict[type, Callable[[Any, Network], None]] = {
    layers.Convolution: _convolution,
    layers.MaxPool: _pool,
    layers.AveragePool: _average,
    layers.GlobalAverage: _global,
    layers.Add: _add,
    layers.Lookup: _lookup,
    layers.Softmax: _softmax,
    layers.Permute: _permute,
    layers.Join: _join,
    layers.Pad: _pad,
}
