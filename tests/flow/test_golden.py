"""A flow is plain data: its JSON, diagram and digest are the same everywhere, and what is in them is golden.

A change of the golden JSON changes the digests of flows: running sites must be planned anew. To accept one:
``GANGLION_WRITE_GOLDEN=1 python -m pytest tests/flow/test_golden.py``.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ganglion.core.errors import FlowError
from ganglion.flow.load import load_flow
from ganglion.flow.spec import describe
from ganglion.flow.stages import Stage

HERE = Path(__file__).parent
SAMPLE = HERE / "sample"


@pytest.fixture(scope="module")
def spec():
    return load_flow(SAMPLE)


@pytest.mark.golden
@pytest.mark.parametrize("name, of", [("flow.json", "dumps"), ("diagram.txt", "diagram")])
def test_the_sample_is_what_it_was(spec, name, of):
    golden, text = HERE / "golden" / name, getattr(spec, of)()
    if os.environ.get("GANGLION_WRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_the_json_is_strict_and_complete(spec):
    value = json.loads(spec.dumps(), parse_constant=pytest.fail)
    assert [s["id"] for s in value["stages"]] == [s.id for s in spec.stages]
    assert {s["kind"] for s in value["stages"]} == {k.kind for k in Stage.__subclasses__()}
    assert json.dumps(value, indent=1, sort_keys=True) + "\n" == spec.dumps()


def test_the_diagram_shows_every_stage(spec):
    lines = spec.diagram().splitlines()
    assert lines[0] == "flow sample"
    for stage in spec.stages:
        shown = [line for line in lines if line.lstrip(" ->").startswith(f"{stage.id}: ")]
        assert shown
        assert sum("(see above)" not in line for line in shown) == 1
        assert describe(stage) in shown[0]
    assert all(line.isprintable() for line in lines)


CODE = """
import pathlib, sys
from ganglion.flow.load import load_flow
print(load_flow(pathlib.Path(sys.argv[1])).digest)
"""


def test_the_digest_is_the_same_in_every_process_and_place(spec, tmp_path):
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for file in SAMPLE.glob("*.py"):
        (copy / file.name).write_bytes(file.read_bytes())
    for hash_seed, directory in [("0", SAMPLE), ("1", SAMPLE), ("2", copy)]:
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(directory)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == spec.digest


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("flow.py", 'within="20ms"', 'within="21ms"'),
        ("flow.py", "5.5", "5.6"),
        ("flow.py", '"n": 0', '"n": 1'),
        ("detector.py", "n < 2", "n < 3"),
        ("detector.py", "PEAK_AMP = 1.2", "PEAK_AMP = 1.3"),
    ],
)
def test_the_digest_sees_a_change_of_stage_predicate_state_kernel_and_constant(
    spec, tmp_path, file, old, new
):
    for path in SAMPLE.glob("*.py"):
        text = path.read_text()
        (tmp_path / path.name).write_text(text.replace(old, new) if path.name == file else text)
    assert load_flow(tmp_path).digest != spec.digest


def test_stages_are_frozen_and_compare_by_value(spec):
    again = load_flow(SAMPLE)
    for stage, other in zip(spec.stages, again.stages, strict=True):
        for field in dataclasses.fields(stage):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(stage, field.name, None)
        assert (stage == other) is (stage.kind != "map")  # a kernel loaded twice is two functions
        assert stage.to_json() == other.to_json()
    assert spec["trips"] != spec["frames"]
    assert len({spec["trips"], again["trips"]}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.name = "other"


def test_the_way_back_from_a_stage(spec):
    assert spec.chain("feeder_totals") == ("frames", "features", "minutes", "totals", "feeder_totals")
    assert spec.chain("incident") == ("frames", "incident")
    assert spec.ancestors("incident") == {"frames", "features", "tripped", "trips"}
    assert spec.ancestors("frames") == frozenset()
    assert [s.id for s in spec.consumers("trips")] == ["breaker_open", "incident"]
    assert [s.id for s in spec.reflexes] == ["breaker_open"]
    assert [s.id for s in spec.sources] == ["frames", "level"]
    assert "trips" in spec
    assert "trip" not in spec
    with pytest.raises(FlowError) as caught:
        spec["trip"]
    assert caught.value.code == "flow.unknown-stage"
    assert "trips" in caught.value.why


def test_every_stage_comes_after_its_inputs(spec):
    seen: set[str] = set()
    for stage in spec.stages:
        assert seen.issuperset(stage.inputs)
        seen.add(stage.id)
