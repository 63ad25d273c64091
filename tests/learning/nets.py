"""Small networks and data for the tests of learning."""

import atexit
import shutil
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from ganglion.kernels.c.toolchain import compilers
from ganglion.learning.recipe import Convolution, Dense, Examples, GlobalAverage
from ganglion.learning.training import Trained

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
needs_runtime = pytest.mark.skipif(
    find_spec("onnxruntime") is None or find_spec("onnx") is None,
    reason="onnx or onnxruntime is not installed",
)
needs_compiler = pytest.mark.skipif(not compilers(), reason="there is no C compiler (gcc, clang or ziglang)")
MISSING = [m for m in ("ziglang", "unicorn", "elftools", "onnx", "onnxruntime") if find_spec(m) is None]
needs_emulator = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} is not installed")


@cache
def images():
    """A directory for what is linked, kept for the whole session: a compiler's first build takes seconds."""
    directory = Path(tempfile.mkdtemp(prefix="ganglion-images-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def rings(rng, count):
    """Points in a plane: 0 inside, 1 in a ring around it, 2 outside."""
    points = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    radius = np.hypot(*points.T)
    return Examples(points, np.digitize(radius, [0.45, 0.8]).astype(np.int64))


def drawn(rng, shape, layers, classes):
    """A network with drawn weights, as training would leave it."""
    now: tuple[int, ...] = shape
    size: tuple[int, ...]
    whole, weights = (*layers, Dense(classes)), []
    for layer in whole:
        if isinstance(layer, GlobalAverage):
            now = (now[0], 1, 1)
            continue
        if isinstance(layer, Convolution):
            size = (layer.channels, 1 if layer.depthwise else now[0], *layer.kernel)
            extents = [(n - 1) // s + 1 for n, s in zip(now[1:], layer.strides, strict=True)]
            now = (layer.channels, *extents)
        else:
            size = (layer.width, int(np.prod(now)))
            now = (layer.width,)
        scale = 1.5 / np.sqrt(np.prod(size[1:]))
        weights.append(
            (rng.normal(0, scale, size).astype(np.float32), rng.normal(0, 0.1, size[0]).astype(np.float32))
        )
    return Trained(shape, whole, tuple(weights))


SHAPES = {
    "dense": ((12,), (Dense(16), Dense(8)), 5),
    "no hidden layer": ((7,), (), 3),
    "convolutions": ((2, 9, 6), (Convolution(5), Convolution(5, depthwise=True, strides=(2, 1))), 4),
    "pointwise and mean": ((3, 6, 6), (Convolution(8, (1, 1)), Convolution(6, (3, 1)), GlobalAverage()), 4),
}
