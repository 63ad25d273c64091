"""Which rows of a stream and origin have been taken: repeated ones are skipped, reordered ones are told apart."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.core.batch import Batch, Int64s
from ganglion.core.block import Block

RANGES_MAX = 4096
"""Ranges of numbers without a gap; beyond that the lowest become the floor."""


class Seen:
    """The numbers taken, as ranges, and a floor up to which everything counts as taken.

    A gap stays open until it is filled, so an origin may send what is newest first and its backlog after it.
    """

    __slots__ = ("_firsts", "_floor", "_lasts")

    def __init__(self, floor: int = -1) -> None:
        self._floor = floor
        self._firsts: list[int] = []  # both sorted; no two ranges touch
        self._lasts: list[int] = []

    @property
    def last_seq(self) -> int:
        """The highest number taken; -1 at first."""
        return self._lasts[-1] if self._lasts else self._floor

    def count(self, first_seq: int, last_seq: int) -> int:
        """How many numbers from ``first_seq`` to ``last_seq`` were taken; all of them up to the floor."""
        taken = max(0, min(last_seq, self._floor) - first_seq + 1)
        for at in range(bisect(self._lasts, first_seq - 1), len(self._firsts)):
            if self._firsts[at] > last_seq:
                break
            taken += min(last_seq, self._lasts[at]) - max(first_seq, self._firsts[at]) + 1
        return taken

    def take(self, batch: Batch) -> tuple[Batch | None, int, int]:
        """(rows not taken before, how many were repeated, how many came after a later one)."""
        fresh, repeated, late = self.take_numbers(batch.seq)
        if fresh is None:
            return batch, repeated, late
        return batch.take(fresh) if fresh.any() else None, repeated, late

    def take_numbers(self, seq: Int64s) -> tuple[npt.NDArray[np.bool_] | None, int, int]:
        """Of strictly increasing numbers: (which were not taken before, None for all; how many repeated; how many
        came after a later one).
        """
        last_seq = self.last_seq
        if int(seq[0]) > last_seq:  # the usual case
            self._remember(seq)
            return None, 0, 0
        repeated = seq <= self._floor
        if self._firsts:
            at = np.searchsorted(self._firsts, seq, side="right") - 1
            repeated |= (at >= 0) & (seq <= np.array(self._lasts)[at])
        count = int(repeated.sum())
        fresh = ~repeated if count else None
        numbers = seq if fresh is None else seq[fresh]
        if len(numbers):
            self._remember(numbers)
        return fresh, count, int((numbers < last_seq).sum())

    def extend(self, first: int, last: int) -> bool:
        """Takes the numbers from ``first`` to ``last``, if all are above those taken; False if not."""
        if first > (self._lasts[-1] if self._lasts else self._floor):
            if self._lasts and self._lasts[-1] == first - 1:
                self._lasts[-1] = last
            else:
                self._firsts.append(first)
                self._lasts.append(last)
                self._forget()
            return True
        return False

    def _remember(self, seq: npt.NDArray[np.int64]) -> None:
        """Adds new numbers, run by run."""
        gaps = np.flatnonzero(seq[1:] - seq[:-1] != 1)
        firsts, lasts = seq[np.append(0, gaps + 1)], seq[np.append(gaps, len(seq) - 1)]
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            at = bisect(self._firsts, first)
            start, end = at, at
            if at > 0 and self._lasts[at - 1] == first - 1:
                start, first = at - 1, self._firsts[at - 1]  # noqa: PLW2901  # it grows to the left
            if at < len(self._firsts) and self._firsts[at] == last + 1:
                end, last = at + 1, self._lasts[at]  # noqa: PLW2901  # it grows to the right
            self._firsts[start:end] = [first]
            self._lasts[start:end] = [last]
        self._forget()

    def _forget(self) -> None:
        excess = len(self._firsts) - RANGES_MAX
        if excess > 0:
            self._floor = max(self._floor, self._lasts[excess - 1])
            del self._firsts[:excess], self._lasts[:excess]

    def snapshot(self) -> Any:
        return [self._floor, np.array(self._firsts, np.int64), np.array(self._lasts, np.int64)]

    @staticmethod
    def restored(state: Any) -> Seen:
        """Takes a snapshot back."""
        seen = Seen(int(state[0]))
        seen._firsts, seen._lasts = state[1].tolist(), state[2].tolist()
        return seen


def take_block(block: Block, seen_of: Callable[[str], Seen | None]) -> tuple[Block | None, int, int, int]:
    """Of a block: (rows not taken before, how many were repeated, came after a later one, are of no line).

    ``seen_of``: an origin's `Seen`; None refuses its rows.
    """
    groups = block.groups
    seq = block.seq[groups.order]
    firsts, lasts = seq[groups.starts], seq[groups.ends - 1]
    whole = lasts - firsts == groups.ends - groups.starts - 1
    left: npt.NDArray[np.bool_] | None = None  # of the rows in the groups' order, those that are not used
    repeated = late = refused = 0
    for place, start, end, first, last, is_run in zip(
        *(a.tolist() for a in (groups.present, groups.starts, groups.ends, firsts, lasts, whole)), strict=True
    ):
        seen = seen_of(block.origins[place])
        if seen is not None and is_run and seen.extend(first, last):
            continue
        if seen is None:
            fresh: npt.NDArray[np.bool_] | None = np.zeros(end - start, np.bool_)
            refused += end - start
        else:
            fresh, again, after = seen.take_numbers(seq[start:end])
            repeated, late = repeated + again, late + after
        if fresh is not None:
            left = np.zeros(len(block), np.bool_) if left is None else left
            left[start:end] = ~fresh
    if left is None:
        return block, repeated, late, refused
    if left.all():
        return None, repeated, late, refused
    keep = np.empty(len(block), np.bool_)
    keep[groups.order] = ~left
    return block.take(keep), repeated, late, refused
