"""Which rows of a stream and origin have been taken: repeated ones are skipped, reordered ones are told apart."""

from __future__ import annotations

from bisect import bisect
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.core.batch import Batch

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
        last_seq = self.last_seq
        if batch.first_seq > last_seq:  # the usual case
            self._remember(batch.seq)
            return batch, 0, 0
        repeated = batch.seq <= self._floor
        if self._firsts:
            at = np.searchsorted(self._firsts, batch.seq, side="right") - 1
            repeated |= (at >= 0) & (batch.seq <= np.array(self._lasts)[at])
        count = int(repeated.sum())
        if count == len(batch):
            return None, count, 0
        fresh = batch.take(~repeated) if count else batch
        self._remember(fresh.seq)
        return fresh, count, int((fresh.seq < last_seq).sum())

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
