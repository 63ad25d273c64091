"""What each stage of a flow asks for: rows, bytes, computing, memory. Counted from the flow alone.

Figures are per origin where a stage works per origin, and for all origins together where it merges them.
The constants describe this version's programs; they are all of the cost of a plan that no file states.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from ganglion.core.units import NS_PER_S
from ganglion.flow.assignment import ALL
from ganglion.flow.digests import work_digest
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
from ganglion.kernels.cost import constant_bytes, network_memory_bytes

ROW_HEAD_BYTES = 16
"""Sequence number and time: of each row in memory, and once per message (they go up evenly)."""
DATAGRAM_ROW_BYTES_MAX = 65_000
"""A device sends a row in one datagram, so a larger one never leaves it."""
GATHER_S = 1.0
GATHER_BYTES = 800
"""Rows that lead to no actuator wait on a device until they are so old or so many."""
COAP_OVERHEAD_BYTES = 100
COAP_FIELD_BYTES = 8
"""IPv4, UDP, CoAP header and options, SenML's fixed part: per message; and each field's name in it."""
BATCH_S = 1.0
BATCH_BYTES = 64_000
"""An uplink carries the rows of an origin's stream when they are so old or so many."""
BATCH_OVERHEAD_BYTES = 250
BATCH_FIELD_BYTES = 12
"""IPv4, TCP, NATS subject and headers, batch header: per batch; and each field's name and form in it."""
BATCH_PAYLOAD_HEAD_BYTES = 55
"""The batch header's part of it: the rest of a batch without its rows is around the payload."""
INTEGER_FRAME_SHARE = 0.5
"""What an uplink's message makes of integer frames (`ganglion.core.wire`): 0.45 to 0.62 on feeder recordings."""
UPLINK_IDLE_BYTES_PER_S = 150
"""Pings and heartbeats that show that an uplink and its stream are alive."""
COMMAND_BYTES = 128
"""A command to an actuator, with all its headers."""
BUFFER_ROWS = 4
"""Rows a stage holds while it works, per origin."""
AROUND_ROWS_MIN = 64
ROW_OBJECT_BYTES = 500
"""A ring of rows holds at least so many, each an object of its own."""
WINDOWS_MAX = 20_000
WINDOW_BYTES = 1000
WINDOW_ORIGIN_BYTES = 360
"""Windows kept per key at most; what one takes, and what each origin that is merged into it adds."""

Carriage = Literal["urgent", "gathered", "batched"]
"""How rows travel: from a device at once or gathered, or over an uplink in batches."""
CARRIAGES: tuple[Carriage, ...] = ("urgent", "gathered", "batched")

Key = tuple[str, str]
"""A stage id and the id of the path it works for; ``*`` for a stage whose input is merged over all paths."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one stage asks for on one path, per member (origin, or 1 for the merged).

    ``calls`` and ``operations`` are per input row, see `ganglion.kernels.cost`. ``copies`` is 2 for a stage that a
    reflex needs: a gateway runs it in memory for the reflex, and again from its journal. ``digest``: what it computes,
    for figures that were measured. ``rows_per_call``: rows that come to it at once, by rank of its node, when its input
    comes from below. ``uplink_row_bytes``: of one output row in an uplink's message, where that was measured.
    ``bursts_per_s``: how often rows come, for rows that come only at times, each time for ``burst_s``.
    ``working_bytes``, ``flash_bytes``: a network's working memory, and a kernel's constants, once per node; where a
    class was calibrated, its own figures take their place.
    """

    stage: Stage
    members: int
    copies: int
    rows_in_per_s: float
    rows_out_per_s: float
    calls: float
    operations: float
    memory_bytes: int
    digest: str = ""
    rows_per_call: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    uplink_row_bytes: float | None = None
    bursts_per_s: float | None = None
    burst_s: float = 0.0
    working_bytes: int = 0
    flash_bytes: int = 0

    row_bytes: int = field(init=False, compare=False)
    """Bytes of one output row."""
    packed_row_bytes: float = field(init=False, compare=False)
    """Bytes of one output row in an uplink's message."""
    _messages_per_s: Mapping[Carriage, float] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Asked for some hundred times per plan and stage, and the same each time.
        fields = self.stage.schema.fields
        sizes = [f.type.size_bytes for f in fields]
        frames = sum(
            size for f, size in zip(fields, sizes, strict=True) if f.type.dtype == "i16" and f.type.shape
        )
        packed = self.uplink_row_bytes
        object.__setattr__(self, "row_bytes", sum(sizes))
        object.__setattr__(
            self,
            "packed_row_bytes",
            self.row_bytes - (1 - INTEGER_FRAME_SHARE) * frames if packed is None else packed,
        )
        carried: dict[Carriage, float] = {how: self._messages(how) for how in CARRIAGES}
        object.__setattr__(self, "_messages_per_s", carried)

    def message_overhead_bytes(self, how: Carriage) -> int:
        """What a message takes beyond its rows."""
        fields = len(self.stage.schema.fields)
        if how == "batched":
            return ROW_HEAD_BYTES + BATCH_OVERHEAD_BYTES + fields * BATCH_FIELD_BYTES
        return ROW_HEAD_BYTES + COAP_OVERHEAD_BYTES + fields * COAP_FIELD_BYTES

    def messages_per_s(self, how: Carriage) -> float:
        """Messages of one member's output."""
        return self._messages_per_s[how]

    def _messages(self, how: Carriage) -> float:
        if how == "urgent":
            return self.rows_out_per_s
        limit, period_s = (BATCH_BYTES, BATCH_S) if how == "batched" else (GATHER_BYTES, GATHER_S)
        full = self.rows_out_per_s / max(1, limit // self.row_bytes)
        periods = 1 / period_s
        if self.bursts_per_s is not None:
            periods = min(periods, self.bursts_per_s * (1 + self.burst_s / period_s))
        return min(self.rows_out_per_s, max(periods, full))

    def bytes_per_s(self, how: Carriage) -> float:
        """Bytes of one member's output, with all headers."""
        overhead = self.messages_per_s(how) * self.message_overhead_bytes(how)
        row_bytes = self.packed_row_bytes if how == "batched" else self.row_bytes
        return self.rows_out_per_s * row_bytes + overhead


def merged_stages(spec: FlowSpec) -> frozenset[str]:
    """Windows by ``all`` and everything that comes after one: they work once, for all paths together."""
    merged: set[str] = set()
    for stage in spec.stages:
        by_all = isinstance(stage, WindowStage) and stage.by == "all"
        if by_all or not merged.isdisjoint(stage.inputs):
            merged.add(stage.id)
    return frozenset(merged)


def demand(
    spec: FlowSpec,
    origins: Mapping[str, int],
    selectivities: Mapping[str, float],
    uplink_row_bytes: Mapping[str, float] = MappingProxyType({}),
) -> dict[Key, Load]:
    """The load of every stage on every path, in flow order. ``origins``: path id -> origins on it.

    ``uplink_row_bytes``: stage id -> what a row of its output takes in an uplink's message, where that was measured.
    """
    merged = merged_stages(spec)
    twice = {name for act in spec.reflexes for name in spec.ancestors(act.id)}
    leading = twice | {act.id for act in spec.reflexes}
    loads: dict[Key, Load] = {}
    for stage in spec.stages:
        digest = work_digest(spec, stage.id)
        kept = _kept(stage)
        for path in (ALL,) if stage.id in merged else origins:
            inputs = [_rate(loads, name, path, origins) for name in stage.inputs]
            calls, operations = _computing(stage)
            rows_in = inputs[0] if inputs else 0.0
            loads[stage.id, path] = Load(
                stage,
                origins.get(path, 1),
                2 if stage.id in twice else 1,
                rows_in,
                _rows_out(stage, inputs, selectivities),
                calls,
                operations,
                _memory_bytes(stage, rows_in, 1 if path != ALL else sum(origins.values())),
                digest,
                _rows_per_call(loads, stage, path, origins, urgent=stage.id in leading),
                uplink_row_bytes.get(stage.id),
                *_bursts(stage, inputs),
                *kept,
            )
    return loads


def _rows_per_call(
    loads: Mapping[Key, Load], stage: Stage, path: str, origins: Mapping[str, int], *, urgent: bool
) -> tuple[float, ...]:
    """As messages bring them: one by one on a device, gathered or urgent to a gateway, in batches further up."""
    if not stage.inputs:
        return (1.0, 1.0, 1.0, 1.0)
    name = stage.inputs[0]
    sources = [loads[name, p] for p in ((path,) if (name, path) in loads else origins)]
    rows = math.fsum(s.rows_out_per_s for s in sources)

    def per_call(how: Carriage) -> float:
        messages = math.fsum(s.messages_per_s(how) for s in sources)
        return max(1.0, rows / messages) if messages else 1.0

    return 1.0, per_call("urgent" if urgent else "gathered"), per_call("batched"), per_call("batched")


def _rate(loads: Mapping[Key, Load], name: str, path: str, origins: Mapping[str, int]) -> float:
    """Rows per second of an input, per origin of the path or, where they are merged, of all."""
    if (name, path) in loads:
        return loads[name, path].rows_out_per_s
    return math.fsum(loads[name, p].rows_out_per_s * n for p, n in origins.items())


def _rows_out(stage: Stage, rates: list[float], selectivities: Mapping[str, float]) -> float:
    match stage:
        case SourceStage():
            return NS_PER_S / stage.every_ns
        case WhereStage():
            return rates[0] * selectivities.get(stage.id, stage.selectivity)
        case AroundStage():
            return min(rates[0], rates[1] * _rows_around(stage, rates[0]))
        case WindowStage():
            return min(rates[0], NS_PER_S / stage.width_ns)
        case _:
            # A kernel may emit fewer rows than it takes; nothing says how many, so all are counted.
            return rates[0]


def _bursts(stage: Stage, rates: list[float]) -> tuple[float | None, float]:
    if isinstance(stage, AroundStage):
        return rates[1], (stage.before_ns + stage.after_ns) / NS_PER_S
    return None, 0.0


def _rows_around(stage: AroundStage, rows_per_s: float) -> int:
    """The row of a trigger, and whole rows before and after it (a millionth of one is rounding)."""
    before, after = (int(ns / NS_PER_S * rows_per_s + 1e-6) for ns in (stage.before_ns, stage.after_ns))
    return before + 1 + after


def _computing(stage: Stage) -> tuple[float, float]:
    row = sum(f.type.elements for f in stage.schema.fields)
    match stage:
        case SourceStage():
            return 0, 0
        case MapStage():
            return stage.kernel.cost.calls, stage.kernel.cost.operations
        case WhereStage():
            return 1, _operators(stage.predicate) + row
        case WindowStage():
            return 1 + len(stage.aggregates), 4 * len(stage.aggregates) + 2
        case _:  # around copies a row, a sink writes it, an act reads it
            return 1, row


def _kept(stage: Stage) -> tuple[int, int]:
    """Working memory of a stage's networks, and constants of its kernel."""
    if not isinstance(stage, MapStage):
        return 0, 0
    program = stage.kernel.program
    return network_memory_bytes(program), constant_bytes(program)


def _operators(expression: Expression) -> int:
    return 1 + sum(_operators(a) for a in expression.args if isinstance(a, Expression))


def _memory_bytes(stage: Stage, rows_in_per_s: float, merges: int) -> int:
    row = stage.schema.row_bytes + ROW_HEAD_BYTES
    buffer = BUFFER_ROWS * row
    match stage:
        case SourceStage() | SinkStage():
            return buffer
        case MapStage():
            return buffer + stage.kernel.state_bytes
        case AroundStage():
            rows = math.ceil((stage.before_ns + stage.after_ns) / NS_PER_S * rows_in_per_s)
            return buffer + max(rows, AROUND_ROWS_MIN) * (row + ROW_OBJECT_BYTES)
        case WindowStage():
            # A closed window stays until it can no longer be revised; one more is open and one waits.

            kept = min(math.ceil(stage.keep_ns / stage.width_ns) + 2, WINDOWS_MAX)
            return buffer + kept * (WINDOW_BYTES + merges * WINDOW_ORIGIN_BYTES)
        case _:
            return buffer
