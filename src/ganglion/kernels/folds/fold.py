"""What a fold is, and its reference in NumPy.

A fold adds rows to accumulators one after the other, so what it gives depends on the order of the rows and never on how
they were cut into batches: a replay after a restart, and a stage that moved to another node, end at the same bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Function = Literal["count", "sum", "squares", "min", "max"]

COLUMNS_MAX = 256
PARTS_MAX = 1024
DTYPES = ("bool", "i16", "i32", "i64", "f32", "f64")
"""What columns may hold; every value is widened to float64 before it is added (i64 rounds to the nearest)."""

_FIRST = {"count": 0.0, "sum": -0.0, "squares": 0.0, "min": np.inf, "max": -np.inf}
"""The accumulator before any row: what changes nothing when it is added to."""


@dataclass(frozen=True, slots=True)
class Part:
    """One accumulator: ``column`` is the place of what it takes; a count takes none (-1)."""

    function: Function
    column: int = -1


@dataclass(frozen=True)
class Fold:
    """``columns``: the dtypes of the columns it reads; ``parts``: its accumulators, in order.

    count, sum and squares (the sum of squares) add in float64 in the order of the rows, from 0, -0 and 0. min and max
    keep the first of equal values (so of 0 and -0 the first). A NaN stays, as 0x7ff8000000000000.
    """

    columns: tuple[str, ...]
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        assert len(self.columns) <= COLUMNS_MAX and 0 < len(self.parts) <= PARTS_MAX
        assert all(dtype in DTYPES for dtype in self.columns), self.columns
        assert all((p.column == -1) == (p.function == "count") for p in self.parts)
        assert all(p.column < len(self.columns) for p in self.parts)

    @cached_property
    def digest(self) -> str:
        """Identity: SHA-256 of the description."""
        parts = [[p.function, p.column] for p in self.parts]
        return hashlib.sha256(json.dumps(["fold", 1, self.columns, parts]).encode()).hexdigest()

    def fresh(self, slots: int) -> npt.NDArray[np.float64]:
        """A table of accumulators without any row: (slots, parts)."""
        return np.tile(np.array([_FIRST[p.function] for p in self.parts]), (slots, 1))


class Folder(Protocol):
    """Computes one fold."""

    @property
    def fold(self) -> Fold:
        """What it computes."""

    def add(
        self, table: npt.NDArray[np.float64], columns: Sequence[Array], rows: int, slots: Array | None
    ) -> None:
        """Adds rows to ``table`` in place.

        ``table``: float64 (slots, parts), contiguous; ``columns``: one array (rows,) per column of the fold;
        ``slots``: int32 (rows,), each row's place in the table, or None when all go to its first.
        """


class ReferenceFolder:
    """The meaning of a fold, in NumPy."""

    def __init__(self, fold: Fold) -> None:
        self.fold = fold

    def add(
        self, table: npt.NDArray[np.float64], columns: Sequence[Array], rows: int, slots: Array | None
    ) -> None:
        if slots is None:
            self._slot(table[0], columns, rows)
            return
        for slot in np.unique(slots).tolist():
            chosen = slots == slot
            self._slot(table[slot], [c[chosen] for c in columns], int(chosen.sum()))

    def _slot(self, parts: npt.NDArray[np.float64], columns: Sequence[Array], rows: int) -> None:
        with np.errstate(
            all="ignore"
        ):  # signalling NaNs, sums of infinities and overflows are results, not mishaps
            wide = [np.asarray(c, np.float64) for c in columns]
            for place, part in enumerate(self.fold.parts):
                before = parts[place]
                match part.function:
                    case "count":
                        parts[place] = before + rows
                    case "sum":
                        parts[place] = _in_turn(before, wide[part.column])
                    case "squares":
                        parts[place] = _in_turn(before, wide[part.column] * wide[part.column])
                    case "min":
                        parts[place] = _first(before, wide[part.column], np.argmin)
                    case "max":
                        parts[place] = _first(before, wide[part.column], np.argmax)
        parts[np.isnan(parts)] = np.nan  # one NaN, whatever an operation made of it


def _in_turn(before: np.float64, values: Array) -> np.float64:
    # An accumulation is defined by its recurrence; a sum may be taken in any order, and is.
    return np.float64(np.add.accumulate(np.concatenate(([before], values)))[-1])


def _first(before: np.float64, values: Array, place: Any) -> np.float64:
    # argmin and argmax give the first of equals, and the first NaN where there is one.
    held = np.concatenate(([before], values))
    return np.float64(held[place(held)])
