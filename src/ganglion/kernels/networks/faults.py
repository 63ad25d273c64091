"""The words in which a network is refused."""

from __future__ import annotations

from ganglion.core.errors import KernelError
from ganglion.kernels.networks.graph import GraphNode

_NEXT = {
    "network.operator": "replace it, or leave this part of the network to ONNX Runtime on a larger tier",
    "network.float": (
        "quantise the whole network: onnxruntime.quantization.quantize_static, QDQ, QInt8, per_channel"
    ),
    "network.weights": "quantise with weights of QInt8, symmetric, biases of int32, activations of QInt8 or QUInt8",
    "network.activation": "quantise again, so that calibration sees the values after the activation",
}


def _refused(code: str, node: GraphNode, says: str, why: str) -> KernelError:
    return KernelError(code, f"{node.operator} ({node.label}) {says}", why=why, next_step=_NEXT[code])


def unsupported(node: GraphNode, why: str) -> KernelError:
    """An operator, or a form of one, that cannot be computed."""
    return _refused("network.operator", node, "cannot be computed", why)


def not_quantised(node: GraphNode, why: str) -> KernelError:
    """A value that stays a real number."""
    return _refused("network.float", node, "computes with real numbers", why)


def weights(node: GraphNode, why: str) -> KernelError:
    """Weights, scales or zero points of a form that is not known here."""
    return _refused("network.weights", node, "has weights or scales of a form that is not read", why)


def activation(node: GraphNode) -> KernelError:
    """A clip that a result's scale does not contain."""
    why = "ONNX Runtime then computes the layer before it with real numbers, in no order that could be kept"
    return _refused("network.activation", node, "cuts values that the scale of its result could hold", why)
