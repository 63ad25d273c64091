"""What the operating system says of a process and all that it started: processor time and memory."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LOAD_CORE, ENGINE_CORE = 0, 1
STOP_S = 10.0


def pinned(core: int, nice: int = 0) -> Any:
    """For `subprocess`: the process and all that it starts stay on one core."""

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        os.setpgid(0, 0)
        if nice:
            os.nice(nice)

    return prepare


def start(command: Sequence[str], core: int, log: Path, **options: Any) -> subprocess.Popen[str]:
    """Its output goes to ``log`` unless told otherwise; it leads a process group of its own."""
    with log.open("a") as file:
        given = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file, "text": True, **options}
        return subprocess.Popen(command, preexec_fn=pinned(core), **given)  # noqa: PLW1509 # one thread


def tell(process: subprocess.Popen[str], line: str) -> None:
    """Writes a line to its input. Raises `BrokenPipeError` when it has ended."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def stop(process: subprocess.Popen[str]) -> None:
    """Asks, waits, and then ends the whole group."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tree(root: int) -> list[int]:
    """A process and all its descendants that live."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; nothing when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_s(root: int) -> float:
    """Seconds of processor time of the tree, with that of its children that have ended."""
    total = 0
    for pid in tree(root):
        fields = _stat(pid)
        if fields:
            total += sum(int(f) for f in fields[11:15])
    return total * TICK_S


def cpu_by_program(root: int) -> dict[str, float]:
    """Seconds of processor time of the tree's processes that live, by the names of their programs."""
    found: dict[str, float] = {}
    for pid in tree(root):
        fields = _stat(pid)
        if fields:
            name = program(pid)
            found[name] = found.get(name, 0.0) + sum(int(f) for f in fields[11:13]) * TICK_S
    return found


def program(pid: int) -> str:
    """What a process is called; ? when it is no more."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"


def memory(root: int) -> dict[str, Any]:
    """Megabytes (10^6): the sum of the tree's resident sets, of its proportional ones, and the former by program."""
    resident = proportional = 0
    programs: dict[str, float] = {}
    for pid in tree(root):
        try:
            own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
            resident += own
            programs[program(pid)] = programs.get(program(pid), 0.0) + own / 1e6
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    proportional += int(line.split()[1]) * 1024
        except OSError:
            continue
    return {"rss_mb": resident / 1e6, "pss_mb": proportional / 1e6, "by_program": programs}


def resident_by_program(root: int) -> dict[str, float]:
    """Cheaper than `memory`: the resident sets only, in 10^6 bytes."""
    found: dict[str, float] = {}
    for pid in tree(root):
        try:
            own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
        except OSError:
            continue
        found[program(pid)] = found.get(program(pid), 0.0) + own / 1e6
    return found


def resident_mb(root: int) -> float:
    """The sum of the tree's resident sets."""
    return sum(resident_by_program(root).values())


def wait_for(what: Any, seconds: float, why: str) -> None:
    """Looks every 20 ms; raises `TimeoutError` with ``why``."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(why)
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Whether somebody listens at a port, without connecting to it (an accept may mean something)."""
    wanted = f"0100007F:{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[1] in (wanted, f"00000000:{port:04X}"):
            return True
    return False
