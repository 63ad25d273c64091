"""A node's stages as one synchronous, deterministic machine: items in, emissions out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from ganglion.core.batch import Batch
from ganglion.core.block import Block
from ganglion.core.wire import End, Item
from ganglion.engine.meter import Meter
from ganglion.engine.operators import AroundOperator, Counts, MapOperator, Operator, WhereOperator
from ganglion.engine.windows import WindowOperator
from ganglion.flow.assignment import Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import ActStage, AroundStage, MapStage, SinkStage, Stage, WhereStage, WindowStage
from ganglion.kernels.running import Libraries, folder_of, runner_of

Part = Literal["all", "reflex", "durable"]


@dataclass(frozen=True, slots=True)
class Emission:
    """Something leaves the machine: ``export`` to the parent, ``sink`` kept here, ``act`` a command.

    ``stage`` is the sink or act stage, or the stream that is exported.
    """

    kind: Literal["export", "sink", "act"]
    stage: str
    item: Item


class Graph:
    """The stages an assignment gives a node.

    ``part``: ``reflex`` runs only what leads to actuators and gives only commands; ``durable`` runs everything but
    commands; ``all`` runs everything. ``libraries``: what was compiled, by digest; a kernel or window that is not
    among them runs in NumPy. ``meter`` counts what each stage's operator takes. The same items in the same order give
    the same emissions.
    """

    def __init__(
        self,
        spec: FlowSpec,
        assignment: Assignment,
        part: Part = "all",
        libraries: Libraries = MappingProxyType({}),
        meter: Meter | None = None,
    ) -> None:
        self._meter = meter
        self._spec = spec
        self._assignment = assignment
        self._part = part
        needed = {a.id for a in spec.reflexes} | {x for a in spec.reflexes for x in spec.ancestors(a.id)}
        self._stages = [
            s
            for s in spec.stages
            if s.id in assignment.runs
            and s.inputs
            and not (part == "reflex" and s.id not in needed)
            and not (part == "durable" and isinstance(s, ActStage))
        ]
        self._consumers: dict[str, tuple[Stage, ...]] = {
            s.id: tuple(c for c in self._stages if s.id in c.inputs) for s in spec.stages
        }
        self._operators: dict[str, Operator] = {
            s.id: o for s in self._stages if (o := _operator(s, spec, libraries))
        }
        self.seen: dict[str, Counts] = {}

    @property
    def counts(self) -> dict[str, Counts]:
        """Per stage that runs here, and per stream that came in (``in:STREAM``)."""
        return {s: o.counts for s, o in self._operators.items()} | {
            f"in:{s}": c for s, c in self.seen.items()
        }

    def push(self, item: Item) -> list[Emission]:
        """One item of a stream the node receives or measures; returns what leaves, in order.

        Rows must fit the stream's schema (`Batch.check`); a stream the flow does not know is an assertion.
        """
        assert item.stream in self._spec, item.stream
        if isinstance(item, Block):
            return [emission for batch in item.split() for emission in self.push(batch)]
        if isinstance(item, Batch):
            seen = self.seen.setdefault(item.stream, Counts())
            seen.rows += len(item)
        emissions: list[Emission] = []
        todo: deque[Item] = deque([item])
        while todo:
            current = todo.popleft()
            if self._part != "reflex" and self._assignment.exported(current.stream, current.origin):
                emissions.append(Emission("export", current.stream, current))
            for stage in self._consumers[current.stream]:
                if self._assignment.runs_here(stage.id, current.origin):
                    self._run(stage, current, todo, emissions)
        return emissions

    def _run(self, stage: Stage, item: Item, todo: deque[Item], emissions: list[Emission]) -> None:
        if isinstance(stage, SinkStage):
            emissions.append(Emission("sink", stage.id, item))
        elif isinstance(stage, ActStage):
            if isinstance(item, Batch):
                emissions.append(Emission("act", stage.id, item))
        elif isinstance(item, Batch):
            todo.extend(self._processed(stage.id, item))
        else:
            rows, ended = self._operators[stage.id].end(item.stream, item.origin)
            todo.extend(rows)
            if ended:
                todo.append(End(stage.id, item.origin))

    def _processed(self, stage: str, batch: Batch) -> list[Batch]:
        meter = self._meter
        if meter is None:
            return self._operators[stage].process(batch)
        began_ns = meter.begin()
        rows = self._operators[stage].process(batch)
        meter.end(stage, len(batch), began_ns)
        return rows

    def snapshot(self, only: Iterable[str] | None = None) -> dict[str, Any]:
        """State of every operator (or of those named), for `core.packing`."""
        wanted = set(self._operators if only is None else only)
        return {
            "operators": {s: o.snapshot() for s, o in self._operators.items() if s in wanted},
            "seen": {s: c.rows for s, c in self.seen.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back a snapshot of a graph of the same flow; operators it does not name start afresh."""
        for stage, saved in state["operators"].items():
            if stage in self._operators:
                self._operators[stage].restore(saved)
        self.seen = {s: Counts(rows=n) for s, n in state["seen"].items()}


def _operator(stage: Stage, spec: FlowSpec, libraries: Libraries) -> Operator | None:
    match stage:
        case MapStage():
            return MapOperator(stage, spec[stage.inputs[0]], runner_of(stage.kernel, libraries))
        case WhereStage():
            return WhereOperator(stage)
        case AroundStage():
            return AroundOperator(stage)
        case WindowStage():
            folder = None if stage.merges else folder_of(spec.fold(stage), libraries)
            return WindowOperator(stage, spec[stage.inputs[0]], folder)
        case _:
            return None
