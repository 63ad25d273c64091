"""Which rows of a stream and origin have been taken: repeated ones are skipped, reordered ones are told apart."""

from __future__ import annotations

from collections import deque
from typing import Any

from ganglion.core.batch import Batch

RANGES_MAX = 64


class Seen:
    """The numbers of the last `RANGES_MAX` batches, and a floor below which everything counts as taken."""

    __slots__ = ("_floor", "_ranges")

    def __init__(self, floor: int = -1) -> None:
        self._floor = floor
        self._ranges: deque[tuple[int, int]] = deque()

    @property
    def last_seq(self) -> int:
        """The highest number taken; -1 at first."""
        return max([self._floor, *(last for _, last in self._ranges)])

    def take(self, batch: Batch) -> tuple[Batch | None, int, int]:
        """(rows not taken before, how many were repeated, how many came after a later one)."""
        repeated = batch.seq <= self._floor
        for first, last in self._ranges:
            repeated |= (batch.seq >= first) & (batch.seq <= last)
        late = ~repeated & (batch.seq < self.last_seq)
        count = int(repeated.sum())
        if count == len(batch):
            return None, count, 0
        fresh = batch.take(~repeated) if count else batch
        self._remember(fresh, contiguous=not bool(late.any()))
        return fresh, count, int(late.sum())

    def _remember(self, batch: Batch, *, contiguous: bool) -> None:
        if contiguous:
            self._ranges.append((batch.first_seq, batch.last_seq))
        else:
            self._ranges.extend((s, s) for s in batch.seq.tolist())
        while len(self._ranges) > RANGES_MAX:
            self._floor = max(self._floor, min(self._ranges.popleft()[1], self.last_seq))

    def snapshot(self) -> Any:
        return [self._floor, [list(r) for r in self._ranges]]

    @staticmethod
    def restored(state: Any) -> Seen:
        """Takes a snapshot back."""
        seen = Seen(int(state[0]))
        seen._ranges.extend((int(a), int(b)) for a, b in state[1])
        return seen
