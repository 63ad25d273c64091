"""exp, log, sin, cos, tanh and sigmoid beside double precision: the bounds that their docstrings state."""

import numpy as np
import pytest

from ganglion.kernels.ops import mathematics

SEED = 20_261_125
EXACT = {
    **{name: getattr(np, name) for name in ("exp", "log", "tanh", "sin", "cos")},
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
BOUND_ULP = {"exp": 2, "log": 2, "tanh": 3, "sigmoid": 3}
LEAST = float(np.finfo(np.float32).tiny)


def numbers():
    """All bit patterns, ordinary numbers, and those close to where a reduction changes its piece."""
    rng = np.random.default_rng(SEED)
    patterns = rng.integers(0, 1 << 32, 300_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    halves = np.arange(-150, 130) * np.log(2) / 2
    near = (halves[:, None] * (1 + np.arange(-40, 41) * 2.0**-23)).ravel()
    roots = (
        np.sqrt(0.5) * 2.0 ** np.arange(-140, 128)[:, None] * (1 + np.arange(-40, 41) * 2.0**-23)
    ).ravel()
    ordinary = [rng.normal(0, s, 100_000) for s in (0.01, 1, 30)] + [
        rng.uniform(-104, 89, 100_000),
        near,
        roots,
    ]
    with np.errstate(over="ignore"):
        return np.concatenate([patterns, *(o.astype(np.float32) for o in ordinary)])


def both(name, x):
    with np.errstate(all="ignore"):
        found = getattr(mathematics, name)(x)
        return found, EXACT[name](x.astype(np.float64))


@pytest.mark.parametrize("name", BOUND_ULP)
def test_the_relative_error_is_as_stated(name):
    found, exact = both(name, numbers())
    assert found.dtype == np.float32 and np.array_equal(np.isnan(found), np.isnan(exact))
    normal = (np.abs(exact) >= LEAST) & (np.abs(exact) < 3.4e38)
    unit = np.spacing(np.abs(exact[normal]).astype(np.float32)).astype(np.float64)
    worst = np.max(np.abs(found[normal] - exact[normal]) / unit)
    assert worst < BOUND_ULP[name], f"seed {SEED}"


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_the_absolute_error_of_an_angle_is_as_stated(name):
    x = numbers()
    found, exact = both(name, x)
    with np.errstate(invalid="ignore"):
        meant = np.abs(x) <= mathematics.TURN_MAX
    assert np.max(np.abs(found[meant] - exact[meant])) < 1e-7, f"seed {SEED}"
    assert np.all(np.isnan(found[~meant])) and np.any(~meant)


ENDS = {
    "exp": ([0, -0.0, np.inf, -np.inf, 89, -104, -103], [1, 1, np.inf, 0, np.inf, 0, 1.4e-45]),
    "log": (
        [0, -0.0, np.inf, -1, -np.inf, 1, 1.4e-45],
        [-np.inf, -np.inf, np.inf, np.nan, np.nan, 0, -103.27893],
    ),
    "tanh": ([0, -0.0, np.inf, -np.inf, 12, 1.4e-45, -3e38], [0, -0.0, 1, -1, 1, 1.4e-45, -1]),
    "sigmoid": ([0, np.inf, -np.inf, 3e38], [0.5, 1, 0, 1]),
    "sin": ([0, np.inf, 8193], [0, np.nan, np.nan]),
    "cos": ([0, -np.inf, 8193], [1, np.nan, np.nan]),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_ends_of_the_range(name):
    given, wanted = (np.array([*values, np.nan], np.float32) for values in ENDS[name])
    found, _ = both(name, given)
    assert np.array_equal(found, wanted, equal_nan=True)
    assert np.array_equal(np.signbit(found[:-1]), np.signbit(wanted[:-1]))
