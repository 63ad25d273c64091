"""A replay as gateways meet it: rows shuffled within five seconds, and one sensor that is three hours late.

Windows and revisions are held to two references: `ReferenceWindows`, which says what is given after each batch, and
plain grouping of all rows, which says what the newest revision has to be. `benchmarks/stream/run.py --late` plays
the same to DuckDB and to other engines.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import pytest

import ganglion as gg
from ganglion.core.batch import Batch
from ganglion.core.wire import decode, encode
from ganglion.flow.assignment import Assignment
from tests.engine.site import Site
from tests.engine.stores import Killed, Lifetime
from tests.engine.streams import HOUR_MS, rows_of
from tests.engine.window_reference import ReferenceWindows

SENSORS = tuple(f"gw1-sensor-{i:02d}" for i in range(6))
LATE = SENSORS[4]
SHUFFLE_MS = 5_000
LATE_MS = 3 * HOUR_MS
WIDTH_MS = 1_000
LAG_MS = 10_000
SECONDS = 20
ROWS_PER_S = 10
SEED = int(os.environ.get("GANGLION_TEST_SEED", "6"))
BY: dict[str, Literal["origin", "all"]] = {"by_sensor": "origin", "by_all": "all"}
VALUES = ("n", "total", "low", "high", "average", "spread")


@gg.kernel(x=gg.f32[2])
def parts(x):
    return {"temp": x[0], "q": x[1]}


@cache
def spec():
    flow = gg.Flow("late")
    readings = flow.source("readings", gg.Frame(2), every="100ms").map(parts)
    temps = readings.where(lambda r: r.q == 0, id="good")
    for name, by in BY.items():
        windows = temps.window("1s", by=by, lag_max=f"{LAG_MS}ms", keep="4h").aggregate(
            id=name,
            n=gg.count(),
            total=gg.sum("temp"),
            low=gg.min("temp"),
            high=gg.max("temp"),
            average=gg.mean("temp"),
            spread=gg.std("temp"),
        )
        windows.sink(f"{name}_kept", at="edge")
    return flow.spec()


@dataclass(frozen=True)
class Reading:
    sensor: str
    time_ms: int
    temp: float
    bad: bool


def arrivals(chance: random.Random) -> list[Reading]:
    """Two stretches of time, three hours apart; what the late one measured in the first comes during the second."""
    timed = []
    for stretch in (0, LATE_MS):
        for sensor in SENSORS:
            for i in range(SECONDS * ROWS_PER_S):
                time_ms = stretch + 1000 * i // ROWS_PER_S
                arrival_ms = time_ms + chance.randrange(SHUFFLE_MS)
                if sensor == LATE:
                    arrival_ms += LATE_MS * (stretch == 0)
                temp = round(20 + chance.gauss(0, 1), 2)
                timed.append((arrival_ms, Reading(sensor, time_ms, temp, chance.random() < 0.1)))
    return [reading for _, reading in sorted(timed, key=lambda one: one[0])]


def batches(readings: list[Reading], chance: random.Random) -> list[Batch]:
    """As they come: some readings at once, those of each sensor together, numbered by their arrival."""
    found: list[Batch] = []
    numbers: defaultdict[str, int] = defaultdict(int)
    at = 0
    while at < len(readings):
        size = chance.randrange(1, 60)
        together = defaultdict(list)
        for reading in readings[at : at + size]:
            together[reading.sensor].append(reading)
        for sensor, own in together.items():
            frames = np.array([[r.temp, r.bad] for r in own], np.float32)
            times = [r.time_ms for r in own]
            found.append(rows_of("readings", sensor, numbers[sensor], times, frame=frames))
            numbers[sensor] += len(own)
        at += size
    return found


@cache
def history() -> tuple[list[Reading], list[Batch]]:
    chance = random.Random(SEED)
    readings = arrivals(chance)
    return readings, batches(readings, chance)


def site() -> Site:
    everything = frozenset({"*"})
    here = frozenset({"gw1-sensor"})
    part = Assignment(
        "gw1",
        "gw1",
        "gateway",
        spec().digest,
        {"parts": here, "good": here, "by_sensor": here, "by_all": everything | here},
        {"by_sensor": here, "by_all": everything | here},
    )
    made = Site([encode(batch) for batch in history()[1]], part, gather=False, entries_per_checkpoint=40)
    made.spec = spec()
    return made


@cache
def uninterrupted() -> Site:
    made = site()
    asyncio.run(made.run())
    return made


def given_windows(made: Site) -> dict[str, list[tuple[str, int, int, tuple[float, ...]]]]:
    """What left the site, per stream, in order: (key, start in ms, revision, aggregates)."""
    found: dict[str, list[Any]] = {name: [] for name in BY}
    for _, _, payload in made.outbox.messages:
        batch = decode(payload)
        assert isinstance(batch, Batch)
        for i in range(len(batch)):
            values = tuple(float(batch.columns[name][i]) for name in VALUES)
            start_ms = int(batch.columns["start_ns"][i]) // 1_000_000
            found[batch.stream].append((batch.origin, start_ms, int(batch.columns["revision"][i]), values))
    return found


@cache
def expected_windows():
    """The reference's results per stream, and its windows."""
    found = {}
    for name, by in BY.items():
        reference = ReferenceWindows(width=WIDTH_MS, by=by, lag_max=LAG_MS, keep=4 * HOUR_MS)
        results = []
        for batch in history()[1]:
            frames = batch.columns["frame"]
            rows = [
                (int(t) // 1_000_000, float(v))
                for t, (v, bad) in zip(batch.time_ns.tolist(), frames.tolist(), strict=True)
                if not bad
            ]
            if rows:
                results += reference.push(batch.origin, rows)
        assert reference.dropped == 0
        found[name] = results
    return found


def same(given, expected):
    """Equal, numbers within what 32 bits hold."""
    assert [one[:3] for one in given] == [one[:3] for one in expected]
    for (*_, values), (*_, wanted) in zip(given, expected, strict=True):
        assert values == pytest.approx(wanted, rel=1e-5, abs=2e-4)


def newest(results):
    """(key, start) -> aggregates of the highest revision, with every revision before it given once."""
    revisions, last = defaultdict(list), {}
    for key, start, revision, values in results:
        revisions[key, start].append(revision)
        last[key, start] = values
    assert all(found == list(range(len(found))) for found in revisions.values())
    return last


def test_every_window_and_revision_is_the_reference_s():
    made = uninterrupted()
    for name, expected in expected_windows().items():
        given = given_windows(made)[name]
        same(given, expected)
        assert max(revision for _, _, revision, _ in given) > 1  # late rows did come
    counts = made.started_engine.counts()
    readings = history()[0]
    for name in BY:
        assert counts[name].rows == sum(not r.bad for r in readings)
        assert counts[name].dropped == 0 < counts[name].late


def test_the_newest_revisions_hold_all_rows_whatever_came_late():
    given = given_windows(uninterrupted())
    for name, by in BY.items():
        values = defaultdict(list)
        for reading in history()[0]:
            if not reading.bad:
                name_of = "all" if by == "all" else reading.sensor
                values[name_of, reading.time_ms // WIDTH_MS * WIDTH_MS].append(np.float32(reading.temp))
        ends: defaultdict[str, int] = defaultdict(int)
        for reading in history()[0]:
            for name_of in (reading.sensor, "all"):
                ends[name_of] = max(ends[name_of], reading.time_ms)
        found = newest(given[name])
        closed = {k: v for k, v in values.items() if k[1] + WIDTH_MS <= ends[k[0]]}
        assert set(found) == set(closed)
        for key, rows in closed.items():
            assert found[key][0] == len(rows)
            assert found[key][4] == pytest.approx(math.fsum(map(float, rows)) / len(rows), rel=1e-6)


def test_the_late_sensor_corrects_windows_that_were_given_hours_before():
    given = given_windows(uninterrupted())["by_all"]
    first: dict[int, int] = {}
    for place, (_, start, revision, values) in enumerate(given):
        if start < SECONDS * 1000:
            first.setdefault(start, place)
            if revision == 0:
                assert values[0] <= (len(SENSORS) - 1) * ROWS_PER_S
    last = newest(given)
    own = {
        start: sum(
            1
            for r in history()[0]
            if r.sensor == LATE and not r.bad and r.time_ms // WIDTH_MS * WIDTH_MS == start
        )
        for start in first
    }
    for start, place in first.items():
        assert last["all", start][0] >= given[place][3][0] + own[start]
    assert sum(own.values()) > SECONDS * ROWS_PER_S // 2


@pytest.mark.parametrize("turn", range(3))
def test_a_replay_that_is_killed_on_its_way_gives_the_same(turn):
    made = site()
    chance = random.Random(SEED * 100 + turn)
    for _ in range(5):
        try:
            asyncio.run(made.run(Lifetime(chance.randrange(20, 400))))
        except Killed:
            continue
        except BaseExceptionGroup as group:
            if group.split(Killed)[1] is not None:
                raise
    asyncio.run(made.run())
    given = given_windows(made)
    for name, expected in expected_windows().items():
        same(given[name], expected)
