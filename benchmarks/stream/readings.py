"""The readings that every peer is given, and what has to come out: a seeded schedule and a plain reference.

One hundred sensors in turn; ``{"ts":<ms>,"sensor":"s0042","temp":24.31,"q":0}``. One reading in ten has q = 1 and
is to be dropped before anything else; some of those are hot, so that an alarm before the filter shows. Hot readings
that count (150 degrees) come once in `alarm_every` rows, which is prime to the number of sensors, so they go round.
Event time is the time of sending that was planned, so it runs with the clock; what is sent directly to an engine
has the times of a hundred thousand readings a second, however fast it is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np

SENSORS = 100
WIDTH_MS = 1000
HOT = 150.0
LIMIT = 100.0
SEED = 6
COLD_S = 2
COLD_RATE_MAX = 5_000
COLD_ALARMS_PER_S = 250
PAUSE_S = 3
MAX, DIRECT = 0, -1
"""Codes that stand for a rate: as fast as the broker takes readings, and as fast as the engine does."""
FLUSH_AFTER_MS = 5_000
"""How far in event time behind the last reading those lie that close the last windows."""
FLUSHES = 3
NOMINAL_MAX_RATE = 100_000
"""Readings per second of event time at `MAX` and `DIRECT`."""
TOPIC = "sensors/{}"


def name(sensor: int) -> str:
    return f"s{sensor:04d}"


def alarm_every(rate: int) -> int:
    """At least a hundred alarms a second, one in a hundred rows at most rates."""
    every = max(2, min(99, rate // 100))
    while gcd(every, SENSORS) != 1:
        every -= 1
    return max(1, every)


@dataclass(frozen=True)
class Phase:
    """``count`` rows at ``rate`` per second (or `MAX`, `DIRECT`) from ``start_ms`` after the plan's beginning."""

    name: str
    start_ms: int
    rate: int
    count: int
    every: int

    @property
    def paced(self) -> bool:
        return self.rate > 0

    @property
    def nominal(self) -> int:
        return self.rate if self.paced else NOMINAL_MAX_RATE


def phases(rate: int, seconds: float, rows_max: int) -> list[Phase]:
    """A cold phase, a pause, the measured phase; `MAX` and `DIRECT` send ``rows_max`` rows as fast as they go."""
    cold_rate = min(rate, COLD_RATE_MAX) if rate > 0 else COLD_RATE_MAX
    cold_every = alarm_every(cold_rate * 100 // COLD_ALARMS_PER_S)
    count = min(rows_max, int(rate * seconds)) if rate > 0 else rows_max
    every = alarm_every(rate if rate > 0 else NOMINAL_MAX_RATE)
    warm = Phase("warm", (COLD_S + PAUSE_S) * 1000, rate, count, every)
    return [Phase("cold", 0, cold_rate, cold_rate * COLD_S, cold_every), warm]


@dataclass(frozen=True)
class Readings:
    """All rows of a plan, in the order of sending.

    ``base_ms``: event time of the plan's beginning. ``due_ns``: when a row is to be sent, after the beginning;
    ``phase``: which of ``parts`` it belongs to; the last rows, of no phase (-1), close the windows.
    """

    base_ms: int
    parts: tuple[Phase, ...]
    due_ns: Any
    phase: Any
    sensor: Any
    ts_ms: Any
    temp: Any
    bad: Any

    @cached_property
    def alarm(self) -> Any:
        """Which rows have to raise an alarm."""
        return (self.temp > LIMIT) & ~self.bad & (self.phase >= 0)

    @cached_property
    def alarm_rows(self) -> dict[tuple[str, int], int]:
        """(sensor, ts) -> the row's place. No two alarms of one sensor share a millisecond."""
        rows = np.flatnonzero(self.alarm)
        found = {(name(int(self.sensor[i])), int(self.ts_ms[i])): int(i) for i in rows}
        assert len(found) == len(rows)
        return found

    @cached_property
    def windows(self) -> dict[tuple[str, int], tuple[int, float]]:
        """(sensor, start in ms) -> (count, mean): computed row by row, of good rows, without those that only flush."""
        values: dict[tuple[str, int], list[float]] = {}
        use = np.flatnonzero(~self.bad & (self.phase >= 0))
        starts = self.ts_ms[use] // WIDTH_MS * WIDTH_MS
        for sensor, start, temp in zip(
            self.sensor[use].tolist(), starts.tolist(), self.temp[use].tolist(), strict=True
        ):
            values.setdefault((name(sensor), start), []).append(temp)
        return {key: (len(v), sum(v) / len(v)) for key, v in values.items()}

    def first_of(self, phase: int) -> int:
        return int(np.argmax(self.phase == phase))

    def count_of(self, phase: int) -> int:
        return int((self.phase == phase).sum())

    def payload(self, row: int) -> bytes:
        """One reading as JSON."""
        return (
            b'{"ts":%d,"sensor":"%s","temp":%.2f,"q":%d}'
            % (self.ts_ms[row], name(int(self.sensor[row])).encode(), self.temp[row], self.bad[row])
        )  # fmt: skip

    def payloads(self) -> list[bytes]:
        """All of them, in the order of sending."""
        names = [name(s).encode() for s in range(SENSORS)]
        rows = zip(
            self.ts_ms.tolist(), self.sensor.tolist(), self.temp.tolist(), self.bad.tolist(), strict=True
        )
        return [b'{"ts":%d,"sensor":"%s","temp":%.2f,"q":%d}' % (t, names[s], v, q) for t, s, v, q in rows]


def _phase_rows(phase: Phase, place: int, first: int, rng: np.random.Generator) -> dict[str, Any]:
    index = np.arange(phase.count)
    sensor = (first + index) % SENSORS
    ms = phase.start_ms + index * 1000 // phase.nominal
    temp = np.round(20 + 0.1 * sensor + rng.normal(0, 1, phase.count), 2)
    bad = rng.random(phase.count) < 0.1
    temp[bad & (rng.random(phase.count) < 0.02)] = HOT
    hot = index % phase.every == phase.every - 1
    hot[-1] = True  # the last row of a phase tells that all before it were taken
    bad[hot], temp[hot] = False, HOT
    # What is not paced is due at once: the broker's socket holds it back, or the engine's.
    offset_ns = index * (1_000_000_000 if phase.paced else 0) // phase.nominal
    return {
        "due_ns": phase.start_ms * 1_000_000 + offset_ns,
        "phase": np.full(phase.count, place),
        "sensor": sensor,
        "ts_ms": ms,
        "temp": temp,
        "bad": bad,
    }


def readings(parts: list[Phase], base_ms: int, seed: int = SEED) -> Readings:
    """The rows of the phases one after the other, and then three rounds of all sensors that close the windows."""
    rng = np.random.default_rng(seed)
    pieces, first = [], 0
    for place, phase in enumerate(parts):
        pieces.append(_phase_rows(phase, place, first, rng))
        first += phase.count
    last = pieces[-1]
    for turn in range(FLUSHES):
        sensor = np.arange(SENSORS)
        zeros = np.zeros(SENSORS, np.int64)
        pieces.append(
            {
                "due_ns": zeros + last["due_ns"][-1] + turn * 1_000_000,
                "phase": zeros - 1,
                "sensor": sensor,
                "ts_ms": zeros + last["ts_ms"][-1] + FLUSH_AFTER_MS + turn * WIDTH_MS,
                "temp": zeros + 20.0,
                "bad": zeros.astype(bool),
            }
        )
    whole = {key: np.concatenate([p[key] for p in pieces]) for key in pieces[0]}
    whole["ts_ms"] = whole["ts_ms"] + base_ms
    return Readings(base_ms, tuple(parts), **whole)


@dataclass(frozen=True)
class Second:
    """The rows of one second of a soak; all of one millisecond are sent together."""

    ts_ms: Any
    sensor: Any
    temp: Any
    bad: Any

    @cached_property
    def hot(self) -> Any:
        return (self.temp > LIMIT) & ~self.bad

    def means(self) -> tuple[list[int], list[float]]:
        """Count and mean per sensor of the good rows: the window of this second (0 where there is none)."""
        good = ~self.bad
        counts = np.bincount(self.sensor[good], minlength=SENSORS)
        sums = np.bincount(self.sensor[good], self.temp[good], minlength=SENSORS)
        return counts.tolist(), (sums / np.maximum(counts, 1)).tolist()

    def payloads(self) -> list[bytes]:
        names = [name(s).encode() for s in range(SENSORS)]
        rows = zip(
            self.ts_ms.tolist(), self.sensor.tolist(), self.temp.tolist(), self.bad.tolist(), strict=True
        )
        return [b'{"ts":%d,"sensor":"%s","temp":%.2f,"q":%d}' % (t, names[s], v, q) for t, s, v, q in rows]


def second(rate: int, base_ms: int, number: int, seed: int) -> Second:
    """The n-th second of an endless stream: the same whoever asks."""
    rng = np.random.default_rng((seed, number))
    every = alarm_every(rate)
    index = np.arange(rate)
    whole = number * rate + index
    sensor = whole % SENSORS
    temp = np.round(20 + 0.1 * sensor + rng.normal(0, 1, rate), 2)
    bad = rng.random(rate) < 0.1
    temp[bad & (rng.random(rate) < 0.02)] = HOT
    hot = whole % every == every - 1
    bad[hot], temp[hot] = False, HOT
    return Second(base_ms + number * 1000 + index * 1000 // rate, sensor, temp, bad)
