"""The operators of stages that keep no event-time windows: map, where, around."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from ganglion.core.batch import Batch
from ganglion.core.errors import KernelError
from ganglion.core.schema import TensorType
from ganglion.flow.stages import AroundStage, MapStage, Stage, WhereStage
from ganglion.kernels import Record
from ganglion.kernels.kernel import State

KEYS_MAX = 100_000
"""Origins one operator keeps state for; more are refused as bad rows."""
AROUND_SLACK_ROWS = 64


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

    def process(self, batch: Batch) -> list[Batch]:
        """Takes rows of one of the stage's inputs (told by ``batch.stream``)."""

    def end(self, stream: str, origin: str) -> tuple[list[Batch], bool]:
        """The origin's stream has ended: the last rows, and whether the stage's own stream ends with it."""

    def snapshot(self) -> Any:
        """Everything the operator knows, for `core.packing`."""

    def restore(self, state: Any) -> None:
        """Takes a snapshot back."""


class MapOperator:
    """Each row through a kernel; state per origin."""

    def __init__(self, stage: MapStage, upstream: Stage) -> None:
        self.counts = Counts()
        self._stage = stage
        self._kernel = stage.kernel
        self._field = upstream.schema.fields[0] if isinstance(stage.kernel.input, TensorType) else None
        names = () if isinstance(stage.kernel.input, TensorType) else stage.kernel.input.names
        self._names = names
        self._state: dict[str, State] = {}

    def process(self, batch: Batch) -> list[Batch]:
        kernel = self._kernel
        self.counts.rows += len(batch)
        if batch.origin not in self._state:
            if len(self._state) >= KEYS_MAX:
                self.counts.bad += len(batch)
                return []
            self._state[batch.origin] = kernel.fresh_state()
        frames = self._field.physical(batch.columns[self._field.name]) if self._field else None
        kept: list[int] = []
        rows: list[dict[str, Any]] = []
        for i in range(len(batch)):
            frame = (
                frames[i] if frames is not None else Record(**{n: batch.columns[n][i] for n in self._names})
            )
            try:
                outputs, emit, self._state[batch.origin] = kernel.step(frame, self._state[batch.origin])
            except KernelError:
                self.counts.bad += 1
                continue
            if emit:
                kept.append(i)
                rows.append(outputs)
        if not rows:
            return []
        self.counts.out += len(rows)
        columns = {
            f.name: np.stack([r[f.name] for r in rows]).astype(f.type.numpy, copy=False)
            for f in self._stage.schema.fields
        }
        index = np.array(kept)
        return [Batch(self._stage.id, batch.origin, batch.seq[index], batch.time_ns[index], columns)]

    def end(self, stream: str, origin: str) -> tuple[list[Batch], bool]:
        return [], True

    def snapshot(self) -> Any:
        return {"state": self._state if self._kernel.stateful else {}, "counts": self.counts.to_json()}

    def restore(self, state: Any) -> None:
        self._state = dict(state["state"])
        self.counts = Counts(**state["counts"])


class WhereOperator:
    """The rows a predicate holds for."""

    def __init__(self, stage: WhereStage) -> None:
        self.counts = Counts()
        self._stage = stage

    def process(self, batch: Batch) -> list[Batch]:
        self.counts.rows += len(batch)
        with np.errstate(all="ignore"):
            mask = np.broadcast_to(self._stage.predicate.evaluate(batch.columns), (len(batch),))
        if not mask.any():
            return []
        self.counts.out += int(mask.sum())
        return [batch.take(mask).renamed(self._stage.id)]

    def end(self, stream: str, origin: str) -> tuple[list[Batch], bool]:
        return [], True

    def snapshot(self) -> Any:
        return {"counts": self.counts.to_json()}

    def restore(self, state: Any) -> None:
        self.counts = Counts(**state["counts"])


@dataclass(slots=True)
class _Ring:
    rows: deque[Batch]
    open_until_ns: int
    sent_seq: int


class AroundOperator:
    """Rows of the base stream near trigger rows, each once, in order.

    A trigger is computed from a base row, so it comes after it; up to `AROUND_SLACK_ROWS` rows may lie between.
    """

    def __init__(self, stage: AroundStage) -> None:
        self.counts = Counts()
        self._stage = stage
        self._rings: dict[str, _Ring] = {}

    def process(self, batch: Batch) -> list[Batch]:
        ring = self._rings.setdefault(batch.origin, _Ring(deque(), -1, -1))
        if batch.stream == self._stage.inputs[1]:
            chosen = self._trigger(ring, batch)
        else:
            self.counts.rows += len(batch)
            chosen = self._base(ring, batch)
        if not chosen:
            return []
        ring.sent_seq = chosen[-1].last_seq
        self.counts.out += len(chosen)
        return [Batch.concat(chosen).renamed(self._stage.id)]

    def _base(self, ring: _Ring, batch: Batch) -> list[Batch]:
        horizon = int(batch.time_ns[0]) - self._stage.before_ns
        while len(ring.rows) > AROUND_SLACK_ROWS and int(ring.rows[0].time_ns[0]) < horizon:
            ring.rows.popleft()
        rows = [batch.take(slice(i, i + 1)) for i in range(len(batch))]
        ring.rows.extend(rows)
        return [r for r in rows if int(r.time_ns[0]) <= ring.open_until_ns]

    def _trigger(self, ring: _Ring, batch: Batch) -> list[Batch]:
        chosen: list[Batch] = []
        for at_ns in batch.time_ns.tolist():
            ring.open_until_ns = max(ring.open_until_ns, at_ns + self._stage.after_ns)
            from_ns = at_ns - self._stage.before_ns
            sent = chosen[-1].last_seq if chosen else ring.sent_seq
            chosen += [
                r
                for r in ring.rows
                if r.first_seq > sent and from_ns <= int(r.time_ns[0]) <= ring.open_until_ns
            ]
        return chosen

    def end(self, stream: str, origin: str) -> tuple[list[Batch], bool]:
        return [], stream == self._stage.inputs[0]

    def snapshot(self) -> Any:
        rings = {}
        for origin, ring in self._rings.items():
            rows = Batch.concat(list(ring.rows)) if ring.rows else None
            held = None if rows is None else [rows.seq, rows.time_ns, dict(rows.columns)]
            rings[origin] = [held, ring.open_until_ns, ring.sent_seq]
        return {"rings": rings, "counts": self.counts.to_json()}

    def restore(self, state: Any) -> None:
        self.counts = Counts(**state["counts"])
        self._rings = {}
        for origin, (held, open_until_ns, sent_seq) in state["rings"].items():
            rows: deque[Batch] = deque()
            if held is not None:
                batch = Batch(self._stage.inputs[0], origin, held[0], held[1], held[2])
                rows.extend(batch.take(slice(i, i + 1)) for i in range(len(batch)))
            self._rings[origin] = _Ring(rows, open_until_ns, sent_seq)
