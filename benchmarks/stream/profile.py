"""Where a Python peer's time goes while it is measured: py-spy's stacks, summed by function."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

RATE_HZ = 200
SHOWN = 40
LEAST = 0.01


def record(pid: int, seconds: float, work: Path, out: Path) -> None:
    """Begins to sample a process; it ends by itself. What holds the interpreter's lock counts, native parts too."""
    command = [
        str(work / "plain" / "bin" / "py-spy"),
        "record",
        "--gil",
        "--format",
        "raw",
        "--rate",
        str(RATE_HZ),
    ]
    command += ["--duration", str(max(1, int(seconds) - 1)), "--output", str(out), "--pid", str(pid)]
    out.unlink(missing_ok=True)
    try:
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise RuntimeError("there is no py-spy: run with --install") from error


def text(stacks: Path) -> str:
    """Functions by the share of samples in which they stand anywhere, and on top."""
    if not stacks.exists():
        return "no stacks were taken: py-spy needs the right to look at other processes (root, or ptrace_scope 0)"
    anywhere, top = Counter[str](), Counter[str]()
    total = 0
    for line in stacks.read_text().splitlines():
        stack, count = line.rsplit(" ", 1)
        frames = [frame.split(":")[0] + ")" * frame.count("(") for frame in stack.split(";")]
        total += int(count)
        top[frames[-1]] += int(count)
        for frame in set(frames):
            anywhere[frame] += int(count)
    shown = [(f, n) for f, n in anywhere.most_common() if n / total > LEAST and n < total * 0.98][:SHOWN]
    lines = [f"{total} samples with the interpreter's lock, {RATE_HZ} a second", "   anywhere  on top"]
    lines += [f"   {n / total:8.1%}  {top[f] / total:6.1%}  {f}" for f, n in shown]
    return "\n".join(lines)
