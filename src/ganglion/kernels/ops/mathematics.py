"""exp, log, sin, cos, tanh and sigmoid in f32, step by step the same in NumPy and in C (``kernel_runtime.h``).

Reductions, and the polynomials of sin and cos, are those of the Cephes library (S. Moshier, "Methods and Programs
for Mathematical Functions", 1989) in single precision. Every step is one IEEE 754 operation or a move of bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F = npt.NDArray[np.float32]
I = npt.NDArray[np.int32]  # noqa: E741 # beside F, of integers

TURN_MAX = 8192.0
"""sin and cos of a larger magnitude are NaN: their argument no longer says which angle is meant."""

_f = np.float32


def bits(x: F) -> npt.NDArray[np.uint32]:
    """The 32 bits of each number."""
    return np.asarray(x, np.float32).view(np.uint32)


def floats(u: npt.NDArray[np.uint32]) -> F:
    """The numbers with these bits."""
    return np.asarray(u, np.uint32).view(np.float32)


def canonical(x: F) -> F:
    """Every NaN becomes the one with bits 0x7fc00000."""
    u = bits(x)
    return floats(np.where((u & 0x7FFFFFFF) > 0x7F800000, np.uint32(0x7FC00000), u).astype(np.uint32))


def rint(x: F) -> F:
    """To the nearest whole number, halves to even; keeps the sign of zero."""
    magic = np.where(x < 0, _f(-8388608.0), _f(8388608.0))
    return np.where(np.abs(x) < _f(8388608.0), np.copysign((x + magic) - magic, x), x)


def floor(x: F) -> F:
    """The next whole number at or below."""
    r = rint(x)
    return np.where(r > x, np.copysign(r - _f(1), x), r)


def to_i32(x: F) -> I:
    """Truncates; saturates at the ends of the range; NaN is 0."""
    inside = (x > _f(-2147483648.0)) & (x < _f(2147483648.0))
    whole = np.where(inside, x, _f(0)).astype(np.int32)
    ends = np.where(x >= _f(2147483648.0), np.int32(2147483647), np.int32(-2147483648))
    return np.where(inside, whole, np.where(np.isnan(x), np.int32(0), ends)).astype(np.int32)


def _polynomial(x: F, coefficients: tuple[float, ...]) -> F:
    y = _f(coefficients[0]) * x + _f(coefficients[1])
    for c in coefficients[2:]:
        y = y * x + _f(c)
    return y


def _power_of_two(k: I) -> F:
    return floats(((k + 127) & 0x1FF).astype(np.uint32) << np.uint32(23))


MAGIC = 12582912.0
"""1.5 * 2^23: a number below 2^22 added to it is rounded to a whole one, which then stands in the lowest bits."""
MAGIC_BITS = np.uint32(0x4B400000)
BIAS = 127
"""Of an exponent: with so much more, the exponent of a power of two stands there."""


def _whole(x: F, more: int = 0) -> tuple[F, I]:
    """``x`` rounded, as a number and as an integer; of NaN and what is too large, NaN or too large and any integer.

    ``more``: stands in the lowest bits beside it, and so decides to which side a half goes.
    """
    m = x + _f(MAGIC + more)
    return m - _f(MAGIC + more), (bits(m) - (MAGIC_BITS + np.uint32(more))).view(np.int32)


EXP = (1.3950725551694632e-3, 8.369024842977524e-3, 4.166620224714279e-2, 1.66665181517601e-1, 5e-1)
"""(e^r - 1 - r) / r^2 for r up to half a logarithm of 2: the least greatest error of e^r, 0.06 of 2^-24."""


PER_LOG_2 = float.fromhex("0x1.715476p+0")
"""1 / log 2."""


def _less_one(r: F) -> F:
    """e^r - 1 for r up to half a logarithm of 2; coefficients in pairs, so that fewer steps wait for each other."""
    z = r * r
    c4, c3, c2, c1, c0 = (_f(c) for c in EXP)
    y: F = ((c4 * z + (c3 * r + c2)) * z + (c1 * r + c0)) * z + r
    return y


def exp(x: F) -> F:
    """E to the x; relative error below 2 units in the last place; overflows and underflows as it should."""
    c = np.where(x > _f(89), _f(89), x)
    c = np.where(c < _f(-104), _f(-104), c)
    n, k = _whole(c * _f(PER_LOG_2))
    y = _less_one((c - n * _f(0.693359375)) - n * _f(-2.12194440e-4))
    half = k >> 1
    return ((y + _f(1)) * _power_of_two(half)) * _power_of_two(k - half)


LOG_2 = 6.9314718e-1
LOG = (
    8.700439e-2,
    -1.4267491e-1,
    1.4914767e-1,
    -1.6577585e-1,
    1.9963063e-1,
    -2.5001338e-1,
    3.333391e-1,
    -5e-1,
)
"""(log(1 + m) - m) / m^2 for 1 + m from the root of 1/2 to its double: the least greatest relative error of the
logarithm, 0.53 of 2^-24."""


ROOT_HALF = np.uint32(0x3F3504F3)
"""The bits of the root of one half: mantissas go from there to its double."""


def log(x: F) -> F:
    """Natural logarithm, relative error below 2 units in the last place; of 0 minus infinity, of less NaN."""
    small = x < _f(1.17549435e-38)
    u = bits(np.where(small, x * _f(8388608.0), x)) - ROOT_HALF
    e = (u.view(np.int32) >> 23) - np.where(small, np.int32(23), np.int32(0))
    m = floats((u & np.uint32(0x7FFFFF)) + ROOT_HALF) - _f(1)
    z = m * m
    c7, c6, c5, c4, c3, c2, c1, c0 = (_f(c) for c in LOG)
    y = ((c7 * m + c6) * z + (c5 * m + c4)) * z + (c3 * m + c2)
    y = y * z + (c1 * m + c0)
    y = (y * z + m) + e.astype(np.float32) * _f(LOG_2)
    y = np.where(x < _f(np.inf), y, x)
    return np.where(x > 0, y, np.where(x == 0, _f(-np.inf), _f(np.nan)))


SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)


def _turned(x: F, quarter: int) -> F:
    n, k = _whole(x * _f(0.636619772))
    r = ((x - n * _f(1.5703125)) - n * _f(4.837512969970703125e-4)) - n * _f(7.549789948768648e-8)
    z = r * r
    k = k + np.int32(quarter)
    s = (_polynomial(z, SIN) * z) * r + r
    c = ((_polynomial(z, COS) * z) * z - _f(0.5) * z) + _f(1)
    y = np.where((k & 1) != 0, c, s)
    y = np.where((k & 2) != 0, -y, y)
    return np.where(np.abs(x) <= _f(TURN_MAX), y, _f(np.nan))


def sin(x: F) -> F:
    """Sine of radians up to `TURN_MAX`, within 1e-7; NaN beyond."""
    return _turned(x, 0)


def cos(x: F) -> F:
    """Cosine of radians up to `TURN_MAX`, within 1e-7; NaN beyond."""
    return _turned(x, 1)


def tanh(x: F) -> F:
    """Hyperbolic tangent, as (e^2x - 1) / (e^2x + 1); relative error below 3 units in the last place."""
    a = np.abs(x)
    a = a + a
    a = np.where(a > _f(20), _f(20), a)  # the result is 1 from 18 on
    n, k = _whole(a * _f(PER_LOG_2), BIAS)
    y = _less_one(a - n * _f(LOG_2))  # what the product rounds off is lost in the quotient
    e = floats((k + BIAS).astype(np.uint32) << np.uint32(23))
    y = e * y + (e - _f(1))
    return np.copysign(y / (y + _f(2)), x)


def sigmoid(x: F) -> F:
    """1 / (1 + exp(-x)); relative error below 3 units in the last place."""
    return _f(1) / (_f(1) + exp(-x))
