"""The discrete Fourier transform of real samples whose number is a power of two.

A complex transform of half the length by Stockham's radix-2 steps, then the split into the spectrum of the real
samples (Press et al., "Numerical Recipes", 3rd ed., section 12.3). The turning factors are operands, so they are
part of a kernel's identity and the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.ops.op import Array, Attributes, Op, Types, Writer, require


def factors(samples: int) -> tuple[Array, Array]:
    """The two tables ``rfft`` takes: f32[samples/4, 2] (at least one row) and f32[samples/2 + 1, 2]."""
    half = samples // 2
    steps = np.arange(max(1, half // 2)) / max(1, half)
    split = np.arange(half + 1) / samples
    tables = [np.stack([np.cos(2 * np.pi * t), -np.sin(2 * np.pi * t)], axis=1) for t in (steps, split)]
    return tables[0].astype(np.float32), tables[1].astype(np.float32)


def _rfft_type(types: Types, _attributes: Attributes) -> TensorType:
    x, step, split = types
    require(x.dtype == "f32" and len(x.shape) == 1, f"rfft of {x}: one axis of f32")
    n = x.shape[0]
    require(n >= 4 and n & (n - 1) == 0, f"rfft of {n} samples: a power of two, at least 4")
    require(
        step.shape == (max(1, n // 4), 2) and split.shape == (n // 2 + 1, 2),
        "turning factors of another length",
    )
    return TensorType("f32", (2, n // 2 + 1))


def _rfft(arrays: Sequence[Array], _attributes: Attributes, _result: TensorType) -> Array:
    x, step, split = arrays[0], arrays[1][0], arrays[2][0]
    half = x.shape[1] // 2
    re, im = x[:, 0::2].copy(), x[:, 1::2].copy()
    with np.errstate(all="ignore"):
        m, s = half // 2, 1
        while m >= 1:
            shape = (x.shape[0], m, s)
            ar, br = re[:, : m * s].reshape(shape), re[:, m * s :].reshape(shape)
            ai, bi = im[:, : m * s].reshape(shape), im[:, m * s :].reshape(shape)
            wr, wi = step[np.arange(m) * s, 0][:, None], step[np.arange(m) * s, 1][:, None]
            dr, di = ar - br, ai - bi
            nr = np.stack([ar + br, dr * wr - di * wi], axis=2)
            ni = np.stack([ai + bi, dr * wi + di * wr], axis=2)
            re, im = nr.reshape(x.shape[0], half), ni.reshape(x.shape[0], half)
            m, s = m // 2, s * 2
        a = np.arange(half + 1) & (half - 1)
        b = (half - np.arange(half + 1)) & (half - 1)
        h = np.float32(0.5)
        er, ei = h * (re[:, a] + re[:, b]), h * (im[:, a] - im[:, b])
        odd_r, odd_i = h * (im[:, a] + im[:, b]), h * (re[:, b] - re[:, a])
        wr, wi = split[:, 0], split[:, 1]
        return np.stack([er + (odd_r * wr - odd_i * wi), ei + (odd_r * wi + odd_i * wr)], axis=1)


_BUTTERFLY = """\
for (int p = 0; p < {m}; p++) {{
  const float wr = {step_r}, wi = {step_i};
  for (int q = 0; q < {s}; q++) {{
    const float ar = {x}r[{s} * p + q], ai = {x}i[{s} * p + q];
    const float br = {x}r[{s} * (p + {m}) + q], bi = {x}i[{s} * (p + {m}) + q];
    const float dr = ar - br, di = ai - bi;
    {y}r[{s} * 2 * p + q] = ar + br;
    {y}i[{s} * 2 * p + q] = ai + bi;
    {y}r[{s} * 2 * p + q + {s}] = dr * wr - di * wi;
    {y}i[{s} * 2 * p + q + {s}] = dr * wi + di * wr;
  }}
}}"""

_SPLIT = """\
for (int k = 0; k <= {half}; k++) {{
  const int a = k & ({half} - 1), b = ({half} - k) & ({half} - 1);
  const float er = 0.5f * ({x}r[a] + {x}r[b]), ei = 0.5f * ({x}i[a] - {x}i[b]);
  const float or_ = 0.5f * ({x}i[a] + {x}i[b]), oi = 0.5f * ({x}r[b] - {x}r[a]);
  const float wr = {split_r}, wi = {split_i};
  {out_r} = er + (or_ * wr - oi * wi);
  {out_i} = ei + (or_ * wi + oi * wr);
}}"""


def _write_rfft(writer: Writer, types: Types, _attributes: Attributes, _result: TensorType) -> None:
    half = types[0].shape[0] // 2
    room, first, second = (writer.scratch("f32", 4 * half), writer.name(), writer.name())
    for k, name in enumerate((f"{first}r", f"{first}i", f"{second}r", f"{second}i")):
        writer.line(f"float *restrict const {name} = {room} + {k * half};")
    even, odd = writer.read(0, ["(2 * i)"]), writer.read(0, ["(2 * i + 1)"])
    writer.line(f"for (int i = 0; i < {half}; i++) {{ {first}r[i] = {even}; {first}i[i] = {odd}; }}")
    # Each step is written out, so that a compiler knows how far its loops run.
    m, s = half // 2, 1
    while m >= 1:
        turn = [writer.read(1, [f"(p * {s})", part]) for part in ("0", "1")]
        text = _BUTTERFLY.format(m=m, s=s, x=first, y=second, step_r=turn[0], step_i=turn[1])
        for line in text.splitlines():
            writer.line(line)
        first, second = second, first
        m, s = m // 2, s * 2
    text = _SPLIT.format(
        x=first,
        half=half,
        split_r=writer.read(2, ["k", "0"]),
        split_i=writer.read(2, ["k", "1"]),
        out_r=writer.result(["0", "k"]),
        out_i=writer.result(["1", "k"]),
    )
    for line in text.splitlines():
        writer.line(line)


def _cost(types: Types, _attributes: Attributes, _result: TensorType) -> int:
    n = types[0].shape[0]
    return 5 * (n // 2) * (n.bit_length() - 2) + 9 * n // 2


def _scratch_bytes(types: Types, _attributes: Attributes) -> int:
    return 4 * 4 * (types[0].shape[0] // 2)


SPECTRUM = (Op("rfft", _rfft_type, _rfft, None, _write_rfft, _cost, _scratch_bytes),)
