"""Run directories: one per run, made by us, and the oldest of ours removed."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from ganglion.core.errors import HostError, RunError

MARK = ".ganglion-run"
KEPT_MAX = 5
KERNELS = "kernels"
"""Beside run directories: what they compiled, which takes seconds, for the next ones."""
COMPILED_MAX = 256
FREE_BYTES_MIN = 64 << 20


def make_run_dir(flow_dir: Path, chosen: Path | None) -> Path:
    """A new, empty run directory: ``chosen``, or ``runs/<flow>-<time>`` here, of which five are kept.

    Raises `RunError` ``run.directory`` when it holds something already or cannot be made, `HostError`
    ``host.disk-full`` when there is no room for a run.
    """
    name = flow_dir.resolve().name
    if chosen is None:
        parent = Path("runs")
        _forget_old(parent, name)
        _forget_compiled(parent / KERNELS)
        chosen = parent / f"{name}-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S.%f')}"
    try:
        if chosen.exists() and any(chosen.iterdir()):
            raise RunError(
                "run.directory",
                f"{chosen} is not empty",
                why="a run starts from nothing and must not mix with another",
                next_step="name a new directory with --run-dir, or remove this one",
            )
        chosen.mkdir(parents=True, exist_ok=True)
        (chosen / MARK).touch()
    except OSError as error:
        raise RunError(
            "run.directory",
            f"{chosen} cannot be used",
            why=error.strerror or str(error),
            next_step="name another directory with --run-dir",
        ) from error
    if shutil.disk_usage(chosen).free < FREE_BYTES_MIN:
        raise HostError(
            "host.disk-full",
            f"no space left for {chosen}",
            why=f"a run needs at least {FREE_BYTES_MIN >> 20} MB",
            next_step="free space or name another directory with --run-dir",
        )
    return chosen


def _forget_old(parent: Path, name: str) -> None:
    """Removes all but the newest of the directories made here for this flow (they carry our mark)."""
    if not parent.is_dir():
        return
    ours = sorted(p for p in parent.glob(f"{name}-*") if (p / MARK).is_file())
    for old in ours[: max(0, len(ours) - KEPT_MAX + 1)]:
        shutil.rmtree(old, ignore_errors=True)


def _forget_compiled(directory: Path) -> None:
    """Removes all but the newest of what was compiled; whoever misses a file compiles it again."""
    if directory.is_dir():
        files = sorted((p for p in directory.iterdir() if p.is_file()), key=lambda p: p.stat().st_mtime)
        for old in files[: max(0, len(files) - COMPILED_MAX)]:
            old.unlink(missing_ok=True)
