"""Keeps the processes of a run alive: one that ends on its own is started again, and its restarts are counted."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ganglion.core.errors import HostError, RunError
from ganglion.host.ports import Host, Process

STOP_GRACE_NS = 10 * 10**9
BACK_OFF_NS = 200_000_000
RESTARTS_MAX = 100
EXIT_CONFIG = 2
FREE_BYTES_MIN = 8 << 20
READY_NS_MAX = 60 * 10**9
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Frames are small: more threads per process would only contend."""


@dataclass(slots=True)
class Kept:
    """One kept process, with its directory."""

    name: str
    directory: Path
    niceness: int = 0
    process: Process | None = None
    restarts: int = 0
    stopping: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def report(self) -> dict[str, Any] | None:
        """What it last wrote about itself; None before the first report."""
        try:
            value: dict[str, Any] = orjson.loads((self.directory / "report.json").read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return None
        return value


class Keeper:
    """Starts agents from their configuration files and keeps them."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._kept: dict[str, Kept] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def all(self) -> dict[str, Kept]:
        return self._kept

    async def start(
        self, name: str, directory: Path, config: dict[str, Any], *, restart: bool, niceness: int = 0
    ) -> Kept:
        """Writes the configuration and starts the process; ``restart``: again whenever it ends by itself."""
        kept = Kept(name, directory, niceness)
        self._kept[name] = kept
        path = directory / "config.json"
        await asyncio.to_thread(self._host.disk.replace, str(path), orjson.dumps(config))
        await self._launch(kept)
        self._tasks[name] = asyncio.ensure_future(self._keep(kept, restart=restart))
        return kept

    async def _launch(self, kept: Kept) -> None:
        command = [sys.executable, "-m", "ganglion.agent", str(kept.directory / "config.json")]
        kept.process = await self._host.processes.start(
            command, log=kept.directory / "log.txt", environment=ONE_THREAD, niceness=kept.niceness
        )

    async def _keep(self, kept: Kept, *, restart: bool) -> None:
        while True:
            assert kept.process is not None
            status = await kept.process.wait()
            if kept.stopping:
                break
            if not restart or status == EXIT_CONFIG or kept.restarts >= RESTARTS_MAX:
                kept.ended.set()
                raise _ended(kept, status)
            kept.restarts += 1
            await self._host.clock.sleep_ns(BACK_OFF_NS)
            if kept.stopping:
                break
            await self._launch(kept)
        kept.ended.set()

    def check(self) -> None:
        """Raises `RunError` ``run.process`` when a process ended for good, `HostError` ``host.disk-full`` before
        the disk is full: on a full disk nothing acknowledges, nothing can be logged, and the run could not end well.
        """
        free = self._host.disk.free_bytes()
        if free < FREE_BYTES_MIN:
            raise HostError(
                "host.disk-full",
                f"only {free >> 10} KB are left under {self._host.disk.root}, so the run was stopped",
                why="streams, checkpoints and logs need room to stay safe",
                next_step="free space, or name a directory on another disk with --run-dir",
            )
        for task in self._tasks.values():
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def until_ready(self, kept: Kept) -> None:
        """Returns when the process reports that it is ready; raises ``run.process`` when it ends or takes too long."""
        deadline_ns = self._host.clock.monotonic_ns() + READY_NS_MAX
        while True:
            self.check()
            report = kept.report()
            if report is not None and report.get("phase") == "ready":
                return
            if self._host.clock.monotonic_ns() > deadline_ns:
                raise _ended(kept, None)
            await self._host.clock.sleep_ns(50_000_000)

    async def stop(self, name: str, grace_ns: int = STOP_GRACE_NS) -> None:
        """Asks the process to end, waits, and kills it when it does not.

        Raises `RunError` ``run.process`` when it ended with another status than 0.
        """
        kept = self._kept[name]
        kept.stopping = True
        status = 0 if kept.process is None else await kept.process.stop(grace_ns)
        await asyncio.gather(self._tasks[name], return_exceptions=True)
        if status != 0:
            raise _ended(kept, status)

    async def stop_all(self) -> None:
        """Ends everything at once, whatever state it is in."""
        await asyncio.gather(*(self.stop(name) for name in self._kept), return_exceptions=True)


def _ended(kept: Kept, status: int | None) -> RunError:
    log = kept.directory / "log.txt"
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return RunError(
        "run.process",
        f"{kept.name} ended with status {status}"
        if status is not None
        else f"{kept.name} did not become ready",
        why=lines[-1] if lines else "it wrote nothing",
        next_step=f"look at {log}",
    )
