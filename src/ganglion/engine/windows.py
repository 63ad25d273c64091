"""Tumbling windows of event time, with a watermark per origin.

An origin's watermark is the latest event time seen from it. A window by origin closes when that origin's watermark
passes its end. A window over all origins is first given when every *current* origin has passed its end; an origin
whose watermark lies more than ``lag_max`` behind the most advanced one is not current, so an island does not stall
the others. What it brings later is merged and given again as the next revision, when that origin has passed the end.
An origin that has ended has passed everything; when it comes back (after a restart) its watermark counts again.

A block gives what its split gives. Its rows for windows that are `hot` are added to all of them at once, where that can
give no result; the rest goes origin by origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.core.batch import Batch
from ganglion.core.block import Block, Rows
from ganglion.engine.hot import HotWindows
from ganglion.engine.operators import HELD_BYTES, KEYS_MAX, Counts
from ganglion.engine.partials import Parts, counted, finish, finish_all, merge, parts_in
from ganglion.engine.slots import NEVER_NS, Closed, Key, Slot
from ganglion.flow.folds import folded_fields
from ganglion.flow.stages import Stage, WindowStage
from ganglion.kernels.folds.fold import Folder

WINDOWS_MAX = 20_000
"""Windows one stage keeps, per key, for revisions; beyond that the oldest closed one is forgotten."""


class WindowOperator:
    """One window stage (with its folder), or rollup (without)."""

    def __init__(self, stage: WindowStage, upstream: Stage, folder: Folder | None) -> None:
        assert (folder is None) == stage.merges
        self.counts = Counts()
        self._stage = stage
        self._folder = folder
        self._fields = (
            () if stage.merges else tuple(upstream.schema[f] for f in folded_fields(stage.aggregates))
        )
        self._watermark_ns: dict[str, int] = {}
        self._ended: set[str] = set()
        self._keys: dict[str, Key] = {}
        self._hot = self._no_hot()

    def _no_hot(self) -> HotWindows | None:
        return HotWindows(self._folder, self._stage.width_ns, KEYS_MAX) if self._folder is not None else None

    def process(self, rows: Rows) -> Sequence[Rows]:
        if isinstance(rows, Batch):
            self._cool(rows.origin)
            return self._one(rows)
        if self._hot is None:
            return [given for batch in rows.split() for given in self._one(batch)]
        places = self._hot.layout(rows.origins)
        cold = self._hot.cold(rows, places)
        if cold is None and (self._stage.by == "origin" or self._gives_nothing(self._hot, rows, places)):
            self._add_hot(self._hot, rows, places)
            return []
        if self._stage.by == "all":
            return self._one_by_one(rows)
        assert cold is not None
        theirs = cold[rows.origin_index]
        if not theirs.all():
            self._add_hot(self._hot, rows.take(~theirs), places)
            rows = rows.take(theirs)
        rolled, rest = self._roll(self._hot, rows, places)
        if rest is None:
            return [rolled] if rolled is not None else []
        given = self._one_by_one(rest)
        if rolled is not None:
            place = {origin: i for i, origin in enumerate(rows.origins)}
            given = sorted([*rolled.split(), *given], key=lambda batch: place[batch.origin])
        return [Block.joined(given)] if given else []

    def _roll(
        self, hot: HotWindows, block: Block, places: npt.NDArray[np.int32]
    ) -> tuple[Block | None, Block | None]:
        """For origins that go on from their hot window to one later: (the results of what ended, the other rows)."""
        following = hot.following(block, places)
        keys = self._keys
        rolling = []
        for place in block.groups.present.tolist():
            origin = block.origins[place]
            if following[place] != NEVER_NS and len(keys[origin].open) == 1:
                rolling.append(place)
        if not rolling:
            return None, block
        ours = np.zeros(len(block.origins), np.bool_)
        ours[rolling] = True
        mine = ours[block.origin_index]
        rest = None
        if not mine.all():
            block, rest = block.take(mine), block.take(~mine)
        columns = [f.physical(block.columns[f.name]) for f in self._fields]
        self.counts.rows += len(block)
        at = places[rolling]
        starts, parts, counts = hot.roll(block, places, columns, at, following[rolling])
        result = self._rolled(block, rolling, starts, parts, counts)
        watermarks = hot.watermark[at].tolist()
        for place, start, own, count, watermark_ns, newer in zip(
            rolling,
            starts.tolist(),
            parts.tolist(),
            counts.tolist(),
            watermarks,
            following[rolling].tolist(),
            strict=True,
        ):
            origin = block.origins[place]
            key = keys[origin]
            slot = key.slots[start]
            slot.parts[origin], slot.rows[origin] = own, count
            key.give(start)
            key.slot(newer, origin).changed.add(origin)
            key.open.add(newer)
            key.next_seq += 1
            self._watermark_ns[origin] = watermark_ns
            self._forget(key, watermark_ns - self._stage.keep_ns)
        return result, rest

    def _rolled(
        self,
        block: Block,
        rolling: list[int],
        starts: npt.NDArray[np.int64],
        parts: npt.NDArray[np.float64],
        counts: npt.NDArray[np.int64],
    ) -> Block:
        """The first results of one window of each of some origins."""
        stage = self._stage
        columns = {"start_ns": starts, "revision": np.zeros_like(starts), "rows": counts}
        finished = columns | finish_all(stage.aggregates, parts, counts)
        self.counts.out += len(starts)
        names = tuple(block.origins[place] for place in rolling)
        seq = np.array([self._keys[name].next_seq for name in names], np.int64)
        index = np.arange(len(names), dtype=np.int32)
        typed = {name: finished[name] for name in stage.schema.names}
        return Block(stage.id, names, index, seq, starts + (stage.width_ns - 1), typed)

    def _one_by_one(self, block: Block) -> list[Batch]:
        given: list[Batch] = []
        batches = block.split()
        were_hot = self._hot.origins() if self._hot is not None and self._stage.by == "all" else []
        for batch in batches:
            self._cool(batch.origin)
            given += self._one(batch)
        for origin in dict.fromkeys((*were_hot, *(b.origin for b in batches))):
            self._heat(origin)
        return given

    def _add_hot(self, hot: HotWindows, block: Block, places: npt.NDArray[np.int32]) -> None:
        self.counts.rows += len(block)
        hot.add(block, places, [f.physical(block.columns[f.name]) for f in self._fields])

    def _gives_nothing(self, hot: HotWindows, block: Block, places: npt.NDArray[np.int32]) -> bool:
        """Whether no window over all origins can become due, in whatever order the origins' rows are added.

        That is so when an origin that stays current all the while stays within the oldest open window. All rows are
        for hot windows. False may also mean that nobody knows.
        """
        key = self._keys["all"]
        if any(key.slots[start].given for start in key.open):
            return False
        before = hot.watermark[hot.live]
        after = hot.watermark.copy()
        np.maximum.at(after, places[block.origin_index], block.time_ns)
        after = after[hot.live]
        others_ns = max((w for o, w in self._watermark_ns.items() if o not in self._ended), default=NEVER_NS)
        lead_ns = max(int(after.max()), others_ns)
        current = before >= lead_ns - self._stage.lag_max_ns
        return bool(current.any()) and int(after[current].min()) < min(key.open) + self._stage.width_ns

    def _cool(self, origin: str) -> None:
        """Puts an origin's hot window back among the others, as it would be there; of a key over all origins, all."""
        if self._hot is None:
            return
        name = self._name(origin)
        cooled = [
            (one, found)
            for one in (self._hot.origins() if self._stage.by == "all" else [origin])
            if (found := self._hot.pop(one)) is not None
        ]
        for one, (start, parts, rows, watermark_ns) in cooled:
            slot = self._keys[name].slots[start]
            slot.parts[one], slot.rows[one] = parts, rows
            self._watermark_ns[one] = watermark_ns
        if cooled:
            self._forget(self._keys[name], self._lead_ns(name) - self._stage.keep_ns)

    def _heat(self, origin: str) -> None:
        key = self._keys.get(self._name(origin))
        if self._hot is None or key is None or origin not in self._watermark_ns or origin in self._ended:
            return
        watermark_ns = self._watermark_ns[origin]
        start = watermark_ns // self._stage.width_ns * self._stage.width_ns
        slot = key.slots.get(start)
        if slot is not None and not slot.given and origin in slot.changed:
            self._hot.put(origin, start, slot.parts[origin], slot.rows[origin], watermark_ns)

    def _name(self, origin: str) -> str:
        return origin if self._stage.by == "origin" else "all"

    def _one(self, batch: Batch) -> list[Batch]:
        """Rows of one origin, which has no hot window."""
        stage = self._stage
        self.counts.rows += len(batch)
        if batch.origin not in self._watermark_ns and len(self._watermark_ns) >= KEYS_MAX:
            self.counts.bad += len(batch)
            return []
        if stage.merges and not (real := counted(batch)).all():
            self.counts.bad += int((~real).sum())  # no child makes the others
            if not real.any():
                return []
            batch = batch.take(real)
        name = self._name(batch.origin)
        if stage.merges:
            starts = batch.columns["start_ns"]
            latest = int(starts.max()) + stage.width_ns
        else:
            starts = batch.time_ns // stage.width_ns * stage.width_ns
            latest = int(batch.time_ns.max())
        self._watermark_ns[batch.origin] = max(latest, self._watermark_ns.get(batch.origin, latest))
        self._ended.discard(batch.origin)
        key = self._key(name)
        oldest_ns = self._lead_ns(name) - stage.keep_ns
        found, inverse, counts = np.unique(starts, return_inverse=True, return_counts=True)
        slots: list[Slot | None] = []
        for start, rows in zip(found.tolist(), counts.tolist(), strict=True):
            too_old = start + stage.width_ns < oldest_ns or start <= key.forgotten_ns
            if too_old and not key.holds(start):
                self.counts.dropped += rows
                slots.append(None)
                continue
            slot = key.slot(start, batch.origin)
            if slot.given:
                self.counts.late += rows
            slots.append(slot)
        changed = (
            self._replace(slots, batch, inverse) if stage.merges else self._add(slots, batch, inverse, counts)
        )
        for place in changed:
            news = slots[place]
            assert news is not None
            news.changed.add(batch.origin)
            key.open.add(int(found[place]))
        return self._give(name, key)

    def end(self, stream: str, origin: str) -> tuple[Sequence[Rows], bool]:
        self._cool(origin)
        if origin in self._watermark_ns or len(self._ended) < KEYS_MAX:
            self._ended.add(origin)
        name = self._name(origin)
        key = self._keys.get(name)
        return self._give(name, key) if key else [], self._stage.by == "origin"

    def _add(
        self, slots: list[Slot | None], batch: Batch, inverse: npt.NDArray[Any], counts: npt.NDArray[Any]
    ) -> list[int]:
        """Folds rows into their windows, in order; returns the windows with news, by place in ``slots``."""
        folder, origin = self._folder, batch.origin
        assert folder is not None
        table = folder.fold.fresh(len(slots))
        for place, slot in enumerate(slots):
            if slot is not None and (before := slot.parts.get(origin)) is not None:
                table[place] = before
        columns = [f.physical(batch.columns[f.name]) for f in self._fields]
        folder.add(table, columns, len(batch), inverse if len(slots) > 1 else None)
        changed = []
        for place, (slot, rows) in enumerate(zip(slots, counts.tolist(), strict=True)):
            if slot is not None:  # what was dropped was folded into a place that nobody reads
                slot.parts[origin] = table[place].tolist()
                slot.rows[origin] = slot.rows.get(origin, 0) + rows
                changed.append(place)
        return changed

    def _replace(self, slots: list[Slot | None], batch: Batch, inverse: npt.NDArray[Any]) -> list[int]:
        """Puts partial results in place of their older revisions; returns the windows with news."""
        origin = batch.origin
        changed = []
        for place, slot in enumerate(slots):
            if slot is None:
                continue
            index = int(np.flatnonzero(inverse == place)[-1])  # the last revision in the batch
            revision = int(batch.columns["revision"][index])
            if revision < slot.revision_in.get(origin, 0):
                continue
            slot.revision_in[origin] = revision
            slot.rows[origin] = int(batch.columns["rows"][index])
            slot.parts[origin] = parts_in(self._stage.aggregates, batch, index)
            changed.append(place)
        return changed

    def _key(self, name: str) -> Key:
        key = self._keys.get(name)
        if key is None:
            closed = None
            if self._stage.by == "origin" and self._folder is not None:
                closed = Closed(len(self._folder.fold.parts))
            key = self._keys[name] = Key(closed)
        return key

    def _lead_ns(self, name: str) -> int:
        """The most advanced watermark that counts for a key: of those still running, if there are any."""
        if self._stage.by == "origin":
            return self._watermark_ns[name]
        running = [w for o, w in self._watermark_ns.items() if o not in self._ended]
        return max(running or self._watermark_ns.values())

    def _passed(self, origin: str, end_ns: int) -> bool:
        return origin in self._ended or self._watermark_ns[origin] >= end_ns

    def _ready(self, slot: Slot, end_ns: int, slowest_ns: int) -> bool:
        """``slowest_ns``: the least watermark of all current origins (one of them for a key by origin)."""
        if not any(self._passed(o, end_ns) for o in slot.changed):
            return False
        return slot.given > 0 or self._stage.by == "origin" or slowest_ns >= end_ns

    def _slowest_ns(self, lead_ns: int) -> int:
        current_ns = lead_ns - self._stage.lag_max_ns
        running = (w for o, w in self._watermark_ns.items() if o not in self._ended)
        return min((w for w in running if w >= current_ns), default=1 << 63)

    def _give(self, name: str, key: Key) -> list[Batch]:
        width_ns = self._stage.width_ns
        lead_ns = self._lead_ns(name)
        slowest_ns = self._slowest_ns(lead_ns) if self._stage.by == "all" else lead_ns
        ready = [s for s in sorted(key.open) if self._ready(key.slots[s], s + width_ns, slowest_ns)]
        batch = self._result(name, key, ready) if ready else None
        for start in ready:
            key.give(start)
        self._forget(key, lead_ns - self._stage.keep_ns)
        return [batch] if batch is not None else []

    def _result(self, name: str, key: Key, starts: list[int]) -> Batch:
        stage = self._stage
        columns: dict[str, list[float]] = {field: [] for field in stage.schema.names}
        for start in starts:
            slot = key.slots[start]
            count = sum(slot.rows.values())
            merged: Parts | None = None
            for origin in sorted(slot.parts):
                parts = slot.parts[origin]
                merged = parts if merged is None else merge(stage.aggregates, merged, parts)
            assert merged is not None
            columns["start_ns"].append(start)
            columns["revision"].append(slot.given)
            columns["rows"].append(count)
            for column, value in finish(stage.aggregates, merged, count):
                columns[column].append(value)
        self.counts.out += len(starts)
        seq = key.next_seq + np.arange(len(starts), dtype=np.int64)
        key.next_seq += len(starts)
        typed = {f.name: np.array(columns[f.name], f.type.numpy) for f in stage.schema.fields}
        for array in typed.values():
            if array.dtype.kind == "f":
                array[np.isnan(array)] = np.nan  # one NaN, whatever the processor makes of inf - inf
        return Batch(stage.id, name, seq, typed["start_ns"] + stage.width_ns - 1, typed)

    def _forget(self, key: Key, oldest_ns: int) -> None:
        key.forget(self._stage.width_ns, oldest_ns, WINDOWS_MAX)

    def state_bytes(self) -> int:
        keys = self._keys.values()
        closed = sum(key.closed.size_bytes for key in keys if key.closed is not None)
        held = sum(1 + len(slot.parts) for key in keys for slot in key.slots.values())
        hot = self._hot.size_bytes if self._hot is not None else 0
        return closed + hot + HELD_BYTES * (held + len(self._keys))

    def snapshot(self) -> Any:
        # Copies: what is hot stays so, and a snapshot does not alter what comes after it.
        hot = self._hot.origins() if self._hot is not None else []
        for origin in hot:
            self._cool(origin)
        state = self._state()
        for origin in hot:
            self._heat(origin)
        return state

    def _state(self) -> Any:
        return {
            "watermark_ns": dict(self._watermark_ns),
            "ended": sorted(self._ended),
            "keys": {name: key.snapshot() for name, key in self._keys.items()},
            "counts": self.counts.to_json(),
        }

    def restore(self, state: Any) -> None:
        self.counts = Counts(**state["counts"])
        self._hot = self._no_hot()
        self._watermark_ns = dict(state["watermark_ns"])
        self._ended = set(state["ended"])
        self._keys = {name: Key.restored(held) for name, held in state["keys"].items()}
