"""Plays a folder of recordings through the detection kernels and scores the trips against the labels.

    python -m examples.feeder.score DIR [DIR ...]

Both decisions are scored: the rule alone (`detect.decide`, only NumPy is needed) and the flow's, with its network.

Per event the line is energised with the event's first cycle repeated, then the event runs, then the line is
dead, as the device host plays it.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

if __package__:
    from examples.feeder import detect
else:  # imported by a file beside it
    import detect  # type: ignore[no-redef] # the same module by its plain name

SAMPLES_PER_SECOND = 3840
LEAD_FRAMES, DEAD_FRAMES = 24, 4
VOLT_PER_LSB, AMP_PER_LSB = 0.25, 1.0


@dataclass
class Score:
    """Counts of one folder; latency in ms from the inception to the end of the deciding frame."""

    events: int = 0
    faults: int = 0
    caught: int = 0
    false_trips: int = 0
    repeated_trips: int = 0
    latency_ms: list[float] = field(default_factory=list)
    missed: list[dict[str, str]] = field(default_factory=list)
    false: list[dict[str, str]] = field(default_factory=list)

    @property
    def recall(self) -> float:
        """Share of the faults tripped at or after their inception; 1.0 when there is none."""
        return self.caught / self.faults if self.faults else 1.0

    def line(self) -> str:
        """The score in one line."""
        ms = sorted(self.latency_ms) or [float("nan")]
        return (
            f"events {self.events}, recall {self.caught}/{self.faults} = {self.recall:.3f}, false trips "
            f"{self.false_trips}/{self.events - self.faults}, repeated {self.repeated_trips}, "
            f"latency ms p50 {ms[len(ms) // 2]:.1f} max {ms[-1]:.1f}"
        )


def read_events(folder: Path) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Waves in V and A, f32 (events, 6, samples), and the label rows, in the same order."""
    with np.load(folder / "events.npz") as archive:
        wave = archive["wave"].astype(np.float32)
    wave[:, :3] *= VOLT_PER_LSB
    wave[:, 3:] *= AMP_PER_LSB
    with (folder / "labels.csv").open(newline="") as file:
        return wave, list(csv.DictReader(file))


def shot(wave: np.ndarray) -> np.ndarray:
    """One event as f32 (frames, 6, 64): the first cycle `LEAD_FRAMES` times, the event, a dead line."""
    frames = wave.reshape(6, -1, detect.SAMPLES).swapaxes(0, 1)
    lead, dead = np.repeat(frames[:1], LEAD_FRAMES, 0), np.zeros((DEAD_FRAMES, *frames.shape[1:]), np.float32)
    return np.concatenate([lead, frames, dead])


Decide = Callable[[Any, Any], tuple[dict[str, Any], bool, dict[str, Any]]]


def run(
    frames: np.ndarray, state: dict[str, Any] | None = None, decide: Decide = detect.decide
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The outputs of `decide` per frame, and the state afterwards."""
    state = dict(detect.STATE) if state is None else state
    outputs = []
    for x in frames:
        out, _, state = decide(SimpleNamespace(**detect.features(x)), SimpleNamespace(**state))
        outputs.append(out)
    return outputs, state


def score(folder: Path, decide: Decide = detect.decide, first: Mapping[str, Any] = detect.STATE) -> Score:
    """Plays every event of `folder` one after the other on one line (the state carries over from `first` on)."""
    waves, labels = read_events(folder)
    result, state = Score(), dict(first)
    for wave, label in zip(waves, labels, strict=True):
        outputs, state = run(shot(wave), state, decide)
        trips = [n - LEAD_FRAMES for n, out in enumerate(outputs) if out["trip"]]
        inception, is_fault = int(label["inception_sample"]), label["is_fault"] == "1"
        result.events += 1
        result.faults += is_fault
        result.repeated_trips += max(0, len(trips) - 1)
        if not trips:
            if is_fault:
                result.missed.append(label)
            continue
        after_ms = ((trips[0] + 1) * detect.SAMPLES - inception) * 1e3 / SAMPLES_PER_SECOND
        if is_fault and after_ms > 0:
            result.caught += 1
            result.latency_ms.append(after_ms)
        else:
            result.false_trips += 1
            result.false.append(label)
    return result


def deciders() -> dict[str, tuple[Decide, Mapping[str, Any]]]:
    """The rule, and the flow's decision where Ganglion can read its network."""
    found: dict[str, tuple[Decide, Mapping[str, Any]]] = {"rule": (detect.decide, detect.STATE)}
    try:
        import ganglion as gg
        from examples.feeder import classify

        network = gg.network("fault.onnx")
    except Exception as error:  # noqa: BLE001 # whatever is missing, the rule can be scored
        print(f"only the rule is scored: {error}")
        return found
    return found | {"rule and network": (classify.decider(network), classify.STATE)}


def main(folders: list[str]) -> None:
    """Prints both scores of each folder."""
    for name, (who, (decide, state)) in product(folders, deciders().items()):
        done = score(Path(name), decide, state)
        print(f"{name}, {who}: {done.line()}")
        for what, rows in (("missed", done.missed), ("false", done.false)):
            for row in rows:
                print(f"  {what}: {row}")


if __name__ == "__main__":
    main(sys.argv[1:])
