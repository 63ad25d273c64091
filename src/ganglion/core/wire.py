"""Batches as bytes between sites and in journals.

One message is CBOR: a header and the columns as raw little-endian arrays. Sequence numbers and times that step
evenly take two integers. Columns of more than one byte an element are split into byte planes, integer frames after
taking differences along their last axis, and the body is deflated where that helps: waveforms shrink to about half.
A CRC-32 closes the message (a torn or altered one is refused, not guessed at).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import cbor2
import numpy as np
import numpy.typing as npt

from ganglion.core.batch import ROWS_MAX, Batch
from ganglion.core.errors import DataError

FORMAT = 1
MESSAGE_BYTES_MAX = 1 << 20
BODY_BYTES_MAX = 16 << 20
_DEFLATE_FROM_BYTES = 200
_DTYPES = {"<f4", "<f8", "<i2", "<i4", "<i8", "|b1"}


@dataclass(frozen=True, slots=True)
class End:
    """No more rows of ``stream`` will come from ``origin``: its watermark is at infinity."""

    stream: str
    origin: str

    def renamed(self, stream: str) -> End:
        """The same mark for another stream."""
        return End(stream, self.origin)


Item = Batch | End


def encode(item: Item) -> bytes:
    """The message of a batch (1 to `ROWS_MAX` rows, at most `BODY_BYTES_MAX` bytes of them) or an end mark."""
    if isinstance(item, End):
        return _close(cbor2.dumps([FORMAT, item.stream, item.origin, None]))
    assert 1 <= len(item) <= ROWS_MAX and all(
        len(c) == len(item) for c in (item.time_ns, *item.columns.values())
    )
    columns = {name: _encode_column(column) for name, column in item.columns.items()}
    body = cbor2.dumps([_encode_steps(item.seq), _encode_steps(item.time_ns), columns])
    assert len(body) <= BODY_BYTES_MAX, len(body)
    deflated = zlib.compress(body, 6) if len(body) >= _DEFLATE_FROM_BYTES else body
    packed = deflated if len(deflated) < len(body) else body
    return _close(
        cbor2.dumps([FORMAT, item.stream, item.origin, packed is deflated and packed is not body, packed])
    )


def decode(message: bytes) -> Item:
    """The item of a message; raises `DataError` ``wire.corrupt`` when it is torn, altered or of another format.

    Columns and row numbers are of one length; whether they are those of the stream's schema `Batch.check` says.
    """
    try:
        if zlib.crc32(message[:-4]).to_bytes(4, "little") != message[-4:]:
            raise _corrupt("its checksum does not match")
        number, stream, origin, deflated, *rest = cbor2.loads(message[:-4])
        if number != FORMAT:
            raise _corrupt(f"its format is {number}, this program reads {FORMAT}")
        if not isinstance(stream, str) or not isinstance(origin, str):
            raise _corrupt("its stream and origin are not text")
        if deflated is None:
            return End(stream, origin)
        (packed,) = rest
        return _decode_rows(stream, origin, _inflate(packed) if deflated else packed)
    except DataError:
        raise
    except Exception as error:
        raise _corrupt(f"{type(error).__name__}: {error}") from error


def _decode_rows(stream: str, origin: str, body: bytes) -> Batch:
    seq, time_ns, columns = cbor2.loads(body)
    batch = Batch(
        stream,
        origin,
        _decode_steps(seq),
        _decode_steps(time_ns),
        {str(name): _decode_column(column) for name, column in columns.items()},
    )
    if {len(c) for c in (batch.time_ns, *batch.columns.values())} != {len(batch)}:
        raise _corrupt("its columns have different lengths")
    return batch


def _close(content: bytes) -> bytes:
    return content + zlib.crc32(content).to_bytes(4, "little")


def _inflate(packed: bytes) -> bytes:
    inflater = zlib.decompressobj()
    body = inflater.decompress(packed, BODY_BYTES_MAX)
    if inflater.unconsumed_tail:
        raise _corrupt(f"its body is larger than {BODY_BYTES_MAX} bytes")
    if not inflater.eof or inflater.unused_data:
        raise _corrupt("its body does not end where it should")
    return body


def _corrupt(why: str) -> DataError:
    return DataError(
        "wire.corrupt",
        "a stored or received message cannot be read",
        why=why,
        next_step="look at its sender's log",
    )


def _encode_steps(values: npt.NDArray[np.int64]) -> list[Any]:
    steps = np.diff(values)
    if len(steps) == 0 or bool(np.all(steps == steps[0])):
        return [int(values[0]), int(steps[0]) if len(steps) else 0, len(values)]
    return [int(values[0]), steps.astype("<i8").tobytes()]


def _decode_steps(packed: list[Any]) -> npt.NDArray[np.int64]:
    if len(packed) == 3:
        first, step, count = (int(p) for p in packed)
        if not 1 <= count <= ROWS_MAX:
            raise _corrupt(f"it claims {count} rows")
        return np.int64(first) + np.int64(step) * np.arange(count, dtype=np.int64)
    first, content = packed
    steps = np.frombuffer(content, "<i8")
    if len(steps) >= ROWS_MAX:
        raise _corrupt(f"it has {len(steps) + 1} rows")
    # Sums wrap round as the differences did, so extreme numbers come back exactly.
    return np.concatenate([[np.int64(first)], np.int64(first) + np.cumsum(steps)]).astype(np.int64)


def _encode_column(column: npt.NDArray[Any]) -> list[Any]:
    little = np.ascontiguousarray(column.astype(column.dtype.newbyteorder("<"), copy=False))
    assert little.dtype.str in _DTYPES, little.dtype
    delta = little.dtype == np.dtype("<i2") and little.ndim > 1
    values = np.diff(little, axis=-1, prepend=little.dtype.type(0)) if delta else little
    size = little.dtype.itemsize
    planes = np.ascontiguousarray(values).view(np.uint8).reshape(-1, size).T if size > 1 else values
    return [little.dtype.str, list(little.shape), delta, planes.tobytes()]


def _decode_column(packed: list[Any]) -> npt.NDArray[Any]:
    name, shape, delta, content = packed
    if name not in _DTYPES:
        raise _corrupt(f"a column has dtype {name!r}")
    dtype = np.dtype(name)
    size = dtype.itemsize
    planes = np.frombuffer(content, np.uint8)
    if dtype == np.bool_ and np.any(planes > 1):
        raise _corrupt("a truth value is neither 0 nor 1")
    if not shape or any(d < 1 for d in shape):
        raise _corrupt(f"a column has shape {shape}")
    rows = np.ascontiguousarray(planes.reshape(size, -1).T) if size > 1 else planes
    values = rows.reshape(-1).view(dtype).reshape(shape)
    return np.cumsum(values, axis=-1, dtype=dtype) if delta else values.copy()
