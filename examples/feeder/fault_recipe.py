"""How the feeder's fault classifier is learned: `ganglion model train`, `distill`, `quantize`, each with this file.

Everything is simulated anew from seeds (DATA.md says how), played frame by frame through the kernels of the flow, and
what the network would be given is kept with the kind of fault that the frame is in. Buses of the part `dev` and the
IEEE-123 recordings are never learned from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import classify
import detect
import generate
import harder
import numpy as np
import score

import ganglion as gg
from ganglion.kernels.loading import load
from ganglion.kernels.running import runner_of
from ganglion.learning.recipe import Dense, Distillation, Examples, Gate, Recipe, Training

LEAD_FRAMES, FRAMES = 24, 12
SHARE_SAMPLES = 24
"""A frame counts as faulted with so many samples of the fault in it, about a third; with fewer it is left out."""

features = gg.kernel(x=gg.f32[6, 64])(detect.features)
observe = gg.kernel(f=features, state=classify.STATE)(classify.observe)

SETS: Mapping[str, Callable[[Path], Path]] = {
    "train-hard": lambda d: harder.generate(
        d, seed=101, faults=5000, others=4000, part="train", ohm_range=(0.05, 300.0)
    ),
    "train-plain": lambda d: generate.generate(d, seed=1, faults=800, others=600, part="train"),
    "check": lambda d: harder.generate(d, seed=102, faults=1000, others=1000, part="train"),
    "dev-hard": lambda d: harder.generate(d, seed=202, faults=1000, others=1000, part="dev"),
    "dev-plain": lambda d: generate.generate(d, seed=7, faults=60, others=30, part="dev"),
}
"""Simulated sets by name: what writes `events.npz` and `labels.csv` into a folder."""

RECORDINGS = {"ieee123-train": "train", "ieee123-dev": "dev"}
"""Recordings to look at where the folder that GANGLION_SHARED_DATA names holds them."""


@dataclass(frozen=True)
class Played:
    """Events as the device sees them: the network's input and the rule's signals, by event and frame after the lead."""

    x: np.ndarray
    signals: Mapping[str, np.ndarray]
    kinds: np.ndarray
    inceptions: np.ndarray

    @property
    def faults(self) -> np.ndarray:
        """Which events are faults."""
        return self.kinds > 0

    def overlap(self) -> np.ndarray:
        """(events, frames): samples since the inception at the end of each frame."""
        return (np.arange(FRAMES)[None] + 1) * detect.SAMPLES - self.inceptions[:, None]


@cache
def play(folder: Path) -> Played:
    """Plays every event of a folder on a line of its own, as `score.shot` does."""
    waves, labels = score.read_events(folder)
    libraries = load([features, observe], folder.parent / "libraries")
    first, second = runner_of(features, libraries), runner_of(observe, libraries)
    found: dict[str, list[Any]] = {name: [] for name in ("x", "armed", "fast", "above", "slow")}
    for wave in waves:
        frames = score.shot(wave)[: LEAD_FRAMES + FRAMES]
        seen = first.rows({"frame": frames}, first.fresh()).columns
        rows = second.rows(seen, second.fresh()).columns
        for name, values in found.items():
            values.append(np.array(rows[name][LEAD_FRAMES:]))
    arrays = {name: np.stack(values) for name, values in found.items()}
    kinds = np.array([classify.KINDS.index(la["event"]) if la["is_fault"] == "1" else 0 for la in labels])
    return Played(arrays.pop("x"), arrays, kinds, np.array([int(la["inception_sample"]) for la in labels]))


def examples(*sets: Played) -> Examples:
    """The frames with their kind, none before a fault and without one; those with a sliver of one are left out."""
    inputs, kinds = [], []
    for played in sets:
        after = played.overlap()
        kind = np.where(after >= SHARE_SAMPLES, played.kinds[:, None], 0)
        sliver = played.faults[:, None] & (after > 0) & (after < SHARE_SAMPLES)
        use = played.signals["armed"] & ~sliver
        use[:, 0] = False  # as calm as the lead, like the next
        inputs.append(played.x[use])
        kinds.append(kind[use])
    return Examples(np.concatenate(inputs).astype(np.float32), np.concatenate(kinds).astype(np.int64))


def simulated(directory: Path, name: str) -> Played:
    """A set of `SETS`, written into `directory` unless it is there."""
    folder = directory / "data" / name
    if not (folder / "labels.csv").is_file():
        SETS[name](folder)
    return play(folder)


def recordings() -> dict[str, Played]:
    """The IEEE-123 recordings, where they are."""
    root = Path(os.environ.get("GANGLION_SHARED_DATA", "../shared/data")) / "ieee123_fault_waveforms"
    return {name: play(root / part) for name, part in RECORDINGS.items() if (root / part).is_dir()}


def data(directory: Path) -> dict[str, Examples]:
    """What the recipe learns from, chooses by and reports."""
    sets = {name: simulated(directory, name) for name in SETS}
    return {
        "train": examples(sets["train-hard"], sets["train-plain"]),
        "check": examples(sets["check"]),
        "dev-hard": examples(sets["dev-hard"]),
        "dev-plain": examples(sets["dev-plain"]),
        **{name: examples(played) for name, played in recordings().items()},
    }


def consecutive(agreed: np.ndarray, frames: int = classify.LIKELY_FRAMES) -> np.ndarray:
    """Where so many frames in a row were agreed, this one the last."""
    found = agreed.copy()
    for back in range(1, frames):
        found[:, back:] &= agreed[:, :-back]
        found[:, :back] = False
    return found


def outcome(played: Played, trips: np.ndarray) -> dict[str, float]:
    """Recall, false trips (in no fault, or before one) and median latency in ms of trips per event and frame."""
    armed = trips & played.signals["armed"]
    any_trip, first = armed.any(1), armed.argmax(1)
    after = np.take_along_axis(played.overlap(), first[:, None], 1)[:, 0]
    caught = any_trip & played.faults & (after > 0)
    late = after[caught] * 1e3 / 3840
    return {
        "recall": float(caught.sum() / max(1, played.faults.sum())),
        "caught": float(caught.sum()),
        "false_trips": float((any_trip & ~caught).sum()),
        "latency_ms": float(np.median(late)) if late.size else float("nan"),
    }


def rule_trips(played: Played) -> np.ndarray:
    """Frames in which the rule alone would trip."""
    return np.asarray(played.signals["fast"] | played.signals["slow"])


def network_trips(played: Played, logits: np.ndarray) -> np.ndarray:
    """Frames in which `classify.decider` would; `logits` (events, frames, kinds)."""
    margin = logits[..., 1:].max(-1) - logits[..., 0]
    agreed = margin > np.where(played.signals["above"], -classify.OVERRULE, classify.SURE)
    return np.asarray(played.signals["fast"] | consecutive(agreed))


def measures(network: Callable[[np.ndarray], np.ndarray], directory: Path) -> dict[str, float]:
    """Trips of the whole decision by set (`trips.SET.recall`, `caught` and so on), and of the rule alone."""
    found: dict[str, float] = {}
    sets = {name: simulated(directory, name) for name in ("check", "dev-hard", "dev-plain")} | recordings()
    for name, played in sets.items():
        logits = network(played.x.reshape(-1, played.x.shape[-1])).reshape(*played.x.shape[:2], -1)
        for who, trips in (("trips", network_trips(played, logits)), ("rule", rule_trips(played))):
            found |= {f"{who}.{name}.{key}": value for key, value in outcome(played, trips).items()}
    return found


recipe = Recipe(
    name="fault",
    classes=classify.KINDS,
    data=data,
    student=(Dense(24), Dense(24)),
    teacher=(Dense(128), Dense(128)),
    training=Training(epochs=30),
    teacher_training=Training(epochs=20),
    distillation=Distillation(temperature=1.0, weight=0.9, members=3),
    seeds=(1, 2, 3, 4, 5),
    measures=measures,
    gate=Gate(
        at_least={"accuracy.check": 0.92, "trips.check.recall": 0.87, "trips.dev-plain.recall": 1.0},
        at_most={
            "trips.dev-plain.false_trips": 0,
            "trips.check.false_trips": 80,
            "quantisation_loss": 0.005,
            "flash_bytes": 8_000,
            "ram_bytes": 400,
            "instructions": 20_000,
        },
    ),
    network="fault.onnx",
)
