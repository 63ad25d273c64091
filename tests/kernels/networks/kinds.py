"""One small network for each kind of layer; ``pick(low, high)`` draws a whole number, both ends included."""

import numpy as np

from tests.kernels.networks.sketches import QDQ, Sketch

SOFTMAX = 1 / 256


def sketch(form, pick, shape, scale=None):
    rng = np.random.default_rng(pick(0, 2**31))
    whole = (scale or float(rng.uniform(0.01, 0.2)), pick(-128, 127))
    dtype = np.uint8 if pick(0, 1) else np.int8
    return Sketch(form, shape, rng, per_channel=bool(pick(0, 1)), whole=whole, dtype=dtype)


def filtered(pick, extents, gaps=True):
    """Kernel, strides, pads and dilations that fit."""
    axes = len(extents)
    kernel = [pick(1, min(4, e)) for e in extents]
    dilations = [pick(1, 2) if gaps and e >= 2 * k - 1 else 1 for e, k in zip(extents, kernel, strict=True)]
    return {
        "kernel_shape": kernel,
        "strides": [pick(1, 3) for _ in range(axes)],
        "pads": [pick(0, k - 1) for k in kernel * 2],
        **({"dilations": dilations} if gaps else {}),
    }


def conv2d(form, pick):
    channels, extents = pick(1, 9), [pick(3, 9), pick(3, 9)]
    s = sketch(form, pick, (channels, *extents))
    window = filtered(pick, extents)
    s.conv((pick(1, 9), channels, *window["kernel_shape"]), bias=bool(pick(0, 1)), **window)
    return s


def tied(form, pick):
    """A scale that is a power of two: every other sum lies half way between two integers."""
    channels = pick(1, 9)
    s = sketch(form, pick, (channels, pick(1, 5), pick(1, 5)), 2.0**-4)
    s.conv((pick(1, 9), channels, 1, 1), exact=2.0 ** -pick(1, 6))
    return s


def conv1d(form, pick):
    channels, extent = pick(1, 9), pick(3, 30)
    s = sketch(form, pick, (channels, extent))
    window = filtered(pick, [extent])
    s.conv((pick(1, 9), channels, *window["kernel_shape"]), **window)
    return s


def pointwise(form, pick):
    """Twice, so that the second may overwrite the first."""
    first, second, third = 4 * pick(1, 4), pick(1, 12), pick(1, 12)
    s = sketch(form, pick, (first, pick(1, 5), pick(1, 5)))
    s.conv((second, first, 1, 1))
    s.conv((third, second, 1, 1))
    return s


def depthwise(form, pick):
    """Once from the input and once in place."""
    channels, extents = pick(2, 9), [pick(3, 9), pick(3, 9)]
    s = sketch(form, pick, (channels, *extents))
    window = filtered(pick, extents)
    results = channels * pick(1, 2)
    s.conv((results, 1, *window["kernel_shape"]), group=channels, **window)
    s.conv((results, 1, 3, 3), group=results, pads=[1, 1, 1, 1], strides=[pick(1, 2), pick(1, 2)])
    return s


def gemm(form, pick):
    widths = [pick(1, 40), pick(1, 12), pick(1, 12)]
    s = sketch(form, pick, (widths[0],))
    s.gemm(widths[0], widths[1], transposed=bool(pick(0, 1)), bias=bool(pick(0, 1)))
    s.gemm(widths[1], widths[2])
    return s


def matmul(form, pick):
    taken = pick(1, 20)
    s = sketch(form, pick, (pick(1, 6), taken) if pick(0, 1) else (taken,))
    s.matmul(taken, pick(1, 12))
    return s


def max_pool(form, pick):
    extents = [pick(3, 9), pick(3, 9)]
    s = sketch(form, pick, (pick(1, 6), *extents))
    after = s.near(s.now) if form == QDQ and pick(0, 1) else None
    s.moved("MaxPool", after=after, **filtered(pick, extents, gaps=False))
    return s


def average_pool(form, pick):
    extents = [pick(3, 9), pick(3, 9)]
    s = sketch(form, pick, (pick(1, 6), *extents))
    window = filtered(pick, extents, gaps=False)
    s.unary("AveragePool", "QLinearAveragePool", count_include_pad=pick(0, 1), **window)
    return s


def global_average(form, pick):
    s = sketch(form, pick, (pick(1, 9), pick(1, 9), pick(1, 9)))
    s.unary("GlobalAveragePool", "QLinearGlobalAveragePool")
    return s


def addition(form, pick):
    """A residual block."""
    channels = pick(1, 6)
    s = sketch(form, pick, (channels, pick(3, 8), pick(3, 8)))
    first = s.conv((channels, channels, 3, 3), pads=[1, 1, 1, 1])
    second = s.conv((channels, channels, 1, 1))
    s.add(first, second)
    return s


def softmax(form, pick):
    shape = (pick(2, 30),) if pick(0, 1) else (pick(2, 6), pick(2, 5), pick(2, 5))
    s = sketch(form, pick, shape)
    after = (SOFTMAX, pick(-128, 127))
    s.unary("Softmax", "QLinearSoftmax", after=after, axis=pick(-len(shape), -1), opset=17)
    return s


def concat(form, pick):
    channels = pick(1, 5)
    s = sketch(form, pick, (channels, pick(3, 8), pick(3, 8)))
    names = [s.now]
    names += [s.conv((channels, channels, 3, 3), pads=[1, 1, 1, 1]) for _ in range(pick(1, 2))]
    s.concat(names, pick(1, 3))
    return s


def reshaped(form, pick):
    rows, columns = pick(1, 5), pick(1, 5)
    s = sketch(form, pick, (3, rows, columns))
    s.conv((4, 3, 1, 1))
    if pick(0, 1):
        s.moved("Flatten")
        s.gemm(4 * rows * columns, pick(1, 6))
    else:
        s.moved("Reshape", np.array([1, rows, -1]))
    return s


def transposed(form, pick):
    s = sketch(form, pick, (pick(1, 5), pick(1, 5), pick(1, 5)))
    orders = [(1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1)]
    after = s.near(s.now) if form == QDQ and pick(0, 1) else None
    s.moved("Transpose", perm=[0, *orders[pick(0, 5)]], after=after)
    return s


def padded(form, pick):
    s = sketch(form, pick, (pick(1, 4), pick(1, 5), pick(1, 5)))
    s.conv((3, s.shape[0], 1, 1))
    pads = np.array([0, *(pick(0, 2) for _ in range(3)), 0, *(pick(0, 2) for _ in range(3))])
    value = np.array(pick(-9, 9) + s.lift, s.dtype) if form != QDQ else np.array(pick(-9, 9) / 4, np.float32)
    s.moved("Pad", pads, value)
    return s


def rectified(form, pick):
    """A ReLU that the result's scale contains; in the QOperator form nothing is left of it."""
    channels = pick(1, 5)
    s = sketch(form, pick, (channels, pick(3, 8), pick(3, 8)))
    s.conv((4, channels, 3, 3), fit="Relu" if form == QDQ else None, zero=-128)
    return s


def clipped(form, pick):
    """Alone, on values that it cuts: a table of its own."""
    s = sketch(form, pick, (pick(1, 5), pick(3, 8), pick(3, 8)))
    if pick(0, 1) and (form == QDQ or not s.lift):  # ONNX has none of uint8
        s.moved("Relu")
    elif form == QDQ:
        s.moved("Clip", np.float32(-pick(0, 9) / 4), np.float32(pick(1, 9) / 4))
    else:
        s.moved("Clip", s.dtype(s.lift - pick(0, 90)), s.dtype(s.lift + pick(1, 90)))
    return s


def global_max(form, pick):
    """ONNX Runtime has it for real numbers alone."""
    channels, extents = pick(1, 9), [pick(1, 9), pick(1, 9)]
    s = sketch(form, pick, (channels, *extents))
    if form == QDQ:
        s.moved("GlobalMaxPool", after=s.near(s.now) if pick(0, 1) else None)
    else:
        s.moved("MaxPool", kernel_shape=extents)
    return s


def squeezed(form, pick):
    """Axes of extent 1 that come and go."""
    s = sketch(form, pick, (pick(1, 5), 1, pick(3, 8)))
    s.rank = 3
    s.moved("Squeeze", np.array([2]))
    s.conv((4, s.shape[0], 2))
    s.rank = 4
    s.moved("Unsqueeze", np.array([3]))
    s.moved("Identity")
    return s


KINDS = {
    kind.__name__: kind
    for kind in (
        conv2d,
        tied,
        conv1d,
        pointwise,
        depthwise,
        gemm,
        matmul,
        max_pool,
        average_pool,
        global_average,
        addition,
        softmax,
        concat,
        reshaped,
        transposed,
        padded,
        rectified,
        clipped,
        global_max,
        squeezed,
    )
}
