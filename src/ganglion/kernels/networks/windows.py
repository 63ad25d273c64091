"""How filters and pools move over a value, read from a node's attributes."""

from __future__ import annotations

from collections.abc import Sequence

from ganglion.kernels.networks import faults
from ganglion.kernels.networks.graph import GraphNode
from ganglion.kernels.networks.layers import Window


def image(node: GraphNode, shape: Sequence[int]) -> tuple[int, int, int]:
    """Rows, columns and channels of a value of ONNX's (1, channels, length) or (1, channels, rows, columns)."""
    if len(shape) == 3:
        return 1, shape[2], shape[1]
    if len(shape) == 4:
        return shape[2], shape[3], shape[1]
    raise faults.unsupported(node, f"its operand has the shape {tuple(shape)}; one or two axes are filtered")


def window(node: GraphNode, shape: Sequence[int], kernel: Sequence[int] | None = None) -> Window:
    """The window of a node over a value; ``kernel`` when the weights say it."""
    rows, columns, _ = image(node, shape)
    extents = (columns,) if len(shape) == 3 else (rows, columns)
    axes = len(extents)
    attributes = node.attributes
    kernel = list(attributes.get("kernel_shape", kernel or ()))
    strides = list(attributes.get("strides", [1] * axes))
    dilations = list(attributes.get("dilations", [1] * axes))
    pads = list(attributes.get("pads", [0] * (2 * axes)))
    if len(kernel) != axes or len(strides) != axes or len(dilations) != axes or len(pads) != 2 * axes:
        raise faults.unsupported(node, "its window does not have the axes of its operand")
    if attributes.get("ceil_mode", 0):
        raise faults.unsupported(node, "windows that reach over the end (ceil_mode) are not computed")
    if min([*kernel, *strides, *dilations]) < 1:
        raise faults.unsupported(node, "a part of its window is smaller than 1")
    automatic = attributes.get("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same(extents, kernel, strides, dilations, late=automatic == "SAME_UPPER")
    elif automatic == "VALID":
        pads = [0] * (2 * axes)
    if axes == 1:
        kernel, strides, dilations = [1, *kernel], [1, *strides], [1, *dilations]
        pads = [0, pads[0], 0, pads[1]]
    found = Window(
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (pads[0], pads[1], pads[2], pads[3]),
        (dilations[0], dilations[1]),
    )
    if min(pads) < 0 or min(found.over(rows, columns)) < 1:
        raise faults.unsupported(node, "its window does not fit its operand")
    return found


def _same(
    extents: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    *,
    late: bool,
) -> list[int]:
    before, after = [], []
    for extent, size, stride, dilation in zip(extents, kernel, strides, dilations, strict=True):
        results = -(-extent // stride)
        whole = max(0, (results - 1) * stride + dilation * (size - 1) + 1 - extent)
        small, large = whole // 2, whole - whole // 2
        before.append(small if late else large)
        after.append(large if late else small)
    return before + after


def results_shape(shape: Sequence[int], result: tuple[int, int, int]) -> tuple[int, ...]:
    """ONNX's shape of rows, columns and channels, with as many axes as the operand had."""
    rows, columns, channels = result
    return (1, channels, columns) if len(shape) == 3 else (1, channels, rows, columns)
