"""The feeder's fault classifier: what the network sees of a frame, and the trip that follows from its answer.

`vector` describes a frame against the remembered normal state, every number between -1 and 1: what is left of the
currents once the load has been taken out (see `detect.unexplained`), the change of the voltages' unbalance and of the
second and third harmonic. A number grows like d / (|d| + size): near zero as fine as the change is small, and a short
circuit does not drown the rest. The network sees this frame and the one before, in one cycle out of two: a fault stays,
an inrush decays.
"""

from __future__ import annotations

from typing import Any

import detect
import numpy as np

NUMBERS = 22
"""Numbers that describe one frame."""

KINDS = ("none", "AG", "BG", "CG", "AB", "BC", "CA", "ABG", "BCG", "CAG", "ABC")
"""What the network tells apart: no fault, and the phases that take part in one."""

VOLT_STEP_SHARE, SKEW_SHARE, HARMONIC_SHARE = 0.1, 0.004, 0.3

STATE: dict[str, Any] = {
    **detect.STATE,
    "skew": np.zeros(4, np.float32),
    "harmonics": np.zeros(6, np.float32),
    "last_skew": np.zeros(4, np.float32),
    "last_harmonics": np.zeros(6, np.float32),
    "before": np.zeros(NUMBERS, np.float32),
    "likely": np.int32(0),
}
"""`detect.STATE`; the remembered voltage unbalance and harmonics and those of the last frame; the numbers of the frame
before; frames in a row that the network took for a fault."""


def _soft(d: Any, size: Any) -> Any:
    return d / (np.abs(d) + size)


def vector(f: Any, s: Any, now: dict[str, Any]) -> Any:
    """f32[22] between -1 and 1 of one frame; `now` are the signals of `detect.judge`."""
    delta = f.seq - s.mem
    mem_re, mem_im = s.mem[1], s.mem[4]
    wanted = delta[1] * mem_re
    left = delta - s.mem * (wanted / np.maximum(mem_re * mem_re + 1.0, np.abs(wanted)))
    pickup, load, residual, jump = now["pickup"], now["load"], now["residual"], now["jump"]
    tones = f.harmonics - s.harmonics
    volt = np.maximum(s.mem[6], 1.0)
    unbalance = np.stack([left[0], left[3], left[2], left[5]])
    step = np.stack([delta[1], delta[4]])
    tone = np.stack([np.max(np.abs(tones.reshape(3, 2)), axis=0)]).reshape(2)
    return np.concatenate(
        [
            _soft(unbalance, pickup),
            _soft(step, detect.RISE_AMP + DIP_SHARE * load),
            _soft(f.skew - s.skew, SKEW_SHARE * volt),
            _soft(tones, HARMONIC_SHARE * pickup),
            tone / (tone + 0.25 * (jump + residual) + 1.0),
            np.stack(
                [
                    _soft(delta[6], VOLT_STEP_SHARE * volt),
                    residual / (residual + jump + 1.0),
                    residual / (residual + pickup),
                    load / (load + 100.0),
                ]
            ),
        ]
    )


DIP_SHARE = 0.3


def observe(f: Any, s: Any) -> tuple[dict[str, Any], bool, dict[str, Any]]:
    """What the network is given for a frame, `x` f32[44], and what the rule says: `armed`, `fast`, `slow`."""
    now, after = detect.judge(f, s)
    numbers = vector(f, s, now)
    restart, remember = now["restart"], now["remember"]
    rate = detect.MEMORY_RATE

    def memory(held: Any, last: Any, new: Any) -> Any:
        return np.where(restart, new, np.where(remember, held + rate * (last - held), held))

    after |= {
        "skew": memory(s.skew, s.last_skew, f.skew),
        "harmonics": memory(s.harmonics, s.last_harmonics, f.harmonics),
        "last_skew": np.where(f.bad, s.last_skew, f.skew),
        "last_harmonics": np.where(f.bad, s.last_harmonics, f.harmonics),
        "before": np.where(restart | f.bad, 0.0, 1.0) * numbers,
        "likely": s.likely,
        "latched": s.latched,
    }
    signals = {k: now[k] for k in ("armed", "fast", "slow")}
    return {"x": np.concatenate([numbers, s.before]), **signals}, True, after
