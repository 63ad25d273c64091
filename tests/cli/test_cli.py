"""The command line: what it prints, and one clear line for whatever is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ganglion.cli import main
from ganglion.core.errors import GanglionError
from ganglion.core.units import format_bytes
from tests.placement.instances import SMALL

FEEDER = Path(__file__).parents[2] / "examples" / "feeder"


@pytest.fixture
def ganglion(monkeypatch, capsys, tmp_path):
    """Runs the command in an empty directory: (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ganglion", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def test_flow_prints_a_diagram_and_stable_json(ganglion):
    status, diagram, _ = ganglion("flow", str(FEEDER))
    assert status == 0
    assert "breaker_open: act breaker open within 20ms" in diagram
    _, first, _ = ganglion("flow", str(FEEDER), "--json")
    _, second, _ = ganglion("flow", str(FEEDER), "--json")
    assert first == second
    assert json.loads(first)["flow"] == "feeder-protection"


def test_plan_says_where_why_and_what_it_costs(ganglion):
    status, text, _ = ganglion("plan", str(FEEDER))
    assert status == 0
    assert "proved optimal" in text
    _, content, _ = ganglion("plan", str(FEEDER), "--json", "--devices", "40")
    plan = json.loads(content)
    assert plan["certificate"]["proved"]
    assert {p["tier"] for p in plan["placements"] if p["stage"] == "decide"} <= {"device", "gateway"}
    assert all(loop["predicted_ns"] <= loop["deadline_ns"] for loop in plan["loops"])
    _, reasons, _ = ganglion("plan", str(FEEDER), "--why", "decide")
    assert "offline of breaker_open" in reasons


def shared(tmp_path: Path, line: str) -> str:
    """A copy of the example with more processes at one of its nodes."""
    copy = tmp_path / "shared"
    shutil.copytree(FEEDER, copy)
    path = copy / "topology.yaml"
    before = path.read_text()
    path.write_text(before.replace(f"node: {{{line}}}", f"node: {{{line}, processes: 3}}", 1))
    assert path.read_text() != before
    return str(copy)


def test_plan_says_whose_partitions_are_whose(ganglion, tmp_path):
    where = shared(tmp_path, "class: substation")
    status, text, _ = ganglion("plan", where)
    assert status == 0
    assert "edge1-w2 of edge1: partitions 2 5 8 11 14" in text
    _, content, _ = ganglion("plan", where, "--json")
    found = json.loads(content)["partitions"]["edge1"]
    assert sorted(p for its in found.values() for p in its) == list(range(16))


@pytest.mark.parametrize(
    "line, code, words",
    [
        ("class: region", "topology.processes", "feeder_minutes"),
        ("class: cabinet", "topology", "gateway gw1"),
    ],
)
def test_what_several_processes_cannot_share_is_refused(ganglion, tmp_path, line, code, words):
    status, _, error = ganglion("plan", shared(tmp_path, line))
    assert status != 0
    assert code in error
    assert words in error
    assert "next:" in error


def test_plan_says_what_would_happen_if(ganglion):
    status, text, _ = ganglion("plan", str(FEEDER), "--what-if", "class emulated ns_per_call=40000000")
    assert status == 0
    assert "features: device (4) -> gateway (4)" in text
    assert "applied in the order: gw1 (both), gw2 (both)" in text
    _, text, _ = ganglion("plan", str(FEEDER), "--what-if", "link gw1 dies")
    assert "gw1 cannot be reached" in text
    assert "repair: nothing moves" in text
    _, content, _ = ganglion("plan", str(FEEDER), "--what-if", "node gw2 dies", "--json")
    value = json.loads(content)
    assert value["money_per_month"]["after"] < value["money_per_month"]["before"]
    assert {m["path"] for m in value["moves"]} == {"gw2-relay"}


def test_plan_compares_itself_with_policies_and_says_when_one_is_as_good(ganglion):
    _, text, _ = ganglion("plan", str(FEEDER), "--compare", "cloud-only,greedy")
    assert "greedy: " in text
    assert "as good as this plan" in text
    assert "times this plan" in text
    _, content, _ = ganglion("plan", str(FEEDER), "--compare", "greedy", "--json")
    assert json.loads(content)["policies"][0]["policy"] == "greedy"


REFLEX = """
import numpy as np
import ganglion as gg

@gg.kernel(x=gg.f32[4])
def level(x):
    return {"peak": np.max(np.abs(x))}

flow = gg.Flow("reflex")
trips = flow.source("frames", gg.Frame(4, unit="A"), every="20ms").map(level).where(lambda t: t.peak > 1, id="trips")
trips.act("breaker", "open", within="500ms")
"""


def reflex(tmp_path: Path, gateways: int) -> str:
    """A small flow; ``gateways`` alike where the first of its topology stands."""
    folder = tmp_path / "reflex"
    folder.mkdir()
    (folder / "flow.py").write_text(REFLEX)
    topology = SMALL.replace("electricity_per_kwh: 0.3", "electricity_per_kwh: 0")
    topology = topology.replace("bandwidth: 1Mbit, energy", "bandwidth: 1Mbit, price_per_gb: 1.0, energy")
    (folder / "topology.yaml").write_text(
        topology.replace("  gw1:\n    {", f"  gw1:\n    {{count: {gateways}, ")
    )
    return str(folder)


def test_devices_of_sites_alike_are_exported(ganglion, tmp_path):
    flow = reflex(tmp_path, gateways=3)
    status, text, err = ganglion("device", "export", flow, "--library", "--out", "there")
    assert (status, err) == (0, "")
    assert text.startswith("gw1x0-relay")
    assert list((tmp_path / "there").glob("*/README.md"))


def test_plan_takes_an_objective_in_words_and_draws_a_picture(ganglion, tmp_path):
    _, text, _ = ganglion("plan", str(FEEDER), "--objective", "latency, then money", "--svg", "plan.svg")
    assert "objective: latency, then money" in text
    root = ET.parse(tmp_path / "plan.svg").getroot()
    words = " ".join(e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}text"))
    for word in ("feeder-protection", "gw1", "edge1", "cloud", "breaker_open", "proved optimal"):
        assert word in words


def test_plan_explains_every_stage(ganglion):
    _, content, _ = ganglion("plan", str(FEEDER), "--why", "all", "--json")
    assert {"decide", "cycle", "trends"} <= {w["stage"] for w in json.loads(content)}


@pytest.mark.parametrize(
    "arguments, code",
    [
        (["plan", str(FEEDER), "--what-if", "make it better"], "topology.change"),
        (["plan", str(FEEDER), "--what-if", "link gw1 bandwidth=2bananas"], "topology.field"),
        (["plan", str(FEEDER), "--compare", "magic"], "placement.policy"),
        (["plan", str(FEEDER), "--objective", "beauty"], "flow.objective"),
        (["plan", str(FEEDER), "--objective", "carbon"], "flow.objective"),
        (["plan", str(FEEDER), "--svg", "/dev/null/plan.svg"], "cli.svg"),
        (["plan", str(FEEDER), "--why", "decide", "--compare", "greedy"], "cli.plan-question"),
        (["flow", "nowhere"], "flow.missing"),
        (["plan", "nowhere"], "flow.missing"),
        (["plan", str(FEEDER), "--why", "nothing"], "flow.unknown-stage"),
        (["plan", str(FEEDER), "--pin", "features"], "cli.pin"),
        (["plan", str(FEEDER), "--pin", "features=moon"], "flow.tier"),
        (["plan", str(FEEDER), "--pin", "decide=cloud"], "placement.infeasible"),
        (["plan", str(FEEDER), "--devices", "0"], "topology.devices"),
        (["device", "build", "nowhere"], "flow.missing"),
        (["device", "build", str(FEEDER), "--class", "moon"], "cli.device-class"),
        (["device", "build", str(FEEDER), "--board", "z80"], "cli.board"),
        (["device", "build", str(FEEDER), "--ram", "banana"], "unit.size"),
        (["device", "build", str(FEEDER), "--data", "nowhere"], "recording.missing"),
        (["device", "bridge", "/dev/null", "--gateway", "127.0.0.1"], "cli.gateway"),
        (["device", "bridge", "/dev/null", "--gateway", "127.0.0.1:70000"], "cli.gateway"),
        (["device", "bridge", "/dev/null", "--gateway", "127.0.0.1:5683"], "host.line"),
        (["device", "bridge", "/dev/no-such-port", "--gateway", "127.0.0.1:5683"], "host.line"),
        (["device", "build", str(FEEDER), "--out", "/dev/null/x"], "kernel.directory"),
        (["run", "nowhere"], "flow.missing"),
        (["run", str(FEEDER), "--for", "banana"], "unit.duration"),
        (["run", str(FEEDER), "--for", "0s"], "run.duration"),
        (["run", str(FEEDER), "--cut", "gw1"], "run.cut"),
        (["run", str(FEEDER), "--cut", "gw9@1s-2s"], "run.cut"),
        (["run", str(FEEDER), "--data", "nowhere"], "recording.missing"),
        (["run", str(FEEDER), "--run-dir", str(FEEDER)], "run.directory"),
        (["run", str(FEEDER), "--report", "/dev/null/report.json"], "cli.report"),
    ],
)
def test_what_is_wrong_is_said_in_one_place(ganglion, tmp_path, arguments, code):
    status, out, err = ganglion(*arguments)
    assert status == 2
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith(f"error [{code}] ")
    assert lines[1].startswith("  why:  ")
    assert lines[2].startswith("  next: ")
    assert len(lines) == 3
    assert list(tmp_path.iterdir()) == [], "nothing may be written for a run that cannot start"


def test_a_broken_topology_is_named_by_line(ganglion, tmp_path):
    broken = tmp_path / "flow"
    broken.mkdir()
    for name in ("flow.py", "detect.py", "classify.py", "fault.onnx"):
        (broken / name).write_bytes((FEEDER / name).read_bytes())
    text = (FEEDER / "topology.yaml").read_text().replace("latency: 40ms", "latency: 40 moments", 1)
    (broken / "topology.yaml").write_text(text)
    line = next(n for n, x in enumerate(text.splitlines(), start=1) if "moments" in x)
    status, _, err = ganglion("plan", str(broken))
    assert status == 2
    assert f"topology.yaml:{line}: sites.gw1.uplink.latency" in err.replace("\n", " ")


def test_a_folder_of_recordings_must_have_the_form(ganglion, tmp_path):
    (tmp_path / "events.npz").write_bytes(b"no archive")
    (tmp_path / "labels.csv").write_text("row\n")
    status, _, err = ganglion("run", str(FEEDER), "--data", str(tmp_path))
    assert status == 2
    assert "recording.form" in err


def test_errors_keep_their_parts_when_pickled():
    import pickle

    error = GanglionError("a.b", "what", why="why", next_step="next")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.code, copy.what, copy.why, copy.next_step) == ("a.b", "what", "why", "next")


def test_device_build_says_what_an_image_needs_and_refuses_what_does_not_fit(ganglion, tmp_path):
    pytest.importorskip("ziglang", reason="ziglang is not installed")
    status, text, _ = ganglion("device", "build", str(FEEDER), "--json")
    assert status == 0
    (image,) = json.loads(text)
    assert image["devices"] == ["gw1-relay", "gw2-relay"]
    assert Path(image["file"]).stat().st_size == image["flash_bytes"]
    assert {"features", "decide"} <= set(image["stages"])
    status, text, _ = ganglion("device", "build", str(FEEDER))
    assert f"RAM     {format_bytes(image['ram_bytes'])}" in text
    counted = image["instructions_per_frame"]
    assert counted is None or f"{counted['median']:,} instructions in the median of" in text
    few = image["flash_bytes"] - 100
    status, _, err = ganglion("device", "build", str(FEEDER), "--flash", f"{few}B")
    assert status == 2
    assert "100 too many" in err


def feeder(folder: Path) -> Path:
    """A copy of the feeder, so that a calibration beside it stays out of the example."""
    folder.mkdir()
    for name in ("flow.py", "detect.py", "classify.py", "fault.onnx", "topology.yaml"):
        (folder / name).write_bytes((FEEDER / name).read_bytes())
    return folder


def test_a_plan_says_which_figures_were_measured(ganglion, tmp_path):
    folder = feeder(tmp_path / "feeder")
    _, text, _ = ganglion("plan", str(folder))
    assert "cabinet: not calibrated, all from topology.yaml" in text
    stage = {"stage": "decide", "call_ns": None, "row_ns": None}
    figures = {"measured_on": "a bench", "stages": {"ab" * 32: stage}}
    value = {
        "calibration": 1,
        "flow": "feeder-protection",
        "measured_at": "2026-11-25T17:00:00Z",
        "machine": {},
    }
    (folder / "calibration.json").write_text(json.dumps({**value, "classes": {"cabinet": figures}}))
    _, text, _ = ganglion("plan", str(folder))
    assert "cabinet: a bench" in text
    assert "ignored, since the stage computes something else than when it was measured: decide" in text
    _, content, _ = ganglion("plan", str(folder), "--json")
    cabinet = next(c for c in json.loads(content)["figures"]["classes"] if c["name"] == "cabinet")
    assert (cabinet["stages"]["decide"], cabinet["stages"]["trend"]) == ("stale", "declared")


def test_a_broken_calibration_stops_a_plan_and_says_what_to_do(ganglion, tmp_path):
    folder = feeder(tmp_path / "feeder")
    (folder / "calibration.json").write_text("{")
    status, _, error = ganglion("plan", str(folder))
    assert status == 2
    assert "topology.calibration" in error
    assert "ganglion calibrate" in error


@pytest.mark.parametrize(
    "options,code",
    [
        (("--class", "cellar"), "topology.calibration-class"),
        (("--from-report", "nowhere.json"), "calibrate.report"),
        (("--for", "soon"), "unit.duration"),
        (("--for", "0s"), "run.duration"),
        (("--data", "nowhere"), "recording.missing"),
        (("--out", "/proc/nowhere/c.json"), "cli.calibration"),
        (("--out", "feeder/flow.py/c.json"), "cli.calibration"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_before_anything_runs(ganglion, tmp_path, options, code):
    folder = feeder(tmp_path / "feeder")
    status, out, error = ganglion("calibrate", str(folder), *options)
    assert status == 2
    assert code in error
    assert out == ""
    assert not (folder / "calibration.json").exists()
