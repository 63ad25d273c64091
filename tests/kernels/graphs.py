"""Small quantised networks as plain graphs, so that kernels that hold one are tested also where onnx is missing."""

import numpy as np

from ganglion.kernels.networks.graph import Graph, GraphNode
from ganglion.kernels.networks.operations import lower
from ganglion.kernels.tracing.networks import KernelNetwork


class Plan:
    """QLinear operators one after the other; weights, scales and zero points are drawn from ``seed``.

    ``real``: a QuantizeLinear at the door and a DequantizeLinear at the end.
    """

    def __init__(self, shape, seed, *, real=True, dtype=np.int8):
        self.rng, self.dtype, self.real, self.shape = np.random.default_rng(seed), dtype, real, (1, *shape)
        self.given, self.nodes = self.shape, []
        self.constants: dict[str, np.ndarray] = {}
        self.scales: dict[str, tuple[str, str]] = {}
        self.now = "x"
        self.mark("x", 0.05)
        if real:
            self.nodes.append(GraphNode("QuantizeLinear", "door", ("real", *self.scales["x"]), ("x",), {}))

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def mark(self, name, scale, zero=None):
        low = np.iinfo(self.dtype).min
        zero = self.rng.integers(low + 100, low + 156) if zero is None else zero
        self.scales[name] = (self.constant(np.float32(scale)), self.constant(self.dtype(zero)))
        return self.scales[name]

    def step(self, operator, inputs, name, shape, **attributes):
        self.nodes.append(GraphNode(operator, name, tuple(inputs), (name,), attributes))
        self.now, self.shape = name, tuple(shape)
        return name

    def fresh(self):
        return f"v{len(self.nodes)}"

    def weights(self, shape, spread):
        """Names of int8 weights, of a scale for each result, and of zero points of 0."""
        scales = self.rng.uniform(0.6, 1.4, shape[0]) * spread / np.sqrt(np.prod(shape[1:]))
        whole = self.rng.integers(-127, 128, shape).astype(np.int8)
        return [self.constant(v) for v in (whole, scales.astype(np.float32), np.zeros(shape[0], np.int8))]

    def conv(self, results, kernel, *, pad=0, stride=1, group=1):
        """A square filter over one or two axes."""
        axes = len(self.shape) - 2
        extents = [(e + 2 * pad - kernel) // stride + 1 for e in self.shape[2:]]
        out, shape = self.fresh(), (results, self.shape[1] // group, *[kernel] * axes)
        inputs = [self.now, *self.scales[self.now], *self.weights(shape, 0.02), *self.mark(out, 0.08)]
        inputs.append(self.constant(self.rng.integers(-900, 900, results).astype(np.int32)))
        window = {"kernel_shape": [kernel] * axes, "pads": [pad] * 2 * axes, "strides": [stride] * axes}
        return self.step("QLinearConv", inputs, out, (1, results, *extents), group=group, **window)

    def gemm(self, results):
        out, inputs = self.fresh(), [self.now, *self.scales[self.now]]
        inputs += self.weights((results, self.shape[1]), 0.02)
        inputs.append(self.constant(self.rng.integers(-900, 900, results).astype(np.int32)))
        return self.step("QGemm", [*inputs, *self.mark(out, 0.1)], out, (1, results), transB=1)

    def add(self, first, second):
        out = self.fresh()
        operands = [first, *self.scales[first], second, *self.scales[second]]
        return self.step("QLinearAdd", [*operands, *self.mark(out, 0.11)], out, self.shape)

    def average(self, kernel):
        out, axes = self.fresh(), len(self.shape) - 2
        inputs = [self.now, *self.scales[self.now], *self.mark(out, 0.07)]
        shape = (*self.shape[:2], *[e - kernel + 1 for e in self.shape[2:]])
        return self.step("QLinearAveragePool", inputs, out, shape, kernel_shape=[kernel] * axes)

    def global_average(self):
        out = self.fresh()
        inputs = [self.now, *self.scales[self.now], *self.mark(out, 0.06)]
        shape = (*self.shape[:2], *[1] * (len(self.shape) - 2))
        return self.step("QLinearGlobalAveragePool", inputs, out, shape)

    def softmax(self):
        out = self.fresh()
        inputs = [self.now, *self.scales[self.now], *self.mark(out, 1 / 256, np.iinfo(self.dtype).min)]
        return self.step("QLinearSoftmax", inputs, out, self.shape, axis=-1, opset=17)

    def moved(self, operator, shape, **attributes):
        """An operator that leaves integers as they are."""
        before = self.scales[self.now]
        out = self.step(operator, [self.now], self.fresh(), shape, **attributes)
        self.scales[out] = before
        return out

    def flatten(self):
        return self.moved("Flatten", (1, int(np.prod(self.shape))))

    def max_pool(self, kernel):
        axes = len(self.shape) - 2
        shape = (*self.shape[:2], *[e // kernel for e in self.shape[2:]])
        return self.moved("MaxPool", shape, kernel_shape=[kernel] * axes, strides=[kernel] * axes)

    def graph(self, name):
        """All of it."""
        out, first, dtype = self.now, "x", np.dtype(self.dtype).name
        if self.real:
            self.nodes.append(GraphNode("DequantizeLinear", "end", (out, *self.scales[out]), ("y",), {}))
            out, first, dtype = "y", "real", "float32"
        return Graph(name, first, dtype, self.given, out, tuple(self.nodes), self.constants, 17)


def classifier():
    """One axis: filters, a depthwise one, a pool, logits."""
    plan = Plan((6, 64), 3)
    plan.conv(8, 5, stride=2)
    plan.conv(8, 3, pad=1, group=8)
    plan.max_pool(2)
    plan.conv(12, 1)
    plan.global_average()
    plan.flatten()
    plan.gemm(5)
    return plan.graph("classifier")


def residual(dtype):
    """Two axes, whole numbers at both ends: an addition, an average, shares."""
    plan = Plan((2, 7, 5), 4, real=False, dtype=dtype)
    first = plan.conv(4, 3, pad=1)
    second = plan.conv(4, 1)
    plan.add(first, second)
    plan.average(3)
    plan.conv(6, 3)
    plan.flatten()
    plan.gemm(7)
    plan.softmax()
    return plan.graph(f"residual_{np.dtype(dtype).name}")


def autoencoder():
    """Dense layers; real numbers at both ends."""
    plan = Plan((20,), 5)
    for width in (12, 4, 12, 20):
        plan.gemm(width)
    return plan.graph("autoencoder")


def moves():
    """The network of the flow in ``tests/device/firmware/watch``."""
    plan = Plan((3, 32), 9)
    plan.conv(8, 4, stride=2)
    plan.conv(8, 3, pad=1, group=8)
    plan.conv(8, 1)
    plan.max_pool(3)
    plan.flatten()
    plan.gemm(4)
    return plan.graph("moves")


GRAPHS = {g.name: g for g in (classifier(), residual(np.int8), residual(np.uint8), autoencoder(), moves())}
NETWORKS = {name: KernelNetwork(lower(graph)) for name, graph in GRAPHS.items()}
"""What kernels call."""
