"""Kernels of many kinds: what a fleet computes on its sensors, and what is hard for compilers."""

import functools
from typing import Any

import numpy as np

import ganglion as gg
from examples.feeder import detect
from ganglion.core.schema import TensorType
from ganglion.kernels.ir.interpret import interpret
from ganglion.kernels.tracing.trace import trace
from ganglion.kernels.vectors import inputs, states
from tests.kernels import graphs

HANN256 = np.hanning(257)[:-1]
HANN512 = np.hanning(513)[:-1]
EDGES = np.linspace(2, 250, 42).astype(int)
MEL = np.array(
    [
        np.interp(np.arange(257), [a, b, c], [0, 1, 0], left=0, right=0)
        for a, b, c in zip(EDGES, EDGES[1:], EDGES[2:], strict=False)
    ]
)
HARMONICS = 50.0 * np.arange(1, 6)
WAVES = np.stack(
    [f(2 * np.pi * np.outer(np.arange(256), HARMONICS) / 12800) for f in (np.cos, np.sin)], -1
).reshape(256, 10)
BINS = np.arange(64)
ROTATION = np.linalg.qr(np.random.default_rng(3).normal(size=(9, 9)))[0]


def vibration(x):
    rms = np.sqrt(np.mean(x * x))
    peak = np.max(np.abs(x))
    return {"rms": rms, "peak": peak, "crest": peak / np.maximum(rms, 1e-9)}


def bands(x):
    magnitude = np.abs(np.fft.rfft(x * HANN256))
    return {"bands": np.mean(magnitude[1:129].reshape(16, 8), axis=1)}


def distortion(x):
    c = (x @ WAVES).reshape(5, 2)
    power = np.sum(c * c, axis=1)
    return {
        "fundamental": np.sqrt(power[0]) * (2 / 256),
        "thd": np.sqrt(np.sum(power[1:])) / np.maximum(np.sqrt(power[0]), 1e-9),
    }


def log_mel(x):
    spectrum = np.fft.rfft(x * HANN512)
    power = spectrum.real * spectrum.real + spectrum.imag * spectrum.imag
    return {"mel": np.log(np.maximum(power @ MEL.T, 1e-10))}


def trip(x, s):
    rms = np.sqrt(np.mean(x * x))
    want = np.where(rms > 1.2, True, np.where(rms < 1.0, False, s.on))
    n = np.where(want != s.on, s.n + 1, 0)
    flip = n >= 3
    on = np.where(flip, want, s.on)
    return {"rms": rms, "on": on}, flip, {"on": on, "n": np.where(flip, 0, n)}


def deadband(x, s):
    emit = np.any(np.abs(x - s.last) > 0.5) | s.first
    return {"x": x}, emit, {"last": np.where(emit, x, s.last), "first": False}


def z_score(x, s):
    d = x - s.mean
    z = d / np.sqrt(s.var + 1e-6)
    after = {
        "mean": s.mean + 0.05 * d,
        "var": 0.95 * (s.var + 0.05 * d * d),
        "n": np.minimum(s.n + 1, 20),
    }
    return {"z": z}, (s.n >= 20) & np.any(np.abs(z) > 3.0), after


def tumbling(x, s):
    n, total = s.n + 1, s.total + x
    low, high = np.minimum(s.low, x), np.maximum(s.high, x)
    close = n >= 60
    after = {
        "n": np.where(close, 0, n),
        "total": np.where(close, 0.0, total),
        "low": np.where(close, np.inf, low),
        "high": np.where(close, -np.inf, high),
    }
    return {"mean": total / 60, "low": low, "high": high}, close, after


def sketch(x, s):
    place = np.floor(np.log(np.maximum(np.abs(x), 1e-6)) * 4 + 56).astype(np.int32)
    counts = s.counts + (np.clip(place, 0, 63) == BINS)
    return {"counts": counts}, True, {"counts": counts}


def ring(x, s):
    kept = np.concatenate([s.ring[1:], np.reshape(x, (1,))])
    return {"mean": np.mean(kept), "spread": np.max(kept) - np.min(kept)}, True, {"ring": kept}


def median_of_five(x):
    a = x
    for i, j in [(0, 1), (3, 4), (2, 4), (2, 3), (1, 4), (0, 3), (0, 2), (1, 3), (1, 2)]:
        low, high = np.minimum(a[i], a[j]), np.maximum(a[i], a[j])
        a = [low if k == i else high if k == j else a[k] for k in range(5)]
    return {"median": a[2]}


def swap(x, s):
    after = {"a": s.b[::-1], "b": s.a + x, "t": s.a[0] * s.b[3]}
    return {"t": s.t + x[0]}, s.a[1] > s.b[1], after


def whole_numbers(x):
    a, b = x[0], x[1]
    return {
        "sum": a + b,
        "difference": a - b,
        "product": a * b,
        "quotient": a // b,
        "rest": a % b,
        "minus": -a,
        "size": np.abs(b),
        "bits": (a & b) ^ (a | 12345),
        "not": ~a,
        "left": a << 3,
        "right": a >> 5,
        "total": np.sum(x),
        "least": np.min(x, axis=1),
        "float": a.astype(np.float32),
    }


def rounding(x):
    return {
        "floor": np.floor(x),
        "rint": np.rint(x),
        "whole": x.astype(np.int32),
        "truth": x.astype(bool),
        "nan": np.isnan(x),
        "finite": np.isfinite(x),
        "minus": -x,
    }


def mathematics(x):
    return {
        "exp": np.exp(x),
        "log": np.log(x),
        "sin": np.sin(x),
        "cos": np.cos(x),
        "tanh": np.tanh(x),
        "root": np.sqrt(x),
        "inverse": 1.0 / x,
        "cube": x**3,
    }


def comparisons(x):
    a, b = x[0], x[1]
    return {
        "lt": a < b,
        "ge": a >= b,
        "eq": a == b,
        "ne": a != b,
        "low": np.minimum(a, b),
        "high": np.maximum(a, b),
        "which": np.argmax(x, axis=0),
        "where": np.where(a > b, a, -b),
        "count": np.sum(a > b),
        "mixed": (a > 0) * b + (b > 0),
    }


def shapes(x):
    t = x.T
    joined = np.concatenate([t[1::2], t[::-2]], axis=0)
    stacked = np.stack([x[0], x[1, ::-1]], axis=1)
    return {
        "joined": joined,
        "stacked": stacked,
        "flat": x[1:, ::3].reshape(-1) * 2,
        "outer": x[0, :, None] - x[1, None, :4],
        "kept": np.max(x, axis=1, keepdims=True) - x,
        "turned": t.reshape(3, 7) + 1,
    }


def rotated(x):
    y = x @ ROTATION
    return {"y": y, "self": y @ x[0], "product": x @ x.T, "row": ROTATION @ x[1]}


def quaternion(x, s):
    q, w = s.q, x * 0.01
    turned = np.stack(
        [
            q[0] - w[0] * q[1] - w[1] * q[2] - w[2] * q[3],
            q[1] + w[0] * q[0] + w[2] * q[2] - w[1] * q[3],
            q[2] + w[1] * q[0] - w[2] * q[1] + w[0] * q[3],
            q[3] + w[2] * q[0] + w[1] * q[1] - w[0] * q[2],
        ]
    )
    unit = turned / np.sqrt(np.sum(turned * turned))
    return {"q": unit}, True, {"q": unit}


def statistics(x):
    return {
        "variance": np.var(x, axis=1),
        "deviation": np.std(x),
        "slope": np.diff(x, axis=1),
        "bend": np.diff(x, n=2, axis=0),
        "rolled": np.roll(x, 3) - np.roll(x, -2, axis=1),
        "flipped": np.flip(x) + np.flip(x, axis=0),
        "zeros": np.zeros_like(x) + np.full_like(x, 2.5),
        "squeezed": np.squeeze(np.expand_dims(x[0], 1)),
    }


def biquad(x, s):
    b, a = (0.2, 0.4, 0.2), (-0.5, 0.3)
    gain = np.max(np.abs(x[:4])) + 1  # from round the loop

    def step(carry, v):
        w1, w2 = carry
        w = v - a[0] * w1 - a[1] * w2
        return (w, w1), (b[0] * w + b[1] * w1 + b[2] * w2) * gain

    (w1, w2), y = gg.scan(step, (s.w1, s.w2), x)
    return {"y": y, "last": y[-1]}, True, {"w1": w1, "w2": w2}


def goertzel(x):
    k = 2 * np.cos(2 * np.pi * HARMONICS / 12800)
    (s1, s2), _ = gg.scan(lambda c, v: ((v + k * c[0] - c[1], c[0]), None), (np.zeros(5), np.zeros(5)), x)
    return {"power": s1 * s1 + s2 * s2 - k * s1 * s2}


def checksum(x):
    def bit(c, k):
        return (np.where((c[0] & 1) != 0, (c[0] >> 1) ^ 0x1A001, c[0] >> 1), c[1] | (k > 2)), None

    def word(c, v):
        (crc, seen), _ = gg.scan(bit, (c[0] ^ (v & 255), c[1]), np.arange(8))
        return (crc, seen), crc == 0

    (crc, seen), zero = gg.scan(word, (0xFFFF, False), x)
    return {"crc": crc, "seen": seen, "zero": zero}


def histogram(x):
    bins = np.floor(np.clip(np.where(np.isnan(x), 0.0, x), -4, 4) * 2 + 8).astype(np.int32)
    return {"bins": np.bincount(bins, minlength=17)}


def odd_bins(x):
    return {"bins": np.bincount(x, minlength=5), "moved": np.bincount(x[::2] + 3, minlength=9)}


STEPS = np.array([[0.05], [0.25], [1.5]])
CENTRES = np.array([[0], [-128], [77]])


def eight_bits(x):
    signed, whole = gg.quantize(x, 0.1, 3), gg.quantize(x, 0.7, 255, np.uint8)
    rows = gg.quantize(x, STEPS, CENTRES)
    reach = np.max(np.abs(np.clip(x, -100.0, 100.0)), axis=1, keepdims=True) / 127 + 1e-3
    return {
        "signed": signed,
        "whole": whole,
        "rows": rows,
        "drawn": gg.quantize(x, reach),  # a scale that every frame has of its own
        "back": gg.dequantize(signed, 0.1, 3),
        "rows_back": gg.dequantize(rows, STEPS, CENTRES) - x,
        "sum": signed[0] + whole[1],
    }


def classified(x, s):
    """The network on centred rows; a class is told when it was the same three times."""
    logits = graphs.NETWORKS["classifier"](x - np.mean(x, axis=1, keepdims=True))
    found = np.argmax(logits)
    n = np.where(found == s.found, np.minimum(s.n + 1, 3), 1)
    return {"logits": logits, "found": found}, n == 3, {"found": found, "n": n}


def shared_out(x):
    """Whole numbers at both ends: two networks in one kernel, of int8 and of uint8."""
    near, far = graphs.NETWORKS["residual_int8"](x), graphs.NETWORKS["residual_uint8"](x + 128)
    return {"near": near, "share": gg.dequantize(near, 1 / 256, -128), "moved": np.max(np.abs(near - far))}


def anomaly(x):
    """A network within a loop: how far each row is from what is made of it."""

    def step(c, row):
        apart = graphs.NETWORKS["autoencoder"](row) - row
        return (np.maximum(c[0], np.max(np.abs(apart))),), np.sum(apart * apart)

    (worst,), scores = gg.scan(step, (0.0,), x)
    return {"worst": worst, "scores": scores}


def record(f):
    return {"ratio": f.peak / np.maximum(f.rms, 1e-3), "high": f.crest > 1.4, "level": np.tanh(f.rms)}


FEATURES = gg.f32[6, 64]
ZOO: dict[str, tuple[Any, Any, Any]] = {
    "vibration": (vibration, gg.f32[64], None),
    "bands": (bands, gg.f32[256], None),
    "distortion": (distortion, gg.f32[256], None),
    "log_mel": (log_mel, gg.f32[512], None),
    "trip": (trip, gg.f32[64], {"on": False, "n": 0}),
    "deadband": (deadband, gg.f32[4], {"last": np.zeros(4), "first": True}),
    "z_score": (z_score, gg.f32[4], {"mean": np.zeros(4), "var": np.ones(4), "n": 0}),
    "tumbling": (tumbling, gg.f32, {"n": 0, "total": 0.0, "low": np.inf, "high": -np.inf}),
    "sketch": (sketch, gg.f32, {"counts": np.zeros(64, np.int32)}),
    "ring": (ring, gg.f32, {"ring": np.zeros(16)}),
    "median_of_five": (median_of_five, gg.f32[5], None),
    "swap": (swap, gg.f32[5], {"a": np.arange(5.0), "b": np.ones(5), "t": 0.0}),
    "whole_numbers": (whole_numbers, gg.i32[2, 7], None),
    "rounding": (rounding, gg.f32[11], None),
    "mathematics": (mathematics, gg.f32[13], None),
    "comparisons": (comparisons, gg.f32[2, 19], None),
    "shapes": (shapes, gg.f32[3, 7], None),
    "rotated": (rotated, gg.f32[2, 9], None),
    "quaternion": (quaternion, gg.f32[3], {"q": np.array([1.0, 0, 0, 0])}),
    "statistics": (statistics, gg.f32[4, 20], None),
    "biquad": (biquad, gg.f32[64], {"w1": 0.0, "w2": 0.0}),
    "goertzel": (goertzel, gg.f32[256], None),
    "checksum": (checksum, gg.i32[12], None),
    "histogram": (histogram, gg.f32[40], None),
    "odd_bins": (odd_bins, gg.i32[30], None),
    "eight_bits": (eight_bits, gg.f32[3, 17], None),
    "classified": (classified, gg.f32[6, 64], {"found": 0, "n": 0}),
    "shared_out": (shared_out, gg.i32[2, 7, 5], None),
    "anomaly": (anomaly, gg.f32[4, 20], None),
    "record": (record, gg.kernel(x=gg.f32[64])(vibration).output, None),
    "feeder_features": (detect.features, gg.f32[6, 64], None),
    "feeder_decide": (detect.decide, gg.kernel(x=gg.f32[6, 64])(detect.features).output, detect.STATE),
}


def program_of(name):
    """The traced kernel of the zoo with this name."""
    function, given, state = ZOO[name]
    initial = None
    if state is not None:
        initial = {k: np.asarray(v, TensorType.of(v).numpy) for k, v in state.items()}
    return trace(function, name, given, initial)


@functools.cache
def reference(name, frames, seed):
    """The kernel's program, hostile inputs and states for it, and what the reference makes of them."""
    program = program_of(name)
    given, held = inputs(program, frames, seed), states(program, frames, seed)
    return program, given, held, interpret(program, given, held or None)
