"""Which origins a node's part of a stage or stream is for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ganglion.core.block import Block
from ganglion.flow.assignment import path_of

ORIGINS_MAX = 100_000
LAYOUTS_MAX = 64
"""Sets of origins for which the answer is remembered."""


class Share:
    """Rows of the origins of some paths."""

    def __init__(self, paths: frozenset[str]) -> None:
        self._paths = paths
        self._known: dict[str, bool] = {}
        self._layouts: dict[tuple[str, ...], npt.NDArray[np.bool_] | bool] = {}

    def has(self, origin: str) -> bool:
        """True when the origin's path is among them."""
        known = self._known.get(origin)
        if known is None:
            if len(self._known) >= ORIGINS_MAX:
                self._known.clear()
            known = self._known[origin] = path_of(origin) in self._paths
        return known

    def rows(self, block: Block) -> Block | None:
        """The block's rows that are of these paths: itself when all are, None when none is."""
        ours = self._layouts.get(block.origins)
        if ours is None:
            ours = self._layout(block.origins)
        if isinstance(ours, bool):
            return block if ours else None
        mask = ours[block.origin_index]
        return block.take(mask) if mask.any() else None

    def _layout(self, origins: tuple[str, ...]) -> npt.NDArray[np.bool_] | bool:
        found: npt.NDArray[np.bool_] | bool
        if len(self._layouts) >= LAYOUTS_MAX:
            self._layouts.clear()
        each = [self.has(o) for o in origins]
        found = each[0] if each.count(each[0]) == len(each) else np.array(each)
        self._layouts[origins] = found
        return found
