"""The zoo's kernels over whole batches, in the best NumPy that we know how to write, in single precision.

Each takes frames (n, *shape) and, for a kernel with state, every row's own state; it gives outputs, and what is next.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ganglion import Kernel, f32, kernel
from ganglion.kernels.ir.program import Program
from tests.kernels import zoo

F = np.float32
HANN256, HANN512 = zoo.HANN256.astype(F), zoo.HANN512.astype(F)
MEL, WAVES, ROTATION = zoo.MEL.T.astype(F), zoo.WAVES.astype(F), zoo.ROTATION.astype(F)
TURN = (2 * np.cos(2 * np.pi * zoo.HARMONICS / 12800)).astype(F)
Batch = Any


def vibration(x: Batch) -> Batch:
    rms, peak = np.sqrt(np.mean(x * x, axis=1)), np.max(np.abs(x), axis=1)
    return rms, peak, peak / np.maximum(rms, F(1e-9))


def bands(x: Batch) -> Batch:
    return np.mean(np.abs(np.fft.rfft(x * HANN256, axis=1))[:, 1:129].reshape(-1, 16, 8), axis=2)


def distortion(x: Batch) -> Batch:
    c = (x @ WAVES).reshape(-1, 5, 2)
    power = np.sum(c * c, axis=2)
    root = np.sqrt(power[:, 0])
    return root * F(2 / 256), np.sqrt(np.sum(power[:, 1:], axis=1)) / np.maximum(root, F(1e-9))


def log_mel(x: Batch) -> Batch:
    s = np.fft.rfft(x * HANN512, axis=1)
    return np.log(np.maximum((s.real * s.real + s.imag * s.imag) @ MEL, F(1e-10)))


@cache
def _room(shape: tuple[int, ...], n: int) -> list[Batch]:
    """Results that are written again and again: pages that are new each time cost more than what is computed."""
    return [np.empty(shape, F) for _ in range(n)]


def mathematics(x: Batch) -> Batch:
    room = _room(x.shape, 8)
    functions = (np.exp, np.log, np.sin, np.cos, np.tanh, np.sqrt)
    with np.errstate(all="ignore"):
        for function, out in zip(functions, room[:6], strict=True):
            function(x, out=out)
        np.divide(F(1), x, out=room[6])
        np.multiply(np.multiply(x, x, out=room[7]), x, out=room[7])
    return tuple(room)


def comparisons(x: Batch) -> Batch:
    a, b = x[:, 0], x[:, 1]
    more = a > b
    return (
        a < b,
        a >= b,
        a == b,
        a != b,
        np.minimum(a, b),
        np.maximum(a, b),
        np.argmax(x, axis=1),
        np.where(more, a, -b),
        np.sum(more, axis=1),
        (a > 0) * b + (b > 0),
    )


def rotated(x: Batch) -> Batch:
    y = x @ ROTATION
    return y, (y @ x[:, 0, :, None])[..., 0], x @ x.transpose(0, 2, 1), x[:, 1] @ ROTATION.T


def statistics(x: Batch) -> Batch:
    return (
        np.var(x, axis=2),
        np.std(x, axis=(1, 2)),
        np.diff(x, axis=2),
        np.diff(x, n=2, axis=1),
        np.roll(x.reshape(len(x), -1), 3, axis=1).reshape(x.shape) - np.roll(x, -2, axis=2),
        x[:, ::-1, ::-1] + x[:, ::-1],
        np.zeros_like(x) + F(2.5),
        x[:, 0].copy(),
    )


def whole_numbers(x: Batch) -> Batch:
    a, b = x[:, 0], x[:, 1]
    with np.errstate(all="ignore"):
        return (
            *(a + b, a - b, a * b, a // b, a % b, -a, np.abs(b), (a & b) ^ (a | 12345), ~a, a << 3, a >> 5),
            np.sum(x, axis=(1, 2), dtype=np.int32),
            np.min(x, axis=2),
            a.astype(F),
        )


def histogram(x: Batch) -> Batch:
    bins = np.floor(np.clip(np.where(np.isnan(x), F(0), x), F(-4), F(4)) * F(2) + F(8)).astype(np.int32)
    places = bins + 17 * np.arange(len(x), dtype=np.int32)[:, None]
    return np.bincount(places.ravel(), minlength=17 * len(x)).reshape(-1, 17)


def goertzel(x: Batch) -> Batch:
    s1, s2 = np.zeros((len(x), 5), F), np.zeros((len(x), 5), F)
    for v in np.ascontiguousarray(x.T)[:, :, None]:
        s1, s2 = v + TURN * s1 - s2, s1
    return s1 * s1 + s2 * s2 - TURN * s1 * s2


def trip(x: Batch, on: Batch, n: Batch) -> Batch:
    rms = np.sqrt(np.mean(x * x, axis=1))
    want = np.where(rms > F(1.2), True, np.where(rms < F(1), False, on))
    n = np.where(want != on, n + 1, 0)
    flip = n >= 3
    return rms, flip, np.where(flip, want, on), np.where(flip, 0, n)


def deadband(x: Batch, last: Batch, first: Batch) -> Batch:
    emit = np.any(np.abs(x - last) > F(0.5), axis=1) | first
    return x.copy(), emit, np.where(emit[:, None], x, last), np.zeros_like(first)


def z_score(x: Batch, mean: Batch, var: Batch, n: Batch) -> Batch:
    d = x - mean
    z = d / np.sqrt(var + F(1e-6))
    emit = (n >= 20) & np.any(np.abs(z) > 3, axis=1)
    return z, emit, mean + F(0.05) * d, F(0.95) * (var + F(0.05) * d * d), np.minimum(n + 1, 20)


def tumbling(x: Batch, n: Batch, total: Batch, low: Batch, high: Batch) -> Batch:
    n, total, low, high = n + 1, total + x, np.minimum(low, x), np.maximum(high, x)
    close = n >= 60
    after = (
        np.where(close, 0, n),
        np.where(close, F(0), total),
        np.where(close, F(np.inf), low),
        np.where(close, F(-np.inf), high),
    )
    return total / F(60), low, high, close, *after


def ring(x: Batch, held: Batch) -> Batch:
    kept = np.concatenate([held[:, 1:], x[:, None]], axis=1)
    return np.mean(kept, axis=1), np.max(kept, axis=1) - np.min(kept, axis=1), kept


def quaternion(x: Batch, q: Batch) -> Batch:
    (w0, w1, w2), (a, b, c, d) = (x * F(0.01)).T, q.T
    turned = np.stack(
        [
            a - w0 * b - w1 * c - w2 * d,
            b + w0 * a + w2 * c - w1 * d,
            c + w1 * a - w2 * b + w0 * d,
            d + w2 * a + w1 * b - w0 * c,
        ],
        axis=1,
    )
    return turned / np.sqrt(np.sum(turned * turned, axis=1))[:, None]


def biquad(x: Batch, w1: Batch, w2: Batch) -> Batch:
    gain = np.max(np.abs(x[:, :4]), axis=1) + F(1)
    y = np.empty((x.shape[1], len(x)), F)
    for k, v in enumerate(np.ascontiguousarray(x.T)):
        w = v + F(0.5) * w1 - F(0.3) * w2
        y[k] = (F(0.2) * w + F(0.4) * w1 + F(0.2) * w2) * gain
        w1, w2 = w, w1
    return y.T, w1, w2


def _alone(name: str) -> tuple[Kernel, Callable[[Batch], Batch]]:
    """A kernel of one function of 13 numbers, and NumPy's, into an array that it has already."""
    function = getattr(np, name)

    def only(x: Any) -> dict[str, Any]:
        return {"y": function(x)}

    def in_numpy(x: Batch) -> Batch:
        return function(x, out=_room(x.shape, 1)[0])

    return kernel(x=f32[13])(only), in_numpy


ALONE = {name: _alone(name) for name in ("exp", "log", "sin", "cos", "tanh")}
"""Kernels of nothing but one function, which libraries have in the form of one kind of processor."""
IN_NUMPY = {
    f.__name__: f
    for f in (vibration, bands, distortion, log_mel, mathematics, comparisons, rotated, statistics,
              whole_numbers, histogram, goertzel, trip, deadband, z_score, tumbling, ring, quaternion, biquad)
} | {name: in_numpy for name, (_, in_numpy) in ALONE.items()}  # fmt: skip
"""Kernels of every family of operations: reductions, spectra, products, mathematics, choice, shapes, whole numbers,
counts, scans, and what keeps state."""


def program_of(name: str) -> Program:
    """The program of a benchmark's kernel."""
    return ALONE[name][0].program if name in ALONE else zoo.program_of(name)
