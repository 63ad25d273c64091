"""A calibration on this machine, planned with and run: no figure is judged here, only that each is there and used."""

from __future__ import annotations

import json
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
def test_a_flow_is_calibrated_planned_and_compared(tmp_path: Path, recordings: Path) -> None:
    folder = tmp_path / "feeder"
    folder.mkdir()
    for name in ("flow.py", "detect.py", "topology.yaml"):
        (folder / name).write_text((FEEDER / name).read_text())
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

    report_file = tmp_path / "report.json"
    options = ["--data", str(recordings), "--for", "4s", "--run-dir", str(tmp_path / "run")]
    ganglion("run", str(folder), *options, "--report", str(report_file))
    accuracy = json.loads(report_file.read_text())["accuracy"]
    assert all(part["measured"] > 0 for part in accuracy["loop_ms"].values())
    minutes = next(s for s in accuracy["stages"] if (s["stage"], s["node"]) == ("minutes", "gw1"))
    assert minutes["figures"] == "measured"
    assert minutes["ns_per_row"]["measured"] > 0
    assert all(n["cpus"]["measured"] > 0 for n in accuracy["nodes"])
