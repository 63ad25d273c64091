"""Looking at the processes of a run from outside, as an operator or a fault would."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


def agent_pid(run_dir: Path, node: str) -> int:
    """The process that runs a node's configuration."""
    wanted = str(run_dir.resolve() / "nodes" / node / "config.json")
    for pid, words in command_lines().items():
        if wanted in words:
            return pid
    raise AssertionError(f"no process runs {wanted}")


def server_pid(run_dir: Path, node: str) -> int:
    """The message server of a node, as its report tells."""
    report = json.loads((run_dir / "nodes" / node / "report.json").read_text())
    return int(report["server_pid"])


def command_lines() -> dict[int, list[str]]:
    """Every process of this machine with its arguments (Linux)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().decode().split("\0")
            except (OSError, UnicodeDecodeError):
                continue
    return found


def remaining(run_dir: Path) -> list[str]:
    """Processes that still belong to a run: agents, device hosts and servers name its directory."""
    mark = str(run_dir.resolve())
    me = os.getpid()
    return [" ".join(w) for pid, w in command_lines().items() if pid != me and any(mark in x for x in w[1:])]


def wait_for(condition: object, seconds: float = 60.0) -> None:
    """Polls until ``condition()`` is true; fails after a time no healthy machine needs."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
