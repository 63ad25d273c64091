"""The four networks of MLPerf Tiny: ONNX Runtime's integers, in NumPy, in C and on an emulated Cortex-M4F."""

import importlib.util
import os
from functools import partial
from typing import Any

import numpy as np
import pytest

import ganglion as gg
from ganglion.kernels import KernelNetwork
from ganglion.kernels.c.emission import emit
from ganglion.kernels.c.toolchain import compilers
from ganglion.kernels.networks.emission import emit_network
from ganglion.kernels.networks.library import NetworkLibrary
from ganglion.kernels.networks.onnx_reader import read_onnx
from ganglion.kernels.networks.operations import lower
from ganglion.kernels.networks.reference import compute
from tests.kernels.networks import mlperf
from tests.kernels.networks.bundle import Bundle
from tests.kernels.networks.sketches import QDQ, QOPERATOR, frames_for, onnx_runtime

SEED = 20_261_125
FRAMES = 20
WHOLE = "GANGLION_FRAMES" in os.environ
COMPILERS = compilers()
ZIG = [c for c in COMPILERS if c.kind == "zig"]
MISSING = [m for m in ("ziglang", "unicorn", "elftools") if importlib.util.find_spec(m) is None]
# Random weights leave little of the input in the last layers of a deep network, so it is also looked at on the way.
CUTS: dict[str, Any] = {f"mobilenet, {cut} blocks": partial(mlperf.mobilenet, cut=cut) for cut in (2, 6, 13)}
SHAPES: dict[str, Any] = {
    "resnet-8": mlperf.resnet8,
    "mobilenet": mlperf.mobilenet,
    "autoencoder": mlperf.autoencoder,
}
RAM_BYTES_MAX = {"resnet-8": 55_000, "mobilenet": 100_700, "autoencoder": 2_600}
needs_compiler = pytest.mark.skipif(not COMPILERS, reason="there is no C compiler (gcc, clang or ziglang)")
needs_emulator = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} is not installed")
needs_data = pytest.mark.skipif(
    not mlperf.DATA.exists(), reason="the folder mlperf_tiny_kws01 is not at hand"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(scope="module")
def keyword():
    """(content, network, frames of dev and then train, their classes, ONNX Runtime's logits)."""
    content = mlperf.keyword_spotting()
    network = lower(read_onnx(content))
    files = [f for part in ("dev", "train") for f in sorted((mlperf.DATA / part / "bin").glob("*.bin"))]
    frames = np.stack([np.frombuffer(f.read_bytes(), np.int8).reshape(1, 49, 10) for f in files])
    classes = np.array([int(f.stem.rsplit("_", 1)[1]) for f in files])
    return content, network, frames, classes, onnx_runtime(content, network, frames)


@needs_data
def test_keyword_spotting_gives_the_logits_of_onnx_runtime(keyword):
    _, network, frames, classes, wanted = keyword
    assert frames.shape == (500, 1, 49, 10)
    assert int(np.sum(compute(network, frames) != wanted)) == 0
    assert int(np.sum(wanted[:250].argmax(1) == classes[:250])) == 223


@needs_data
@needs_compiler
def test_compiled_keyword_spotting_gives_the_logits(keyword, directory):
    _, network, frames, _, wanted = keyword
    got = NetworkLibrary.build(network, COMPILERS[0], directory).compute(frames)
    assert int(np.sum(got != wanted)) == 0


@needs_data
@needs_emulator
@pytest.mark.parametrize(
    "target, n", [("cortex-m4f", 500 if WHOLE else 60), ("cortex-m3", 12), ("cortex-m0plus", 8)]
)
def test_emulated_keyword_spotting_gives_the_logits(keyword, target, n, directory):
    _, network, frames, _, wanted = keyword
    [got] = Bundle([network], [frames[:n]]).emulated(target, ZIG[0], directory)
    assert int(np.sum(got != wanted[:n])) == 0


@needs_data
def test_keyword_spotting_fits_its_memory(keyword):
    written = emit_network(keyword[1], "gg_network")
    assert written.workspace_bytes + written.input_bytes + written.output_bytes <= 16_500


@pytest.mark.parametrize("form", [QDQ, QOPERATOR])
@pytest.mark.parametrize("name", SHAPES | CUTS)
def test_the_other_shapes_give_the_integers_of_onnx_runtime(name, form):
    content = (SHAPES | CUTS)[name](form)
    network = lower(read_onnx(content))
    frames = frames_for(network, np.random.default_rng(SEED), FRAMES)
    wanted = onnx_runtime(content, network, frames)
    assert name == "mobilenet" or len(np.unique(wanted)) > 20, "the random network says too little"
    assert int(np.sum(compute(network, frames) != wanted)) == 0


@needs_emulator
@pytest.mark.parametrize("name", SHAPES | CUTS)
@pytest.mark.parametrize("target", ["cortex-m4f", "cortex-m3", "cortex-m0plus"])
def test_the_other_shapes_give_the_integers_on_a_processor(name, target, directory):
    network = lower(read_onnx((SHAPES | CUTS)[name]()))
    frames = frames_for(network, np.random.default_rng(SEED), 3)
    [got] = Bundle([network], [frames]).emulated(target, ZIG[0], directory)
    assert int(np.sum(got != compute(network, frames))) == 0


@pytest.mark.parametrize("name", SHAPES)
def test_the_other_shapes_fit_their_memory(name):
    written = emit_network(lower(read_onnx(SHAPES[name]())), "gg_network")
    used = written.workspace_bytes + written.input_bytes + written.output_bytes
    assert used <= RAM_BYTES_MAX[name]


@pytest.mark.parametrize("name", SHAPES)
def test_the_other_shapes_fit_their_memory_within_a_kernel(name):
    """Working memory, in which the network's input and output lie as bytes between real numbers."""
    network = KernelNetwork(lower(read_onnx(SHAPES[name]())))
    scale, zero = np.float32(0.1), np.int32(3)

    @gg.kernel(x=gg.f32[network.input.shape])
    def real(x):
        whole = network(gg.quantize(x, scale, zero, np.int8))
        return {"y": gg.dequantize(whole, scale, zero), "best": np.argmax(np.reshape(whole, -1))}

    alone = emit_network(network.layers, "gg_network")
    used = emit(real.program, "gg_kernel").workspace_bytes
    assert used <= RAM_BYTES_MAX[name]
    # Nothing but the network's own, rounded up to what vectors are aligned to.
    assert used <= alone.workspace_bytes + alone.input_bytes + alone.output_bytes + 3 * 16


@needs_compiler
def test_a_library_is_found_again_and_takes_no_frames(directory):
    network = lower(read_onnx(mlperf.autoencoder()))
    first = NetworkLibrary.build(network, COMPILERS[0], directory)
    assert NetworkLibrary.build(network, COMPILERS[0], directory).path == first.path
    assert first.compute(np.zeros((0, 640), np.int8)).shape == (0, 640)
