"""Runs a few made-up rows through all that a node computes, and forgets them: the first real ones find all loaded.

A cold first row takes hundreds of times as long as the next: libraries are loaded, modules imported, caches filled. A
node does this before it says that it is ready.
"""

from __future__ import annotations

import numpy as np

from ganglion.core.block import Block
from ganglion.core.wire import End, decode_several, encode_several
from ganglion.engine.exporter import Exporter
from ganglion.engine.graph import Graph, Part
from ganglion.engine.seen import Seen, take_block
from ganglion.engine.sinks import SinkFile
from ganglion.flow.assignment import Assignment, origin_name
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import SinkStage, WindowStage
from ganglion.host.ports import Disk
from ganglion.kernels.running import Libraries

ORIGINS = 3
BLOCKS = 4
PARTS: tuple[Part, ...] = ("reflex", "durable")


def warm(spec: FlowSpec, assignment: Assignment, libraries: Libraries, disk: Disk) -> int:
    """Runs rows of every stream that comes to the node, alone and in blocks; returns how many. Writes nothing.

    Windows close, so that sinks and exports get something; what a filter lets through depends on the flow.
    """
    kept = [s for s in spec.stages if isinstance(s, SinkStage) and s.id in assignment.runs]
    sinks = {s.id: SinkFile(disk, s.id, s.schema) for s in kept}
    graphs = [Graph(spec, assignment, part, libraries) for part in PARTS]
    exporter = Exporter(gather=False)
    rows = 0
    for stream, paths in sorted(_incoming(spec, assignment).items()):
        names = tuple(origin_name(path, i) for path in paths for i in range(ORIGINS))
        step_ns = max([s.width_ns for s in spec.stages if isinstance(s, WindowStage)], default=1_000_000_000)
        for number in range(BLOCKS):
            block = _block(spec, stream, names, number, step_ns)
            (block,) = decode_several(encode_several([block]))  # type: ignore[assignment] # what was encoded
            fresh, *_ = take_block(block, lambda _: Seen())
            assert fresh is not None
            # The last ones come as batches: devices of the other kind send those.
            items = [*fresh.split()] if number == BLOCKS - 1 else [fresh]
            emissions = [e for graph in graphs for item in items for e in graph.push(item)]
            for emission in emissions:
                if emission.kind == "export":
                    exporter.add(emission.item)
                elif emission.kind == "sink" and not isinstance(emission.item, End):
                    sinks[emission.stage].add(emission.item)
            rows += len(fresh)
    exporter.take()
    return rows


def _incoming(spec: FlowSpec, assignment: Assignment) -> dict[str, list[str]]:
    """The streams that a node takes or passes on and does not make, with the paths they come from."""
    found: dict[str, set[str]] = {}
    for stage, paths in assignment.runs.items():
        for stream in spec[stage].inputs:
            found.setdefault(stream, set()).update(paths)
    for stream, paths in assignment.exports.items():
        found.setdefault(stream, set()).update(paths)
    return {s: sorted(p for p in paths if p != "*") for s, paths in found.items() if s not in assignment.runs}


def _block(spec: FlowSpec, stream: str, names: tuple[str, ...], number: int, step_ns: int) -> Block:
    """Two rows of ones of each origin, the second a window later."""
    count = len(names)
    fields = spec[stream].schema.fields
    columns = {f.name: np.ones((2 * count, *f.type.shape), f.type.numpy) for f in fields}
    index = np.tile(np.arange(count, dtype=np.int32), 2)
    seq = np.repeat(np.array([2 * number, 2 * number + 1], np.int64), count)
    return Block(stream, names, index, seq, seq * step_ns, columns)
