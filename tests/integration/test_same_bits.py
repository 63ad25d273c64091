"""The same frames, computed on emulated boards, on gateways and in the cloud: features and decisions bit for bit."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest

from tests.integration.conftest import FEEDER, REPOSITORY
from tests.integration.processes import remaining

NEEDED = [m for m in ("ziglang", "unicorn", "elftools") if importlib.util.find_spec(m) is None]
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc"),
    pytest.mark.skipif(bool(NEEDED), reason=f"{', '.join(NEEDED)} is not installed"),
]
STAGES = ("features", "described", "decide", "trips", "incident")
TIERS = ("device", "gateway", "cloud")
USES = ("kept_features", "kept_decisions", "kept_trips", "kept_incidents")


def ganglion(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ganglion.cli", *map(str, words)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def compared(*directories: Path) -> tuple[int, dict[str, Any]]:
    process = ganglion("compare", *directories, "--json")
    out, err = process.communicate(timeout=60)
    assert process.returncode in (0, 1), err
    return process.returncode, json.loads(out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> dict[str, Path]:
    """One run per tier, side by side: they share nothing but the recordings."""
    folder = tmp_path_factory.mktemp("bits")
    started = {}
    for tier in TIERS:
        options = ["--data", recordings, "--for", "10s", "--devices", 2, "--devices-as", "board"]
        options += ["--run-dir", folder / tier, "--json"]
        pins = [x for stage in STAGES for x in ("--pin", f"{stage}={tier}")]
        started[tier] = ganglion("run", FEEDER / "decisions", *options, *pins)
    finished = {
        tier: (process.communicate(timeout=170), process.returncode) for tier, process in started.items()
    }
    for tier, ((out, err), status) in finished.items():
        assert out, (tier, err)
        report = json.loads(out)
        assert (status, report["ok"]) == (0, True), (tier, report["problems"])
        assert report["devices_ran_as"] == {"board": 2, "qemu": 0, "firmware": 0, "python": 0}
        assert remaining(folder / tier) == []
    return {tier: folder / tier for tier in TIERS}


def test_device_gateway_and_cloud_compute_the_same_bits(runs: dict[str, Path]) -> None:
    status, result = compared(*runs.values())
    assert (status, result["same"], result["deviations_n"]) == (0, True, 0), result["deviations"]
    for tier, placed in zip(TIERS, result["placed"], strict=True):
        assert all(placed[stage] == [tier] for stage in STAGES), "each stage ran where it was forced to"
    assert result["frames"] > 2 * 80
    assert result["rows"]["sink kept_features"] == result["rows"]["sink kept_decisions"] == result["frames"]
    assert result["rows"]["sink kept_trips"] > 0, "something was decided"
    assert result["rows"]["sink kept_incidents"] > result["rows"]["sink kept_trips"]


def flip(file: Path, column: str, row: int) -> tuple[str, int]:
    """Flips the lowest bit of one value of a kept row; its origin and sequence number."""
    with pa.ipc.open_stream(file.read_bytes()) as reader:
        table = reader.read_all()
    values = table.column(column).to_numpy().copy()
    values.view(np.uint8)[row * values.itemsize] ^= 1
    changed = table.set_column(
        table.schema.get_field_index(column), table.schema.field(column), pa.array(values)
    )
    with pa.ipc.new_stream(file, changed.schema) as writer:
        writer.write_table(changed)
    return table.column("origin")[row].as_py(), table.column("seq")[row].as_py()


def test_one_flipped_bit_is_found(runs: dict[str, Path], tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    shutil.copytree(runs["cloud"], planted, ignore=shutil.ignore_patterns("messaging"))
    (file,) = planted.glob("nodes/*/sinks/kept_decisions.arrows")
    origin, seq = flip(file, "residual", 40)
    status, result = compared(runs["device"], planted)
    assert (status, result["same"], result["deviations_n"]) == (1, False, 1)
    (found,) = result["deviations"]
    assert found["what"].startswith("1 of ") and found["what"].endswith(" bits differ")
    assert (found["use"], found["origin"], found["seq"]) == ("sink kept_decisions", origin, seq)


def test_what_cannot_be_compared_is_said(runs: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs["device"], other, ignore=shutil.ignore_patterns("messaging"))
    for file in other.glob("devices/*/config.json"):
        config = json.loads(file.read_text())
        config["period_frames"] += 1
        file.write_text(json.dumps(config))
    for words, code, why in (
        ([runs["device"]], "compare.runs", "needs two"),
        ([runs["device"], tmp_path], "compare.directory", "config.json"),
        ([runs["device"], other], "compare.runs", "period frames"),
    ):
        process = ganglion("compare", *words)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert f"[{code}]" in err and why in err
