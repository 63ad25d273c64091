"""Rows of one stream from many origins, in columns: what a gateway makes of many small messages at once.

A `Batch` is the rows of one origin; a block is the rows of many, interleaved as they came. Within a block the rows of
each origin are in the order of their numbers; between origins the order says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.core.batch import ROWS_MAX, Batch, Columns, Int64s, check_columns
from ganglion.core.errors import DataError
from ganglion.core.schema import Schema

MANY = "many"
"""Stands for the origin of a block where one name is wanted, as in the subject of a message."""

FEW_ROWS = 24
NARROW_MAX = 1 << 15

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Groups:
    """A block's rows by origin, for work on all origins at once.

    ``order`` int[n]: the rows' places, all of one origin together, each origin's in their order; ``starts`` int[k]:
    where in ``order`` each of the k origins that have rows begins; ``ends`` int[k]: where it ends; ``present`` int[k]:
    which origins those are (places in `Block.origins`, ascending).
    """

    order: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    ends: npt.NDArray[np.intp]
    present: npt.NDArray[np.intp]


@dataclass(frozen=True)
class Block:
    """``n`` rows of ``stream`` measured by ``origins``.

    ``origins``: different names, some of which may have no rows here.
    ``origin_index`` int32[n]: who measured each row, as a place in ``origins``.
    ``seq`` int64[n]: strictly increasing within each origin; with (stream, origin) the identity of a row.
    ``time_ns`` int64[n]: event time, nanoseconds since the Unix epoch, as the origin says.
    ``columns``: field name -> array of shape (n, then the field's shape), in schema order.
    """

    stream: str
    origins: tuple[str, ...]
    origin_index: Int32s
    seq: Int64s
    time_ns: Int64s
    columns: Columns

    def __len__(self) -> int:
        return int(self.seq.shape[0])

    @property
    def size_bytes(self) -> int:
        """Payload bytes held in the columns."""
        return sum(int(c.nbytes) for c in self.columns.values())

    @cached_property
    def groups(self) -> Groups:
        """The rows by origin."""
        if len(self.origin_index) <= FEW_ROWS:
            return self._few_groups()
        # Of 16 bits NumPy sorts by radix: several times as fast as of 32.
        narrow = len(self.origins) <= NARROW_MAX
        index = self.origin_index.astype(np.int16) if narrow else self.origin_index
        order = index.argsort(kind="stable")
        grouped = index[order]
        begins = np.empty(len(order), np.bool_)
        begins[:1] = True
        np.not_equal(grouped[1:], grouped[:-1], out=begins[1:])
        starts = begins.nonzero()[0]
        ends = np.empty_like(starts)
        ends[:-1], ends[-1:] = starts[1:], len(order)
        return Groups(order, starts, ends, grouped[starts].astype(np.intp))

    def _few_groups(self) -> Groups:
        """The same without NumPy, whose calls cost more than so few rows do."""
        index = self.origin_index.tolist()
        order = sorted(range(len(index)), key=index.__getitem__)
        starts = [i for i, row in enumerate(order) if not i or index[row] != index[order[i - 1]]]
        found = (order, starts, [*starts[1:], len(order)][: len(starts)], [index[order[i]] for i in starts])
        return Groups(*(np.array(one, np.intp) for one in found))

    @property
    def present(self) -> list[str]:
        """The origins that have rows here."""
        return [self.origins[place] for place in self.groups.present.tolist()]

    def take(self, rows: npt.NDArray[Any] | slice) -> Block:
        """The rows chosen by a boolean mask, ascending indices or a slice; of the same stream and origins."""
        return Block(
            self.stream,
            self.origins,
            self.origin_index[rows],
            self.seq[rows],
            self.time_ns[rows],
            {k: v[rows] for k, v in self.columns.items()},
        )

    def renamed(self, stream: str) -> Block:
        """The same rows under another stream's name."""
        return Block(
            stream, self.origins, self.origin_index, self.seq, self.time_ns, self.columns
        ).grouped_as(self)

    def grouped_as(self, other: Block) -> Block:
        """Itself, after taking over what is known of ``other``, whose rows are of the same origins in turn."""
        if "groups" in other.__dict__:
            self.__dict__["groups"] = other.groups
        return self

    def split(self) -> list[Batch]:
        """The rows of each origin as a batch, in the order of ``origins``; what a block does is what these do."""
        groups = self.groups
        seq, time_ns = self.seq[groups.order], self.time_ns[groups.order]
        columns = {k: v[groups.order] for k, v in self.columns.items()}
        return [
            Batch(
                self.stream,
                self.origins[place],
                seq[first:last],
                time_ns[first:last],
                {k: v[first:last] for k, v in columns.items()},
            )
            for place, first, last in zip(
                groups.present.tolist(), groups.starts.tolist(), groups.ends.tolist(), strict=True
            )
        ]

    def compact(self) -> Block:
        """The same rows without the names of origins that have none."""
        used = np.zeros(len(self.origins), np.bool_)
        used[self.origin_index] = True
        if used.all():
            return self
        places = np.cumsum(used, dtype=np.int32) - np.int32(1)
        names = tuple(self.origins[i] for i in np.flatnonzero(used).tolist())
        return replace(self, origins=names, origin_index=places[self.origin_index])

    def check(self, schema: Schema) -> Block:
        """Raises `DataError` ``batch.schema`` or ``batch.sequence`` unless the rows are as promised."""
        if not self._is_whole():
            raise DataError(
                "batch.sequence",
                f"a block of {self.stream}: bad row numbers",
                why=f"1 to {ROWS_MAX} rows, one time and one known origin each, 64-bit integers, "
                "sequence strictly increasing within each origin",
                next_step="look at the sender: it repeats or reorders rows",
            )
        check_columns(self.stream, self.columns, len(self), schema)
        return self

    def _is_whole(self) -> bool:
        n, numbers = len(self.seq), (self.origin_index, self.seq, self.time_ns)
        if any(a.ndim != 1 or len(a) != n for a in numbers) or not 1 <= n <= ROWS_MAX:
            return False
        if [a.dtype for a in numbers] != [np.int32, np.int64, np.int64]:
            return False
        if len(set(self.origins)) != len(self.origins) or self.origin_index.min() < 0:
            return False
        if self.origin_index.max() >= len(self.origins):
            return False
        seq = self.seq[self.groups.order]
        grows = seq[1:] > seq[:-1]
        grows[self.groups.starts[1:] - 1] = True  # from one origin to the next
        return bool(grows.all())

    @staticmethod
    def concat(parts: Sequence[Block]) -> Block:
        """One block of the rows of ``parts`` (of one stream), in the order given; an origin's numbers must go up."""
        first = parts[0]
        if len(parts) == 1:
            return first
        assert all(p.stream == first.stream for p in parts)
        if all(p.origins is first.origins or p.origins == first.origins for p in parts):
            origins, places = first.origins, [p.origin_index for p in parts]
        else:
            known: dict[str, int] = {}
            places = []
            for part in parts:
                own = np.array([known.setdefault(o, len(known)) for o in part.origins], np.int32)
                places.append(own[part.origin_index])
            origins = tuple(known)
        return Block(
            first.stream,
            origins,
            np.concatenate(places),
            np.concatenate([p.seq for p in parts]),
            np.concatenate([p.time_ns for p in parts]),
            {k: np.concatenate([p.columns[k] for p in parts]) for k in first.columns},
        )

    @staticmethod
    def of(batch: Batch) -> Block:
        """A batch as a block of one origin."""
        return Block.joined([batch])

    @staticmethod
    def joined(batches: Sequence[Batch]) -> Block:
        """The rows of batches of one stream, one after the other; an origin's numbers must go up."""
        assert batches and all(b.stream == batches[0].stream for b in batches)
        places: dict[str, int] = {}
        own = [places.setdefault(b.origin, len(places)) for b in batches]
        return Block(
            batches[0].stream,
            tuple(places),
            np.repeat(np.array(own, np.int32), [len(b) for b in batches]),
            np.concatenate([b.seq for b in batches]),
            np.concatenate([b.time_ns for b in batches]),
            {k: np.concatenate([b.columns[k] for b in batches]) for k in batches[0].columns},
        )


Rows = Batch | Block
"""Rows of one stream, of one origin or of many."""
