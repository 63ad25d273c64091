"""The NumPy reference gives ONNX Runtime's integers: every kind of layer, both quantised forms, drawn shapes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.kernels.networks import arithmetic
from ganglion.kernels.networks.layers import Add
from ganglion.kernels.networks.onnx_reader import read_onnx
from ganglion.kernels.networks.operations import lower
from ganglion.kernels.networks.reference import compute
from tests.kernels.networks.kinds import KINDS
from tests.kernels.networks.sketches import QDQ, QOPERATOR, Sketch, frames_for, onnx_runtime

FRAMES = 24


@pytest.mark.parametrize("form", [QDQ, QOPERATOR])
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_every_layer_gives_the_integers_of_onnx_runtime(kind, form, data):
    content = KINDS[kind](form, lambda low, high: data.draw(st.integers(low, high))).file()
    network = lower(read_onnx(content))
    frames = frames_for(network, np.random.default_rng(data.draw(st.integers(0, 2**31))), FRAMES)
    wanted = onnx_runtime(content, network, frames)
    got = compute(network, frames)
    assert got.shape == wanted.shape
    assert int(np.sum(got != wanted)) == 0


def pairs_apart(dtype, changed=lambda network: network):
    """Of all 65,536 pairs at 40 scales, how many sums differ from ONNX Runtime's."""
    first, second = (
        v.ravel().astype(np.int8) for v in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
    )
    frame = np.concatenate([first, second])[None, None, :].reshape(1, 2, 65_536, 1)
    apart = 0
    for seed in range(40):
        sketch = Sketch(QOPERATOR, (2, 65_536, 1), np.random.default_rng(seed), dtype=dtype)
        halves = []
        for channel in range(2):
            sketch.now = "x"
            weights = np.zeros((1, 2, 1, 1), np.int8)
            weights[0, channel] = 1
            halves.append(sketch.picked(weights))
        sketch.add(halves[0], halves[1], (sketch.rng.uniform(0.02, 0.2), sketch.rng.integers(-128, 128)))
        content = sketch.file()
        network = changed(lower(read_onnx(content)))
        apart += int(np.sum(compute(network, frame) != onnx_runtime(content, network, frame)))
    return apart


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_an_addition_gives_the_integers_for_every_pair_of_values(dtype):
    """A product that is not fused differs in some."""
    assert pairs_apart(dtype) == 0


def test_uint8_added_as_if_it_were_int8_is_noticed(monkeypatch):
    """The sum is rounded in single precision, so it depends on which integers it is made of."""
    terms = arithmetic.add_terms
    monkeypatch.setattr(
        arithmetic, "add_terms", lambda first, second, after, _: terms(first, second, after, 0)
    )

    def changed(network):
        layers = [replace(k, lift=0) if isinstance(k, Add) else k for k in network.layers]
        return replace(network, layers=tuple(layers))

    assert pairs_apart(np.uint8, changed) > 0
