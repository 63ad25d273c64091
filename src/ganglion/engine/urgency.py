"""Which rows an act may follow from, told from their values alone, before anything else is made of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ganglion.core.batch import Columns
from ganglion.engine.operators import WhereOperator
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import ActStage, WhereStage

Chain = tuple[WhereOperator, ...]
"""The predicates between a source and an act: the act follows from a row that all of them hold for."""


class Urgency:
    """Of all acts of a flow, wherever they run."""

    def __init__(self, spec: FlowSpec) -> None:
        self._spec = spec
        self._needed = {a.id for a in spec.reflexes} | {
            x for a in spec.reflexes for x in spec.ancestors(a.id)
        }
        self._chains = {s.id: self._told(s.id) for s in spec.sources}

    def urgent(self, stream: str, columns: Columns) -> bool:
        """False when no act follows from these rows of a source, whatever came before.

        Where more than predicates leads to an act (state, a kernel, a window), rows alone do not tell: True.
        """
        chains = self._chains[stream]
        return chains is None or any(_holds(chain, columns) for chain in chains)

    def _told(self, source: str) -> tuple[Chain, ...] | None:
        """The chains from a source to its acts; None when anything but predicates stands between them."""
        chains = tuple(self._chains_from(source))
        return None if None in chains else tuple(c for c in chains if c is not None)

    def _chains_from(self, stream: str) -> Iterator[Chain | None]:
        for stage in self._spec.stages:
            if stage.id not in self._needed or stream not in stage.inputs:
                continue
            if isinstance(stage, ActStage):
                yield ()
            elif isinstance(stage, WhereStage):
                first = WhereOperator(stage)
                yield from (None if rest is None else (first, *rest) for rest in self._chains_from(stage.id))
            else:
                yield None


def _holds(chain: Chain, columns: Columns) -> bool:
    """True when all predicates hold for some row. The one next to the act holds for the fewest: it comes first."""
    held = None
    for operator in reversed(chain):
        mask = operator.mask(columns)
        held = mask if held is None else held & mask
        if not np.count_nonzero(held):  # of few rows faster than `any`
            return False
    return True
