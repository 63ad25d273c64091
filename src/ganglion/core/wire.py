"""Batches and blocks as bytes between sites and in journals.

One message is CBOR: a header and the columns as raw little-endian arrays. Sequence numbers and times that step
evenly take two integers. Columns of more than one byte an element are split into byte planes, integer frames after
taking differences along their last axis, and the body is deflated where that helps: waveforms shrink to about half.
A CRC-32 closes the message (a torn or altered one is refused, not guessed at).

A message of format 1 holds a batch or an end mark, of format 2 a block, of format 3 several messages, one after the
other. Of a block's row numbers it has each origin's first and how the others differ from counting on; its other whole
numbers are differences, in as few bytes as they need.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cbor2
import numpy as np
import numpy.typing as npt

from ganglion.core.batch import ROWS_MAX, Batch
from ganglion.core.block import Block, Groups
from ganglion.core.errors import DataError

FORMAT = 1
FORMAT_BLOCK = 2
FORMAT_SEVERAL = 3
MESSAGE_BYTES_MAX = 1 << 20
BODY_BYTES_MAX = 16 << 20
ITEMS_MAX = 4096
"""Items of one message of several."""
_DEFLATE_FROM_BYTES = 200
_BATCH_LEVEL = 6
_BLOCK_LEVEL = 1
"""A block is packed in the path of every reading, and the higher levels save little of it."""
_INTEGERS = ("|i1", "<i2", "<i4", "<i8")
_INTEGER_RANGES = tuple((c, int(np.iinfo(c).min), int(np.iinfo(c).max)) for c in _INTEGERS)
_DTYPES = {"<f4", "<f8", "<i2", "<i4", "<i8", "|b1"}


@dataclass(frozen=True, slots=True)
class End:
    """No more rows of ``stream`` will come from ``origin``: its watermark is at infinity."""

    stream: str
    origin: str

    def renamed(self, stream: str) -> End:
        """The same mark for another stream."""
        return End(stream, self.origin)


Item = Batch | Block | End


def encode(item: Item) -> bytes:
    """The message of rows (1 to `ROWS_MAX`, at most `BODY_BYTES_MAX` bytes of them) or of an end mark."""
    if isinstance(item, End):
        return _close(cbor2.dumps([FORMAT, item.stream, item.origin, None]))
    assert 1 <= len(item) <= ROWS_MAX and all(
        len(c) == len(item) for c in (item.time_ns, *item.columns.values())
    )
    columns = {name: _encode_column(column) for name, column in item.columns.items()}
    if isinstance(item, Block):
        packed, deflated = _pack([*_encode_numbers(item), columns], _BLOCK_LEVEL)
        return _close(cbor2.dumps([FORMAT_BLOCK, item.stream, deflated, packed]))
    packed, deflated = _pack([_encode_steps(item.seq), _encode_steps(item.time_ns), columns], _BATCH_LEVEL)
    return _close(cbor2.dumps([FORMAT, item.stream, item.origin, deflated, packed]))


def encode_several(items: Sequence[Item]) -> bytes:
    """One message of one to `ITEMS_MAX` items, in order; of one item it is `encode`'s."""
    assert 1 <= len(items) <= ITEMS_MAX
    if len(items) == 1:
        return encode(items[0])
    return _close(cbor2.dumps([FORMAT_SEVERAL, [encode(item) for item in items]]))


def decode(message: bytes) -> Item:
    """The item of a message; raises `DataError` ``wire.corrupt`` when it is torn, altered or of another format.

    Columns and row numbers are of one length; whether they are those of the stream's schema `Batch.check` says.
    """
    try:
        content = _opened(message)
        match content:
            case [1, str(stream), str(origin), None]:
                return End(stream, origin)
            case [1, str(stream), str(origin), deflated, packed]:
                return _decode_rows(stream, origin, _inflate(packed) if deflated else packed)
            case [2, str(stream), deflated, packed]:
                return _decode_block(stream, _inflate(packed) if deflated else packed)
        raise _corrupt(f"it is no item of format {FORMAT} or {FORMAT_BLOCK}: {str(content)[:60]}")
    except DataError:
        raise
    except Exception as error:
        raise _corrupt(f"{type(error).__name__}: {error}") from error


def decode_several(message: bytes) -> list[Item]:
    """The items of a message of `encode_several` or `encode`, in order; raises as `decode` does."""
    try:
        # The first two bytes of a message of several: an array of two, and its format.
        if message[:2] != bytes([0x82, FORMAT_SEVERAL]):
            return [decode(message)]
        (_, parts) = _opened(message)
        if not isinstance(parts, list) or not 1 <= len(parts) <= ITEMS_MAX:
            raise _corrupt(f"it does not hold 1 to {ITEMS_MAX} messages")
        return [decode(part) for part in parts]
    except DataError:
        raise
    except Exception as error:
        raise _corrupt(f"{type(error).__name__}: {error}") from error


def _opened(message: bytes) -> Any:
    if zlib.crc32(message[:-4]).to_bytes(4, "little") != message[-4:]:
        raise _corrupt("its checksum does not match")
    return cbor2.loads(message[:-4])


def _pack(body: list[Any], level: int) -> tuple[bytes, bool]:
    """The body's bytes, and whether they are deflated."""
    plain = cbor2.dumps(body)
    assert len(plain) <= BODY_BYTES_MAX, len(plain)
    if len(plain) >= _DEFLATE_FROM_BYTES:
        deflated = zlib.compress(plain, level)
        if len(deflated) < len(plain):
            return deflated, True
    return plain, False


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


def _decode_block(stream: str, body: bytes) -> Block:
    origins, places, firsts, rest, times, columns = cbor2.loads(body)
    if not isinstance(origins, list) or not all(isinstance(o, str) for o in origins):
        raise _corrupt("its origins are not text")
    origin = np.cumsum(_decode_integers(places), dtype=np.int64).astype(np.int32)
    time_ns = np.cumsum(_decode_integers(times), dtype=np.int64)
    if not 1 <= len(origin) <= ROWS_MAX or origin.min() < 0 or origin.max() >= len(origins):
        raise _corrupt("its rows are of origins that it does not name")
    unnumbered = Block(stream, tuple(origins), origin, time_ns, time_ns, {})
    counted = _counted(unnumbered.groups, np.cumsum(_decode_integers(firsts), dtype=np.int64))
    if rest is not None:
        differences = _decode_integers(rest)
        if len(differences) != len(counted):
            raise _corrupt("its row numbers are not as many as its rows")
        counted = counted + differences
    seq = np.empty_like(counted)
    seq[unnumbered.groups.order] = counted
    decoded = {str(name): _decode_column(column) for name, column in columns.items()}
    if {len(c) for c in (seq, time_ns, *decoded.values())} != {len(origin)}:
        raise _corrupt("its columns have different lengths")
    return Block(stream, tuple(origins), origin, seq, time_ns, decoded)


def _encode_numbers(block: Block) -> list[Any]:
    """Origins, and the rows' origins, numbers and times. Differences wrap round; so do the sums they come back by."""
    groups = block.groups
    seq = block.seq[groups.order]
    firsts = seq[groups.starts]
    rest = seq - _counted(groups, firsts)
    return [
        list(block.origins),
        _encode_integers(_steps(block.origin_index)),
        _encode_integers(_steps(firsts)),
        _encode_integers(rest) if rest.any() else None,
        _encode_integers(_steps(block.time_ns)),
    ]


def _steps(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The first value, and each one's difference from the one before."""
    steps = values.copy()
    steps[1:] -= values[:-1]
    return steps


def _counted(groups: Groups, firsts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The numbers of rows, in the groups' order, if each origin counts on from its first."""
    counts = groups.ends - groups.starts
    if len(firsts) != len(counts):
        raise _corrupt("it has row numbers of other origins")
    return np.repeat(firsts - groups.starts, counts) + np.arange(len(groups.order))


def _encode_integers(values: npt.NDArray[Any]) -> list[Any]:
    """Whole numbers as byte planes of the narrowest type that holds them all."""
    least, most = int(values.min()), int(values.max())
    code = next(c for c, low, high in _INTEGER_RANGES if low <= least and most <= high)
    return [code, _planes(values.astype(code))]


def _decode_integers(packed: list[Any]) -> npt.NDArray[np.int64]:
    code, content = packed
    if code not in _INTEGERS:
        raise _corrupt(f"whole numbers have dtype {code!r}")
    values = _unplaned(np.frombuffer(content, np.uint8), np.dtype(code)).astype(np.int64)
    if not 1 <= len(values) <= ROWS_MAX:
        raise _corrupt(f"it has {len(values)} rows")
    return values


def _planes(values: npt.NDArray[Any]) -> bytes:
    size = values.dtype.itemsize
    contiguous = np.ascontiguousarray(values)
    return (contiguous.view(np.uint8).reshape(-1, size).T if size > 1 else contiguous).tobytes()


def _unplaned(planes: npt.NDArray[np.uint8], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    size = dtype.itemsize
    rows = np.ascontiguousarray(planes.reshape(size, -1).T) if size > 1 else planes
    return rows.reshape(-1).view(dtype)


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
    little = column
    if column.dtype.str not in _DTYPES:
        little = column.astype(column.dtype.newbyteorder("<"), copy=False)
    assert little.dtype.str in _DTYPES, little.dtype
    delta = little.ndim > 1 and little.dtype.str == "<i2"
    values = np.diff(little, axis=-1, prepend=little.dtype.type(0)) if delta else little
    return [little.dtype.str, list(little.shape), delta, _planes(values)]


def _decode_column(packed: list[Any]) -> npt.NDArray[Any]:
    name, shape, delta, content = packed
    if name not in _DTYPES:
        raise _corrupt(f"a column has dtype {name!r}")
    dtype = np.dtype(name)
    planes = np.frombuffer(content, np.uint8)
    if dtype == np.bool_ and np.any(planes > 1):
        raise _corrupt("a truth value is neither 0 nor 1")
    if not shape or any(d < 1 for d in shape):
        raise _corrupt(f"a column has shape {shape}")
    values = _unplaned(planes, dtype).reshape(shape)
    return np.cumsum(values, axis=-1, dtype=dtype) if delta else values.copy()
