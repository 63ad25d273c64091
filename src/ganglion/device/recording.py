"""Recorded events: ``events.npz`` (array ``wave``: events x channels x samples) and ``labels.csv``, row by row."""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.core.schema import TensorType

EVENTS_MAX = 100_000
WAVE_BYTES_MAX = 2 << 30
_COLUMNS = ("row", "event", "is_fault", "inception_sample")
_TRUE, _FALSE = {"1", "true", "yes"}, {"0", "false", "no"}


@dataclass(frozen=True, slots=True)
class Event:
    """One recorded event: what it is, where in the samples it begins, and its frames.

    ``frames`` has shape (frames, channels, samples of a frame) in the source's stored dtype.
    """

    row: int
    kind: str
    is_fault: bool
    inception_sample: int
    frames: npt.NDArray[Any]

    def inception_frame(self) -> int:
        """The frame the event begins in."""
        return self.inception_sample // int(self.frames.shape[2])


def load_recording(directory: Path, frame: TensorType) -> list[Event]:
    """The events of a folder, cut into frames of the given form; samples beyond the last whole frame are left out.

    Raises `DataError` ``recording.missing``, ``recording.form`` or ``recording.labels`` with what to mend.
    """
    waves = _load_waves(directory / "events.npz")
    if len(frame.shape) != 2:
        raise _form(
            directory, f"the flow's source has frames of {frame}", "a recording has channels x samples"
        )
    channels, samples = frame.shape
    if (
        waves.ndim != 3
        or waves.shape[1] != channels
        or waves.shape[2] < samples
        or not 0 < len(waves) <= EVENTS_MAX
    ):
        raise _form(
            directory,
            f"`wave` has shape {waves.shape}",
            f"the flow's source wants (events, {channels}, at least {samples} samples)",
        )
    if waves.dtype != frame.numpy:
        raise _form(directory, f"`wave` has dtype {waves.dtype}", f"the flow's source stores {frame.numpy}")
    labels = _load_labels(directory / "labels.csv")
    if len(labels) != len(waves):
        raise _labels(directory / "labels.csv", f"it has {len(labels)} rows for {len(waves)} events")
    count = waves.shape[2] // samples
    events = []
    for wave, (row, kind, is_fault, inception) in zip(waves, labels, strict=True):
        if not 0 <= inception < count * samples:
            raise _labels(
                directory / "labels.csv",
                f"row {row}: inception_sample {inception} is outside the event's {count} whole frames",
            )
        frames = wave[:, : count * samples].reshape(channels, count, samples).transpose(1, 0, 2)
        events.append(Event(row, kind, is_fault, inception, np.ascontiguousarray(frames)))
    return events


def _load_waves(path: Path) -> npt.NDArray[Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n.removesuffix(".npy") for n in archive.namelist()]
            if "wave" not in names:
                raise _form(path, f"it has arrays {', '.join(names) or 'none'}", "`wave` is missing")
            claimed = archive.getinfo("wave.npy").file_size
            if claimed > WAVE_BYTES_MAX:
                raise _form(path, f"`wave` holds {claimed} bytes", f"at most {WAVE_BYTES_MAX} are played")
            with archive.open("wave.npy") as file:
                wave: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(
            "recording.missing",
            f"there is no {path}",
            why="a recording is a folder with events.npz and labels.csv",
            next_step="name such a folder with --data, or leave --data out to generate one",
        ) from error
    except Exception as error:
        # zipfile, its decompressors and NumPy raise a dozen kinds, MemoryError among them.
        raise _form(
            path, f"it cannot be read: {error}", "it must be a NumPy archive without pickles"
        ) from error
    return wave


def _load_labels(path: Path) -> list[tuple[int, str, bool, int]]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a mark in front
    except FileNotFoundError as error:
        raise DataError(
            "recording.missing",
            f"there is no {path}",
            why="every recorded event needs its label",
            next_step="put labels.csv beside events.npz",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _labels(path, f"it cannot be read: {error}") from error
    try:
        return _parse_labels(path, text)
    except csv.Error as error:
        raise _labels(path, f"it is not CSV: {error}") from error


def _parse_labels(path: Path, text: str) -> list[tuple[int, str, bool, int]]:
    reader = csv.DictReader(text.splitlines())
    missing = [c for c in _COLUMNS if c not in (reader.fieldnames or ())]
    if missing:
        raise _labels(path, f"it lacks the columns {', '.join(missing)}")
    rows: list[tuple[int, str, bool, int]] = []
    for number, row in enumerate(reader, start=2):
        fault = (row["is_fault"] or "").strip().lower()
        try:
            if fault not in _TRUE | _FALSE:
                raise ValueError(f"is_fault is {row['is_fault']!r}")
            if int(row["row"]) != len(rows):
                raise ValueError(f"row is {row['row']}, but it labels event {len(rows)} of the file")
            rows.append((len(rows), row["event"] or "", fault in _TRUE, int(float(row["inception_sample"]))))
        except (TypeError, ValueError, OverflowError) as error:
            raise _labels(path, f"line {number}: {error}") from error
    return rows


def _form(path: Path, what: str, why: str) -> DataError:
    return DataError(
        "recording.form",
        f"{path}: {what}",
        why=why,
        next_step="compare with what examples/feeder/generate.py writes",
    )


def _labels(path: Path, what: str) -> DataError:
    return DataError(
        "recording.labels",
        f"{path}: {what}",
        why=f"it needs one row per event with {', '.join(_COLUMNS)}",
        next_step="mend that line",
    )
