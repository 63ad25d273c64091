"""What each stage of a flow asks for: rows, bytes, computing, memory. Counted from the flow alone.

Figures are per origin where a stage works per origin, and for all origins together where it merges them.
The constants describe this version's programs; they are all of the cost of a plan that no file states.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ganglion.core.units import NS_PER_S
from ganglion.flow.assignment import ALL
from ganglion.flow.expression import Expression
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import (
    AroundStage,
    MapStage,
    SinkStage,
    SourceStage,
    Stage,
    WhereStage,
    WindowStage,
)

ROW_HEAD_BYTES = 16
"""Sequence number and time of a row."""
COAP_PAYLOAD_BYTES_MAX = 1024
"""A device's message carries at most this much of a row; larger rows take several."""
COAP_OVERHEAD_BYTES = 96
"""IPv4, UDP, CoAP header and options, SenML names: per message."""
BATCH_NS = NS_PER_S
"""An uplink carries the rows of an origin's stream in batches of about a second."""
BATCH_BYTES_MAX = 64_000
BATCH_OVERHEAD_BYTES = 250
"""IPv4, TCP, NATS subject and headers, batch header: per batch."""
COMMAND_BYTES = 128
"""A command to an actuator, with all its headers."""
BUFFER_ROWS = 4
"""Rows a stage holds while it works, per origin."""

Key = tuple[str, str]
"""A stage id and the id of the path it works for; ``*`` for a stage whose input is merged over all paths."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one stage asks for on one path, per member (origin, or 1 for the merged).

    ``calls`` and ``elements`` are per input row, see `ganglion.kernels.cost`.
    """

    stage: Stage
    members: int
    rows_in_per_s: float
    rows_out_per_s: float
    calls: float
    elements: float
    memory_bytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one output row with its sequence number and time."""
        return self.stage.schema.row_bytes + ROW_HEAD_BYTES

    @property
    def messages_per_row(self) -> int:
        """CoAP messages that carry one row."""
        return math.ceil(self.row_bytes / COAP_PAYLOAD_BYTES_MAX)

    @property
    def coap_row_bytes(self) -> int:
        """Bytes one row takes on a device's link."""
        return self.row_bytes + self.messages_per_row * COAP_OVERHEAD_BYTES

    def messages_per_s(self, *, device_link: bool) -> float:
        """Messages of one member's output over a device's link or an uplink."""
        if device_link:
            return self.rows_out_per_s * self.messages_per_row
        filled = self.rows_out_per_s * self.row_bytes / BATCH_BYTES_MAX
        return min(self.rows_out_per_s, max(NS_PER_S / BATCH_NS, filled))

    def bytes_per_s(self, *, device_link: bool) -> float:
        """Bytes of one member's output over a device's link or an uplink."""
        if device_link:
            return self.rows_out_per_s * self.coap_row_bytes
        batches = self.messages_per_s(device_link=False)
        return self.rows_out_per_s * self.row_bytes + batches * BATCH_OVERHEAD_BYTES


def merged_stages(spec: FlowSpec) -> frozenset[str]:
    """Windows by ``all`` and everything that comes after one: they work once, for all paths together."""
    merged: set[str] = set()
    for stage in spec.stages:
        by_all = isinstance(stage, WindowStage) and stage.by == "all"
        if by_all or not merged.isdisjoint(stage.inputs):
            merged.add(stage.id)
    return frozenset(merged)


def demand(spec: FlowSpec, origins: Mapping[str, int], selectivities: Mapping[str, float]) -> dict[Key, Load]:
    """The load of every stage on every path, in flow order. ``origins``: path id -> origins on it."""
    merged = merged_stages(spec)
    loads: dict[Key, Load] = {}
    for stage in spec.stages:
        if stage.id in merged:
            loads[stage.id, ALL] = _load(
                stage, 1, _merged_rates(stage, merged, origins, loads), selectivities
            )
            continue
        for path, count in origins.items():
            rates = [loads[i, path].rows_out_per_s for i in stage.inputs]
            loads[stage.id, path] = _load(stage, count, rates, selectivities)
    return loads


def _merged_rates(
    stage: Stage, merged: frozenset[str], origins: Mapping[str, int], loads: Mapping[Key, Load]
) -> list[float]:
    rates = []
    for name in stage.inputs:
        if name in merged:
            rates.append(loads[name, ALL].rows_out_per_s)
        else:
            rates.append(math.fsum(loads[name, p].rows_out_per_s * n for p, n in origins.items()))
    return rates


def _load(stage: Stage, members: int, rates: list[float], selectivities: Mapping[str, float]) -> Load:
    calls, elements = _computing(stage)
    rows_in = rates[0] if rates else 0.0
    return Load(
        stage,
        members,
        rows_in,
        _rows_out(stage, rates, selectivities),
        calls,
        elements,
        _memory_bytes(stage, rows_in),
    )


def _rows_out(stage: Stage, rates: list[float], selectivities: Mapping[str, float]) -> float:
    match stage:
        case SourceStage():
            return NS_PER_S / stage.every_ns
        case WhereStage():
            return rates[0] * selectivities.get(stage.id, stage.selectivity)
        case AroundStage():
            around_s = (stage.before_ns + stage.after_ns) / NS_PER_S
            return min(rates[0], rates[1] * around_s * rates[0])
        case WindowStage():
            return min(rates[0], NS_PER_S / stage.width_ns)
        case _:
            # A kernel may emit fewer rows than it takes; nothing says how many, so all are counted.
            return rates[0]


def _computing(stage: Stage) -> tuple[float, float]:
    row = sum(f.type.elements for f in stage.schema.fields)
    match stage:
        case SourceStage():
            return 0, 0
        case MapStage():
            return stage.kernel.cost.calls, stage.kernel.cost.elements
        case WhereStage():
            steps = _operators(stage.predicate)
            return steps + 1, steps + row
        case WindowStage():
            return 4 * len(stage.aggregates) + 2, 4 * len(stage.aggregates) + 2
        case _:  # around copies a row, a sink writes it, an act reads it
            return 2, row


def _operators(expression: Expression) -> int:
    return 1 + sum(_operators(a) for a in expression.args if isinstance(a, Expression))


def _memory_bytes(stage: Stage, rows_in_per_s: float) -> int:
    row = stage.schema.row_bytes + ROW_HEAD_BYTES
    buffer = BUFFER_ROWS * row
    match stage:
        case SourceStage() | SinkStage():
            return buffer
        case MapStage():
            return buffer + stage.kernel.state_bytes
        case AroundStage():
            return buffer + math.ceil((stage.before_ns + stage.after_ns) / NS_PER_S * rows_in_per_s) * row
        case WindowStage():
            # A closed window stays until it can no longer be revised; one more is open and one waits.
            return buffer + (math.ceil(stage.keep_ns / stage.width_ns) + 2) * row
        case _:
            return buffer
