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
state. In NumPy the number of array calls is what counts, so what is remembered is one vector, choices between
scalars are made with `&`, `|` and with a truth value as factor 0 or 1, and one product does for six channels.

Limits: a fault present at energisation (or before `HOLD_OFF_FRAMES` calm frames) is not seen; a
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
"""The line is dead below these (RMS of each phase), or below this share of the remembered components."""

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
    "mem": np.zeros(7, np.float32),
    "last": np.zeros(7, np.float32),
    "last_calm": np.False_,
    "live": np.int32(0),
    "picked": np.int32(0),
    "grey": np.int32(0),
    "latched": np.False_,
}
"""Initial state of `decide`: remembered components (`seq` of `features`), those of the last frame and whether
it was calm; calm frames since energisation, frames confirming, frames not calm; the trip latch. NumPy scalars,
since `~` and sums of truth values mean something else on Python's own."""


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


def _sequences() -> np.ndarray:
    """f32[12, 22]: phasors (re, im) of Va, Vb, Vc, Ia, Ib, Ic -> two f32[11] for `features` to turn by an angle.

    The first is `seq` and `skew` at angle zero: the currents' real parts (sequence 0, 1, 2), their imaginary parts,
    the real part of the positive-sequence voltage; the real parts of the voltage's zero and negative sequence, their
    imaginary parts. The second is the same times -j. The vector at the angle `w` is first * cos(w) + second * sin(w).
    """
    turn = np.exp(2j * np.pi / 3)
    fortescue = np.array([[1, 1, 1], [1, turn, turn**2], [1, turn**2, turn]]).T / 3
    table = np.zeros((12, 22))
    for part, unit in ((0, 1), (1, 1j)):  # what a phasor's real part adds, and what its imaginary part adds
        amps, volt, skew = unit * fortescue, unit * fortescue[:, 1:2], unit * fortescue[:, ::2]
        table[part:6:2, 6:11] = np.hstack([volt.real, skew.real, skew.imag])
        table[part:6:2, 17:22] = np.hstack([volt.imag, skew.imag, -skew.real])
        table[part + 6 :: 2, :6] = np.hstack([amps.real, amps.imag])
        table[part + 6 :: 2, 11:17] = np.hstack([amps.imag, -amps.real])
    return table.astype(np.float32)


def _harmonics() -> np.ndarray:
    """f32[64, 4]: samples -> RMS phasors (re, im, re, im) of the second and the third harmonic, a plain Fourier sum."""
    turn = 2 * np.pi * np.outer(np.arange(SAMPLES), [2, 3]) / SAMPLES
    table = np.stack([np.cos(turn), -np.sin(turn)], axis=2).reshape(SAMPLES, 4)
    return (table * np.sqrt(2) / SAMPLES).astype(np.float32)


FOURIER = _fourier()
SEQUENCES = _sequences()
HARMONICS = _harmonics()
MEAN = np.full(SAMPLES, 1 / SAMPLES, np.float32)


def features(x: Any) -> dict[str, Any]:
    """The numbers that describe one cycle.

    `x` is f32[6, 64]: Va, Vb, Vc in V to ground, Ia, Ib, Ic in A. Returns `rms` (A, over the three phases),
    `peak` (A, largest sample), `i_rms` (A) and `v_rms` (V) of the phase where it is largest, `seq` f32[7]
    (real parts of the current's zero, positive and negative sequence, A RMS, then their imaginary parts, the
    angle counted from the positive-sequence voltage; last that voltage's magnitude, V RMS), `skew` f32[4] (the
    voltage's zero and negative sequence, V RMS, real parts and then imaginary parts, at the same angle), `harmonics`
    f32[6] (second and third harmonic of Ia, Ib, Ic in turn, A RMS) and `bad` (a sample is not a number or absurd; it
    counts as 0 V or 0 A).
    """
    good = np.abs(x) <= SAMPLE_LIMIT  # False for NaN as well
    x = np.where(good, x, 0.0)
    square = (x * x) @ MEAN
    largest = np.max(square.reshape(2, 3), axis=1)
    both = (x @ FOURIER).reshape(12) @ SEQUENCES
    re, im = both[6], both[17]
    # Angles count from the positive-sequence voltage, so frames compare although clock and grid drift.
    length = np.maximum(np.sqrt(re * re + im * im), 1e-3)
    turned = both[0:11] * (re / length) + both[11:22] * (im / length)
    tones = x[3:6] @ HARMONICS
    tones = tones * tones
    return {
        "rms": np.sqrt((square[3] + square[4] + square[5]) / 3.0),
        "peak": np.max(np.abs(x[3:6])),
        "i_rms": np.sqrt(largest[1]),
        "v_rms": np.sqrt(largest[0]),
        "seq": turned[0:7],
        "skew": turned[7:11],
        "harmonics": np.sqrt(tones.reshape(6, 2) @ np.ones(2, np.float32)),
        "bad": ~np.all(good),
    }


def unexplained(seq: Any, mem: Any) -> tuple[Any, Any, Any, Any]:
    """`residual`, `jump`, `rise`, `load` in A of the components `seq` against the remembered `mem`.

    Unbalance that neither a load step nor a capacitor explains; size of the change of the positive sequence,
    its active part (signed), and the size of the remembered positive sequence.
    """
    delta = seq - mem
    rise, reactive = delta[1], delta[4]
    mem_re, mem_im = mem[1], mem[4]
    # How much the load would have to grow to give this change of active current; no load more than doubles,
    # which the larger of the two divisors sees to.
    wanted = rise * mem_re
    growth = wanted / np.maximum(mem_re * mem_re + 1.0, abs(wanted))
    left = delta - mem * growth
    square = left * left
    residual = np.sqrt(np.maximum(square[0] + square[3], square[2] + square[5]))
    jump = np.sqrt(rise * rise + reactive * reactive)
    return residual, jump, rise, np.sqrt(mem_re * mem_re + mem_im * mem_im)


def judge(f: Any, s: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the rule makes of a frame: its signals, and the next state; see `decide`."""
    residual, jump, rise, load = unexplained(f.seq, s.mem)
    volt, mem_volt = f.seq[6], s.mem[6]
    bad = f.bad
    usable = ~bad
    dead = (
        usable
        & ((f.v_rms < DEAD_VOLT) | (f.v_rms < DEAD_SHARE * mem_volt))
        & ((f.i_rms < DEAD_AMP) | (f.i_rms < DEAD_SHARE * load))
    )
    alive = ~dead
    settled = s.live >= HOLD_OFF_FRAMES
    armed = settled & alive & usable

    pickup = PICKUP_AMP + PICKUP_SHARE * load + PICKUP_STEP_SHARE * jump
    dip = volt < DIP_SHARE * mem_volt
    level, dip_level = RISE_AMP + RISE_SHARE * load, RISE_AMP + DIP_RISE_SHARE * load
    above = armed & ((residual > pickup) | (rise > level) | (dip & (rise > dip_level)))
    small = (rise < DROPOUT * dip_level) | (~dip & (rise < DROPOUT * level))
    calm = usable & (residual < DROPOUT * pickup) & small
    restless = ~calm
    fast = (residual > FAST_AMP + FAST_SHARE * load) | (rise > FAST_AMP + FAST_RISE_SHARE * load)

    # Counters: a truth value adds 0 or 1, and as a factor keeps or clears. A bad frame leaves each as it is.
    picked = (s.picked + (above & (s.picked < CONFIRM_FRAMES))) * (above | restless)
    stirred = armed & restless
    grey = (s.grey + stirred) * (stirred | bad)

    # A frame enters the memory one late, when it and the next are calm: no part of a disturbance gets in.
    # It starts anew at energisation, while the line has not settled, and when a disturbance has become
    # normal.
    first = usable & ((s.live == 0) | ~(settled | calm))
    restart = first | (grey >= GREY_FRAMES_MAX)
    remember = calm & s.last_calm
    live = s.live * ~first
    signals = {
        "armed": armed,
        "fast": fast,
        "above": above,
        "slow": picked >= CONFIRM_FRAMES,
        "residual": residual,
        "rise": rise,
        "jump": jump,
        "load": load,
        "pickup": pickup,
        "alive": alive,
        "restart": restart,
        "remember": remember,
    }
    return signals, {
        "mem": np.where(restart, f.seq, np.where(remember, s.mem + MEMORY_RATE * (s.last - s.mem), s.mem)),
        "last": np.where(bad, s.last, f.seq),
        "last_calm": calm | (bad & s.last_calm),
        "live": (live + (usable & (live < HOLD_OFF_FRAMES))) * alive,
        "picked": picked * alive,
        "grey": grey * ~restart,
    }


def decide(f: Any, s: Any) -> tuple[dict[str, Any], bool, dict[str, Any]]:
    """One decision per frame: `(outputs, True, next state)`; `f` as `features` returns it, `s` as `STATE`.

    Outputs: `trip` (True on exactly one frame per fault, latched until the line is dead), `bad` (frame not
    usable, state untouched), `residual` and `rise` (A, see `unexplained`).
    """
    now, after = judge(f, s)
    trip = now["armed"] & (now["fast"] | now["slow"]) & ~s.latched
    after["latched"] = (s.latched | trip) & now["alive"]
    return {"trip": trip, "bad": f.bad, "residual": now["residual"], "rise": now["rise"]}, True, after
