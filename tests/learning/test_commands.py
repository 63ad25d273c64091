"""`ganglion model`: the whole course on a small recipe, keyword spotting, and one clear line for whatever is wrong."""

import json
import os
import sys
from pathlib import Path

import pytest

from ganglion.cli import main
from tests.learning.nets import images, needs_emulator, needs_runtime, needs_torch

ROOT = Path(__file__).parents[2]
KEYWORDS = ROOT / "benchmarks" / "learning" / "keyword_spotting.py"
SHARED = Path(os.environ.get("GANGLION_SHARED_DATA", ROOT.parent / "shared" / "data"))
RECIPE = """\
import numpy as np
from ganglion.learning.recipe import Dense, Distillation, Examples, Gate, Recipe, Training

def rings(seed, count):
    points = np.random.default_rng(seed).uniform(-1, 1, (count, 2)).astype(np.float32)
    return Examples(points, np.digitize(np.hypot(*points.T), [0.45, 0.8]).astype(np.int64))

recipe = Recipe(
    name="rings",
    classes=("in", "ring", "out"),
    data=lambda _: {"train": rings(1, 1500), "check": rings(2, 500), "test": rings(3, 500)},
    student=(Dense(16),),
    teacher=(Dense(32), Dense(32)),
    training=Training(epochs=15, batch=64, learning_rate=0.02),
    distillation=Distillation(temperature=2.0, weight=0.5, members=2),
    seeds=(1, 2, 3),
    measures=lambda answers, _: {"largest": float(abs(answers(np.zeros((1, 2), np.float32))).max())},
    gate=Gate(at_least={"accuracy.check": 0.85}, at_most={"flash_bytes": 5000, "instructions": 5000}),
)
"""


@pytest.fixture
def ganglion(monkeypatch, capsys, tmp_path):
    """Runs ``ganglion model`` in an empty directory: (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rings.py").write_text(RECIPE)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["ganglion", "model", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def error_of(result):
    status, out, err = result
    lines = err.splitlines()
    assert (status, out) == (2, "") or lines[0].startswith("error [learning.gate]")
    assert lines[1].startswith("  why:  ")
    assert lines[2].startswith("  next: ")
    return lines[0].partition("[")[2].partition("]")[0], err


@needs_torch
@needs_emulator
def test_the_whole_course(ganglion, tmp_path):
    made = tmp_path / "build" / "models" / "rings"
    for directory in (made, tmp_path / "again"):
        directory.mkdir(parents=True)
        (directory / "images").symlink_to(images())
    status, text, _ = ganglion("train", "rings.py")
    assert status == 0
    assert "teacher of 2 members" in text
    status, content, _ = ganglion("distill", "rings.py", "--json")
    learnt = json.loads(content)
    assert status == 0
    assert learnt["seed"] in (1, 2, 3)
    gain = learnt["comparison"]["accuracy.test"]["gain"]
    assert gain["least"] <= gain["median"] <= gain["largest"]
    assert ganglion("distill", "rings.py")[1].startswith("3 seeds, student of 99 parameters")
    status, text, _ = ganglion("quantize", "rings.py")
    assert status == 0
    assert text.count("held") == 3
    card = json.loads((made / "rings.json").read_bytes())
    first = (made / "rings.onnx").read_bytes(), (made / "rings.json").read_bytes()
    assert card["onnx_runtime_differing_integers"] == 0
    assert card["measures"]["accuracy.test"] > 0.85
    assert {"largest", "quantisation_loss"} <= set(card["measures"])
    status, content, _ = ganglion("evaluate", "rings.py", "--json")
    again = json.loads(content)
    assert status == 0
    assert again["sha256"] == card["network"]["sha256"]
    assert again["measures"] == {k: v for k, v in card["measures"].items() if k != "quantisation_loss"}
    status, text, _ = ganglion("compile", "rings.py")
    assert status == 0
    assert "instructions per frame" in text
    room = made / "c"
    assert {f.name for f in room.iterdir()} == {
        "rings.c",
        "rings.h",
        "rings.onnx",
        "rings.json",
        "rings.layers.json",
        "kernel_runtime.h",
    }
    carried = json.loads((room / "rings.json").read_bytes())
    assert carried["measures"] == card["measures"], "the card goes along"
    assert carried["footprint"] == card["footprint"]
    for step in ("train", "distill", "quantize"):
        assert ganglion(step, "rings.py", "--out", "again")[0] == 0
    files = tmp_path / "again" / "rings.onnx", tmp_path / "again" / "rings.json"
    assert tuple(f.read_bytes() for f in files) == first, "the same recipe gives the same bytes"
    for file in files:
        file.unlink()
    (tmp_path / "rings.py").write_text(RECIPE.replace('"flash_bytes": 5000', '"ram_bytes": 3'))
    code, text = error_of(ganglion("quantize", "rings.py", "--out", "again"))
    assert code == "learning.gate"
    assert "MISSED ram_bytes" in text
    assert not any(f.exists() for f in files), "what misses its gate does not leave"


@needs_torch
def test_steps_out_of_order_and_stale_ones_are_refused(ganglion, tmp_path):
    assert error_of(ganglion("distill", "rings.py"))[0] == "learning.kept"
    assert error_of(ganglion("quantize", "rings.py"))[0] == "learning.kept"
    assert error_of(ganglion("evaluate", "rings.py"))[0] == "learning.kept"
    assert ganglion("train", "rings.py")[0] == 0
    (tmp_path / "rings.py").write_text(RECIPE.replace("rings(1, 1500)", "rings(9, 1500)"))
    code, text = error_of(ganglion("distill", "rings.py"))
    assert code == "learning.kept"
    assert "changed since" in text
    (tmp_path / "rings.py").write_text(RECIPE)
    (tmp_path / "build/models/rings/teacher.npz").write_bytes(b"PK\3\4 nothing")
    assert error_of(ganglion("distill", "rings.py"))[0] == "learning.kept"


def test_wrong_input_is_said_in_one_line(ganglion, tmp_path):
    assert error_of(ganglion("train", "none.py"))[0] == "learning.recipe"
    assert error_of(ganglion("compile", "none.onnx"))[0] == "learning.file"
    assert error_of(ganglion("compile", "none.onnx", "--target", "z80"))[0] == "learning.target"
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    assert error_of(ganglion("compile", "bad.onnx"))[0] in ("network.file", "network.extra")
    (tmp_path / "only.py").write_text(RECIPE.replace("    teacher=(Dense(32), Dense(32)),\n", ""))
    assert error_of(ganglion("train", "only.py"))[0] == "learning.layers"
    (tmp_path / "part.py").write_text(RECIPE.replace('"check"', '"other"'))
    assert error_of(ganglion("train", "part.py"))[0] == "learning.examples"
    (tmp_path / "file").write_text("")
    assert error_of(ganglion("train", "rings.py", "--out", "file/x"))[0] == "cli.out"


def test_without_torch_the_way_on_is_said(ganglion, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, text = error_of(ganglion("train", "rings.py"))
    assert code == "learning.torch"
    assert "pip install torch==" in text


@needs_runtime
@pytest.mark.skipif(
    not (SHARED / "mlperf_tiny_kws01").is_dir(), reason="the folder mlperf_tiny_kws01 is not at hand"
)
def test_keyword_spotting_is_what_its_reference_is(ganglion, monkeypatch):
    monkeypatch.setenv("GANGLION_SHARED_DATA", str(SHARED))
    status, content, _ = ganglion("evaluate", str(KEYWORDS), "--json")
    found = json.loads(content)
    assert status == 0
    assert found["right"] == {"dev": 223, "train": 222}
    assert found["onnx_runtime_differing_integers"] == 0


@needs_runtime
def test_keyword_spotting_without_its_data_says_so(ganglion, monkeypatch, tmp_path):
    monkeypatch.setenv("GANGLION_SHARED_DATA", str(tmp_path))
    assert error_of(ganglion("evaluate", str(KEYWORDS)))[0] == "learning.file"
