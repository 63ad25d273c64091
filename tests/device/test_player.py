"""Shots: which event is played when, and that the log of shots tells the frames as they were played."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.device.player import DEAD_FRAMES, STEADY_FRAMES_MIN, Player, Shot, shot_frames_min
from ganglion.device.recording import Event

SAMPLES = 4


def event(row: int, frames: int, inception_sample: int = 0) -> Event:
    """Its n-th frame holds nothing but ``row * 1000 + n + 1``: never zero, never another event's."""
    numbers = row * 1000 + 1 + np.arange(frames, dtype=np.int16)
    wave = np.broadcast_to(numbers[:, None, None], (frames, 2, SAMPLES)).copy()
    return Event(row, f"kind {row}", bool(row % 2), inception_sample, wave)


def frames(player: Player, count: int) -> list[int]:
    """What the frames hold, one number each."""
    seen = []
    for _ in range(count):
        frame = player.next_frame()
        assert frame.shape == (2, SAMPLES)
        assert frame.dtype == np.int16
        assert (frame == frame[0, 0]).all()
        seen.append(int(frame[0, 0]))
    return seen


@st.composite
def lines(draw: Any) -> tuple[list[Event], dict[str, int]]:
    events = [
        event(row, n, draw(st.integers(0, n * SAMPLES - 1)))
        for row, n in enumerate(draw(st.lists(st.integers(1, 9), min_size=1, max_size=5)))
    ]
    return events, {
        "index": draw(st.integers(0, 12)),
        "stride": draw(st.integers(1, 7)),
        "period_frames": shot_frames_min(events) + draw(st.integers(0, 9)),
        "lead_frames": draw(st.integers(0, 9)),
    }


def expected(events: list[Event], shots: int, index: int, stride: int, period: int, lead: int) -> list[int]:
    """The whole line, written down the long way: steady, event, dead, and steady for the lead at first."""
    line = [int(events[index % len(events)].frames[0, 0, 0])] * lead
    for turn in range(shots):
        played = events[(index + turn * stride) % len(events)]
        values = [int(f[0, 0]) for f in played.frames]
        steady = period - DEAD_FRAMES - len(values)
        line += [values[0]] * steady + values + [0] * DEAD_FRAMES
    return line


@given(lines())
def test_the_line_is_lead_then_shot_after_shot_by_index_and_stride(
    line: tuple[list[Event], dict[str, int]],
) -> None:
    events, how = line
    wanted = expected(events, 6, how["index"], how["stride"], how["period_frames"], how["lead_frames"])
    assert frames(Player(events, **how), len(wanted)) == wanted


@given(lines(), st.integers(0, 400))
def test_shots_are_logged_as_they_were_played_and_only_when_they_are_over(
    line: tuple[list[Event], dict[str, int]], count: int
) -> None:
    events, how = line
    player = Player(events, **how)
    seen = frames(player, count)
    shots = player.take_finished()

    period = how["period_frames"]
    assert len(shots) == max(0, count - how["lead_frames"]) // period
    for number, shot in enumerate(shots):
        assert shot.first_frame == how["lead_frames"] + number * period
        assert shot.event is events[(how["index"] + number * how["stride"]) % len(events)]
        check_shot(shot, seen, period)
    assert player.take_finished() == [], "each is told once"


def check_shot(shot: Shot, seen: list[int], period: int) -> None:
    """The log's numbers, held against the frames that were seen."""
    values = [int(f[0, 0]) for f in shot.event.frames]
    assert seen[shot.event_frame : shot.end_frame] == values
    before = seen[shot.first_frame : shot.event_frame]
    assert len(before) >= STEADY_FRAMES_MIN
    assert set(before) == {values[0]}, "steady before the event"
    after = seen[shot.end_frame : shot.first_frame + period]
    assert after == [0] * DEAD_FRAMES
    inception = shot.event.inception_sample // SAMPLES
    assert seen[shot.inception_frame] == values[inception]
    assert shot.event_frame <= shot.inception_frame < shot.end_frame


@given(lines(), st.integers(1, 40))
def test_taking_shots_often_or_once_tells_the_same(
    line: tuple[list[Event], dict[str, int]], step: int
) -> None:
    events, how = line
    often, once = Player(events, **how), Player(events, **how)
    total = 5 * how["period_frames"] + how["lead_frames"]
    told = []
    for at in range(0, total, step):
        frames(often, min(step, total - at))
        told += often.take_finished()
    frames(once, total)
    shots = once.take_finished()
    assert len(told) == 5
    for one, other in zip(told, shots, strict=True):
        assert one.event is other.event
        assert (one.first_frame, one.event_frame, one.inception_frame, one.end_frame) == (
            other.first_frame,
            other.event_frame,
            other.inception_frame,
            other.end_frame,
        )


def test_devices_with_one_stride_share_the_events_out() -> None:
    events = [event(row, 2) for row in range(6)]
    period = shot_frames_min(events)
    rows = []
    for index in range(3):
        player = Player(events, index=index, stride=3, period_frames=period)
        frames(player, 2 * period)
        rows += [shot.event.row for shot in player.take_finished()]
    assert sorted(rows) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "how",
    [
        {"index": -1, "stride": 1},
        {"index": 0, "stride": 0},
        {"index": 0, "stride": 1, "short": 1},
        {"index": 0, "stride": 1, "events": 0},
    ],
    ids=["index", "stride", "period", "events"],
)
def test_what_cannot_be_played_is_a_bug_of_the_caller(how: dict[str, int]) -> None:
    events = [event(row, 3) for row in range(2)]
    period = shot_frames_min(events) - how.get("short", 0)
    with pytest.raises(AssertionError):
        Player(events[: how.get("events", 2)], index=how["index"], stride=how["stride"], period_frames=period)


def test_the_shortest_period_leaves_room_for_the_longest_event() -> None:
    events = [event(0, 3), event(1, 7), event(2, 5)]
    assert shot_frames_min(events) == STEADY_FRAMES_MIN + 7 + DEAD_FRAMES
