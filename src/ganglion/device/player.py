"""Plays recorded events to a sensor as one endless stream of frames, shot after shot, as a relay tester does.

A shot: the line is energised and steady (the event's own first frame repeated), then the event's frames, then the
line is dead (zeros) until the next shot. Which event comes when follows from numbers alone, not from chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.device.recording import Event

DEAD_FRAMES = 12
STEADY_FRAMES_MIN = 24


@dataclass(frozen=True, slots=True)
class Shot:
    """One event as it was played: frame numbers (from the stream's first frame) of its parts."""

    event: Event
    first_frame: int
    event_frame: int
    inception_frame: int
    end_frame: int
    """The first frame after the event; a trip up to `slack` frames later still belongs to it."""


def shot_frames_min(events: Sequence[Event]) -> int:
    """The shortest period of shots for these events, in frames."""
    return STEADY_FRAMES_MIN + max(len(e.frames) for e in events) + DEAD_FRAMES


class Player:
    """Frames of one sensor. It plays events ``index, index + stride, ...`` of the list, round and round."""

    def __init__(
        self, events: Sequence[Event], *, index: int, stride: int, period_frames: int, lead_frames: int = 0
    ) -> None:
        assert events and index >= 0 and stride >= 1
        assert period_frames >= shot_frames_min(events)
        self._events = events
        self._turn = index
        self._stride = stride
        self._period_frames = period_frames
        self._frame = 0
        self._shot_start = lead_frames
        self._event = events[index % len(events)]
        self._dead: npt.NDArray[Any] = np.zeros_like(self._event.frames[0])
        self._finished: list[Shot] = []

    def next_frame(self) -> npt.NDArray[Any]:
        """The next frame, (channels, samples) in the stored dtype; finished shots wait in `take_finished`."""
        within = self._frame - self._shot_start
        event_at = self._period_frames - DEAD_FRAMES - len(self._event.frames)
        self._frame += 1
        if within < event_at:
            steady: npt.NDArray[Any] = self._event.frames[0]
            return steady
        if within < event_at + len(self._event.frames):
            frame: npt.NDArray[Any] = self._event.frames[within - event_at]
            return frame
        if within == self._period_frames - 1:
            self._finish(event_at)
        return self._dead

    def schedule(self, frames: int) -> list[Shot]:
        """The shots whose event begins within the first ``frames`` frames of a player that has played none yet."""
        assert self._frame == 0
        shots: list[Shot] = []
        start, turn = self._shot_start, self._turn
        while True:
            event = self._events[turn % len(self._events)]
            first = start + self._period_frames - DEAD_FRAMES - len(event.frames)
            inception = first + event.inception_frame()
            if inception >= frames:
                return shots
            shots.append(Shot(event, start, first, inception, first + len(event.frames)))
            start, turn = start + self._period_frames, turn + self._stride

    def take_finished(self) -> list[Shot]:
        """The shots finished since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def _finish(self, event_at: int) -> None:
        start = self._shot_start + event_at
        event = self._event
        inception = start + event.inception_frame()
        self._finished.append(Shot(event, self._shot_start, start, inception, start + len(event.frames)))
        self._shot_start += self._period_frames
        self._turn += self._stride
        self._event = self._events[self._turn % len(self._events)]
