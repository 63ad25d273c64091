"""Times the stages of a flow as the engine runs them: one row per call and many, at the flow's rhythm and in a loop.

Processor time of the thread, by the meters that are on in every run. Rounds of the three ways take turns, so that
whatever else the machine does meets all of them; the first round warms up and is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from ganglion.core.batch import Batch
from ganglion.core.calibration import Spread, StageFigures
from ganglion.core.wire import End
from ganglion.device.player import Player, shot_frames_min
from ganglion.device.recording import Event
from ganglion.engine.graph import Graph
from ganglion.engine.meter import Meter, Work
from ganglion.engine.sinks import SinkFile
from ganglion.flow.assignment import Assignment
from ganglion.flow.digests import work_digest
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import ActStage, AroundStage, MapStage, SinkStage, WhereStage
from ganglion.host.ports import Clock, Disk
from ganglion.kernels.c.library import Library
from ganglion.kernels.running import Libraries

ROUNDS = 5
SINGLE_CALLS = 60
"""Calls of a round with one row."""
MANY_CALLS = 12
MANY_ROWS = 60
PAUSE_NS_MAX = 20_000_000
"""Between calls at the flow's rhythm; slower flows are timed at this one."""
BOUND_ROWS = 64
ORIGIN = "gw-device-00"


@dataclass(frozen=True, slots=True)
class Costs:
    """One round's call with ``rows`` rows, on average."""

    rows: float
    call_ns: float


def spread(values: Sequence[float]) -> Spread:
    """Median and range, to a tenth of a nanosecond."""
    low, middle, high = (round(v, 1) for v in (min(values), median(values), max(values)))
    return Spread(median=middle, low=low, high=high, count=len(values))


class _Bench:
    """One graph with every stage of the flow and its sinks, fed from recordings. ``rows``: in each call."""

    def __init__(
        self,
        spec: FlowSpec,
        events: Sequence[Event],
        libraries: Libraries,
        clock: Clock,
        disk: Disk,
        name: str,
        rows: int,
    ) -> None:
        path = ORIGIN.rsplit("-", 1)[0]
        runs = {s.id: frozenset({path, "*"}) for s in spec.stages if s.inputs}
        assignment = Assignment("bench", "bench", "gateway", spec.digest, runs, {})
        self._meter = Meter(clock.cpu_ns)
        self._graph = Graph(spec, assignment, "all", libraries, self._meter)
        sinks = [s for s in spec.stages if isinstance(s, SinkStage)]
        self._sinks = {s.id: SinkFile(disk, f"{name}-{s.id}", s.schema) for s in sinks}
        self._source = spec.sources[0]
        self._player = Player(events, index=0, stride=1, period_frames=shot_frames_min(events))
        self._rows = rows
        self._number = 0
        self._before: dict[str, Work] = {}

    def call(self) -> None:
        """The next rows through everything."""
        numbers = np.arange(self._number, self._number + self._rows, dtype=np.int64)
        self._number += self._rows
        frames = np.stack([self._player.next_frame() for _ in range(self._rows)])
        self._player.take_finished()
        times = numbers * self._source.every_ns
        self._push(Batch(self._source.id, ORIGIN, numbers, times, {"frame": frames}))

    def _push(self, item: Batch | End) -> None:
        for emission in self._graph.push(item):
            if emission.kind == "sink" and isinstance(emission.item, Batch):
                began_ns = self._meter.begin()
                self._sinks[emission.stage].add(emission.item)
                self._meter.end(emission.stage, len(emission.item), began_ns)

    def finish(self) -> dict[str, Costs]:
        """Ends the origin's streams, which closes windows; what every stage's call took since the last time."""
        self._push(End(self._source.id, ORIGIN))
        for sink in self._sinks.values():
            sink.sync()
        found = {}
        for name, work in self._meter.works.items():
            calls, rows, cpu_ns = work.calls, work.rows, work.cpu_ns
            if (before := self._before.get(name)) is not None:
                calls, rows, cpu_ns = calls - before.calls, rows - before.rows, cpu_ns - before.cpu_ns
            self._before[name] = replace(work)
            if calls:
                found[name] = Costs(rows / calls, cpu_ns / calls)
        return found


async def time_stages(
    spec: FlowSpec, events: Sequence[Event], libraries: Libraries, clock: Clock, disk: Disk
) -> dict[str, StageFigures]:
    """Digest of a stage's work -> its figures. Takes some ten seconds, most of it waiting.

    Stages through which no row went within the recordings are missing.
    """
    benches = {
        name: _Bench(spec, events, libraries, clock, disk, name, rows)
        for name, rows in (("single", 1), ("many", MANY_ROWS), ("warm", 1))
    }
    pause_ns = min(PAUSE_NS_MAX, spec.sources[0].every_ns)
    rounds: list[dict[str, dict[str, Costs]]] = []
    for turn in range(ROUNDS + 1):
        names = list(benches)
        found = {}
        for name in names[turn % 3 :] + names[: turn % 3]:
            for _ in range(MANY_CALLS if name == "many" else SINGLE_CALLS):
                if name != "warm":
                    await clock.sleep_ns(pause_ns)
                benches[name].call()
            found[name] = benches[name].finish()
        rounds.append(found)
    figures = {}
    for stage in spec.stages:
        made = _figures(stage.id, [r for r in rounds[1:] if all(stage.id in r[n] for n in benches)])
        if isinstance(stage, ActStage):
            # What a reflex does is its command, which is part of a message's figures.
            made = StageFigures(stage=stage.id, call_ns=spread([0.0]), row_ns=spread([0.0]))
        if made is not None:
            figures[work_digest(spec, stage.id)] = made
    return figures


def _figures(stage: str, rounds: Sequence[Mapping[str, Mapping[str, Costs]]]) -> StageFigures | None:
    if not rounds:
        return None
    split = [separated(r["single"][stage], r["many"][stage]) for r in rounds]
    return StageFigures(
        stage=stage,
        call_ns=spread([call for call, _ in split]),
        row_ns=spread([row for _, row in split]),
        warm_ns=spread([r["warm"][stage].call_ns for r in rounds]),
    )


def separated(single: Costs, many: Costs) -> tuple[float, float]:
    """(of a call, of each row in it) from calls with few rows and with many; neither is ever negative."""
    if many.rows - single.rows < 0.5:
        return (single.call_ns + many.call_ns) / 2, 0.0
    row_ns = (many.call_ns - single.call_ns) / (many.rows - single.rows)
    row_ns = min(max(row_ns, 0.0), single.call_ns / single.rows)
    return max(0.0, single.call_ns - row_ns * single.rows), row_ns


def time_kernels(
    spec: FlowSpec, libraries: Libraries, clock: Clock, rounds: int = ROUNDS
) -> dict[str, StageFigures]:
    """Digest -> what a row takes of the kernel itself, as in firmware, where a call is part of the frame's.

    The other stages that firmware runs are part of it too: their figures are 0.
    """
    bounds = {}
    for stage in spec.stages:
        library = libraries.get(stage.kernel.digest) if isinstance(stage, MapStage) else None
        if isinstance(library, Library):
            bounds[stage.id] = (library.bind(1), library.bind(BOUND_ROWS))
    taken: dict[str, list[float]] = {name: [] for name in bounds}
    for turn in range(rounds + 1):
        for name, (one, many) in bounds.items():
            costs = [_loop_ns(bound.call, clock, 400 // n + 1) for bound, n in ((one, 1), (many, BOUND_ROWS))]
            if turn:
                taken[name].append(max(0.0, (costs[1] - costs[0]) / (BOUND_ROWS - 1)))
    nothing = spread([0.0])
    figures = {}
    for stage in spec.stages:
        if stage.id in taken or isinstance(stage, WhereStage | AroundStage | ActStage):
            row_ns = spread(taken[stage.id]) if stage.id in taken else nothing
            figures[work_digest(spec, stage.id)] = StageFigures(
                stage=stage.id, call_ns=nothing, row_ns=row_ns
            )
    return figures


def _loop_ns(call: object, clock: Clock, times: int) -> float:
    assert callable(call)
    began_ns = clock.cpu_ns()
    for _ in range(times):
        call()
    return (clock.cpu_ns() - began_ns) / times
