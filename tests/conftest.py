"""What all tests share: printed seeds, the hypothesis profile, and no child left running."""

from __future__ import annotations

import os
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

SEED_VARIABLE = "GANGLION_TEST_SEED"
# Set once here so that xdist's workers, which inherit the environment, draw from the same seed.
SEED = int(os.environ.setdefault(SEED_VARIABLE, str(random.SystemRandom().randrange(2**32))))

# No deadline: no test asserts wall time, and the machine may be busy.
settings.register_profile(
    "ganglion", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", parent=settings.get_profile("ganglion"), max_examples=2000)
settings.load_profile(os.environ.get("GANGLION_HYPOTHESIS_PROFILE", "ganglion"))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Gives hypothesis our seed unless the command line names one."""
    if getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(SEED)


def pytest_report_header(config):
    return (
        f"seed: {SEED_VARIABLE}={SEED}, hypothesis: seed {config.option.hypothesis_seed}, "
        f"profile {settings.get_current_profile_name()}"
    )


def pytest_collection_modifyitems(items):
    """What starts processes; ``-m "not integration"`` leaves it out."""
    for item in items:
        if {"integration", "chaos"} & set(item.path.relative_to(Path(__file__).parent).parts):
            item.add_marker(pytest.mark.integration)


@pytest.fixture
def seed(request):
    """A number of this test's own, the same in every run with the same GANGLION_TEST_SEED."""
    return zlib.crc32(request.node.nodeid.encode(), SEED)


@pytest.fixture
def rng(seed):
    """A NumPy generator drawn from ``seed``."""
    return np.random.default_rng(seed)


@pytest.fixture(scope="session", autouse=True)
def _no_child_left():
    """Fails the session when a test leaves a server or an agent running (Linux; elsewhere it sees none)."""
    yield
    left = []
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it ended while we looked
            if "nats-server" in command or "ganglion" in command:
                left.append(f"{pid}: {command}")
    assert not left, "tests left processes running:\n" + "\n".join(left)
