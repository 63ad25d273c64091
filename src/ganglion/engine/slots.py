"""What a window stage keeps of its windows, by key and start."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ganglion.engine.partials import Parts

NEVER_NS = -(1 << 63)


@dataclass(slots=True)
class Slot:
    """One window of one key."""

    parts: dict[str, Parts] = field(default_factory=dict)  # by origin
    rows: dict[str, int] = field(default_factory=dict)
    revision_in: dict[str, int] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    given: int = 0  # how often it was given; its next revision number

    def snapshot(self) -> list[Any]:
        return [
            dict(self.parts),
            dict(self.rows),
            dict(self.revision_in),
            sorted(self.changed),
            self.given,
        ]


class Closed:
    """One origin's windows that were given and have no news since, by start: in arrays, for there may be thousands."""

    __slots__ = ("_first", "_given", "_last", "_parts", "_rows", "_start")

    def __init__(self, parts: int) -> None:
        self._first = self._last = 0
        self._start = np.empty(0, np.int64)
        self._given = np.empty(0, np.int64)
        self._rows = np.empty(0, np.int64)
        self._parts = np.empty((0, parts), np.float64)

    def __len__(self) -> int:
        return self._last - self._first

    def __contains__(self, start: int) -> bool:
        return self._at(start) >= 0

    @property
    def oldest(self) -> int:
        """The first start; there must be one."""
        return int(self._start[self._first])

    def put(self, start: int, parts: Parts, rows: int, given: int) -> None:
        """One more, wherever it belongs."""
        if self._last == len(self._start):
            self._make_room()
        at = self._last
        if len(self) and start < self._start[at - 1]:
            at = self._first + int(np.searchsorted(self._start[self._first : self._last], start))
            for array in (self._start, self._given, self._rows, self._parts):
                array[at + 1 : self._last + 1] = array[at : self._last].copy()
        self._start[at], self._given[at], self._rows[at], self._parts[at] = start, given, rows, parts
        self._last += 1

    def pop(self, start: int) -> tuple[Parts, int, int] | None:
        """(parts, rows, given) of a window that has news; None when it is not here."""
        at = self._at(start)
        if at < 0:
            return None
        found = self._parts[at].tolist(), int(self._rows[at]), int(self._given[at])
        for array in (self._start, self._given, self._rows, self._parts):
            array[at : self._last - 1] = array[at + 1 : self._last].copy()
        self._last -= 1
        return found

    def forget(self, until: int, more: int) -> int:
        """Drops those that start before ``until``, and at least the ``more`` oldest; the last start that went.

        `NEVER_NS` when none did.
        """
        before = int(np.searchsorted(self._start[self._first : self._last], until))
        count = min(max(before, more), len(self))
        if count <= 0:
            return NEVER_NS
        self._first += count
        return int(self._start[self._first - 1])

    def _at(self, start: int) -> int:
        at = self._first + int(np.searchsorted(self._start[self._first : self._last], start))
        return at if at < self._last and self._start[at] == start else -1

    def _make_room(self) -> None:
        held = slice(self._first, self._last)
        room = max(8, len(self) + (len(self) >> 1))
        for name in ("_start", "_given", "_rows", "_parts"):
            array = getattr(self, name)
            grown = np.empty((room, *array.shape[1:]), array.dtype)
            grown[: len(self)] = array[held]
            setattr(self, name, grown)
        self._first, self._last = 0, len(self)

    @property
    def size_bytes(self) -> int:
        """What the arrays take."""
        return sum(a.nbytes for a in (self._start, self._given, self._rows, self._parts))

    def snapshot(self) -> list[Any]:
        """Copies."""
        held = slice(self._first, self._last)
        return [a[held].copy() for a in (self._start, self._given, self._rows, self._parts)]

    @staticmethod
    def restored(state: list[Any]) -> Closed:
        """Takes a snapshot back."""
        closed = Closed(state[3].shape[1])
        closed._start, closed._given, closed._rows, closed._parts = state
        closed._last = len(closed._start)
        return closed


@dataclass(slots=True)
class Key:
    """The windows of one key. ``open``: starts of those with rows not given yet.

    ``closed``: of a key of one origin, the others; of a key over origins they stay among ``slots``, in ``order``.
    """

    closed: Closed | None = None
    slots: dict[int, Slot] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)  # the starts of slots, sorted
    open: set[int] = field(default_factory=set)
    next_seq: int = 0
    forgotten_ns: int = NEVER_NS
    """Start of the latest window forgotten. One at or before it that is not held would begin anew: refused."""

    def holds(self, start: int) -> bool:
        """True for a window that rows have come for, and that was not forgotten."""
        return start in self.slots or (self.closed is not None and start in self.closed)

    def slot(self, start: int, origin: str) -> Slot:
        """The window, opened again or made if need be; ``origin`` is that of a closed one."""
        slot = self.slots.get(start)
        if slot is None:
            slot = self.slots[start] = Slot()
            insort(self.order, start)
            if self.closed is not None and (found := self.closed.pop(start)) is not None:
                slot.parts[origin], slot.rows[origin], slot.given = found
        return slot

    def give(self, start: int) -> None:
        """A window was given, with all its news."""
        slot = self.slots[start]
        slot.given += 1
        slot.changed.clear()
        self.open.discard(start)
        if self.closed is not None:
            ((origin, parts),) = slot.parts.items()
            self.closed.put(start, parts, slot.rows[origin], slot.given)
            del self.slots[start]
            self.order.remove(start)

    def forget(self, width_ns: int, oldest_ns: int, windows_max: int) -> None:
        """Drops windows that can no longer be revised, the oldest first; one with news is kept until given."""
        if self.closed is not None:
            excess = len(self.closed) + len(self.slots) - windows_max
            if len(self.closed) and (excess > 0 or self.closed.oldest + width_ns < oldest_ns):
                gone = self.closed.forget(oldest_ns - width_ns, excess)
                self.forgotten_ns = max(self.forgotten_ns, gone)
            return
        at = 0
        while at < len(self.order):
            start = self.order[at]
            if start + width_ns >= oldest_ns and len(self.order) <= windows_max:
                return
            if start in self.open:
                at += 1
                continue
            del self.order[at], self.slots[start]
            self.forgotten_ns = max(self.forgotten_ns, start)

    def snapshot(self) -> list[Any]:
        """For `core.packing`."""
        return [
            [[s, *self.slots[s].snapshot()] for s in self.order],
            self.next_seq,
            self.forgotten_ns,
            None if self.closed is None else self.closed.snapshot(),
        ]

    @staticmethod
    def restored(state: list[Any]) -> Key:
        """Takes a snapshot back."""
        held, next_seq, forgotten_ns, closed = state
        key = Key(Closed.restored(closed) if closed is not None else None)
        key.next_seq, key.forgotten_ns = next_seq, forgotten_ns
        for start, parts, rows, revisions, changed, given in held:
            key.slots[start] = Slot(dict(parts), dict(rows), dict(revisions), set(changed), given)
            key.order.append(start)
            if changed:
                key.open.add(start)
        return key
