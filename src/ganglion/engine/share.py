"""Which origins a node's part of a stage or stream is for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ganglion.core.block import Block
from ganglion.flow.assignment import path_of

LAYOUTS_MAX = 64
"""Sets of origins for which the answer is remembered."""


class Share:
    """Rows of the origins of some paths."""

    def __init__(self, paths: frozenset[str]) -> None:
        self._paths = paths
        self._layouts: dict[tuple[str, ...], npt.NDArray[np.bool_] | bool] = {}

    def has(self, origin: str) -> bool:
        """True when the origin's path is among them."""
        return path_of(origin) in self._paths

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
        if len(self._layouts) >= LAYOUTS_MAX:
            self._layouts.clear()
        each = np.array([self.has(o) for o in origins])
        found = bool(each[0]) if (each == each[0]).all() else each
        self._layouts[origins] = found
        return found
