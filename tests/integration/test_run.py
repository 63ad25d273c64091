"""The main job, end to end: planned, run as real processes, cut, healed, killed, judged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ganglion.device.firmware.calls import lacks_emulator
from tests.integration.conftest import FEEDER, REPOSITORY
from tests.integration.processes import agent_pid, remaining, server_pid, wait_for

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


def start(run_dir: Path, recordings: Path, *options: str) -> subprocess.Popen[str]:
    """``ganglion run`` as a person starts it."""
    command = [sys.executable, "-m", "ganglion.cli", "run", str(FEEDER), "--data", str(recordings)]
    command += ["--run-dir", str(run_dir), "--json", *options]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The report of a run that must be sound."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err + out[-3000:]
    report: dict[str, Any] = json.loads(out)
    assert report["ok"], report["problems"]
    return report


def assert_sound(report: dict[str, Any]) -> None:
    readings = report["readings"]
    for name in (
        "lost",
        "duplicated",
        "altered",
        "out_of_order",
        "dropped",
        "bad",
        "shed",
        "refused",
        "unsent",
    ):
        assert readings[name] == 0, (name, readings)
    assert readings["published"] == readings["received"] > 0
    assert report["reflexes_missed"] == 0
    assert {s["use"] for s in readings["streams"]} >= {"actuator breaker", "sink incidents"}


@linux
def test_a_cut_in_the_middle_loses_nothing_and_stops_no_reflex(tmp_path: Path, recordings: Path) -> None:
    report_file = tmp_path / "report.json"
    run_dir = tmp_path / "run"
    options = ["--for", "16s", "--cut", "gw1@3s-12s", "--report", str(report_file)]
    report = finish(start(run_dir, recordings, *options))
    assert_sound(report)
    assert report == json.loads(report_file.read_text())
    assert report["reaction_ms_islanded"]["count"] > 0
    assert report["detection"]["events"] > 0
    assert report["detection"]["recall"] == 1.0
    assert report["detection"]["false_trips"] == 0
    assert report["heal_to_drained_s"]["gw1"] is not None
    assert report["cuts"][0]["backlog"] > 0, "the cut must have had something to hold back"
    assert 0 < report["bytes"]["uplink"]["gw1>edge1"] < report["bytes"]["raw"] / 2
    if not report["devices_ran_as"]["python"]:
        ledger = report["device_ledgers"]["classes"]["relay"]
        assert ledger["sent_bytes"] > report["bytes"]["device_payload"], "CoAP's heads are bytes by radio too"
        assert ledger["frames"] <= ledger["wakeups"] and ledger["energy"]["radio_j"] > 0
        assert (
            ledger["devices"] == report["devices"] and ledger["rows_stored"] == report["readings"]["unsent"]
        )
    assert set(report["prediction"]) >= {"reaction_ms_p50", "bytes_per_day gw1>edge1"}
    accuracy = report["accuracy"]
    assert all(part["measured"] > 0 for part in accuracy["loop_ms"].values())
    minutes = next(s for s in accuracy["stages"] if (s["stage"], s["node"]) == ("minutes", "gw1"))
    assert minutes["ns_per_row"]["measured"] > 0
    assert all(n["cpus"]["measured"] > 0 for n in accuracy["nodes"])
    kinds = {kind for kind, count in report["devices_ran_as"].items() if count}
    assert kinds == ({"board"} if not lacks_emulator() else {"firmware"}), report[
        "devices_not_boards_because"
    ]
    assert remaining(run_dir) == []


@linux
def test_kill_9_of_gateway_agent_server_and_edge_changes_nothing(tmp_path: Path, recordings: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(run_dir, recordings, "--for", "32s", "--cut", "gw1@14s-20s")
    nodes = run_dir / "nodes"
    wait_for(lambda: list((run_dir / "devices").glob("*/commands.jsonl")))

    def ready_again(node: str, pid: int) -> bool:
        report = json.loads((nodes / node / "report.json").read_text())
        return report["phase"] == "ready" and report["server_pid"] not in (None, pid)

    for node, victim in (
        ("gw1", agent_pid),
        ("gw1", server_pid),
        ("edge1", agent_pid),
        ("edge1", server_pid),
        ("gw2", agent_pid),
        ("cloud", agent_pid),
    ):
        before = server_pid(run_dir, node)
        os.kill(victim(run_dir, node), signal.SIGKILL)
        wait_for(lambda node=node, before=before: ready_again(node, before))
    report = finish(process)
    assert_sound(report)
    assert report["restarts"] == {"gw1": 1, "edge1": 1, "gw2": 1, "cloud": 1}
    assert remaining(run_dir) == []


@linux
def test_the_uplink_of_the_edge_can_be_cut_too(tmp_path: Path, recordings: Path) -> None:
    report = finish(
        start(tmp_path / "run", recordings, "--for", "12s", "--cut", "edge1@2s-8s", "--devices", "6")
    )
    assert_sound(report)
    assert report["devices"] == 6
    assert report["reaction_ms_islanded"]["count"] > 0


@linux
def test_stages_forced_onto_the_gateway_decide_the_same(tmp_path: Path, recordings: Path) -> None:
    pins = ("features", "decide", "trips", "incident", "trend")
    options = [x for stage in pins for x in ("--pin", f"{stage}=gateway")]
    report = finish(start(tmp_path / "run", recordings, "--for", "12s", *options))
    assert report["detection"]["recall"] == 1.0
    assert report["detection"]["false_trips"] == 0
    assert report["readings"]["lost"] == report["readings"]["duplicated"] == 0


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything(tmp_path: Path, recordings: Path, number: int) -> None:
    run_dir = tmp_path / "run"
    process = start(run_dir, recordings, "--for", "60s")
    wait_for(lambda: list((run_dir / "devices").glob("*/acked.jsonl")))
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted; everything was stopped"
    assert remaining(run_dir) == []


@linux
def test_a_killed_run_leaves_nothing_running(tmp_path: Path, recordings: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(run_dir, recordings, "--for", "60s")
    wait_for(lambda: list((run_dir / "devices").glob("*/acked.jsonl")))
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: remaining(run_dir) == [])
