"""Sizes of a device's memory: where columns lie in a row, how many rows fit a message, what a datagram may need."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ganglion.core.errors import FlowError
from ganglion.core.schema import Schema

ROW_HEAD_BYTES = 16
"""Sequence number and time before a row's fields."""
PAYLOAD_TARGET_BYTES = 800
"""Rows of a message, without numbers and times; as the emulated device's."""
DATAGRAM_BYTES_LIMIT = 4096
"""What gateways take."""
COUNT_BYTES = 8
DATAGRAM_BYTES_MIN = 320
"""Room for the largest answer: the ledger's thirteen counts by name."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a device's RAM. Each is a count or a size that memory follows.

    ``message_bytes``: rows of one gathered message with numbers and times; a larger row has a message to itself.
    """

    messages_max: int = 24
    message_bytes: int = 1536
    commands_max: int = 32
    remembered_max: int = 8
    origin_bytes_max: int = 40
    stack_bytes: int = 4096

    def __post_init__(self) -> None:
        assert 1 <= self.messages_max < 1 << 15 and self.message_bytes >= 64
        assert self.commands_max >= 1 and self.remembered_max >= 1
        assert 1 <= self.origin_bytes_max <= 128 and self.stack_bytes % 8 == 0 and self.stack_bytes >= 256


def up(size: int, to: int) -> int:
    """The next multiple of ``to``."""
    return -(-size // to) * to


@dataclass(frozen=True, slots=True)
class RowLayout:
    """A row's fields in memory: each at a multiple of its element's size, in schema order."""

    schema: Schema
    offsets: tuple[int, ...] = field(init=False)
    row_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        offsets = []
        at = 0
        for column in self.schema.fields:
            at = up(at, column.type.numpy.itemsize)
            offsets.append(at)
            at += column.type.size_bytes
        object.__setattr__(self, "offsets", tuple(offsets))
        object.__setattr__(self, "row_bytes", up(at, 8))

    @property
    def stride(self) -> int:
        """Bytes from one stored row to the next."""
        return ROW_HEAD_BYTES + self.row_bytes

    def rows_max(self, limits: Limits) -> int:
        """Rows of one message."""
        by_target = PAYLOAD_TARGET_BYTES // self.schema.row_bytes
        return max(1, min(by_target, limits.message_bytes // self.stride))

    def dtype(self) -> np.dtype[np.void]:
        """A stored row, with its ``seq`` and ``time_ns``, as NumPy reads it; capitals cannot clash with a field."""
        return np.dtype(
            {
                "names": ["Seq", "Time", *self.schema.names],
                "formats": [
                    np.dtype("<i8"),
                    np.dtype("<i8"),
                    *(np.dtype((f.type.numpy.newbyteorder("<"), f.type.shape)) for f in self.schema.fields),
                ],
                "offsets": [0, 8, *(ROW_HEAD_BYTES + o for o in self.offsets)],
                "itemsize": self.stride,
            }
        )


def datagram_bytes(stream: str, layout: RowLayout, limits: Limits) -> int:
    """More than a message of this stream can need. Raises `FlowError` ``firmware.row-size``."""
    rows = layout.rows_max(limits)
    around = 4 + 8 + 2 + 3 + len(stream) + 5 + 1
    head = 3 + 1 + 20 + limits.origin_bytes_max + 16 + 6 + 10
    gaps = 2 * (1 + 12 + 4 + 16 + 8 * (rows - 1))
    columns = sum(
        1 + 4 + len(f.name) + 4 + len(f.unit.encode()) + 4 + f.type.size_bytes * rows
        for f in layout.schema.fields
    )
    needed = around + head + gaps + columns
    if needed > DATAGRAM_BYTES_LIMIT:
        raise FlowError(
            "firmware.row-size",
            f"a row of {stream} needs a datagram of {needed} bytes, {needed - DATAGRAM_BYTES_LIMIT} too many",
            why=f"a row must fit one datagram of {DATAGRAM_BYTES_LIMIT} bytes",
            next_step="choose a smaller frame, or run the stages that make it smaller on the device",
        )
    return up(max(DATAGRAM_BYTES_MIN, needed), 8)
