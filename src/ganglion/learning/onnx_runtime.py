"""The one door to ONNX Runtime: it quantises float graphs, and its integers are what ours are compared with."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ganglion.core.errors import HostError
from ganglion.kernels.networks import arithmetic
from ganglion.kernels.networks.layers import Network
from ganglion.learning.float_graph import INPUT
from ganglion.learning.recipe import Array

CALIBRATION_MAX = 2000
"""Examples that scales are chosen by; more only take time."""


def runtime_version() -> str | None:
    """The version of ONNX Runtime; None when it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return str(onnxruntime.__version__)


def _missing(what: str, name: str) -> HostError:
    return HostError(
        "learning.onnx-runtime",
        f"{what}: {name} is not installed",
        why="it is an optional part",
        next_step="pip install 'ganglion[models]'",
    )


class _Frames:
    """Calibration frames one by one, as onnxruntime.quantization reads them."""

    def __init__(self, frames: Array) -> None:
        self._left = iter(frames)

    def get_next(self) -> dict[str, Array] | None:
        frame = next(self._left, None)
        return None if frame is None else {INPUT: frame[None]}


def quantised(graph: bytes, frames: Array) -> bytes:
    """The int8 form (QDQ, int8 activations, symmetric int8 weights per channel) of a float graph.

    ``frames``: float32 (n, *shape); every n-th is taken when there are more than `CALIBRATION_MAX`. Scales span the
    smallest and the largest value seen. Raises `HostError` ``learning.onnx-runtime`` without it.
    """
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise _missing("networks cannot be quantised", "onnxruntime or onnx") from error
    few = frames[:: -(-len(frames) // CALIBRATION_MAX)]
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises to preprocess, which there is nothing of
    try:
        with tempfile.TemporaryDirectory() as name:
            before, after = Path(name) / "float.onnx", Path(name) / "int8.onnx"
            before.write_bytes(graph)
            quantization.quantize_static(
                before,
                after,
                _Frames(few),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
            )
            return after.read_bytes()
    finally:
        logging.root.setLevel(level)


def integers(content: bytes, network: Network, frames: Array) -> Array:
    """What ONNX Runtime gives for int8 ``frames`` (n, *input shape), as int8 (n, *output shape).

    At ORT_ENABLE_ALL with int8 allowed, frame by frame on one thread: the form docs/adr/0011 names. Raises
    `HostError` ``learning.onnx-runtime`` without it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing("integers cannot be compared", "onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    about = session.get_inputs()[0]
    real = about.type == "tensor(float)"
    assert not real or (network.input_scale is not None and network.output_scale is not None)
    given = arithmetic.dequantise(frames, network.input_scale) if real and network.input_scale else frames
    found = [np.asarray(session.run(None, {about.name: frame[None]})[0]) for frame in given]
    whole = np.concatenate(found)
    return arithmetic.quantise(whole, network.output_scale) if real and network.output_scale else whole
