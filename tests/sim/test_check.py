"""The checks of a run must be able to fail: every kind of damage is planted, and found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import ganglion as gg
from ganglion.core.batch import Batch
from ganglion.flow.spec import FlowSpec
from ganglion.sim.check import Tally, detection, percentiles, tally
from ganglion.sim.evidence import Command, Evidence, Shot, SinkRows

ORIGIN = "gw1-relay-00"


@gg.kernel(x=gg.f32[4])
def level(x: Any) -> dict[str, Any]:
    return {"rms": np.sqrt(np.mean(x * x))}


def flow() -> FlowSpec:
    made = gg.Flow("checked")
    frames = made.source("frames", gg.Frame(4), every="10ms")
    levels = frames.map(level)
    trips = levels.where(lambda t: t.rms > 1, id="trips")
    trips.act("breaker", "open", within="20ms")
    frames.around(trips, before="20ms", after="20ms", id="incident").sink("incidents")
    levels.window("1s").aggregate(rms=gg.mean("rms"), id="seconds").sink("trends")
    return made.spec()


def incident(numbers: list[int], origin: str = ORIGIN) -> Batch:
    seq = np.array(numbers, np.int64)
    frame = np.arange(len(numbers) * 4, dtype=np.float32).reshape(-1, 4) + seq[:, None]
    return Batch("incident", origin, seq, seq * 10_000_000, {"frame": frame})


def window(seq: int, start_s: int, revision: int, rows: int) -> Batch:
    one = np.array([seq], np.int64)
    columns = {
        "start_ns": one * 0 + start_s * 10**9,
        "revision": one * 0 + revision,
        "rows": one * 0 + rows,
        "rms": np.ones(1),
        "rms_sum": np.ones(1),
    }
    return Batch("seconds", ORIGIN, one, one, columns)


def sound() -> Evidence:
    """Ten frames, ten levels in two windows (one revised), two trips: everything arrived."""
    spec = flow()
    frames = incident(list(range(10)))
    digests = dict(zip(frames.seq.tolist(), frames.row_digests(), strict=True))
    return Evidence(
        acknowledged={
            ("incident", ORIGIN): digests,
            ("levels" if "levels" in spec else "level", ORIGIN): dict.fromkeys(range(10), 0),
            ("trips", ORIGIN): {3: 0, 7: 0},
        },
        commands=[
            Command(f"breaker_open:{ORIGIN}:3", ORIGIN, 3, 0, 2_000_000),
            Command(f"breaker_open:{ORIGIN}:7", ORIGIN, 7, 0, 4_000_000),
        ],
        sinks={
            "incidents": SinkRows(
                spec["incident"].schema, [frames.take(slice(0, 4)), frames.take(slice(4, 10))]
            ),
            "trends": SinkRows(
                spec["seconds"].schema, [window(0, 0, 0, 3), window(1, 1, 0, 6), window(2, 0, 1, 4)]
            ),
        },
    )


def by_use(evidence: Evidence) -> dict[str, Tally]:
    return {t.use: t for t in tally(flow(), evidence)}


def test_a_sound_run_is_sound() -> None:
    tallies = by_use(sound())
    assert set(tallies) == {"actuator breaker", "sink incidents", "counted in sink trends"}
    assert all(t.sound and t.published == t.received > 0 for t in tallies.values()), tallies


def rows_of(evidence: Evidence) -> list[Batch]:
    return evidence.sinks["incidents"].batches


def test_a_lost_row_is_found() -> None:
    evidence = sound()
    rows_of(evidence)[1] = rows_of(evidence)[1].take(slice(1, None))
    found = by_use(evidence)["sink incidents"]
    assert (found.lost, found.duplicated, found.out_of_order, found.altered) == (1, 0, 0, 0)


def test_a_sink_without_a_file_has_lost_everything() -> None:
    evidence = sound()
    evidence.sinks.clear()
    assert by_use(evidence)["sink incidents"].lost == 10
    assert by_use(evidence)["counted in sink trends"].lost == 10


def test_a_doubled_row_is_found() -> None:
    evidence = sound()
    rows_of(evidence).append(rows_of(evidence)[1].take(slice(5, 6)))
    assert by_use(evidence)["sink incidents"].duplicated == 1


def test_a_reordered_row_is_found() -> None:
    evidence = sound()
    rows_of(evidence).reverse()
    assert by_use(evidence)["sink incidents"].out_of_order == 4


def test_an_altered_row_is_found() -> None:
    evidence = sound()
    frame = rows_of(evidence)[0].columns["frame"].copy()
    frame[2, 1] += 1
    rows_of(evidence)[0] = replace(rows_of(evidence)[0], columns={"frame": frame})
    found = by_use(evidence)["sink incidents"]
    assert (found.altered, found.lost) == (1, 0)


def test_rows_of_another_origin_do_not_stand_in() -> None:
    evidence = sound()
    rows_of(evidence)[0] = replace(rows_of(evidence)[0], origin="gw1-relay-01")
    assert by_use(evidence)["sink incidents"].lost == 4


@pytest.mark.parametrize(
    "rows, lost, duplicated", [(3, 1, 0), (5, 0, 1)], ids=["row not counted", "row counted twice"]
)
def test_a_miscounted_window_is_found(rows: int, lost: int, duplicated: int) -> None:
    evidence = sound()
    evidence.sinks["trends"].batches[2] = window(2, 0, 1, rows)
    found = by_use(evidence)["counted in sink trends"]
    assert (found.lost, found.duplicated) == (lost, duplicated)


def test_a_repeated_revision_is_found() -> None:
    evidence = sound()
    evidence.sinks["trends"].batches.append(window(3, 0, 1, 4))
    assert by_use(evidence)["counted in sink trends"].duplicated == 1


def test_windows_out_of_order_are_found() -> None:
    evidence = sound()
    batches = evidence.sinks["trends"].batches
    batches[0], batches[1] = batches[1], batches[0]
    assert by_use(evidence)["counted in sink trends"].out_of_order == 1


def test_a_missing_command_is_found() -> None:
    evidence = sound()
    evidence.commands.pop()
    assert by_use(evidence)["actuator breaker"].lost == 1


def shot(*, is_fault: bool) -> Shot:
    return Shot(ORIGIN, 0, "AG" if is_fault else "LOAD_STEP", is_fault, 100, 130, 140, 0)


def command(seq: int, origin: str = ORIGIN) -> Command:
    return Command(f"breaker_open:{origin}:{seq}", origin, seq, 0, 1_000_000)


@pytest.mark.parametrize(
    "trips, detected, false_trips",
    [
        ([132], 1, 0),
        ([145], 1, 0),
        ([146], 0, 0),
        ([129], 0, 1),
        ([99], 0, 0),
        ([132, 133], 1, 0),
        ([110, 132], 1, 1),
        ([], 0, 0),
    ],
    ids=[
        "hit",
        "late hit",
        "of the next shot",
        "before inception",
        "of the last shot",
        "twice",
        "both",
        "none",
    ],
)
def test_trips_are_judged_by_their_frames(trips: list[int], detected: int, false_trips: int) -> None:
    found = detection([shot(is_fault=True)], [command(s) for s in trips])
    assert (found.events, found.detected, found.false_trips) == (1, detected, false_trips)
    assert len(found.missed) == 1 - detected


def test_any_trip_of_a_shot_without_a_fault_is_false() -> None:
    found = detection([shot(is_fault=False)], [command(132), command(132, "gw1-relay-01")])
    assert (found.events, found.others, found.false_trips) == (0, 1, 1)
    assert found.to_json()["recall"] is None


def test_percentiles_of_nothing_are_none() -> None:
    assert percentiles([]) == {"p50": None, "p99": None, "max": None, "count": 0}
    assert percentiles([1_000_000, 3_000_000])["p50"] == 2.0
