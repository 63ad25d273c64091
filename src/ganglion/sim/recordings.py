"""Where a run's recordings come from: a folder the user names, or the flow's own generator."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from ganglion.core.errors import RunError
from ganglion.host.ports import Host
from ganglion.sim.settings import Settings

GENERATE_NS_MAX = 300 * 10**9
GENERATED = "events.npz"


async def provide(settings: Settings, host: Host) -> Path:
    """The folder to play; generates one below the run directory's parent, once per seed.

    Raises `RunError` ``run.data`` when there is neither ``--data`` nor a generator, or the generator fails.
    """
    if settings.data_dir is not None:
        return settings.data_dir
    script = settings.flow_dir / "generate.py"
    if not script.is_file():
        raise RunError(
            "run.data",
            f"there is nothing to play for {settings.flow_dir}",
            why="no --data was given and the flow has no generate.py",
            next_step="name a folder with events.npz and labels.csv: --data DIR",
        )
    target = settings.run_dir.parent / "data" / f"{settings.flow_dir.resolve().name}-{settings.seed}"
    if (target / GENERATED).is_file():
        return target
    log = settings.run_dir / "generate.log"
    command = [sys.executable, str(script), str(target), "--seed", str(settings.seed)]
    process = await host.processes.start(command, log=log)
    try:
        status = await asyncio.wait_for(process.wait(), GENERATE_NS_MAX / 1e9)
    except TimeoutError:
        process.kill()
        status = -1
    except asyncio.CancelledError:
        process.kill()
        raise
    if status != 0:
        tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
        raise RunError(
            "run.data",
            f"{script} did not make recordings",
            why=" ".join(tail) or f"it ended with status {status}",
            next_step=f"look at {log}; its packages come with: pip install 'ganglion[examples]'",
        )
    return target
