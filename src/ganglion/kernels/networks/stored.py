"""A network as stable JSON: it travels inside the kernel that calls it, so who runs the kernel needs no ONNX.

What is read is checked, whoever wrote it: layers index memory by these numbers.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ganglion.kernels.networks import layers
from ganglion.kernels.networks.layers import Network
from ganglion.kernels.networks.validity import check_network

KINDS = {kind.__name__: kind for kind in (*layers.LAYERS, layers.Window, layers.Quantised, layers.Network)}
DTYPES = ("int8", "int64", "float32")
DEPTH_MAX = 6
LAYERS_BYTES_MAX = 64 << 20


def network_json(network: Network) -> dict[str, Any]:
    """Stable JSON; `network_of` reads it."""
    found: dict[str, Any] = _json(network)
    return found


def network_digest(network: Network) -> str:
    """SHA-256 of what the network computes; its name is none of it."""
    text = json.dumps(network_json(network) | {"name": ""}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def network_of(value: Mapping[str, Any]) -> Network:
    """Raises `ValueError` (also `KeyError`, `TypeError`) for another form, or layers that do not fit each other."""
    network = _read(value, 0)
    if not isinstance(network, Network):
        raise ValueError("it is no network")  # noqa: TRY004 # one kind of error for every wrong form
    check_network(network)
    return network


def layers_file(file: Path) -> Path:
    """Where the layers of an ONNX file lie, so that who only runs them needs no ONNX."""
    return file.with_suffix(".layers.json")


def kept_layers(network: Network, file_content: bytes) -> bytes:
    """What `layers_file` holds: the layers, and which ONNX file they are of."""
    digest = hashlib.sha256(file_content).hexdigest()
    whole = {"onnx_sha256": digest, "network": network_json(network)}
    return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def layers_of(content: bytes, file_content: bytes) -> Network | None:
    """The network that `kept_layers` kept; None when it is of another ONNX file.

    Raises `ValueError` (also `KeyError`, `TypeError`) for anything else.
    """
    if len(content) > LAYERS_BYTES_MAX:
        raise ValueError(f"it is larger than {LAYERS_BYTES_MAX} bytes")
    value = json.loads(content)
    if value["onnx_sha256"] != hashlib.sha256(file_content).hexdigest():
        return None
    return network_of(value["network"])


def _json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__} | {f.name: _json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, np.ndarray):
        little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        content = base64.b64encode(little.tobytes()).decode()
        return {"dtype": value.dtype.name, "shape": list(value.shape), "bytes": content}
    if isinstance(value, tuple):
        return [_json(v) for v in value]
    if value is None or isinstance(value, bool | str):
        return value
    return float(value) if isinstance(value, float | np.floating) else int(value)


def _read(value: Any, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise ValueError("it is nested too deeply")
    if isinstance(value, Mapping) and "bytes" in value:
        return _array(value)
    if isinstance(value, Mapping):
        kind = KINDS[value["kind"]]
        given = {k: _read(v, depth + 1) for k, v in value.items() if k != "kind"}
        return kind(**given)
    return tuple(_read(v, depth + 1) for v in value) if isinstance(value, list) else value


def _array(value: Mapping[str, Any]) -> layers.Array:
    if value["dtype"] not in DTYPES:
        raise ValueError(f"weights of {value['dtype']}")
    shape = tuple(value["shape"])
    if any(type(d) is not int for d in shape):
        raise ValueError("weights have no shape")
    dtype = np.dtype(value["dtype"])
    content = base64.b64decode(value["bytes"], validate=True)
    if min(shape, default=1) < 0 or len(content) != prod(shape) * dtype.itemsize:
        raise ValueError("weights do not have their shape")
    array = np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
    array.flags.writeable = False
    return array
