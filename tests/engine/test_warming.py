"""A warm-up reaches every stage and leaves no trace."""

from __future__ import annotations

import pytest

from ganglion.engine import operators, windows
from ganglion.engine.warming import BLOCKS, ORIGINS, warm
from tests.engine.flows import EDGE, GATEWAY, SPEC, WHOLE, assignment
from tests.engine.stores import MemoryDisk


@pytest.mark.parametrize("part", [WHOLE, GATEWAY, EDGE], ids=["whole", "gateway", "edge"])
def test_made_up_rows_go_through_and_nothing_is_written(part, monkeypatch):
    reached: set[str] = set()
    for kind in (
        operators.MapOperator,
        operators.WhereOperator,
        operators.AroundOperator,
        windows.WindowOperator,
    ):

        def process(self, rows, real=kind.process):
            reached.add(self._stage.id)
            return real(self, rows)

        monkeypatch.setattr(kind, "process", process)
    disk = MemoryDisk()
    assert warm(SPEC, part, {}, disk) == BLOCKS * ORIGINS * 2
    assert disk.files == {}
    wanted = {s for s in part.runs if s in {"level", "trips", "incident", "tens", "totals"}}
    assert reached == wanted


def test_a_node_that_nothing_comes_to_is_warm():
    assert warm(SPEC, assignment("none", ""), {}, MemoryDisk()) == 0
