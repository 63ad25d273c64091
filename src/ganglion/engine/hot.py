"""The windows that rows come for now, in arrays: each origin's newest, while it is open and was never given.

Almost every row of almost every origin is for that window, and adding it can close nothing. So a block of such rows is
one fold over all origins. Whatever else happens to an origin, its window is first put back where `windows` keeps it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.core.block import Block
from ganglion.engine.slots import NEVER_NS
from ganglion.kernels.folds.fold import Folder

LAYOUTS_MAX = 64


class HotWindows:
    """By place (an origin's, for good): accumulators, rows, start and watermark; ``live`` tells where they count."""

    def __init__(self, folder: Folder, width_ns: int, origins_max: int) -> None:
        self._folder = folder
        self._width_ns = width_ns
        self._origins_max = origins_max
        self._places: dict[str, int] = {}
        self._layouts: dict[tuple[str, ...], npt.NDArray[np.int32]] = {}
        self._table = folder.fold.fresh(0)
        self._rows = np.zeros(0, np.int64)
        self._start = np.zeros(0, np.int64)
        self.watermark = np.zeros(0, np.int64)
        self.live = np.zeros(0, np.bool_)

    def layout(self, origins: tuple[str, ...]) -> npt.NDArray[np.int32]:
        """Each origin's place; -1 beyond the limit."""
        found = self._layouts.get(origins)
        if found is None:
            if len(self._layouts) >= LAYOUTS_MAX:
                self._layouts.clear()
            found = self._layouts[origins] = np.array([self._place(o) for o in origins], np.int32)
        return found

    def _place(self, origin: str) -> int:
        place = self._places.get(origin)
        if place is None:
            if len(self._places) >= self._origins_max:
                return -1
            place = self._places[origin] = len(self._places)
            if place >= len(self.live):
                self._grow(max(64, 2 * place))
        return place

    def _grow(self, room: int) -> None:
        table = self._folder.fold.fresh(room)
        table[: len(self._table)] = self._table
        self._table = table
        self._rows, self._start, self.watermark = (
            np.concatenate([a, np.zeros(room - len(a), np.int64)])
            for a in (self._rows, self._start, self.watermark)
        )
        self.live = np.concatenate([self.live, np.zeros(room - len(self.live), np.bool_)])

    def cold(self, block: Block, places: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_] | None:
        """Of ``block.origins``, those with a row that is not for their hot window; None when there is none.

        ``places``: what `layout` gave for the origins.
        """
        at = places[block.origin_index]
        starts = block.time_ns // self._width_ns * self._width_ns
        other = (starts != self._start[at]) | ~self.live[at] | (at < 0)
        if not other.any():
            return None
        cold = np.zeros(len(block.origins), np.bool_)
        cold[block.origin_index[other]] = True
        return cold

    def add(self, block: Block, places: npt.NDArray[np.int32], columns: list[npt.NDArray[Any]]) -> None:
        """Adds rows that are all for the hot windows of their origins."""
        at = places[block.origin_index]
        self._fold(at, columns)
        np.maximum.at(self.watermark, at, block.time_ns)

    def _fold(self, at: npt.NDArray[np.int32], columns: list[npt.NDArray[Any]]) -> None:
        self._folder.add(self._table, columns, len(at), at)
        self._rows += np.bincount(at, minlength=len(self._rows))

    def following(self, block: Block, places: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """For each of ``block.origins``, the start of the one later window that its rows are for, beside its hot one.

        `NEVER_NS` where there is no hot window, where a row is for an earlier one, or rows are for several later ones.
        """
        groups = block.groups
        starts = (block.time_ns // self._width_ns * self._width_ns)[groups.order]
        at = places[groups.present]
        hot = np.repeat(self._start[at], groups.ends - groups.starts)
        latest = np.maximum.reduceat(starts, groups.starts)
        either = (starts == hot) | (starts == np.repeat(latest, groups.ends - groups.starts))
        good = np.logical_and.reduceat(either, groups.starts)
        good &= self.live[at] & (at >= 0) & (latest > self._start[at])
        found = np.full(len(block.origins), NEVER_NS, np.int64)
        found[groups.present[good]] = latest[good]
        return found

    def roll(
        self,
        block: Block,
        places: npt.NDArray[np.int32],
        columns: list[npt.NDArray[Any]],
        at: npt.NDArray[np.int32],
        newer: npt.NDArray[np.int64],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Adds rows that are for hot windows or those `following` them, which become the hot ones.

        ``at``: the places of the rows' origins; ``newer``: the start that follows at each. Returns start,
        accumulators and rows of the windows that were hot at each.
        """
        own = places[block.origin_index]
        old = block.time_ns // self._width_ns * self._width_ns == self._start[own]
        if old.any():
            self._fold(own[old], [c[old] for c in columns])
        ended = self._start[at], self._table[at], self._rows[at]
        self._table[at] = self._folder.fold.fresh(1)
        self._rows[at] = 0
        self._start[at] = newer
        self._fold(own[~old], [c[~old] for c in columns])
        np.maximum.at(self.watermark, own, block.time_ns)
        return ended

    def put(self, origin: str, start: int, parts: list[float], rows: int, watermark_ns: int) -> None:
        """Makes an origin's newest window hot; nothing for an origin beyond the limit."""
        place = self._place(origin)
        if place >= 0:
            self._table[place] = parts
            self._rows[place], self._start[place], self.watermark[place] = rows, start, watermark_ns
            self.live[place] = True

    def pop(self, origin: str) -> tuple[int, list[float], int, int] | None:
        """An origin's hot window, hot no longer: (start, parts, rows, watermark); None when it has none."""
        place = self._places.get(origin, -1)
        if place < 0 or not self.live[place]:
            return None
        self.live[place] = False
        return (
            int(self._start[place]),
            self._table[place].tolist(),
            int(self._rows[place]),
            int(self.watermark[place]),
        )

    @property
    def size_bytes(self) -> int:
        """What the arrays take."""
        arrays = (self._table, self._rows, self._start, self.watermark, self.live)
        return sum(a.nbytes for a in arrays)

    def origins(self) -> list[str]:
        """Those that have a hot window."""
        return [o for o, place in self._places.items() if self.live[place]]
