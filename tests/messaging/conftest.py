"""What the conformance suites run on: the twin, at two paces, and real servers."""

from __future__ import annotations

import pytest

from tests.messaging.sites import CAPS, NatsSites, SimulatedSites, UnhurriedSites, pair
from tests.messaging.sites import run as run_sites


@pytest.fixture(params=[SimulatedSites, UnhurriedSites, NatsSites], ids=["memory", "unhurried", "nats"])
def run(request, tmp_path):
    """Runs ``test(sites, parent bus, child bus)`` on a fresh pair of sites."""

    def start(test, caps=CAPS):
        async def whole():
            async with pair(request.param, tmp_path, caps) as (sites, up, down):
                await test(sites, up, down)

        run_sites(request.param, whole)

    return start
