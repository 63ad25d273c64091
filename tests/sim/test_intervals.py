"""Intervals hold what they say they hold, as often as they say, and nothing is claimed of a handful of reactions."""

import numpy as np
import pytest

from ganglion.sim import accuracy
from ganglion.sim.intervals import COUNT_MIN, median_interval, parts_intervals

RUNS, TRUE = 300, 1.0
PARTS = {"first": ("a", "b"), "second": ("c",)}


def drawn(rng, count):
    return rng.lognormal(0, 0.6, (count, 3))


@pytest.mark.parametrize("count", [20, 67])
def test_the_median_of_many_lies_in_the_interval_of_a_sample(count):
    rng = np.random.default_rng(20_261_125)
    held = 0
    for _ in range(RUNS):
        found = median_interval(rng.lognormal(0, 0.6, count).tolist())
        assert found is not None
        held += found[0] <= TRUE <= found[1]
    assert 0.93 <= held / RUNS <= 1.0


def test_typical_parts_of_many_lie_in_the_interval_of_a_sample():
    rng = np.random.default_rng(20_261_125)
    everything = drawn(rng, 200_000)
    order = np.argsort(everything.sum(axis=1))
    middle = everything[order[80_000:120_000]].mean(axis=0)
    true = {"first": middle[0] + middle[1], "second": middle[2]}
    held = dict.fromkeys(PARTS, 0)
    for _ in range(60):
        found = parts_intervals([dict(zip("abc", row, strict=True)) for row in drawn(rng, 67)], PARTS)
        for part, (low, high) in found.items():
            held[part] += low <= true[part] <= high
    assert all(count >= 51 for count in held.values()), held


def test_nothing_is_claimed_of_a_handful():
    few = [1.0] * (COUNT_MIN - 1)
    assert median_interval(few) is None
    assert parts_intervals([{"a": x, "b": x, "c": x} for x in few], PARTS) == {}


def test_a_prediction_agrees_when_it_is_within_a_tenth_of_the_interval():
    assert accuracy.pair(2.0, 3.0, (2.1, 4.0))["agrees"]
    assert not accuracy.pair(1.8, 3.0, (2.1, 4.0))["agrees"]
    assert accuracy.pair(4.39, 3.0, (2.1, 4.0))["agrees"]
    assert not accuracy.pair(4.41, 3.0, (2.1, 4.0))["agrees"]
    assert "agrees" not in accuracy.pair(None, 3.0, (2.1, 4.0))
