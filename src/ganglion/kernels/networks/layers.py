"""The layers of a network of int8 values: static shapes, channels last, one frame at a time.

A value is a flat array of int8; layers know the shape in which they read it. Value 0 is the network's input, value
``k + 1`` is what layer ``k`` gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Quantised:
    """A real number is ``scale * (integer - zero)``; the scale is in single precision."""

    scale: float
    zero: int


@dataclass(frozen=True, slots=True)
class Window:
    """How a filter moves over rows and columns; ``pads`` are top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    def over(self, height: int, width: int) -> tuple[int, int]:
        """The rows and columns of the result."""
        top, left, bottom, right = self.pads
        reach = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        return (
            (height + top + bottom - reach[0]) // self.strides[0] + 1,
            (width + left + right - reach[1]) // self.strides[1] + 1,
        )


@dataclass(frozen=True, slots=True)
class Convolution:
    """Sums of products with a bias, brought to the result's scale.

    ``weights``: int8 (results, rows, columns, channels); of a ``depthwise`` one the last extent is 1 and result ``o``
    reads channel ``o * channels // results``. ``scales``: float32 per result, the sum's unit in the result's.
    """

    source: int
    shape: tuple[int, int, int]
    window: Window
    weights: Array
    bias: Array
    scales: Array
    zero_in: int
    zero: int
    depthwise: bool = False

    @property
    def result(self) -> tuple[int, int, int]:
        """Rows, columns and channels of what comes out."""
        return (*self.window.over(*self.shape[:2]), len(self.weights))

    @property
    def pointwise(self) -> bool:
        """Each position is computed from the same position alone."""
        window = self.window
        still = window.strides == (1, 1) and window.pads == (0, 0, 0, 0)
        return window.kernel == (1, 1) and still and not self.depthwise

    @property
    def direct(self) -> bool:
        """One position whose channels come in fours: it is read where it lies, and may not be overwritten."""
        return self.pointwise and self.shape[:2] == (1, 1) and self.shape[2] % 4 == 0


@dataclass(frozen=True, slots=True)
class MaxPool:
    """The largest value in each window; what is padded does not count."""

    source: int
    shape: tuple[int, int, int]
    window: Window

    @property
    def result(self) -> tuple[int, int, int]:
        """Rows, columns and channels of what comes out."""
        return (*self.window.over(*self.shape[:2]), self.shape[2])


@dataclass(frozen=True, slots=True)
class AveragePool:
    """The mean of each window, added up in single precision row by row as ONNX Runtime does.

    ``lift``: as of `Add`.
    """

    source: int
    shape: tuple[int, int, int]
    window: Window
    before: Quantised
    after: Quantised
    count_pads: bool
    lift: int = 0

    @property
    def result(self) -> tuple[int, int, int]:
        """Rows, columns and channels of what comes out."""
        return (*self.window.over(*self.shape[:2]), self.shape[2])


@dataclass(frozen=True, slots=True)
class GlobalAverage:
    """The mean of each channel, from a whole sum; ``scale`` is the sum's unit in the result's."""

    source: int
    shape: tuple[int, int, int]
    zero_in: int
    scale: float
    zero: int

    @property
    def result(self) -> tuple[int]:
        """One value per channel."""
        return (self.shape[2],)


@dataclass(frozen=True, slots=True)
class Add:
    """``first + second`` by two fused multiply-adds: ``ratios[0] * first + (ratios[1] * second + fixed)``.

    ``lift``: 128 where the file's integers are uint8, since rounding depends on it: it is computed with those.
    """

    source: int
    second: int
    elements: int
    ratios: tuple[float, float]
    fixed: float
    lift: int = 0

    @property
    def result(self) -> tuple[int]:
        """As many as each operand has."""
        return (self.elements,)


@dataclass(frozen=True, slots=True)
class Lookup:
    """One value for each of the 256 there are; ``table[i]`` is that of ``i - 128``."""

    source: int
    elements: int
    table: Array

    @property
    def result(self) -> tuple[int]:
        """As many as come in."""
        return (self.elements,)


@dataclass(frozen=True, slots=True)
class Softmax:
    """Shares of exponentials along rows of ``length``; ``exponentials[i]`` belongs to ``i - 255`` below the maximum."""

    source: int
    rows: int
    length: int
    exponentials: Array
    parts: float
    zero: int

    @property
    def result(self) -> tuple[int, int]:
        """As it came in."""
        return (self.rows, self.length)


@dataclass(frozen=True, slots=True)
class Permute:
    """Axes in another order."""

    source: int
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def result(self) -> tuple[int, ...]:
        """The extents in their new order."""
        return tuple(self.shape[a] for a in self.axes)


@dataclass(frozen=True, slots=True)
class Join:
    """Blocks of several values one after the other, ``outer`` times; ``blocks``: bytes of each value."""

    sources: tuple[int, ...]
    outer: int
    blocks: tuple[int, ...]

    @property
    def result(self) -> tuple[int, int]:
        """Outer extent and the blocks together."""
        return (self.outer, sum(self.blocks))


@dataclass(frozen=True, slots=True)
class Pad:
    """A frame of one value around rows, columns and channels; ``before`` and ``after`` per axis."""

    source: int
    shape: tuple[int, int, int]
    before: tuple[int, int, int]
    after: tuple[int, int, int]
    value: int

    @property
    def result(self) -> tuple[int, int, int]:
        """Extents with the frame."""
        h, w, c = (s + b + a for s, b, a in zip(self.shape, self.before, self.after, strict=True))
        return h, w, c


Layer: TypeAlias = (
    Convolution | MaxPool | AveragePool | GlobalAverage | Add | Lookup | Softmax | Permute | Join | Pad
)
LAYERS = (Convolution, MaxPool, AveragePool, GlobalAverage, Add, Lookup, Softmax, Permute, Join, Pad)


def sources(layer: Layer) -> tuple[int, ...]:
    """The values that a layer reads."""
    if isinstance(layer, Join):
        return layer.sources
    return (layer.source, layer.second) if isinstance(layer, Add) else (layer.source,)


@dataclass(frozen=True, slots=True)
class Network:
    """``layers`` in the order in which they run; ``output`` is the value that leaves.

    Frames go in and come out in the file's own order of axes, without the batch axis: ``input_shape`` and
    ``output_shape``. ``input_scale`` and ``output_scale`` say what the integers mean, as far as the file does.
    ``unsigned``: the file's integers are uint8; everything here is 128 less. ``real_input``, ``real_output``: the file
    takes or gives real numbers, which it quantises at the door.
    """

    name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    output: int
    input_scale: Quantised | None = None
    output_scale: Quantised | None = None
    unsigned: bool = False
    real_input: bool = False
    real_output: bool = False

    @property
    def low(self) -> int:
        """The least of the file's 256 integers."""
        return 0 if self.unsigned else -128

    def elements(self, value: int) -> int:
        """How many integers a value has."""
        return prod(self.input_shape) if value == 0 else prod(self.layers[value - 1].result)

    @property
    def products(self) -> int:
        """Multiplications with weights for one frame."""
        convolutions = [layer for layer in self.layers if isinstance(layer, Convolution)]
        return sum(prod(c.result[:2]) * int(np.size(c.weights)) for c in convolutions)

    @property
    def operations(self) -> int:
        """Additions and what costs as much, for one frame; a product counts twice, with its addition."""
        return 2 * self.products + sum(_OPERATIONS[type(one)] * _reads(one) for one in self.layers)


_OPERATIONS: dict[type[Layer], int] = {
    Convolution: 5,
    MaxPool: 2,
    AveragePool: 4,
    GlobalAverage: 2,
    Add: 6,
    Lookup: 2,
    Softmax: 20,
    Permute: 2,
    Join: 1,
    Pad: 2,
}
"""Per element that is read, or, of a convolution, given."""


def _reads(layer: Layer) -> int:
    if isinstance(layer, MaxPool | AveragePool):
        return prod(layer.result) * prod(layer.window.kernel)
    return prod(layer.shape) if isinstance(layer, GlobalAverage) else prod(layer.result)
