"""``python -m ganglion.agent CONFIG``: one node, worker or device host as a process, with its state beside CONFIG."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from pathlib import Path
from typing import Protocol

from ganglion.agent.config import NodeConfig, WorkerConfig, load_config
from ganglion.agent.node import Node
from ganglion.agent.workers import Worker
from ganglion.core.errors import GanglionError
from ganglion.host.sole import sole_use
from ganglion.host.system import system_host, variable

SERVER_VARIABLE = "GANGLION_NATS_SERVER"
SWITCH_INTERVAL_S = 0.001
"""How long a thread that packs or writes may keep the interpreter from the loop that a reflex runs in."""
EXIT_CONFIG = 2
EXIT_FAILED = 1


class Part(Protocol):
    """What a process runs: a node, a worker or a device host."""

    async def run(self) -> None:
        """Until `stop`."""

    def stop(self) -> None:
        """Ends `run`, cleanly."""


async def _run(path: Path) -> None:
    config = load_config(path)
    host = system_host(path.parent)
    part: Part
    if isinstance(config, NodeConfig):
        part = Node(config, host, server_binary=variable(SERVER_VARIABLE))
    elif isinstance(config, WorkerConfig):
        part = Worker(config, host)
    else:
        # Here: a node holds none of the images, compilers and emulators of devices in memory.
        from ganglion.device.devicehost import DeviceHost

        part = DeviceHost(config, host)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, part.stop)
    # Everything imported so far lives for ever: a collection need not look at it, and a reflex not wait for that.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with sole_use(path.parent):
        await part.run()


def main(arguments: list[str]) -> int:
    """Exit status 0 after a clean stop, 1 when a subsystem failed, 2 when it could not be started as told."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m ganglion.agent CONFIG\n")
        return EXIT_CONFIG
    try:
        asyncio.run(_run(Path(arguments[0])))
    except GanglionError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    except ExceptionGroup as group:
        operating, bugs = group.split(GanglionError)
        if bugs is not None:
            raise bugs from None
        assert operating is not None
        for one in operating.exceptions:
            sys.stderr.write(f"{one}\n")
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
