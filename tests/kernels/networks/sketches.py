"""Small quantised ONNX networks for tests and benchmarks, in both forms, and what ONNX Runtime gives for them."""

import numpy as np
import pytest

# Tests that import this module are skipped by name where the extra is not installed.
pytest.importorskip("onnx", reason="onnx is not installed: pip install 'ganglion[models]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402 # after the check that it is there

from ganglion.kernels.networks import arithmetic  # noqa: E402 # see above

OPSET = 17
QDQ, QOPERATOR = "QDQ", "QOperator"
MICROSOFT = {
    "QGemm",
    "QLinearAdd",
    "QLinearConcat",
    "QLinearSoftmax",
    "QLinearAveragePool",
    "QLinearGlobalAveragePool",
}


class Sketch:
    """Layers are appended to ``now``, a name with its scale and zero point; scales are drawn unless given.

    ``form``: QDQ, where float operators stand between DequantizeLinear and QuantizeLinear, or QOperator.
    """

    def __init__(self, form, shape, rng, *, per_channel=True, whole=None, dtype=np.int8):
        self.form, self.shape, self.rng, self.per_channel = form, tuple(shape), rng, per_channel
        self.dtype, self.lift = dtype, 128 if dtype == np.uint8 else 0
        self.nodes, self.constants, self.names = [], [], 0
        self.scales, self.reals, self.rank = {}, {}, len(self.shape) + 1
        self.now = "x"
        ends = self.mark("x", whole)
        if form == QDQ:
            self.nodes.append(helper.make_node("QuantizeLinear", ["real", *ends], ["x"]))

    def fresh(self):
        self.names += 1
        return f"v{self.names}"

    def constant(self, value, dtype=None):
        name = self.fresh()
        self.constants.append(numpy_helper.from_array(np.array(value, dtype, order="C"), name))
        return name

    def mark(self, name, whole=None):
        """Gives a value a scale and a zero point; returns the names of the constants."""
        scale, zero = whole or (self.rng.uniform(0.01, 0.2), self.rng.integers(-128, 128))
        self.scales[name] = (np.float32(scale), int(zero))
        return self.names_of(name)

    def names_of(self, name):
        scale, zero = self.scales[name]
        return [self.constant(scale, np.float32), self.constant(zero + self.lift, self.dtype)]

    def node(self, operator, inputs, **attributes):
        out = self.fresh()
        domain = "com.microsoft" if operator in MICROSOFT else ""
        self.nodes.append(helper.make_node(operator, inputs, [out], name=out, domain=domain, **attributes))
        return out

    def append(self, operator, inputs, out, **attributes):
        """A node whose result is already marked; it becomes the value to go on with."""
        domain = "com.microsoft" if operator in MICROSOFT else ""
        self.nodes.append(helper.make_node(operator, inputs, [out], name=out, domain=domain, **attributes))
        self.now = out
        return out

    def real(self, name):
        """A value as real numbers; one node for all who read it, as quantize_static writes."""
        if name not in self.reals:
            self.reals[name] = self.node("DequantizeLinear", [name, *self.names_of(name)])
        return self.reals[name]

    def whole(self, name, scale=None):
        """Quantises a float value."""
        out = self.fresh()
        self.nodes.append(helper.make_node("QuantizeLinear", [name, *self.mark(out, scale)], [out]))
        self.now = out
        return out

    # --- layers ---

    def weighted(self, operators, weights, results, axis, *, bias=True, fit=None, attributes=None, **ends):
        """A layer with drawn scales and bias; ``operators``: the float one and the whole one."""
        scales, after = self.drawn(weights, results, **ends)
        sums = self.rng.integers(-3000, 3000, results).astype(np.int32) if bias else None
        attributes = attributes or {}
        if self.form == QDQ:
            inputs = [self.real(self.now), self.constant_real(weights, scales, np.int8, axis)]
            if bias:
                inputs.append(self.constant_real(sums, self.scales[self.now][0] * scales, np.int32, 0))
            out = self.node(operators[0], inputs, **attributes)
            return self.whole(self.node(fit, [out]) if fit else out, after)
        inputs = [self.now, *self.names_of(self.now), self.constant(weights), self.constant(scales)]
        inputs.append(self.constant(np.zeros(np.shape(scales), np.int8)))
        out = self.fresh()
        ends = self.mark(out, after)
        if operators[1] == "QGemm":
            inputs += [self.constant(sums) if bias else "", *ends]
        else:
            inputs += [*ends, *([self.constant(sums)] if bias else [])]
        return self.append(operators[1], inputs, out, **attributes)

    def constant_real(self, whole, scales, dtype, axis):
        zeros = self.constant(np.zeros(np.shape(scales), dtype))
        inputs = [self.constant(whole), self.constant(scales), zeros]
        return self.node("DequantizeLinear", inputs, axis=axis)

    def drawn(self, weights, results, *, after=None, zero=None, reach=None, exact=None):
        """Scales of weights, and a scale and a zero point in which results are mostly inside the range.

        ``reach``: how far the results shall go, as real numbers; ``exact``: the sum's unit in the result's.
        """
        before = self.scales[self.now][0]
        scales = self.rng.uniform(0.001, 0.02, results if self.per_channel else 1).astype(np.float32)
        size = np.mean(weights.astype(float) ** 2) * weights.size / results
        spread = float(np.sqrt(size)) * 40 * before * scales.mean()
        if exact:
            after = (2.0**-5, self.rng.integers(-128, 128))
            scales = np.full(scales.shape, exact * after[0] / before, np.float32)
        if reach:
            scales, spread = (scales * (reach / spread)).astype(np.float32), reach
        zero = self.rng.integers(-128, 128) if zero is None else zero
        after = after or (spread / 40 * self.rng.uniform(0.7, 1.4) + 1e-6, zero)
        return (scales if self.per_channel else scales[0]), after

    def conv(self, shape, *, bias=True, fit=None, after=None, zero=None, exact=None, **attributes):
        weights = self.rng.integers(-127, 128, shape).astype(np.int8)
        ends = {"bias": bias, "fit": fit, "after": after, "zero": zero, "exact": exact}
        return self.weighted(("Conv", "QLinearConv"), weights, shape[0], 0, attributes=attributes, **ends)

    def picked(self, weights):
        """A filter with these weights that leaves every integer as it is, with a scale of its own."""
        scale, zero = self.scales[self.now]
        after = (self.rng.uniform(0.02, 0.2), zero)
        unit = np.float32(after[0]) / scale
        inputs = [
            self.now,
            *self.names_of(self.now),
            self.constant(weights),
            self.constant(unit),
            self.constant(np.int8(0)),
        ]
        out = self.fresh()
        return self.append("QLinearConv", [*inputs, *self.mark(out, after)], out)

    def gemm(self, taken, results, *, transposed=False, **ends):
        shape = (results, taken) if transposed else (taken, results)
        weights = self.rng.integers(-127, 128, shape).astype(np.int8)
        attributes = {"transB": int(transposed)}
        axis = 0 if transposed else 1
        return self.weighted(("Gemm", "QGemm"), weights, results, axis, attributes=attributes, **ends)

    def matmul(self, taken, results):
        weights = self.rng.integers(-127, 128, (taken, results)).astype(np.int8)
        return self.weighted(("MatMul", "QLinearMatMul"), weights, results, 1, bias=False)

    def unary(self, float_operator, whole_operator, after=None, **attributes):
        """One operator from a value to one with another scale, not far away."""
        after = after or self.near(self.now)
        if self.form == QDQ:
            attributes.pop("opset", None)
            return self.whole(self.node(float_operator, [self.real(self.now)], **attributes), after)
        out = self.fresh()
        inputs = [self.now, *self.names_of(self.now), *self.mark(out, after)]
        return self.append(whole_operator, inputs, out, **attributes)

    def moved(self, operator, *constants, after=None, **attributes):
        """An operator that only moves values; on integers where nothing changes the scale."""
        extra = [self.constant(c) for c in constants]
        if operator in ("Flatten", "Reshape"):
            self.rank = 2 if operator == "Flatten" else len(constants[0])
        if self.form == QDQ:
            after = after or self.scales[self.now]
            return self.whole(self.node(operator, [self.real(self.now), *extra], **attributes), after)
        out = self.node(operator, [self.now, *extra], **attributes)
        self.scales[out] = self.scales[self.now]
        self.now = out
        return out

    def near(self, *names):
        """A scale like those of some values."""
        return max(self.scales[n][0] for n in names) * self.rng.uniform(0.6, 1.5), self.rng.integers(-40, 40)

    def add(self, first, second, after=None):
        after = after or self.near(first, second)
        if self.form == QDQ:
            return self.whole(self.node("Add", [self.real(first), self.real(second)]), after)
        out = self.fresh()
        inputs = [first, *self.names_of(first), second, *self.names_of(second), *self.mark(out, after)]
        return self.append("QLinearAdd", inputs, out)

    def concat(self, names, axis):
        if self.form == QDQ:
            return self.whole(
                self.node("Concat", [self.real(n) for n in names], axis=axis), self.near(*names)
            )
        out = self.fresh()
        inputs = self.mark(out, self.near(*names))
        for name in names:
            inputs += [name, *self.names_of(name)]
        return self.append("QLinearConcat", inputs, out, axis=axis)

    def file(self):
        """The network's ONNX bytes; int8 goes in and comes out, in the QDQ form as real numbers."""
        kind = TensorProto.UINT8 if self.lift else TensorProto.INT8
        first, last = "x", self.now
        if self.form == QDQ:
            kind, first, last = TensorProto.FLOAT, "real", self.real(self.now)
        graph = helper.make_graph(
            self.nodes,
            "sketch",
            [helper.make_tensor_value_info(first, kind, [1, *self.shape])],
            [helper.make_tensor_value_info(last, kind, [None] * self.rank)],
            self.constants,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def onnx_runtime(content, network, frames):
    """ONNX Runtime's integers at its full graph optimisation and with int8 allowed, frame by frame on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Without it int8 becomes uint8 on x86-64, and where a value is read twice operators stay with real numbers.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    about = session.get_inputs()[0]
    real = about.type == "tensor(float)"
    shift = network.low + 128
    whole = (frames.astype(np.int16) + shift).astype(np.uint8) if shift else frames
    given = arithmetic.dequantise(frames, network.input_scale) if real else whole
    found = np.concatenate([np.asarray(session.run(None, {about.name: frame[None]})[0]) for frame in given])
    if real:
        return arithmetic.quantise(found, network.output_scale)
    return (found.astype(np.int16) - shift).astype(np.int8)


def frames_for(network, rng, n):
    """Random frames: evenly drawn, narrow, and at the ends of the range."""
    shape = (n, *network.input_shape)
    each = (n, *[1] * len(network.input_shape))
    wide = rng.integers(-128, 128, shape)
    narrow = np.clip(rng.integers(-20, 20, shape) + rng.integers(-100, 100, each), -128, 127)
    ends = np.where(rng.random(shape) < 0.5, -128, 127)
    kind = rng.integers(0, 3, each)
    return np.select([kind == 0, kind == 1], [wide, narrow], ends).astype(np.int8)
