"""Batches for the tests of what is written to disk and wire: any dtype, any bits, any steps."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ganglion.core.batch import Batch
from ganglion.core.schema import Field, Schema, TensorType

DTYPES = ["f32", "f64", "i16", "i32", "i64", "bool"]
LEAST, MOST = -(2**63), 2**63 - 1

shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
types = st.builds(TensorType, st.sampled_from(DTYPES), shapes)
names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
schemas = st.dictionaries(names, types, min_size=1, max_size=4).map(
    lambda d: Schema(tuple(Field(n, t) for n, t in d.items()))
)
extremes = st.sampled_from([LEAST, LEAST + 1, -1, 0, 1, MOST - 1, MOST]) | st.integers(LEAST, MOST)
texts = st.text(max_size=12)


def columns_of(tensor: TensorType, n: int):
    """Arrays of ``n`` rows made of arbitrary bits, so that every NaN payload, -0.0 and subnormal comes."""
    count = n * tensor.size_bytes
    if tensor.dtype == "bool":
        return hnp.arrays(np.bool_, (n, *tensor.shape))
    bits = st.binary(min_size=count, max_size=count)
    return bits.map(lambda b: np.frombuffer(b, tensor.numpy).reshape(n, *tensor.shape))


@st.composite
def steps(draw, n):
    """Row numbers: strictly increasing, even or uneven, up to the ends of int64."""
    if draw(st.booleans()):
        first, step = draw(st.integers(0, 2**60)), draw(st.integers(1, 2**40))
        return first + step * np.arange(n, dtype=np.int64)
    return np.array(sorted(draw(st.sets(extremes, min_size=n, max_size=n))), np.int64)


@st.composite
def batches(draw):
    """(batch, its schema)."""
    schema = draw(schemas)
    n = draw(st.integers(1, 12))
    times = draw(st.lists(extremes, min_size=n, max_size=n))
    columns = {f.name: draw(columns_of(f.type, n)) for f in schema.fields}
    batch = Batch(draw(texts), draw(texts), draw(steps(n)), np.array(times, np.int64), columns)
    return batch, schema


def same_bits(a: Batch, b: Batch) -> bool:
    """Equal down to the payload of every NaN."""
    return (
        (a.stream, a.origin, tuple(a.columns)) == (b.stream, b.origin, tuple(b.columns))
        and all(same_array(x, y) for x, y in ((a.seq, b.seq), (a.time_ns, b.time_ns)))
        and all(same_array(a.columns[k], b.columns[k]) for k in a.columns)
    )


def same_array(a, b) -> bool:
    """Equal dtype, shape and bytes."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def fixed_batch() -> Batch:
    """One column of each dtype, among them a NaN with a payload, -0.0 and the ends of the integers."""
    nan = np.array([0x7FC0_1234, 0x8000_0000, 0x3F80_0000], np.uint32).view(np.float32)
    return Batch(
        "trend",
        "gw1-relay-03",
        np.array([1 << 40, (1 << 40) + 1, (1 << 40) + 5], np.int64),
        np.array([1_700_000_000_000_000_000 + 20_000_000 * i for i in range(3)], np.int64),
        {
            "f32": nan,
            "f64": np.array([0.1, -1.5, 1e300]),
            "i16": np.array([[-32768, 32767], [0, 1], [5, -5]], np.int16),
            "i32": np.array([-(2**31), 0, 2**31 - 1], np.int32),
            "i64": np.array([LEAST, 0, MOST]),
            "truth": np.array([True, False, True]),
        },
    )


def sawtooth() -> Batch:
    """Frames of integers that every machine computes alike, large enough to be deflated."""
    frames = (np.arange(2 * 6 * 64).reshape(2, 6, 64) * 31 % 2001 - 1000).astype(np.int16)
    return Batch("cycle", "gw1-relay-00", np.arange(2), np.arange(2) * 20_000_000, {"frame": frames})


def waveforms(frames: int) -> Batch:
    """Three voltages and three currents of a 50 Hz network with noise and 3 % third harmonic, as i16 counts."""
    rng = np.random.default_rng(50)
    phase = (
        2 * np.pi * (np.arange(frames * 64).reshape(frames, 1, 64) / 64)
        + np.arange(6).reshape(1, 6, 1) * 2.094
    )
    amplitude = np.array([11_000, 11_000, 11_000, 800, 800, 800]).reshape(1, 6, 1)
    clean = amplitude * (np.sin(phase) + 0.03 * np.sin(3 * phase))
    stored = np.rint(clean + rng.normal(0, 0.004, clean.shape) * amplitude).astype(np.int16)
    time_ns = 1_700_000_000_000_000_000 + np.arange(frames) * 20_000_000
    return Batch("cycle", "gw1-relay-00", np.arange(frames) + (1 << 40), time_ns, {"frame": stored})
