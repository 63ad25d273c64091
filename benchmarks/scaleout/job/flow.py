"""The job of the benchmark: harmonics of every frame, a rule with state per origin, ten-second windows per origin."""

import numpy as np

import ganglion as gg

N, ORDERS = 64, 8
STEPS = np.arange(N, dtype=np.float32)
WAVES = [
    (
        np.cos(2 * np.pi * order * STEPS / N).astype(np.float32),
        np.sin(2 * np.pi * order * STEPS / N).astype(np.float32),
    )
    for order in range(1, ORDERS + 1)
]


@gg.kernel(x=gg.f32[3, N])
def harmonics(x):
    """The amplitudes of the fundamental, the third and all of the first eight harmonics of three phases."""
    sizes = []
    for cosine, sine in WAVES:
        real = np.sum(x * cosine, axis=1)
        imaginary = np.sum(x * sine, axis=1)
        sizes.append(np.sum(np.sqrt(real * real + imaginary * imaginary)) * np.float32(2 / 3 / N))
    whole = sizes[0]
    for size in sizes[1:]:
        whole = whole + size
    return {
        "first": sizes[0],
        "third": sizes[2],
        "whole": whole,
        "rms": np.sqrt(np.mean(x * x)),
        "peak": np.max(np.abs(x)),
    }


@gg.kernel(f=harmonics, state={"slow": 0.0, "n": 0})
def unrest(f, s):
    """How far a frame is from what was usual at its origin."""
    slow = s.slow + (f.rms - s.slow) * np.float32(0.02)
    far = np.abs(f.rms - slow)
    n = np.where(far > np.float32(2.0), s.n + 1, 0)
    return {"far": far, "third": f.third, "rms": f.rms, "n": n}, np.bool_(True), {"slow": slow, "n": n}


flow = gg.Flow("scaleout")
waves = flow.source("waves", gg.Frame(3, N, dtype="i16", unit="A", scale=0.01), every="16.667ms")
state = waves.map(harmonics).map(unrest)
state.where(lambda s: s.n >= 3, id="restless").sink("alarms", at="cloud")
state.window("10s").aggregate(
    n=gg.count(),
    rms=gg.mean("rms"),
    peak=gg.max("far"),
    third=gg.mean("third"),
    spread=gg.std("rms"),
    id="tens",
).sink("trends", at="cloud")
