"""From float weights to int8: ONNX Runtime's integers exactly, near the float network, and the same bytes again."""

from dataclasses import replace

import numpy as np
import pytest

from ganglion.core.errors import GanglionError
from ganglion.learning import course
from ganglion.learning.int8_network import Int8Network
from tests.learning.nets import SHAPES, drawn, needs_runtime

pytestmark = needs_runtime


@pytest.fixture(params=SHAPES)
def made(request, rng):
    from ganglion.learning.float_graph import float_graph
    from ganglion.learning.onnx_runtime import quantised

    shape, layers, classes = SHAPES[request.param]
    trained = drawn(rng, shape, layers, classes)
    inputs = rng.normal(0, 1, (300, *shape)).astype(np.float32)
    graph = float_graph(trained, "drawn")
    assert graph == float_graph(trained, "drawn")
    content = quantised(graph, inputs)
    assert content == quantised(graph, inputs)
    return graph, inputs, Int8Network.read(content)


def float_logits(graph, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": frame[None]})[0] for frame in inputs])


def test_the_integers_are_those_of_onnx_runtime(made):
    _, inputs, network = made
    assert course.differing(network, inputs) == 0
    assert len(np.unique(network.integers(inputs))) > 20, "the network says too little"


def test_the_int8_form_is_near_the_float_one(made):
    graph, inputs, network = made
    wanted = float_logits(graph, inputs)
    steps = np.abs(network(inputs) - wanted) / network.network.output_scale.scale
    assert np.median(steps) <= 2
    assert np.mean(network(inputs).argmax(1) == wanted.argmax(1)) > 0.9


def test_another_networks_file_is_told_apart(made, rng):
    """The comparison must see when file and layers are not of one network."""
    _, inputs, network = made
    layers = list(network.network.layers)
    at = next(k for k, layer in enumerate(layers) if hasattr(layer, "weights"))
    layers[at] = replace(layers[at], bias=layers[at].bias + 4000)
    planted = Int8Network(network.content, replace(network.network, layers=tuple(layers)))
    assert course.differing(planted, inputs) > 0


def test_other_inputs_are_refused(made):
    _, inputs, network = made
    with pytest.raises(GanglionError) as caught:
        network(np.zeros((3, *inputs.shape[1:], 2), np.float32))
    assert caught.value.code == "learning.input"
