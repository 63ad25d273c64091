"""A calibration on this machine, and a plan with it: no figure is judged here, only that each is there and used."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import FEEDER, REPOSITORY


def ganglion(*arguments: str) -> str:
    command = [sys.executable, "-m", "ganglion.cli", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="runs the feeder, which looks at /proc")
def test_a_flow_is_calibrated_and_planned_with_that(tmp_path: Path, recordings: Path) -> None:
    folder = tmp_path / "feeder"
    shutil.copytree(FEEDER, folder, ignore=shutil.ignore_patterns("__pycache__", "calibration.json"))
    ganglion("calibrate", str(folder), "--data", str(recordings), "--for", "4s")
    made: dict[str, Any] = json.loads((folder / "calibration.json").read_text())
    assert set(made["classes"]) == {"emulated", "cabinet", "substation", "region"}
    hop = made["classes"]["cabinet"]["hop"]
    assert {"receive_ns", "react_ns", "message_ns", "own_cpus"} <= set(hop)
    assert {"wake_ns", "send_ns", "receive_ns", "obey_ns"} <= set(made["classes"]["emulated"]["hop"])
    assert made["streams"]["incident"]["row_bytes"] > 0

    plan = json.loads(ganglion("plan", str(folder), "--json"))
    classes = {c["name"]: c for c in plan["figures"]["classes"]}
    assert classes["cabinet"]["stages"]["minutes"] == "measured"
    assert classes["emulated"]["stages"]["features"] == "measured"
