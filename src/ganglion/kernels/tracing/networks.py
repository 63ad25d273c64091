"""``gg.network``: a quantised network in a file, called within kernels like a function of one frame."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ganglion.core.errors import DataError, GanglionError, KernelError
from ganglion.core.schema import TensorType
from ganglion.kernels.networks.layers import Network, Quantised
from ganglion.kernels.networks.onnx_reader import read_onnx
from ganglion.kernels.networks.operations import lower
from ganglion.kernels.networks.reference import compute
from ganglion.kernels.networks.stored import layers_file, layers_of, network_digest
from ganglion.kernels.networks.validity import PRODUCTS_MAX, WEIGHTS_MAX, check_network, oversized
from ganglion.kernels.tracing.builder import place, refuse
from ganglion.kernels.tracing.quantisation import dequantize, quantize
from ganglion.kernels.tracing.traced import Traced, lift


class KernelNetwork:
    """A network that kernels call; `network` makes one.

    ``input``, ``output``: the types of one frame, without ONNX's batch axis. f32 where the file quantises at its door
    and dequantises at its end, else i32 within the range of its activations (``dtype``).
    """

    def __init__(self, layers: Network) -> None:
        if oversized(layers):
            raise KernelError(
                "network.size",
                f"{layers.name} has {layers.products} products, or more than {WEIGHTS_MAX} weights",
                why=f"a kernel holds at most {WEIGHTS_MAX} weights and makes at most {PRODUCTS_MAX} products per frame",
                next_step="make it smaller, or run it in ONNX Runtime on a larger tier",
            )
        check_network(layers)
        self.layers = layers
        self.input = TensorType("f32" if layers.real_input else "i32", layers.input_shape)
        self.output = TensorType("f32" if layers.real_output else "i32", layers.output_shape)

    def __repr__(self) -> str:
        return f"<network {self.layers.name}: {self.input} to {self.output}>"

    @cached_property
    def digest(self) -> str:
        """Identity: the hash of what it computes."""
        return network_digest(self.layers)

    @property
    def dtype(self) -> np.dtype[Any]:
        """int8 or uint8: what its integers are."""
        return np.dtype(np.uint8 if self.layers.unsigned else np.int8)

    def __call__(self, x: Any) -> Any:
        """One frame: an array of ``input``, to one of ``output``. In a kernel all its layers are one operation.

        Raises `KernelError` ``kernel.shape`` for another shape, or for real numbers where it takes whole ones.
        """
        frame = x if isinstance(x, Traced) else np.asarray(x)
        self._check(frame)
        layers = self.layers
        if layers.real_input:
            assert layers.input_scale is not None
            frame = quantize(frame, *self._door(layers.input_scale), self.dtype)
        found = self._traced(frame) if isinstance(frame, Traced) else self._computed(frame)
        if not layers.real_output:
            return found
        assert layers.output_scale is not None
        return dequantize(found, *self._door(layers.output_scale))

    def _door(self, scale: Quantised) -> tuple[np.float32, int]:
        """Scale and zero point in the file's own integers."""
        return np.float32(scale.scale), scale.zero + self.layers.low + 128

    def _check(self, frame: Any) -> None:
        if tuple(frame.shape) != self.input.shape:
            raise refuse(
                "kernel.shape",
                f"the network {self.layers.name} is called with the shape {list(frame.shape)}",
                f"it takes {self.input}: one frame, without ONNX's batch axis",
                "reshape or slice what it is given",
            )
        if self.input.dtype == "i32" and frame.dtype.kind == "f":
            raise refuse(
                "kernel.shape",
                f"the network {self.layers.name} is called with real numbers",
                f"its file takes {self.dtype.name}: it has no QuantizeLinear at its door",
                "quantise first: gg.quantize(x, scale, zero)",
            )

    def _traced(self, frame: Traced) -> Traced:
        builder = frame.builder
        number = builder.cast(lift(builder, frame).number, "i32")
        return Traced(builder, builder.add("network", (number,), network=self.layers))

    def _computed(self, frame: Any) -> Any:
        low, shift = self.layers.low, self.layers.low + 128
        whole = np.clip(frame.astype(np.int32), low, low + 255) - shift
        return compute(self.layers, whole[np.newaxis].astype(np.int8))[0].astype(np.int32) + np.int32(shift)


def network(path: str | Path) -> KernelNetwork:
    """The quantised network of an ONNX file; a relative path begins at the file that calls this.

    Both of ONNX Runtime's forms are read, QDQ and QOperator; docs/reference/kernels.md says what may be in them. Where
    ``NAME.layers.json`` lies beside it and is of this very file, that is read, and onnx need not be installed.
    Raises `DataError` ``network.missing`` or ``network.file`` for a file that is not there or no ONNX, and
    `KernelError` ``network.*`` for a network that cannot be computed with the same integers everywhere, naming the line
    of the call.
    """
    name, line, text = place()
    whole = Path(name).resolve().parent / path
    try:
        return KernelNetwork(_layers(whole))
    except GanglionError as error:
        where = f"{whole.name} at {Path(name).name}:{line}" + (f": {text}" if text else "")
        raise type(error)(
            error.code, f"{error.what} ({where})", why=error.why, next_step=error.next_step
        ) from error


def _layers(file: Path) -> Network:
    """The layers kept beside the file when they are of this very file, else what is read from it, which takes onnx."""
    beside = layers_file(file)
    try:
        kept = layers_of(beside.read_bytes(), file.read_bytes())
    except OSError:
        kept = None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            "network.file",
            f"{beside.name} does not hold the layers of a network",
            why=str(error) or type(error).__name__,
            next_step=f"remove it, or write it again: ganglion model compile {file.name}",
        ) from error
    return kept or lower(read_onnx(file))
