"""The words in which a network is refused."""

from __future__ import annotations

from ganglion.core.errors import KernelError
from ganglion.kernels.networks.graph import GraphNode


def unsupported(node: GraphNode, why: str) -> KernelError:
    """An operator, or a form of one, that cannot be computed."""
    return KernelError(
        "network.operator",
        f"{node.operator} ({node.label}) cannot be computed",
        why=why,
        next_step="replace it, or leave this part of the network to ONNX Runtime on a larger tier",
    )


def not_quantised(node: GraphNode, why: str) -> KernelError:
    """A value that stays a real number."""
    return KernelError(
        "network.float",
        f"{node.operator} ({node.label}) computes with real numbers",
        why=why,
        next_step="quantise the whole network: onnxruntime.quantization.quantize_static, QDQ, QInt8, per_channel",
    )


def weights(node: GraphNode, why: str) -> KernelError:
    """Weights, scales or zero points of a form that is not known here."""
    return KernelError(
        "network.weights",
        f"the weights of {node.operator} ({node.label}) do not have the form that is read",
        why=why,
        next_step="quantise with activations and weights of QInt8, weights symmetric, biases of int32",
    )


def activation(node: GraphNode) -> KernelError:
    """A clip that a result's scale does not contain."""
    return KernelError(
        "network.activation",
        f"{node.operator} ({node.label}) cuts values that the scale of its result could hold",
        why="ONNX Runtime then computes the layer before it with real numbers, in no order that could be kept",
        next_step="quantise again, so that calibration sees the values after the activation",
    )
