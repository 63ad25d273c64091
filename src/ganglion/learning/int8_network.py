"""An int8 network from its file: real numbers in, logits out, through the integers every tier computes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ganglion.core.errors import DataError
from ganglion.kernels.networks import arithmetic
from ganglion.kernels.networks.layers import Network, Quantised
from ganglion.kernels.networks.onnx_reader import read_onnx
from ganglion.kernels.networks.operations import lower
from ganglion.kernels.networks.reference import compute
from ganglion.learning.recipe import Array


@dataclass(frozen=True)
class Int8Network:
    """The bytes of an ONNX file and the layers in it."""

    content: bytes
    network: Network

    @staticmethod
    def read(content: bytes) -> Int8Network:
        """Raises `DataError` ``network.file`` and `KernelError` ``network.*`` for what cannot be computed."""
        return Int8Network(content, lower(read_onnx(content)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    def frames(self, inputs: Array) -> Array:
        """float32 (n, *shape) as the int8 that goes in. Raises `DataError` ``learning.input`` for another shape."""
        if inputs.shape[1:] != self.network.input_shape:
            raise DataError(
                "learning.input",
                f"the network takes {list(self.network.input_shape)}, the examples are {list(inputs.shape[1:])}",
                why="it was made from other data, or by an older recipe",
                next_step="train it again, or name its own recipe",
            )
        return arithmetic.quantise(inputs, _scale(self.network.input_scale))

    def integers(self, inputs: Array) -> Array:
        """int8 (n, classes)."""
        return compute(self.network, self.frames(inputs)).reshape(len(inputs), -1)

    def __call__(self, inputs: Array) -> Array:
        """float32 (n, classes): logits in the scale of the output."""
        whole = self.integers(inputs)
        return np.asarray(arithmetic.dequantise(whole, _scale(self.network.output_scale)), np.float32)


def _scale(scale: Quantised | None) -> Quantised:
    """A file whose integers have no stated scale: they stand for themselves."""
    return Quantised(1.0, 0) if scale is None else scale
