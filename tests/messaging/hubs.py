"""A hub of three real servers, run as `ganglion site cluster` says, with a gateway below it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import replace

from typer.testing import CliRunner

from ganglion.cli.site import site as site_commands
from ganglion.host.private import PrivateDirectory
from ganglion.host.system import system_host
from ganglion.messaging import nats
from ganglion.messaging.pacing import Pacer
from ganglion.messaging.provision import provision
from ganglion.messaging.security.authority import Authority
from ganglion.messaging.security.identity import SiteIdentity
from ganglion.messaging.server import ServerSettings, SiteServer, find_binary
from tests.core.test_topology_text import GOOD
from tests.messaging.sites import CAPS, until

NAMES = ("cloud-1", "cloud-2", "cloud-3")
R3 = replace(CAPS, replicas=3)


def ganglion(*words):
    """`ganglion site ...`, in this process, which is much quicker than one of its own."""
    return CliRunner().invoke(site_commands, [str(w) for w in words])


class Hub:
    """``authority``, ``out`` (what the command wrote), and the servers by name."""

    def __init__(self, root):
        self.root = root
        self.host = system_host(root / "hub")
        self.authority = Authority(PrivateDirectory(root / "authority"), self.host.clock)
        self.out = root / "out"
        self.ports = [[self.host.ports.free() for _ in NAMES] for _ in range(3)]
        self.processes = {}
        self.gateway = None

    @property
    def urls(self):
        return [f"nats://127.0.0.1:{port}" for port in self.ports[0]]

    def write(self):
        """Runs the command, as a person would."""
        self.authority.init("tree")
        leaves = ", ".join(f"nats://127.0.0.1:{port}" for port in self.ports[1])
        lists = f"    servers: [{', '.join(self.urls)}]\n    leaf_servers: [{leaves}]\n"
        file = self.root / "topology.yaml"
        file.write_text(GOOD.replace("  cloud:\n", f"  cloud:\n{lists}"))
        routes = [w for port in self.ports[2] for w in ("--route", f"127.0.0.1:{port}")]
        words = ("--topology", file, "--out", self.out, "--listen", "127.0.0.1", "--store", "64MB")
        done = ganglion("cluster", self.root / "authority", "cloud", *words, *routes)
        assert done.exit_code == 0, done.exception
        return done.stdout

    async def start(self, name):
        with (self.out / name / "server.out").open("ab") as output:
            self.processes[name] = await asyncio.create_subprocess_exec(
                find_binary(None), "-c", "server.conf", cwd=self.out / name, stdout=output, stderr=output
            )

    async def kill(self, name):
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def connect(self, access=None, answer_within_ns=1_000_000_000):
        own = SiteIdentity(PrivateDirectory(self.out / "agent"), "cloud").access()
        return await nats.connect(
            ",".join(self.urls), access=access or own, answer_within_ns=answer_within_ns
        )

    async def add_gateway(self, site):
        """Its server, linked to whichever of the three answers, and a bus on it."""
        keys = PrivateDirectory(self.root / "identities" / site)
        self.authority.join(site, keys)
        identity, host = SiteIdentity(keys, site), system_host(self.root / site)
        up = ",".join(f"tls://127.0.0.1:{port}" for port in self.ports[1])
        settings = ServerSettings(
            site, host.ports.free(), CAPS.sum_bytes + (64 << 20), None, up, identity.trust()
        )
        self.gateway = SiteServer(settings, host)
        await self.gateway.start()
        bus = await nats.connect(self.gateway.url, access=identity.access(), answer_within_ns=2_000_000_000)
        await provision(bus, site, CAPS)
        return bus

    async def close(self):
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            await process.wait()
        if self.gateway is not None:
            await self.gateway.stop()


@contextlib.asynccontextmanager
async def hub_of_three(root, child="gwa"):
    """(hub, bus on it, bus of its child); everything is provisioned and linked."""
    hub = Hub(root)
    hub.write()
    try:
        for name in NAMES:
            await hub.start(name)
        up = await hub.connect()

        async def provisioned():
            await provision(up, "cloud", R3, children=[child])
            return True

        await until(provisioned)
        down = await hub.add_gateway(child)
        await until(lambda: down.drawn(f"OUT_{child}"))
        # As at every node: a lane whose parent lost acknowledgements may need a larger window to move at all.
        pacer = Pacer(down, child, system_host(root).clock, lambda _: 200, urgent=False)
        pacing = asyncio.ensure_future(pacer.run())
        yield hub, up, down
        pacing.cancel()
        await asyncio.wait({pacing})
        await up.close()
        await down.close()
    finally:
        await hub.close()
