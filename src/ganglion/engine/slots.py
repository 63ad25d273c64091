"""What a window stage keeps of its windows, by key and start."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from typing import Any

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


@dataclass(slots=True)
class Key:
    """The windows of one key. ``open``: starts of those with rows not given yet."""

    slots: dict[int, Slot] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)  # the starts, sorted
    open: set[int] = field(default_factory=set)
    next_seq: int = 0
    forgotten_ns: int = NEVER_NS
    """Start of the latest window forgotten. One at or before it that is not held would begin anew: refused."""

    def slot(self, start: int) -> Slot:
        slot = self.slots.get(start)
        if slot is None:
            slot = self.slots[start] = Slot()
            insort(self.order, start)
        return slot
