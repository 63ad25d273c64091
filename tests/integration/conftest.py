"""Real processes: the feeder example on this machine, with recordings its own generator made once."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FEEDER = REPOSITORY / "examples" / "feeder"


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine events of the feeder's generator: six faults, three others."""
    pytest.importorskip("pandapower", reason="pandapower is not installed")
    from examples.feeder import generate

    target = tmp_path_factory.mktemp("recordings")
    return Path(generate.generate(target, seed=11, faults=6, others=3))
