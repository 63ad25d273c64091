"""State as bytes: nested dicts, lists, numbers, text and NumPy arrays to deterministic CBOR and back."""

from __future__ import annotations

import io
from typing import Any

import cbor2
import numpy as np

from ganglion.core.errors import DataError

_ARRAY = 4040
"""CBOR tag of our own for an array: [dtype, shape, little-endian bytes]."""


def pack(value: Any) -> bytes:
    """CBOR of ``value``; arrays keep dtype and shape, NumPy scalars become plain numbers, tuples lists."""
    return cbor2.dumps(value, default=_encode)


def unpack(content: bytes) -> Any:
    """The value back; raises `DataError` ``packing.corrupt`` when the bytes are not one whole packed value.

    There is no checksum: the store that holds the bytes has its own.
    """
    stream = io.BytesIO(content)
    try:
        value = cbor2.CBORDecoder(stream, tag_hook=_decode).decode()
        if stream.tell() != len(content):
            raise ValueError(f"{len(content) - stream.tell()} bytes too many")
        return value
    except Exception as error:
        raise DataError(
            "packing.corrupt",
            f"stored state cannot be read: {error}",
            why="the file is torn or not ours",
            next_step="remove the file; the state is rebuilt from the journal",
        ) from error


def _encode(encoder: cbor2.CBOREncoder, value: Any) -> None:
    if isinstance(value, np.generic):
        encoder.encode(value.item())
        return
    assert isinstance(value, np.ndarray) and value.dtype.kind in "biufcSU", type(value)
    little = value.astype(value.dtype.newbyteorder("<"), copy=False)
    encoder.encode(cbor2.CBORTag(_ARRAY, [little.dtype.str, list(value.shape), little.tobytes()]))


def _decode(*args: Any) -> Any:
    # cbor2 6 calls (tag, immutable), cbor2 5 (decoder, tag): take the tag wherever it is.
    tag = next(a for a in args if isinstance(a, cbor2.CBORTag))
    if tag.tag != _ARRAY:
        return tag
    name, shape, content = tag.value
    dtype = np.dtype(str(name))
    if dtype.kind not in "biufcSU" or dtype.itemsize == 0 or any(d < 0 for d in shape):
        raise ValueError(f"an array has dtype {name} and shape {shape}")
    return np.frombuffer(content, dtype).reshape(shape).copy()
