"""The origins of one stream at a gateway: the numbers that rows get, and those a reflex has seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ganglion.core.batch import BOOT_BITS, Int64s

ORIGINS_MAX = 100_000
"""Origins per stream that are numbered or told apart; rows of further ones are refused and counted."""
LAYOUTS_MAX = 64
"""Sets of origins whose places are remembered."""


class Lines:
    """For each origin the next number to give, and the highest a reflex has seen (-1: none)."""

    def __init__(self, last_seq: Callable[[str], int]) -> None:
        self._last_seq = last_seq
        self._places: dict[str, int] = {}
        self._layouts: dict[tuple[str, ...], npt.NDArray[np.intp]] = {}
        self.reflexed: Int64s = np.empty(0, np.int64)
        self.next_seq: Int64s = np.empty(0, np.int64)

    def places(self, origins: tuple[str, ...], admitted: Callable[[str], bool]) -> npt.NDArray[np.intp]:
        """Each origin's place in the arrays; -1 for one that is not admitted."""
        found = self._layouts.get(origins)
        if found is None:
            if len(self._layouts) >= LAYOUTS_MAX:
                self._layouts.clear()
            found = np.array([self._place(o) if admitted(o) else -1 for o in origins], np.intp)
            self._layouts[origins] = found
        return found

    def _place(self, origin: str) -> int:
        place = self._places.get(origin)
        if place is not None:
            return place
        if len(self._places) >= ORIGINS_MAX:
            return -1
        place = self._places[origin] = len(self._places)
        if place >= len(self.reflexed):
            room = max(64, 2 * place)
            self.reflexed, self.next_seq = (_grown(a, room) for a in (self.reflexed, self.next_seq))
        last = self._last_seq(origin)
        self.reflexed[place] = last
        # A number that was given and lost must not come again for another row: each life counts from its own boot.
        self.next_seq[place] = 0 if last < 0 else ((last >> BOOT_BITS) + 1) << BOOT_BITS
        return place


def _grown(array: Int64s, room: int) -> Int64s:
    grown = np.zeros(room, np.int64)
    grown[: len(array)] = array
    return grown
