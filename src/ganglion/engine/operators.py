"""The operators of stages that keep no event-time windows: map, where, around."""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ganglion.core.batch import Batch, Columns
from ganglion.core.block import Block, Rows
from ganglion.core.schema import Field, TensorType
from ganglion.flow.stages import AroundStage, MapStage, Stage, WhereStage
from ganglion.kernels.running import Runner
from ganglion.kernels.tracing.trace import WHOLE

KEYS_MAX = 100_000
"""Origins one operator keeps state for; more are refused as bad rows."""
HELD_BYTES = 500
"""What a small object of Python's with its containers takes, about."""
AROUND_SLACK_ROWS = 64
AROUND_ROWS_MAX = 100_000
"""Rows held per origin for a trigger that may come; older ones beyond are let go, and counted as dropped."""
AROUND_SPANS_MAX = 64
"""Times around triggers that are remembered per origin, the newest."""


@dataclass(slots=True)
class Counts:
    """What became of the rows a stage was given; survives restarts with the checkpoint."""

    rows: int = 0
    out: int = 0
    bad: int = 0
    late: int = 0
    dropped: int = 0

    def to_json(self) -> dict[str, int]:
        return asdict(self)


class Operator(Protocol):
    """One stage at work: rows in, rows out, state that can be saved."""

    counts: Counts

    def process(self, rows: Rows) -> Sequence[Rows]:
        """Takes rows of one of the stage's inputs (told by ``rows.stream``). A block gives what its split would."""

    def end(self, stream: str, origin: str) -> tuple[Sequence[Rows], bool]:
        """The origin's stream has ended: the last rows, and whether the stage's own stream ends with it."""

    def state_bytes(self) -> int:
        """About what its state takes of memory: its arrays, and `HELD_BYTES` for each thing it keeps beside them."""

    def snapshot(self) -> Any:
        """Everything the operator knows, for `core.packing`."""

    def restore(self, state: Any) -> None:
        """Takes a snapshot back."""


class MapOperator:
    """Each row through a kernel; state per origin."""

    def __init__(self, stage: MapStage, upstream: Stage, runner: Runner) -> None:
        self.counts = Counts()
        self._stage = stage
        self._runner = runner
        self._field = upstream.schema.fields[0] if isinstance(stage.kernel.input, TensorType) else None
        self._stateful = stage.kernel.stateful
        self._state: dict[str, Any] = {}

    def process(self, rows: Rows) -> Sequence[Rows]:
        self.counts.rows += len(rows)
        return self._block(rows) if isinstance(rows, Block) else self._batch(rows)

    def _batch(self, batch: Batch) -> list[Batch]:
        state = self._state_of(batch.origin)
        if state is None:
            self.counts.bad += len(batch)
            return []
        ran = self._runner.rows(self._inputs(batch), state)
        if ran.kept is None:
            seq, time_ns = batch.seq, batch.time_ns
        elif not len(ran.kept):
            return []
        else:
            seq, time_ns = batch.seq[ran.kept], batch.time_ns[ran.kept]
        self.counts.out += len(seq)
        return [Batch(self._stage.id, batch.origin, seq, time_ns, ran.columns)]

    def _block(self, block: Block) -> list[Block]:
        present = block.groups.present.tolist() if self._stateful else []
        states = [self._state_of(block.origins[place]) for place in present]
        if any(state is None for state in states):
            refused = np.zeros(len(block.origins), np.bool_)
            refused[[p for p, state in zip(present, states, strict=True) if state is None]] = True
            keep = ~refused[block.origin_index]
            self.counts.bad += len(block) - int(keep.sum())
            return self._block(block.take(keep)) if keep.any() else []
        if self._stateful:
            keys = np.zeros(len(block.origins), np.int32)
            keys[present] = np.arange(len(present), dtype=np.int32)
            ran = self._runner.rows_of(self._inputs(block), states, keys[block.origin_index])
        else:
            ran = self._runner.rows(self._inputs(block), self._runner.fresh())
        if ran.kept is not None:
            if not len(ran.kept):
                return []
            block = replace(block.take(ran.kept), columns={})
        self.counts.out += len(block)
        given = Block(
            self._stage.id, block.origins, block.origin_index, block.seq, block.time_ns, ran.columns
        )
        return [given.grouped_as(block)]

    def _state_of(self, origin: str) -> Any:
        """The origin's state; None when there are too many origins to keep one for it."""
        state = self._state.get(origin)
        if state is None:
            if self._stateful and len(self._state) >= KEYS_MAX:
                return None
            state = self._runner.fresh()
            if self._stateful:
                self._state[origin] = state
        return state

    def _inputs(self, rows: Rows) -> Mapping[str, npt.NDArray[Any]]:
        if self._field is None:
            return rows.columns
        return {WHOLE: self._field.physical(rows.columns[self._field.name])}

    def end(self, stream: str, origin: str) -> tuple[Sequence[Rows], bool]:
        return [], True

    def state_bytes(self) -> int:
        return len(self._state) * (HELD_BYTES + self._runner.state_bytes)

    def snapshot(self) -> Any:
        # Copies in arrays: `core.packing` keeps the dtype of those only.
        state = {o: self._runner.save(s) for o, s in self._state.items()}
        return {"state": state, "counts": self.counts.to_json()}

    def restore(self, state: Any) -> None:
        self._state = {o: self._runner.load(s) for o, s in state["state"].items()}
        self.counts = Counts(**state["counts"])


def physical(fields: Iterable[Field], columns: Columns) -> dict[str, npt.NDArray[Any]]:
    """The fields' columns in their units: what predicates and aggregates speak of."""
    return {f.name: f.physical(columns[f.name]) for f in fields}


class WhereOperator:
    """The rows a predicate holds for."""

    def __init__(self, stage: WhereStage) -> None:
        self.counts = Counts()
        self._stage = stage
        named = stage.predicate.fields
        self._fields = tuple(f for f in stage.schema.fields if f.name in named)
        self._scaled = any(f.scale for f in self._fields)

    def mask(self, columns: Columns) -> npt.NDArray[np.bool_]:
        """bool[n]: the rows it would keep, of the columns of its input; counts nothing."""
        if self._scaled:
            columns = physical(self._fields, columns)
        with np.errstate(all="ignore"):
            # One truth value per row: the flow has tried it.
            mask: npt.NDArray[np.bool_] = self._stage.predicate.evaluate(columns)
        return mask

    def process(self, rows: Rows) -> Sequence[Rows]:
        self.counts.rows += len(rows)
        mask = self.mask(rows.columns)
        kept = int(np.count_nonzero(mask))
        if not kept:
            return []
        self.counts.out += kept
        return [(rows if kept == len(rows) else rows.take(mask)).renamed(self._stage.id)]

    def end(self, stream: str, origin: str) -> tuple[Sequence[Rows], bool]:
        return [], True

    def state_bytes(self) -> int:
        return 0

    def snapshot(self) -> Any:
        return {"counts": self.counts.to_json()}

    def restore(self, state: Any) -> None:
        self.counts = Counts(**state["counts"])


@dataclass(slots=True)
class _Held:
    """One row of the base stream, and whether it was sent."""

    row: Batch
    sent: bool = False

    @property
    def time_ns(self) -> int:
        return int(self.row.time_ns[0])


@dataclass(slots=True)
class _Ring:
    """One origin's rows and what they wait for.

    ``spans``: times (from, until) around triggers, both inclusive. ``ended``: the inputs that have ended.
    """

    rows: deque[_Held] = field(default_factory=deque)
    spans: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=AROUND_SPANS_MAX))
    ended: set[str] = field(default_factory=set)


def _near(rows: Iterable[_Held], spans: Iterable[tuple[int, int]]) -> list[_Held]:
    """Of rows that were not sent, those within any of the spans."""
    ordered = sorted(spans)
    firsts = [first for first, _ in ordered]
    lasts = list(accumulate((last for _, last in ordered), max))
    found = []
    for held in rows if ordered else ():
        at = bisect(firsts, held.time_ns) - 1
        if at >= 0 and held.time_ns <= lasts[at] and not held.sent:
            found.append(held)
    return found


class AroundOperator:
    """Rows of the base stream near trigger rows, each once, in order.

    Base rows and triggers may come in either order (a device sends triggers first); a trigger finds the rows before
    it as long as no more than `AROUND_SLACK_ROWS` rows lie between them and it beyond ``before``.
    """

    def __init__(self, stage: AroundStage) -> None:
        self.counts = Counts()
        self._stage = stage
        self._rings: dict[str, _Ring] = {}

    def process(self, rows: Rows) -> Sequence[Rows]:
        if isinstance(rows, Batch):
            return self._batch(rows)
        found = [given for batch in rows.split() for given in self._batch(batch)]
        return [Block.joined(found)] if found else []

    def _batch(self, batch: Batch) -> list[Batch]:
        triggers = batch.stream == self._stage.inputs[1]
        self.counts.rows += 0 if triggers else len(batch)
        ring = self._rings.get(batch.origin)
        if ring is None:
            if len(self._rings) >= KEYS_MAX:
                self.counts.bad += len(batch)
                return []
            ring = self._rings[batch.origin] = _Ring()
        ring.ended.discard(batch.stream)
        chosen = self._trigger(ring, batch) if triggers else self._base(ring, batch)
        if not chosen:
            return []
        for held in chosen:
            held.sent = True
        self.counts.out += len(chosen)
        rows = sorted((held.row for held in chosen), key=lambda row: row.first_seq)
        return [Batch.concat(rows).renamed(self._stage.id)]

    def _base(self, ring: _Ring, batch: Batch) -> list[_Held]:
        horizon_ns = int(batch.time_ns[0]) - self._stage.before_ns
        while ring.spans and ring.spans[0][1] < horizon_ns:
            ring.spans.popleft()  # what is held was asked when it came, and rows this old come no more
        while len(ring.rows) > AROUND_SLACK_ROWS and ring.rows[0].time_ns < horizon_ns:
            ring.rows.popleft()
        while len(ring.rows) > AROUND_ROWS_MAX:
            self.counts.dropped += not ring.rows.popleft().sent
        rows = [_Held(batch.take(slice(i, i + 1))) for i in range(len(batch))]
        ring.rows.extend(rows)
        return _near(rows, ring.spans)

    def _trigger(self, ring: _Ring, batch: Batch) -> list[_Held]:
        # All of them: the limit is for what has to be remembered, not for rows that are here.
        spans = list(ring.spans)
        for at_ns in batch.time_ns.tolist():
            first, last = at_ns - self._stage.before_ns, at_ns + self._stage.after_ns
            if spans and spans[-1][0] <= first <= spans[-1][1]:
                earlier = spans.pop()
                first, last = earlier[0], max(earlier[1], last)
            spans.append((first, last))
        ring.spans.clear()
        ring.spans.extend(spans)
        return _near(ring.rows, spans)

    def end(self, stream: str, origin: str) -> tuple[Sequence[Rows], bool]:
        # Either may end first, as they may travel apart.
        if origin not in self._rings and len(self._rings) >= KEYS_MAX:
            return [], False
        ended = self._rings.setdefault(origin, _Ring()).ended
        ended.add(stream)
        return [], ended.issuperset(self._stage.inputs)

    def state_bytes(self) -> int:
        rows = sum(len(ring.rows) for ring in self._rings.values())
        row_bytes = next((r.rows[0].row.size_bytes for r in self._rings.values() if r.rows), 0)
        return len(self._rings) * HELD_BYTES + rows * (HELD_BYTES + row_bytes)

    def snapshot(self) -> Any:
        rings = {}
        for origin, ring in self._rings.items():
            rows = Batch.concat([h.row for h in ring.rows]) if ring.rows else None
            held = None if rows is None else [rows.seq, rows.time_ns, dict(rows.columns)]
            rings[origin] = [
                held,
                [h.sent for h in ring.rows],
                [list(s) for s in ring.spans],
                sorted(ring.ended),
            ]
        return {"rings": rings, "counts": self.counts.to_json()}

    def restore(self, state: Any) -> None:
        self.counts = Counts(**state["counts"])
        self._rings = {}
        for origin, (held, sent, spans, ended) in state["rings"].items():
            ring = self._rings[origin] = _Ring(ended=set(ended))
            ring.spans.extend((first, last) for first, last in spans)
            if held is not None:
                batch = Batch(self._stage.inputs[0], origin, held[0], held[1], held[2])
                ring.rows.extend(_Held(batch.take(slice(i, i + 1)), s) for i, s in enumerate(sent))
