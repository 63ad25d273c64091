"""A node's stages as one synchronous, deterministic machine: items in, emissions out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from ganglion.core.block import Block, Rows
from ganglion.core.wire import End, Item
from ganglion.engine.meter import Meter
from ganglion.engine.operators import AroundOperator, Counts, MapOperator, Operator, WhereOperator
from ganglion.engine.share import Share
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
        self._runs = {s.id: Share(assignment.runs[s.id]) for s in self._stages}
        self._exports = {stream: Share(paths) for stream, paths in assignment.exports.items()}
        self.seen: dict[str, Counts] = {}

    @property
    def spec(self) -> FlowSpec:
        """The flow it runs a part of."""
        return self._spec

    @property
    def counts(self) -> dict[str, Counts]:
        """Per stage that runs here, and per stream that came in (``in:STREAM``)."""
        return {s: o.counts for s, o in self._operators.items()} | {
            f"in:{s}": c for s, c in self.seen.items()
        }

    def state_bytes(self) -> dict[str, int]:
        """About what each stage's state takes of memory."""
        return {s: o.state_bytes() for s, o in self._operators.items()}

    def push(self, item: Item) -> list[Emission]:
        """One item of a stream the node receives or measures; returns what leaves, in order.

        Rows must fit the stream's schema (`Batch.check`); a stream the flow does not know is an assertion.
        """
        assert item.stream in self._spec, item.stream
        if not isinstance(item, End):
            seen = self.seen.setdefault(item.stream, Counts())
            seen.rows += len(item)
        emissions: list[Emission] = []
        todo: deque[Item] = deque([item])
        while todo:
            current = todo.popleft()
            if self._part != "reflex":
                leaving = self._of(self._exports.get(current.stream), current)
                if leaving is not None:
                    emissions.append(Emission("export", current.stream, leaving))
            for stage in self._consumers[current.stream]:
                ours = self._of(self._runs[stage.id], current)
                if ours is not None:
                    self._run(stage, ours, todo, emissions)
        return emissions

    def _of(self, share: Share | None, item: Item) -> Item | None:
        """What of an item is of the share's paths; None for nothing."""
        if share is None:
            return None
        if isinstance(item, Block):
            return share.rows(item)
        return item if share.has(item.origin) else None

    def _run(self, stage: Stage, item: Item, todo: deque[Item], emissions: list[Emission]) -> None:
        if isinstance(stage, SinkStage):
            emissions.append(Emission("sink", stage.id, item))
        elif isinstance(stage, ActStage):
            if not isinstance(item, End):
                emissions.append(Emission("act", stage.id, item))
        elif isinstance(item, End):
            rows, ended = self._operators[stage.id].end(item.stream, item.origin)
            todo.extend(rows)
            if ended:
                todo.append(End(stage.id, item.origin))
        else:
            todo.extend(self._processed(stage.id, item))

    def _processed(self, stage: str, rows: Rows) -> Sequence[Rows]:
        meter = self._meter
        if meter is None:
            return self._operators[stage].process(rows)
        began_ns = meter.begin(stage)
        given = self._operators[stage].process(rows)
        meter.end(stage, len(rows), began_ns, rows.size_bytes)
        return given

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
