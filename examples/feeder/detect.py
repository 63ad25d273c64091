"""Feeder protection on one 60 Hz cycle: two kernels as plain functions of one frame.

`features` turns 64 samples of three voltages and three currents into symmetrical components; `decide`
compares them with the remembered pre-fault components and trips. The idea, in the words of a protection
engineer:

* A **load step** scales the load that is there, so zero and negative sequence grow in the proportion in which
  the active current grows. **Capacitor switching** adds reactive current and no unbalance. Whatever unbalance
  is left over after both are taken out (the *residual*, in A) was caused by something else: a fault.
* A **balanced fault** has little residual on a balanced feeder; it is caught by the rise of the active
  current against the remembered load (a capacitor takes none), at a lower level when the voltage dips at the
  same time.
* A frame that holds only a part of a step gives false components, so a small residual must stay for a second
  frame (pick-up, with a lower drop-out level: hysteresis). A large one trips at once.

Only operations of the portable set are used: static shapes, constant indices, `np.where` for choice, explicit
state. Limits: a fault present at energisation (or before `HOLD_OFF_FRAMES` calm frames) is not seen; a
balanced three-phase fault whose current is below the load is not told from a balanced load; a fault upstream
of the measuring point draws no current through it and is not seen; a single-phase load switched on alone
looks like a weak fault.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SAMPLES = 64
"""Samples per frame: one cycle of 60 Hz at 3,840 samples per second."""

SAMPLE_LIMIT = 1.0e6
"""A sample that is not below this (V or A), or not a number, makes the frame bad."""

HOLD_OFF_FRAMES = 6
"""No trip after energisation before so many calm frames in a row (100 ms): the memory has settled then."""

CONFIRM_FRAMES = 2
"""Frames in a row that a small residual must last."""

MEMORY_RATE = 0.25
"""Share of a new undisturbed frame in the remembered components."""

GREY_FRAMES_MAX = 30
"""After this many frames (0.5 s) that are not calm the memory starts anew: this is the normal state now."""

DEAD_VOLT, DEAD_AMP, DEAD_SHARE = 20.0, 2.0, 0.05
"""The line is dead below these, or below this share of the remembered voltage and current."""

PICKUP_AMP, PICKUP_SHARE, PICKUP_STEP_SHARE = 4.0, 0.015, 0.015
"""Residual pick-up: measuring noise (A), plus a share of the remembered load, plus a share of the step."""

DROPOUT = 0.7
"""Drop-out level as a share of pick-up."""

FAST_AMP, FAST_SHARE = 60.0, 0.3
"""Residual that trips in one frame: more than a part of a load step or an inrush in one frame can pretend."""

RISE_AMP, RISE_SHARE = 20.0, 0.8
"""Rise of the active positive-sequence current (balanced fault), compared with the whole remembered load."""

DIP_SHARE, DIP_RISE_SHARE = 0.9, 0.4
"""With the voltage below this share of the remembered one, a rise of this share of the load is enough."""

FAST_RISE_SHARE = 2.0
"""Rise that trips in one frame, in remembered loads."""

STATE: dict[str, Any] = {
    "mem_re": np.zeros(3, np.float32),
    "mem_im": np.zeros(3, np.float32),
    "mem_v": 0.0,
    "last_re": np.zeros(3, np.float32),
    "last_im": np.zeros(3, np.float32),
    "last_v": 0.0,
    "last_calm": False,
    "live": 0,
    "picked": 0,
    "grey": 0,
    "latched": False,
}
"""Initial state of `decide`: remembered components (A) and voltage (V); those of the last frame and whether
it was calm; calm frames since energisation, frames confirming, frames not calm; the trip latch."""


def _fourier() -> np.ndarray:
    """f32[64, 2]: samples -> RMS phasor (re, im) of the fundamental, nearly blind to offset and ringing.

    A plain Fourier sum reads a decaying DC offset and the oscillation of a capacitor inrush as fundamental
    current. This is the least-squares fit of cosine, sine and constant under a noise that holds those two
    disturbances besides white noise (generalised least squares); the weights say how large they may be.
    """
    n = np.arange(SAMPLES)
    ms = n * 1e3 / (60 * SAMPLES)
    angle = 2 * np.pi * n / SAMPLES
    noise = np.eye(SAMPLES)
    for tau_ms in (3, 5, 8, 12, 20, 35):
        offset = np.exp(-ms / tau_ms)
        noise += 10.0 * np.outer(offset, offset)
    for hz in range(250, 1500, 40):
        for tau_ms in (2, 4, 8, 16):
            for phase in (0.0, np.pi / 2):
                ringing = np.exp(-ms / tau_ms) * np.cos(2e-3 * np.pi * hz * ms + phase)
                noise += 0.5 * np.outer(ringing, ringing)
    basis = np.stack([np.cos(angle), np.sin(angle), np.ones(SAMPLES)], axis=1)
    weighted = np.linalg.solve(noise, basis)
    fit = weighted @ np.linalg.inv(basis.T @ weighted)
    return (fit[:, :2] * np.array([1.0, -1.0]) / np.sqrt(2)).astype(np.float32)


def _sequences() -> tuple[np.ndarray, np.ndarray]:
    """Two f32[6, 3]: (re_a, im_a, re_b, im_b, re_c, im_c) -> real and imaginary part of sequences 0, 1, 2."""
    turn = np.exp(2j * np.pi / 3)
    fortescue = np.array([[1, 1, 1], [1, turn, turn**2], [1, turn**2, turn]]) / 3
    re, im = np.zeros((6, 3)), np.zeros((6, 3))
    re[0::2], re[1::2] = fortescue.real.T, -fortescue.imag.T
    im[0::2], im[1::2] = fortescue.imag.T, fortescue.real.T
    return re.astype(np.float32), im.astype(np.float32)


FOURIER = _fourier()
SEQ_RE, SEQ_IM = _sequences()


def features(x: Any) -> dict[str, Any]:
    """The numbers that describe one cycle.

    `x` is f32[6, 64]: Va, Vb, Vc in V to ground, Ia, Ib, Ic in A. Returns `rms` (A, over the three phases),
    `peak` (A, largest sample), `i_rms` f32[3] (A), `v_rms` f32[3] (V), `i_re` and `i_im` f32[3] (A RMS: zero,
    positive and negative sequence, angle counted from the positive-sequence voltage), `v_seq` f32[3] (V RMS,
    magnitudes of the same sequences), `bad` (a sample is not a number or absurd; it counts as 0 V or 0 A).
    """
    good = np.abs(x) <= SAMPLE_LIMIT  # False for NaN as well
    bad = np.logical_not(np.all(good))
    x = np.where(good, x, 0.0)
    volts, amps = x[0:3], x[3:6]
    i_rms = np.sqrt(np.mean(amps * amps, axis=1))
    v_rms = np.sqrt(np.mean(volts * volts, axis=1))
    v = np.concatenate([x[0] @ FOURIER, x[1] @ FOURIER, x[2] @ FOURIER])
    i = np.concatenate([x[3] @ FOURIER, x[4] @ FOURIER, x[5] @ FOURIER])
    v_re, v_im = v @ SEQ_RE, v @ SEQ_IM
    i_re, i_im = i @ SEQ_RE, i @ SEQ_IM
    v_seq = np.sqrt(v_re * v_re + v_im * v_im)
    # Angles count from the positive-sequence voltage, so frames compare although clock and grid drift.
    length = np.maximum(v_seq[1], 1e-3)
    cos, sin = v_re[1] / length, v_im[1] / length
    return {
        "rms": np.sqrt(np.mean(i_rms * i_rms)),
        "peak": np.max(np.abs(amps)),
        "i_rms": i_rms,
        "v_rms": v_rms,
        "i_re": i_re * cos + i_im * sin,
        "i_im": i_im * cos - i_re * sin,
        "v_seq": v_seq,
        "bad": bad,
    }


def unexplained(f: Any, s: Any) -> tuple[Any, Any, Any, Any]:
    """`residual`, `jump`, `rise`, `load` in A against the memory.

    Unbalance that neither a load step nor a capacitor explains; size of the change of the positive sequence,
    its active part (signed), and the size of the remembered positive sequence.
    """
    d_re, d_im = f.i_re - s.mem_re, f.i_im - s.mem_im
    load = np.sqrt(s.mem_re[1] * s.mem_re[1] + s.mem_im[1] * s.mem_im[1])
    jump = np.sqrt(d_re[1] * d_re[1] + d_im[1] * d_im[1])
    # How much the load would have to grow to give this change of active current; no load more than doubles.
    growth = d_re[1] * s.mem_re[1] / (s.mem_re[1] * s.mem_re[1] + 1.0)
    growth = np.minimum(np.maximum(growth, -1.0), 1.0)
    r_re, r_im = d_re - growth * s.mem_re, d_im - growth * s.mem_im
    square = r_re * r_re + r_im * r_im
    return np.sqrt(np.maximum(square[0], square[2])), jump, d_re[1], load


def decide(f: Any, s: Any) -> tuple[dict[str, Any], bool, dict[str, Any]]:
    """One decision per frame: `(outputs, True, next state)`; `f` as `features` returns it, `s` as `STATE`.

    Outputs: `trip` (True on exactly one frame per fault, latched until the line is dead), `fault` (picked up
    in this frame), `live` (energised and past the hold-off), `bad` (frame not usable, state untouched),
    `residual` and `rise` (A, see `unexplained`).
    """
    residual, jump, rise, load = unexplained(f, s)
    bad = f.bad
    dead = (np.max(f.v_rms) < np.maximum(DEAD_VOLT, DEAD_SHARE * s.mem_v)) & (
        np.max(f.i_rms) < np.maximum(DEAD_AMP, DEAD_SHARE * load)
    )
    settled = s.live >= HOLD_OFF_FRAMES
    armed = settled & np.logical_not(dead) & np.logical_not(bad)

    pickup = PICKUP_AMP + PICKUP_SHARE * load + PICKUP_STEP_SHARE * jump
    dip = f.v_seq[1] < DIP_SHARE * s.mem_v
    rise_level = RISE_AMP + np.where(dip, DIP_RISE_SHARE, RISE_SHARE) * load
    above = armed & ((residual > pickup) | (rise > rise_level))
    below = (residual < DROPOUT * pickup) & (rise < DROPOUT * rise_level)
    fast = armed & ((residual > FAST_AMP + FAST_SHARE * load) | (rise > FAST_AMP + FAST_RISE_SHARE * load))

    picked = np.where(above, s.picked + 1, np.where(below, 0, s.picked))
    want = armed & (fast | (picked >= CONFIRM_FRAMES))
    trip = want & np.logical_not(s.latched)
    grey = np.where(armed & np.logical_not(below), s.grey + 1, 0)

    # A frame enters the memory one late, when it and the next are calm: no part of a disturbance gets in.
    # It starts anew at energisation, while the line has not settled, and when a disturbance has become
    # normal.
    first = (s.live == 0) | np.logical_not(settled | below)
    restart = first | (grey >= GREY_FRAMES_MAX)
    rate = np.where(below & s.last_calm, MEMORY_RATE, 0.0)
    nxt = {
        "mem_re": np.where(restart, f.i_re, s.mem_re + rate * (s.last_re - s.mem_re)),
        "mem_im": np.where(restart, f.i_im, s.mem_im + rate * (s.last_im - s.mem_im)),
        "mem_v": np.where(restart, f.v_seq[1], s.mem_v + rate * (s.last_v - s.mem_v)),
        "last_re": f.i_re,
        "last_im": f.i_im,
        "last_v": f.v_seq[1],
        "last_calm": below,
        "live": np.where(dead, 0, np.where(first, 1, np.minimum(s.live + 1, HOLD_OFF_FRAMES))),
        "picked": np.where(dead, 0, np.minimum(picked, CONFIRM_FRAMES)),
        "grey": np.where(dead | restart, 0, grey),
        "latched": np.logical_not(dead) & (s.latched | trip),
    }
    kept = {name: np.where(bad, getattr(s, name), value) for name, value in nxt.items()}
    return (
        {"trip": trip, "fault": above, "live": armed, "bad": bad, "residual": residual, "rise": rise},
        True,
        kept,
    )
