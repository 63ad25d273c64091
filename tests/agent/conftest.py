"""The sites of the messaging tests, and hosts for the processes that work at them."""

from __future__ import annotations

import pytest

from ganglion.host.ports import Host
from ganglion.host.system import system_host
from tests.messaging.conftest import run  # noqa: F401  # a fixture


@pytest.fixture
def hosts(tmp_path):
    """A host for each process of a site, by its number: a disk of its own, and the clock of the site."""

    def make(sites, index):
        real = system_host(tmp_path / f"process-{index}")
        return Host(sites.clock("up"), real.disk, real.processes, real.ports, real.chances)

    return make
