"""The discrete Fourier transform of real samples whose number is a power of two.

A complex transform of half the length by Stockham's steps of radix 4, the last of radix 2 where the length asks for it
(Van Loan, "Computational Frameworks for the Fast Fourier Transform", 1992, sections 1.7 and 2.4), then the split into
the spectrum of the real samples (Press et al., "Numerical Recipes", 3rd ed., section 12.3). The turning factors are
operands, so they are part of a kernel's identity and the same on every machine. A step that turns nothing, the last,
multiplies nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ganglion.core.schema import TensorType
from ganglion.kernels.ops.op import Array, Attributes, Op, Types, Writer, require


def factors(samples: int) -> tuple[Array, Array]:
    """The two tables ``rfft`` takes: f32[3 * samples/8, 2] (at least one row) and f32[samples/2 + 1, 2]."""
    half = samples // 2
    steps = np.arange(_turns(half)) / half
    split = np.arange(half + 1) / samples
    tables = [np.stack([np.cos(2 * np.pi * t), -np.sin(2 * np.pi * t)], axis=1) for t in (steps, split)]
    return tables[0].astype(np.float32), tables[1].astype(np.float32)


def _turns(half: int) -> int:
    return max(1, half * 3 // 4)


def _steps(half: int) -> list[tuple[int, int, int]]:
    """The steps of a transform of ``half`` points: (radix, turns, points side by side)."""
    steps, left, side = [], half, 1
    while left > 1:
        radix = 4 if left >= 4 else 2
        steps.append((radix, left // radix, side))
        left, side = left // radix, side * radix
    return steps


def _rfft_type(types: Types, _attributes: Attributes) -> TensorType:
    x, step, split = types
    require(x.dtype == "f32" and len(x.shape) == 1, f"rfft of {x}: one axis of f32")
    n = x.shape[0]
    require(n >= 4 and n & (n - 1) == 0, f"rfft of {n} samples: a power of two, at least 4")
    require(
        step.shape == (_turns(n // 2), 2) and split.shape == (n // 2 + 1, 2),
        "turning factors of another length",
    )
    return TensorType("f32", (2, n // 2 + 1))


def _step(re: Array, im: Array, turn: Array, step: tuple[int, int, int]) -> tuple[Array, Array]:
    """One of Stockham's steps for all frames."""
    radix, m, s = step
    shape = (re.shape[0], radix, m, s)
    r, i = re.reshape(shape), im.reshape(shape)
    if radix == 2:
        parts_r, parts_i = [r[:, 0] + r[:, 1], r[:, 0] - r[:, 1]], [i[:, 0] + i[:, 1], i[:, 0] - i[:, 1]]
    else:
        ar, ai, br, bi = r[:, 0] + r[:, 2], i[:, 0] + i[:, 2], r[:, 0] - r[:, 2], i[:, 0] - i[:, 2]
        cr, ci, dr, di = r[:, 1] + r[:, 3], i[:, 1] + i[:, 3], r[:, 1] - r[:, 3], i[:, 1] - i[:, 3]
        parts_r, parts_i = [ar + cr, br + di, ar - cr, br - di], [ai + ci, bi - dr, ai - ci, bi + dr]
        if m > 1:
            for k in (1, 2, 3):
                wr, wi = (turn[np.arange(m) * s * k, part][:, None] for part in (0, 1))
                vr, vi = parts_r[k], parts_i[k]
                parts_r[k], parts_i[k] = vr * wr - vi * wi, vr * wi + vi * wr
    return np.stack(parts_r, axis=2).reshape(re.shape), np.stack(parts_i, axis=2).reshape(re.shape)


def _rfft(arrays: Sequence[Array], _attributes: Attributes, _result: TensorType) -> Array:
    x, turn, split = arrays[0], arrays[1][0], arrays[2][0]
    half = x.shape[1] // 2
    re, im = x[:, 0::2].copy(), x[:, 1::2].copy()
    with np.errstate(all="ignore"):
        for step in _steps(half):
            re, im = _step(re, im, turn, step)
        a = np.arange(half + 1) & (half - 1)
        b = (half - np.arange(half + 1)) & (half - 1)
        h = np.float32(0.5)
        er, ei = h * (re[:, a] + re[:, b]), h * (im[:, a] - im[:, b])
        odd_r, odd_i = h * (im[:, a] + im[:, b]), h * (re[:, b] - re[:, a])
        wr, wi = split[:, 0], split[:, 1]
        return np.stack([er + (odd_r * wr - odd_i * wi), ei + (odd_r * wi + odd_i * wr)], axis=1)


_SPLIT = """\
  const float er = 0.5f * ({ar} + {br}), ei = 0.5f * ({ai} - {bi});
  const float or_ = 0.5f * ({ai} + {bi}), oi = 0.5f * ({br} - {ar});
  const float wr = {split_r}, wi = {split_i};
  {out_r} = er + (or_ * wr - oi * wi);
  {out_i} = ei + (or_ * wi + oi * wr);
}}"""


class _Parts:
    """Complex numbers in working memory: real parts and imaginary parts."""

    def __init__(self, writer: Writer, half: int) -> None:
        self.real, self.imaginary = (writer.room("f32", half) for _ in range(2))

    def at(self, index: str) -> tuple[str, str]:
        return self.real(index), self.imaginary(index)


def _write_rfft(writer: Writer, types: Types, _attributes: Attributes, _result: TensorType) -> None:
    half = types[0].shape[0] // 2
    here, there = _Parts(writer, half), _Parts(writer, half)
    writer.line(f"for (int i = 0; i < {half}; i++) {writer.rows}{{")
    for part, place in zip(here.at("i"), ("(2 * i)", "(2 * i + 1)"), strict=True):
        writer.line(f"  {part} = {writer.read(0, [place])};")
    writer.line("}")
    # Each step is written out, so that a compiler knows how far its loops run.
    for step in _steps(half):
        _write_step(writer, here, there, step)
        here, there = there, here
    for loop, a, b in (
        (f"for (int k = 0; k <= {half}; k += {half})", "0", "0"),
        (f"for (int k = 1; k < {half}; k++)", "k", f"({half} - k)"),
    ):
        (ar, ai), (br, bi) = here.at(a), here.at(b)
        turn = [writer.read(2, ["k", part]) for part in ("0", "1")]
        text = _SPLIT.format(
            ar=ar, ai=ai, br=br, bi=bi, split_r=turn[0], split_i=turn[1],
            out_r=writer.result(["0", "k"]), out_i=writer.result(["1", "k"]),
        )  # fmt: skip
        for line in (f"{loop} {writer.rows}{{", *text.splitlines()):
            writer.line(line)


def _write_step(writer: Writer, here: _Parts, there: _Parts, step: tuple[int, int, int]) -> None:
    radix, m, s = step
    turned = radix == 4 and m > 1
    writer.line(f"for (int p = 0; p < {m}; p++) {{")
    for k in (1, 2, 3) if turned else ():
        wr, wi = (writer.read(1, [f"(p * {s * k})", part]) for part in ("0", "1"))
        writer.line(f"  const float w{k}r = {wr}, w{k}i = {wi};")
    writer.line(f"  for (int q_ = 0; q_ < {s}; q_++) {writer.rows}{{")
    for k in range(radix):
        real, imaginary = here.at(f"({s} * (p + {k * m}) + q_)")
        writer.line(f"    const float x{k}r = {real}, x{k}i = {imaginary};")
    if radix == 2:
        parts = [("x0r + x1r", "x0i + x1i"), ("x0r - x1r", "x0i - x1i")]
    else:
        for one, k, j, sign in (("a", 0, 2, "+"), ("b", 0, 2, "-"), ("c", 1, 3, "+"), ("d", 1, 3, "-")):
            writer.line(f"    const float {one}r = x{k}r {sign} x{j}r, {one}i = x{k}i {sign} x{j}i;")
        parts = [
            ("ar + cr", "ai + ci"),
            ("br + di", "bi - dr"),
            ("ar - cr", "ai - ci"),
            ("br - di", "bi + dr"),
        ]
    for k, (real, imaginary) in enumerate(parts):
        target_r, target_i = there.at(f"({s} * ({radix} * p + {k}) + q_)")
        if turned and k:
            writer.line(f"    const float v{k}r = {real}, v{k}i = {imaginary};")
            writer.line(f"    {target_r} = v{k}r * w{k}r - v{k}i * w{k}i;")
            writer.line(f"    {target_i} = v{k}r * w{k}i + v{k}i * w{k}r;")
        else:
            writer.line(f"    {target_r} = {real};")
            writer.line(f"    {target_i} = {imaginary};")
    writer.line("  }")
    writer.line("}")


def _cost(types: Types, _attributes: Attributes, _result: TensorType) -> int:
    """A turned step of radix 4 does 34 operations for 4 points, one that turns nothing 16, one of radix 2 4 for 2."""
    half = types[0].shape[0] // 2
    each = {(4, True): 34, (4, False): 16, (2, False): 4}
    return sum(each[radix, radix == 4 and m > 1] * m * s for radix, m, s in _steps(half)) + 9 * half


def _scratch_bytes(types: Types, _attributes: Attributes) -> int:
    """Four arrays, each of whole vectors of 16 bytes."""
    return 4 * (-(-4 * (types[0].shape[0] // 2) // 16) * 16)


SPECTRUM = (Op("rfft", _rfft_type, _rfft, None, _write_rfft, _cost, _scratch_bytes, grouped=True),)
