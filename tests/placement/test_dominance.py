"""Dominance against trying every pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.placement import dominance
from ganglion.placement.dominance import pareto, pareto_in_sets


def by_pairs(keys, sets):
    """A row stays when no other row of its set is as small in all keys, and smaller in one or before it."""
    kept = []
    for i, own in enumerate(keys):
        rivals = (j for j in range(len(keys)) if j != i and sets[j] == sets[i] and (keys[j] <= own).all())
        if not any((keys[j] < own).any() or j < i for j in rivals):
            kept.append(i)
    return kept


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 90), st.integers(1, 9), st.integers(2, 40))
def test_what_is_kept_is_what_no_pair_excludes(seed, width, rows, sets, values):
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, values, (rows, width)).astype(float)  # whole numbers: many ties
    member = rng.integers(0, sets, rows)
    assert pareto_in_sets(keys, member).tolist() == by_pairs(keys, member)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_large_sets_are_swept_to_the_same_result(width, monkeypatch):
    rng = np.random.default_rng(width)
    keys = rng.integers(0, 60, (400, width)).astype(float)
    swept = pareto(keys).tolist()
    assert len(keys) > dominance.PAIRWISE_MAX
    assert swept == by_pairs(keys, np.zeros(len(keys)))
    monkeypatch.setattr(dominance, "PAIRWISE_MAX", 512)
    assert pareto(keys).tolist() == swept


def test_nothing_and_one_row_and_equal_rows():
    assert pareto(np.zeros((0, 2))).tolist() == []
    assert pareto(np.ones((1, 2))).tolist() == [0]
    assert pareto(np.ones((5, 3))).tolist() == [0]
    assert pareto_in_sets(np.ones((4, 2)), np.array([1, 0, 1, 0])).tolist() == [0, 1]
