"""Made-up recordings for the flow of tests/device/bay: steady loads and faults that its rule sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ganglion.core.schema import i16
from ganglion.device.player import Player, shot_frames_min
from ganglion.device.recording import Event, load_recording

CHANNELS, SAMPLES, FRAMES = 2, 8, 5
LOAD, FAULT = 20, 400
"""Stored samples, of 0.5 A each: the rule's limit of 100 A lies between them."""


def write_recording(folder: Path, faults: Sequence[bool] = (True, False, True, True)) -> Path:
    """Events that each have a load and an inception of their own; a fault is high from its inception on."""
    folder.mkdir(exist_ok=True)
    wave = np.empty((len(faults), CHANNELS, FRAMES * SAMPLES), np.int16)
    lines = ["row,event,is_fault,inception_sample"]
    for row, is_fault in enumerate(faults):
        inception = (row % 3 + 1) * SAMPLES + row
        wave[row] = LOAD + row
        wave[row, :, inception:] += FAULT if is_fault else 5
        lines.append(f"{row},{'fault' if is_fault else 'load step'},{is_fault},{inception}")
    np.savez(folder / "events.npz", wave=wave)
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def recording(folder: Path, faults: Sequence[bool] = (True, False, True, True)) -> list[Event]:
    return load_recording(write_recording(folder, faults), i16[CHANNELS, SAMPLES])


def player(events: list[Event], index: int = 0, stride: int = 1, lead_frames: int = 0) -> Player:
    """One sensor that plays shots as short as they may be."""
    return Player(
        events, index=index, stride=stride, period_frames=shot_frames_min(events), lead_frames=lead_frames
    )
