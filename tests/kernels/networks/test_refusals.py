"""What cannot be computed with the same integers is refused, with a code and a next step."""

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import GanglionError
from ganglion.kernels.networks import lowering, onnx_reader
from ganglion.kernels.networks.emission import emit_network
from ganglion.kernels.networks.onnx_reader import read_onnx
from ganglion.kernels.networks.operations import lower
from ganglion.kernels.networks.reference import compute
from ganglion.kernels.networks.stored import network_digest
from tests.kernels.networks.kinds import KINDS
from tests.kernels.networks.sketches import QDQ, QOPERATOR, Sketch

onnx = pytest.importorskip("onnx")
helper, TensorProto = onnx.helper, onnx.TensorProto


def sketch(form=QOPERATOR, shape=(3, 8, 8)):
    return Sketch(form, shape, np.random.default_rng(3))


def refused(content):
    with pytest.raises(GanglionError) as caught:
        lower(read_onnx(content))
    assert caught.value.why and caught.value.next_step
    return caught.value.code


def changed(s, what):
    """The sketch's file after a change to its graph."""
    loaded = onnx.load_model_from_string(s.file())
    what(loaded.graph)
    return loaded.SerializeToString()


def grouped():
    s = sketch(shape=(4, 8, 8))
    s.conv((4, 2, 3, 3), group=2)
    return s.file()


def weights_with_zero_point():
    s = sketch()
    s.conv((4, 3, 3, 3))
    zero = s.constants[6]
    assert zero.data_type == TensorProto.INT8
    zero.raw_data = b"\1" * len(zero.raw_data)
    return s.file()


def cut_activation():
    s = sketch(QDQ)
    s.conv((4, 3, 3, 3), fit="Relu", zero=0)
    return s.file()


def float_operator():
    s = sketch(QDQ)
    s.now = s.node("MaxPool", [s.node("MaxPool", [s.real("x")], kernel_shape=[2, 2])], kernel_shape=[2, 2])
    s.whole(s.now)
    return s.file()


def float_in_front():
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()


def dilated_pool():
    s = sketch()
    s.moved("MaxPool", kernel_shape=[2, 2], dilations=[2, 2])
    return s.file()


def pool_of_padding():
    s = sketch()
    s.unary("AveragePool", "QLinearAveragePool", kernel_shape=[1, 1], pads=[1, 1, 1, 1])
    return s.file()


def far_scales():
    s = sketch()
    first = s.conv((3, 3, 1, 1))
    second = s.conv((3, 3, 1, 1))
    s.add(first, second, (1e-9, 0))
    return s.file()


def overflowing():
    s = sketch(shape=(300_000,))
    s.gemm(300_000, 1)
    return s.file()


def other_softmax():
    s = sketch(shape=(8,))
    s.unary("Softmax", "QLinearSoftmax", after=(0.01, -128), axis=-1, opset=17)
    return s.file()


def two_outputs():
    s = sketch()
    first = s.conv((3, 3, 1, 1))
    s.conv((3, 3, 1, 1))
    return changed(
        s, lambda g: g.output.append(helper.make_tensor_value_info(first, TensorProto.INT8, [1, 3, 8, 8]))
    )


def open_shape():
    s = sketch()
    s.conv((3, 3, 1, 1))
    return changed(s, lambda g: g.input[0].type.tensor_type.shape.dim[2].ClearField("dim_value"))


def batched():
    s = sketch()
    s.conv((3, 3, 1, 1))

    def two(graph):
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2

    return changed(s, two)


def unsigned():
    s = sketch()
    s.conv((3, 3, 1, 1))

    def other(graph):
        graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8

    return changed(s, other)


def five_axes():
    s = sketch(shape=(2, 2, 2, 2, 2))
    s.moved("Transpose", perm=[0, 5, 4, 3, 2, 1])
    return s.file()


def turned(s, rank, axis):
    """The scales of the weights lie along another axis of them, one that is as long."""

    def other(graph):
        weights = {i.name for i in graph.initializer if len(i.dims) == rank}
        (node,) = (n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in weights)
        node.attribute[0].i = axis

    return changed(s, other)


def scales_of_channels():
    s = sketch(QDQ, shape=(4, 5, 5))
    s.conv((4, 4, 3, 3))
    return turned(s, 4, 1)


def scales_of_operands():
    s = sketch(QDQ, shape=(4,))
    s.matmul(4, 4)
    return turned(s, 2, 0)


def scales_of_turned_operands():
    s = sketch(QDQ, shape=(4,))
    s.gemm(4, 4, transposed=True)
    return turned(s, 2, -1)


def vanishing_scale():
    s = sketch()
    s.conv((3, 3, 1, 1), after=(1e-42, 0))
    return s.file()


def padded_far():
    s = sketch()
    s.conv((3, 3, 3, 3), pads=[9000] * 4, strides=[9000, 9000])
    return s.file()


REFUSED = {
    scales_of_channels: "network.weights",
    scales_of_operands: "network.weights",
    scales_of_turned_operands: "network.weights",
    vanishing_scale: "network.form",
    padded_far: "network.form",
    five_axes: "network.axes",
    grouped: "network.operator",
    weights_with_zero_point: "network.weights",
    cut_activation: "network.activation",
    float_operator: "network.float",
    float_in_front: "network.float",
    dilated_pool: "network.operator",
    pool_of_padding: "network.operator",
    far_scales: "network.scale",
    overflowing: "network.overflow",
    other_softmax: "network.operator",
    two_outputs: "network.form",
    open_shape: "network.shape",
    batched: "network.shape",
    unsigned: "network.type",
}


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.__name__)
def test_what_cannot_be_computed_is_refused(case):
    assert refused(case()) == REFUSED[case]


@pytest.mark.parametrize("axis", [0, -4])
def test_scales_along_the_results_are_read_wherever_they_are_counted_from(axis):
    s = sketch(QDQ, shape=(4, 5, 5))
    s.conv((4, 4, 3, 3))
    assert network_digest(lower(read_onnx(turned(s, 4, axis)))) == network_digest(lower(read_onnx(s.file())))


def test_a_name_in_a_file_is_no_c():
    """Whoever made the file chose it."""
    s = sketch()
    s.conv((3, 3, 1, 1))
    network = replace(lower(read_onnx(s.file())), name="n **//\n#error it got out\n/*")
    source = emit_network(network, "k").source
    assert source.startswith("/* Generated by Ganglion from network n ")
    assert "#error it got out" not in source
    assert source.splitlines()[0].endswith("*/")


def test_a_file_that_is_none_is_refused(tmp_path):
    assert refused(b"\x00\x01nonsense") == "network.file"
    assert refused(tmp_path / "missing.onnx") == refused(tmp_path) == "network.missing"


@pytest.mark.parametrize(
    "module, limit, most, code",
    [
        (onnx_reader, "FILE_BYTES_MAX", 100, "network.file"),
        (onnx_reader, "NODES_MAX", 1, "network.file"),
        (lowering, "LAYERS_MAX", 1, "network.size"),
        (lowering, "ELEMENTS_MAX", 10, "network.size"),
    ],
)
def test_limits_are_kept(module, limit, most, code, monkeypatch):
    monkeypatch.setattr(module, limit, most)
    s = sketch()
    s.conv((3, 3, 1, 1))
    s.conv((3, 3, 1, 1))
    assert refused(s.file()) == code


def test_without_onnx_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert refused(Path("any.onnx")) == "network.extra"


@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_but_never_a_bug(data):
    s = sketch(data.draw(st.sampled_from([QDQ, QOPERATOR])))
    s.conv((2, 3, 3, 3), strides=[2, 2])
    s.moved("Flatten")
    s.gemm(2 * 9, 3)
    content = bytearray(s.file())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(GanglionError):
        lower(read_onnx(bytes(content)))


@given(data=st.data())
def test_a_hostile_graph_is_refused_or_computed_but_never_a_bug(data):
    """An input or an attribute of one node is left out, exchanged or changed."""
    form = data.draw(st.sampled_from([QDQ, QOPERATOR]))
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    content = KINDS[kind](form, lambda low, high: data.draw(st.integers(low, high))).file()
    loaded = onnx.load_model_from_string(content)
    node = data.draw(st.sampled_from(list(loaded.graph.node)))
    names = [i.name for i in loaded.graph.initializer] + [n.output[0] for n in loaded.graph.node]
    place = data.draw(st.integers(0, len(node.input) - 1))
    change = data.draw(st.sampled_from(["drop", "empty", "other", "attribute"]))
    if change == "drop":
        del node.input[place]
    elif change == "attribute" and node.attribute:
        attribute = data.draw(st.sampled_from(list(node.attribute)))
        number = data.draw(st.integers(-3, 9))
        if attribute.ints:
            attribute.ints[data.draw(st.integers(0, len(attribute.ints) - 1))] = number
        else:
            attribute.i = number
    else:
        node.input[place] = "" if change == "empty" else data.draw(st.sampled_from(names))
    with contextlib.suppress(GanglionError):
        network = lower(read_onnx(loaded.SerializeToString()))
        assert compute(network, np.zeros((1, *network.input_shape), np.int8)).dtype == np.int8
