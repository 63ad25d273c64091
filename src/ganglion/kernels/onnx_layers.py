"""The layers of a network as ONNX's standard operators on a batch of frames, for the export of the kernel round it.

Weights, zero points and tables are the network's own. Convolutions, additions, tables and what only moves values give
the same integers; averages and softmax are summed in ONNX Runtime's own order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np

from ganglion.kernels.networks import layers
from ganglion.kernels.networks.layers import Network


class Put(Protocol):
    """Appends an operator with these inputs; returns the name of its result."""

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str: ...


class LayerExporter:
    """``constant(value)`` names a constant; ``types``: ONNX's numbers of int8, int32, float and double."""

    def __init__(self, put: Put, constant: Callable[[Any], str], types: Mapping[str, int]) -> None:
        self._put = put
        self._constant = constant
        self._types = types

    def export(self, network: Network, value: str) -> str:
        """From the name of int32 (B, *input shape) to that of int32 (B, *output shape)."""
        shift = np.array(network.low + 128, np.int32)
        ends = [self._constant(np.array(network.low + k, np.int32)) for k in (0, 255)]
        cut = self._put("Min", self._put("Max", value, ends[0]), ends[1])
        whole = self._put("Sub", cut, self._constant(shift))
        values = [self._shaped(self._cast(whole, "int8"), [prod(network.input_shape)])]
        for layer in network.layers:
            given = [values[s] for s in layers.sources(layer)]
            made: str = getattr(self, f"_{type(layer).__name__.lower()}")(layer, *given)
            values.append(self._shaped(made, [prod(layer.result)]))
        found = self._put("Add", self._cast(values[network.output], "int32"), self._constant(shift))
        return self._shaped(found, network.output_shape)

    # --- pieces ---

    def _shaped(self, value: str, shape: Sequence[int]) -> str:
        return self._put("Reshape", value, self._constant(np.array([-1, *shape], np.int64)))

    def _cast(self, value: str, dtype: str) -> str:
        return self._put("Cast", value, to=self._types[dtype])

    def _number(self, value: float, dtype: Any = np.float32) -> str:
        return self._constant(np.array(value, dtype))

    def _image(self, value: str, shape: Sequence[int]) -> str:
        """Channels first, as ONNX has them."""
        return self._put("Transpose", self._shaped(value, shape), perm=[0, 3, 1, 2])

    def _last(self, value: str) -> str:
        return self._put("Transpose", value, perm=[0, 2, 3, 1])

    def _rounded(self, value: str, zero: int, lift: int = 0) -> str:
        """Real steps, half to even, plus ``zero``, within the range; as int8."""
        steps = self._put("Round", value)
        low, high = self._number(-128 + lift - zero), self._number(127 + lift - zero)
        cut = self._put("Min", self._put("Max", steps, low), high)
        return self._cast(self._put("Add", cut, self._number(zero - lift)), "int8")

    def _window(self, window: layers.Window) -> dict[str, Any]:
        return {"kernel_shape": window.kernel, "strides": window.strides, "pads": window.pads}

    # --- layers ---

    def _convolution(self, layer: layers.Convolution, x: str) -> str:
        one, bias = self._number(1), self._constant(layer.bias.astype(np.int32))
        weights = self._constant(np.ascontiguousarray(np.moveaxis(layer.weights, 3, 1)))
        scales = self._constant(layer.scales), self._constant(np.zeros(len(layer.scales), np.int8))
        before, after = (self._number(z, np.int8) for z in (layer.zero_in, layer.zero))
        inputs = [self._image(x, layer.shape), one, before, weights, *scales, one, after, bias]
        group = layer.shape[2] if layer.depthwise else 1
        window = self._window(layer.window) | {"dilations": layer.window.dilations, "group": group}
        return self._last(self._put("QLinearConv", *inputs, **window))

    def _maxpool(self, layer: layers.MaxPool, x: str) -> str:
        return self._last(self._put("MaxPool", self._image(x, layer.shape), **self._window(layer.window)))

    def _averagepool(self, layer: layers.AveragePool, x: str) -> str:
        real = self._put(
            "Sub", self._cast(self._image(x, layer.shape), "float"), self._number(layer.before.zero)
        )
        real = self._put("Mul", real, self._number(layer.before.scale))
        pads = int(layer.count_pads)
        mean = self._put("AveragePool", real, count_include_pad=pads, **self._window(layer.window))
        steps = self._put("Div", mean, self._number(layer.after.scale))
        lifted = self._put("Add", steps, self._number(layer.after.zero + layer.lift))
        return self._last(self._rounded(lifted, 0, layer.lift))

    def _globalaverage(self, layer: layers.GlobalAverage, x: str) -> str:
        rows, columns, channels = layer.shape
        whole = self._cast(self._shaped(x, [rows * columns, channels]), "int32")
        apart = self._put("Sub", whole, self._number(layer.zero_in, np.int32))
        total = self._put("ReduceSum", apart, self._constant(np.array([1], np.int64)), keepdims=0)
        steps = self._put("Mul", self._cast(total, "float"), self._number(layer.scale))
        return self._rounded(steps, layer.zero)

    def _add(self, layer: layers.Add, x: str, z: str) -> str:
        total = self._number(layer.fixed, np.float64)
        for value, ratio in ((z, layer.ratios[1]), (x, layer.ratios[0])):
            whole = self._put("Add", self._cast(value, "double"), self._number(layer.lift, np.float64))
            product = self._put("Mul", whole, self._number(ratio, np.float64))
            # Rounded once to single precision, as a fused multiply-add does.
            total = self._cast(self._put("Add", product, total), "float")
            total = self._cast(total, "double")
        return self._rounded(self._cast(total, "float"), 0, layer.lift)

    def _lookup(self, layer: layers.Lookup, x: str) -> str:
        place = self._put("Add", self._cast(x, "int32"), self._number(128, np.int32))
        return self._put("Gather", self._constant(layer.table), place, axis=0)

    def _softmax(self, layer: layers.Softmax, x: str) -> str:
        rows = self._cast(self._shaped(x, [layer.rows, layer.length]), "int32")
        axis = self._constant(np.array([2], np.int64))
        below = self._put("Sub", self._put("ReduceMax", rows, axis, keepdims=1), rows)
        place = self._put("Sub", self._number(255, np.int32), below)
        shares = self._put("Gather", self._constant(layer.exponentials), place, axis=0)
        total = self._put("ReduceSum", shares, axis, keepdims=1)
        parts = self._put("Div", self._put("Mul", shares, self._number(layer.parts)), total)
        return self._rounded(parts, layer.zero)

    def _permute(self, layer: layers.Permute, x: str) -> str:
        order = [0, *(a + 1 for a in layer.axes)]
        return self._put("Transpose", self._shaped(x, layer.shape), perm=order)

    def _join(self, layer: layers.Join, *operands: str) -> str:
        parts = [self._shaped(x, [layer.outer, b]) for x, b in zip(operands, layer.blocks, strict=True)]
        return self._put("Concat", *parts, axis=2)

    def _pad(self, layer: layers.Pad, x: str) -> str:
        pads = np.array([0, *layer.before, 0, *layer.after], np.int64)
        value = self._number(layer.value, np.int8)
        return self._put("Pad", self._shaped(x, layer.shape), self._constant(pads), value)
