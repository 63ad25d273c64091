"""Tumbling windows over plain lists of rows: nothing is merged, every result is computed from all its rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

NEVER = -(10**30)
FOREVER = 10**30

Row = tuple[int, float]
"""(event time, value)."""

Result = tuple[str, int, int, tuple[float, ...]]
"""(key, start, revision, aggregates)."""


def aggregated(values: Sequence[float]) -> tuple[float, ...]:
    """count, sum, min, max, mean, population standard deviation."""
    mean, spread = statistics.fmean(values), statistics.pstdev(values)
    return (len(values), sum(values), min(values), max(values), mean, spread)


@dataclass
class _Window:
    values: list[float] = field(default_factory=list)
    news_of: set[str] = field(default_factory=set)
    given: int = 0


class ReferenceWindows:
    """What a window stage promises, in the words of its documentation; times in any unit."""

    def __init__(self, *, width: int, by: str, lag_max: int, keep: int, windows_max: int = 20_000) -> None:
        self.late = self.dropped = 0
        self._width, self._by, self._lag_max, self._keep = width, by, lag_max, keep
        self._windows_max = windows_max
        self._watermarks: dict[str, int] = {}
        self._ended: set[str] = set()
        self._windows: dict[str, dict[int, _Window]] = {}
        self._forgotten: dict[str, int] = {}

    def push(self, origin: str, rows: Sequence[Row]) -> list[Result]:
        key = origin if self._by == "origin" else "all"
        self._ended.discard(origin)
        self._watermarks[origin] = max(self._watermarks.get(origin, NEVER), *(t for t, _ in rows), NEVER)
        windows = self._windows.setdefault(key, {})
        oldest = self._lead(key) - self._keep
        for time, value in rows:
            start = time - time % self._width
            if start not in windows:
                if start + self._width < oldest or start <= self._forgotten.get(key, NEVER):
                    self.dropped += 1
                    continue
                windows[start] = _Window()
            window = windows[start]
            self.late += window.given > 0
            window.values.append(value)
            window.news_of.add(origin)
        return self._give(key)

    def end(self, origin: str) -> list[Result]:
        self._ended.add(origin)
        key = origin if self._by == "origin" else "all"
        return self._give(key) if key in self._windows else []

    def _running(self) -> list[int]:
        return [w for o, w in self._watermarks.items() if o not in self._ended]

    def _lead(self, key: str) -> int:
        if self._by == "origin":
            return self._watermarks[key]
        return max(self._running() or self._watermarks.values())

    def _reached(self, origin: str) -> int:
        return FOREVER if origin in self._ended else self._watermarks[origin]

    def _give(self, key: str) -> list[Result]:
        lead = self._lead(key)
        current = [w for w in self._running() if w >= lead - self._lag_max]
        windows, results = self._windows[key], []
        for start in sorted(windows):
            window, end = windows[start], start + self._width
            if not any(self._reached(o) >= end for o in window.news_of):
                continue
            if self._by == "all" and not window.given and any(w < end for w in current):
                continue
            results.append((key, start, window.given, aggregated(window.values)))
            window.given += 1
            window.news_of.clear()
        for start in sorted(windows):
            too_old = start + self._width < lead - self._keep or len(windows) > self._windows_max
            if too_old and not windows[start].news_of:
                del windows[start]
                self._forgotten[key] = max(self._forgotten.get(key, NEVER), start)
        return results
