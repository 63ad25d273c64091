"""Energy is counts times stated figures, and nothing where one of them is missing."""

from __future__ import annotations

import pytest

from ganglion.core.energy import energy
from ganglion.core.topology import Link, NodeClass

COUNTS = {"sent_bytes": 900, "received_bytes": 100, "instructions": 2_000_000}
CLASS = {"ns_per_call": 1, "ns_per_operation": 1, "hop_us": 1, "memory": "1MB"}
LINK = {"latency": "1ms", "bandwidth": "1Mbit"}


def test_each_part_is_its_formula() -> None:
    kind = NodeClass.model_validate(
        CLASS | {"watts_idle": 0.25, "watts_busy": 0.5, "nj_per_instruction": 0.5}
    )
    used = energy(COUNTS, 8.0, kind, Link.model_validate(LINK | {"energy_nj_per_byte": 4000}))
    assert used.radio_j == pytest.approx(1000 * 4000e-9)
    assert used.compute_j == pytest.approx(2e6 * 0.5e-9)
    assert used.idle_j == pytest.approx(2.0)
    assert used.to_json() == {"radio_j": 0.004, "compute_j": 0.001, "idle_j": 2.0}


def test_what_is_not_stated_or_counted_is_not_a_number() -> None:
    bare, link = NodeClass.model_validate(CLASS), Link.model_validate(LINK)
    assert set(energy(COUNTS, 8.0, bare, link).to_json().values()) == {None}
    stated = NodeClass.model_validate(CLASS | {"nj_per_instruction": 0.5})
    assert energy(COUNTS | {"instructions": 0}, 8.0, stated, link).compute_j is None
