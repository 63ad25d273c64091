"""The four networks of MLPerf Tiny as sketches: keyword spotting with its weights, the others with random ones."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from tests.kernels.networks import tflite
from tests.kernels.networks.sketches import QOPERATOR, Sketch

# The data lie beside the repository on the machine where this was written; elsewhere the variable names their folder.
DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "mlperf_tiny_kws01"
RELU = -128
SOFTMAX = (1 / 256, -128)


def keyword_spotting(form=QOPERATOR):
    """The reference DS-CNN's int8 weights as QLinear operators, without its softmax: (49, 10) to 12 logits."""
    tensors, operators = tflite.read((DATA / "reference_models" / "kws_ref_model.tflite").read_bytes())
    first = tensors[operators[0].inputs[0]]
    sketch = Sketch(form, (1, 49, 10), np.random.default_rng(0), whole=(first.scales[0], first.zeros[0]))
    for operator in operators:
        result = tensors[operator.outputs[0]]
        after = (result.scales[0], int(result.zeros[0]))
        if operator.code in (tflite.CONV, tflite.DEPTHWISE, tflite.DENSE):
            given(sketch, operator, [tensors[i] for i in operator.inputs], result, after)
        elif operator.code == tflite.AVERAGE:
            sketch.unary("GlobalAveragePool", "QLinearGlobalAveragePool", after=after)
            sketch.moved("Flatten")
    return sketch.file()


def given(sketch, operator, operands, result, after):
    """One layer with weights as they stand in the file."""
    source, kernel, bias = operands
    if operator.code == tflite.DENSE:
        parts = kernel.values.T, kernel.scales[0], np.int8(0)
        inputs = [
            sketch.now,
            *sketch.names_of(sketch.now),
            *(sketch.constant(p) for p in parts),
            sketch.constant(bias.values),
        ]
        out = sketch.fresh()
        sketch.append("QGemm", [*inputs, *sketch.mark(out, after)], out)
        return
    depthwise = operator.code == tflite.DEPTHWISE
    weights = kernel.values.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
    size = kernel.shape[1:3]
    strides = [operator.options[2], operator.options[1]]
    pads = same(source.shape[1:3], size, strides)
    filters = weights, kernel.scales, np.zeros(len(kernel.scales), np.int8)
    inputs = [sketch.now, *sketch.names_of(sketch.now), *(sketch.constant(p) for p in filters)]
    out = sketch.fresh()
    inputs += [*sketch.mark(out, after), sketch.constant(bias.values)]
    group = len(weights) if depthwise else 1
    sketch.append("QLinearConv", inputs, out, strides=strides, pads=pads, group=group)


def same(extents, kernel, strides):
    """TensorFlow's SAME: what is missing is added behind first."""
    whole = [max(0, (-(-e // s) - 1) * s + k - e) for e, k, s in zip(extents, kernel, strides, strict=True)]
    return [w // 2 for w in whole] + [w - w // 2 for w in whole]


def filtered(sketch, extent, channels, results, size, stride, *, group=1, zero=RELU):
    """A square filter; returns the new extent. ``zero`` -128 is a folded ReLU."""
    pads = same([extent] * 2, [size] * 2, [stride] * 2)
    weights = (results, channels // group, size, size)
    sketch.conv(weights, strides=[stride] * 2, pads=pads, group=group, zero=zero)
    return -(-extent // stride)


def resnet8(form=QOPERATOR, seed=8):
    """Image classification: 3 x 32 x 32 to 10."""
    sketch = Sketch(form, (3, 32, 32), np.random.default_rng(seed))
    extent, channels = filtered(sketch, 32, 3, 16, 3, 1), 16
    for results in (16, 32, 64):
        stride = 1 if results == channels else 2
        before, whole = sketch.now, extent
        extent = filtered(sketch, whole, channels, results, 3, stride)
        filtered(sketch, extent, results, results, 3, 1, zero=5)
        after = sketch.now
        if stride == 2:
            sketch.now = before
            filtered(sketch, whole, channels, results, 1, 2, zero=-3)
            before = sketch.now
        scale = sketch.near(after)[0]
        sketch.add(before, after, (scale, RELU))
        channels = results
    return headed(sketch, channels, 10)


def mobilenet(form=QOPERATOR, seed=96, cut=None):
    """Visual wake words: MobileNetV1 0.25 on 3 x 96 x 96, to 2. ``cut``: ends after so many blocks, without a head."""
    sketch = Sketch(form, (3, 96, 96), np.random.default_rng(seed))
    extent, channels = filtered(sketch, 96, 3, 8, 3, 2), 8
    blocks = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]
    for results, stride in blocks[:cut]:
        extent = filtered(sketch, extent, channels, channels, 3, stride, group=channels)
        filtered(sketch, extent, channels, results, 1, 1)
        channels = results
    return sketch.file() if cut else headed(sketch, channels, 2)


def headed(sketch, channels, classes):
    """The mean of each channel, a dense layer and softmax."""
    sketch.unary("GlobalAveragePool", "QLinearGlobalAveragePool")
    sketch.moved("Flatten")
    sketch.gemm(channels, classes, reach=20.0)
    sketch.unary("Softmax", "QLinearSoftmax", after=SOFTMAX, axis=-1, opset=17)
    return sketch.file()


def autoencoder(form=QOPERATOR, seed=640):
    """Anomaly detection: 640 to 640 through 128 (four times), 8, 128 (four times)."""
    sketch = Sketch(form, (640,), np.random.default_rng(seed))
    widths = [640, *[128] * 4, 8, *[128] * 4, 640]
    for k, (taken, results) in enumerate(pairwise(widths)):
        sketch.gemm(taken, results, zero=None if k == len(widths) - 2 else RELU)
    return sketch.file()
