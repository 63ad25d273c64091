"""What peers run in: environments of their own outside the repository, with the versions pinned beside this file.

python benchmarks/stream/run.py --install makes those that can be made; what is missing later is left out by name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
VENVS = ("plain", "bytewax", "flink")


def work_directory() -> Path:
    """Where environments are kept unless told otherwise: below the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "ganglion-benchmarks" / "stream"


def pins(name: str) -> list[str]:
    """The pinned packages of an environment, NAME==VERSION."""
    if name == "node-red":
        import json

        held = json.loads((HERE / "node-red" / "package.json").read_text())["dependencies"]
        return [f"{k}=={v}" for k, v in held.items()]
    return (HERE / "requirements" / f"{name}.txt").read_text().split()


def python_of(work: Path, name: str) -> Path:
    return work / name / "bin" / "python"


def node_red_of(work: Path) -> Path:
    return work / "node-red" / "node_modules" / "node-red" / "red.js"


def _mark(name: str) -> str:
    return hashlib.sha256("\n".join(pins(name)).encode()).hexdigest()[:16]


def installed(work: Path, name: str) -> bool:
    """Whether the environment is there with the versions that are pinned now."""
    mark = work / name / "pins"
    return mark.exists() and mark.read_text() == _mark(name)


def install(work: Path) -> dict[str, str]:
    """Makes what is not there yet; returns what could not be made and why."""
    failed = {}
    work.mkdir(parents=True, exist_ok=True)
    for name in (*VENVS, "node-red"):
        if installed(work, name):
            continue
        print(f"installing {', '.join(pins(name))}", flush=True)
        shutil.rmtree(work / name, ignore_errors=True)
        commands = _node_red(work) if name == "node-red" else _venv(work, name)
        trouble = ""
        for command in commands:
            if shutil.which(command[0]) is None:
                trouble = f"there is no {command[0]}"
                break
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work)
            if done.returncode:
                last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
                trouble = f"{Path(command[0]).name} failed: {last[0][:200]}"
                break
        if trouble:
            failed[name] = trouble
        else:
            (work / name / "pins").write_text(_mark(name))
    return failed


def _venv(work: Path, name: str) -> list[list[str]]:
    pip = [str(python_of(work, name)), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    make = [sys.executable, "-m", "venv", str(work / name)]
    requirements = ["-r", str(HERE / "requirements" / f"{name}.txt")]
    # An environment made from within another one has that one's Python, not its packages.
    return [make, [*pip, *requirements]]


def _node_red(work: Path) -> list[list[str]]:
    place = work / "node-red"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "node-red" / "package.json", place / "package.json")
    return [["npm", "install", "--no-audit", "--no-fund", "--prefix", str(place)]]
