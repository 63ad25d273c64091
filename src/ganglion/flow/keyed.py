"""Which stages keep their state by origin, so that several processes may share their work."""

from __future__ import annotations

from collections.abc import Iterable

from ganglion.core.errors import TopologyError
from ganglion.flow.assignment import Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import WindowStage


def unkeyed(spec: FlowSpec, runs: Iterable[str]) -> list[str]:
    """Those of the stages named whose state is one for all origins."""
    stages = (spec[stage] for stage in sorted(runs))
    return [s.id for s in stages if isinstance(s, WindowStage) and s.by == "all"]


def check_keyed(spec: FlowSpec, processes: int, assignment: Assignment) -> None:
    """Raises `TopologyError` ``topology.processes`` when several processes cannot share what a node is to do."""
    if processes == 1:
        return
    site = assignment.site
    wrong = unkeyed(spec, assignment.runs)
    if wrong:
        raise TopologyError(
            "topology.processes",
            f"{site} cannot run {', '.join(wrong)} in {processes} processes",
            why="origins are divided among the processes, and this merges all of them",
            next_step=f"take the window by origin there and roll it up at another site (--pin {wrong[0]}=TIER), "
            f"or set processes: 1 for {site}",
        )
    shed = sorted(s for s in assignment.exports if spec[s].backlog.when_full != "wait")
    if shed:
        raise TopologyError(
            "topology.processes",
            f"{site} cannot give up rows of {', '.join(shed)} in {processes} processes",
            why="what gives way to what in an outbox is decided by one process",
            next_step=f"let them wait (when_full: wait), or set processes: 1 for {site}",
        )
