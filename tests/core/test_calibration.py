"""calibration.json: what it looks like, what it refuses, what it makes of a topology."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.calibration import (
    Calibration,
    ClassFigures,
    HopFigures,
    Spread,
    StageFigures,
    StreamFigures,
    calibrated,
    figures_of,
    read_calibration,
    streams_of,
)
from ganglion.core.errors import TopologyError
from tests.placement.instances import small_topology

GOLDEN = Path(__file__).parent / "golden" / "calibration.json"
DIGEST = "ab" * 32


def spread(median: float, low: float | None = None, high: float | None = None, count: int = 5) -> Spread:
    return Spread(
        median=median, low=median if low is None else low, high=median if high is None else high, count=count
    )


def example() -> Calibration:
    return Calibration(
        format=1,
        flow="small",
        measured_at="2026-11-25T17:00:00Z",
        machine={"system": "Linux", "cpus": "2"},
        classes={
            "box": ClassFigures(
                measured_on="Linux x86_64, 2 processors; engine",
                stages={
                    DIGEST: StageFigures(stage="level", call_ns=spread(900, 850, 990), row_ns=spread(50.5))
                },
                hop=HopFigures(react_ns=spread(300_000, 250_000, 800_000), own_cpus=0.01),
            ),
            "relay": ClassFigures(
                measured_on="emulated cortex-m4f",
                stages={
                    DIGEST: StageFigures(
                        stage="level", instructions=spread(560), flash_bytes=312, ram_bytes=64
                    )
                },
            ),
        },
        streams={"trips": StreamFigures(digest=DIGEST, share=0.01, row_bytes=20.5)},
    )


@pytest.mark.golden
def test_the_file_is_as_it_was():
    """Write the golden file anew with: rm tests/core/golden/calibration.json, and run this test twice."""
    text = example().dumps()
    if not GOLDEN.exists():
        GOLDEN.write_text(text)
        pytest.fail("the golden file was missing and is written now")
    assert text == GOLDEN.read_text()
    assert read_calibration(GOLDEN.read_bytes(), "f") == example()


def changed(**changes):
    """The example's JSON with one value replaced (``a__b``), or removed (None)."""
    value = json.loads(example().dumps())
    for path, new in changes.items():
        *way, last = path.split("__")
        target = value
        for key in way:
            target = target[key]
        if new is None:
            del target[last]
        else:
            target[last] = new
    return json.dumps(value).encode()


FIGURE = f"classes__box__stages__{DIGEST}"


@pytest.mark.parametrize(
    "content,why",
    [
        (b"", "json"),
        (b"[]", "object"),
        (b"{", "json"),
        (b"\xff\xfe", "json"),
        (b" " * (16 << 20) + b"{}", "larger"),
        (changed(calibration=2), "calibration"),
        (changed(calibration=None), "calibration"),
        (changed(surprise=1), "surprise"),
        (changed(measured_at="yesterday"), "measured_at"),
        (changed(classes__box__stages={"short": {"stage": "x"}}), "short"),
        (changed(**{FIGURE + "__call_ns__median": 5}), "not between"),
        (changed(**{FIGURE + "__call_ns__low": -1}), "greater than or equal"),
        (changed(**{FIGURE + "__call_ns__high": 1e15}), "less than or equal"),
        (changed(**{FIGURE + "__row_ns__median": "fast"}), "number"),
        (changed(classes__box__hop__own_cpus=-1), "own_cpus"),
        (changed(streams__trips__share=1.5), "share"),
        (changed(streams__trips__row_bytes=0), "row_bytes"),
    ],
)
def test_anything_else_is_refused_and_says_where(content, why):
    with pytest.raises(TopologyError) as caught:
        read_calibration(content, "cal.json")
    assert caught.value.code == "topology.calibration"
    assert "cal.json" in caught.value.what
    assert why in caught.value.why.lower()
    assert "ganglion calibrate" in caught.value.next_step


numbers = st.floats(0, 1e12, allow_nan=False)


@given(st.lists(numbers, min_size=3, max_size=3).map(sorted), st.integers(1, 1000))
def test_what_is_written_is_read_back(values, count):
    low, middle, high = values
    one = StageFigures(stage="s", call_ns=Spread(median=middle, low=low, high=high, count=count))
    whole = example().model_copy(
        update={"classes": {"box": ClassFigures(measured_on="x", stages={DIGEST: one})}}
    )
    assert read_calibration(whole.dumps().encode(), "f") == whole


def test_a_topology_takes_its_classes_figures_and_keeps_them_with_other_devices():
    topology = small_topology()
    assert figures_of(topology.classes["box"]) is None
    assert streams_of(topology) == {}
    made = calibrated(topology, example())
    for one in (made, made.with_devices(7)):
        found = figures_of(one.classes["box"])
        assert found is not None
        assert found.hop.own_cpus == 0.01
        assert figures_of(one.classes["hall"]) is None
        assert streams_of(one)["trips"].share == 0.01
    assert figures_of(topology.classes["box"]) is None, "the topology itself is as it was"


def test_figures_of_a_class_that_is_not_there_are_refused_by_name():
    strange = example().model_copy(update={"classes": {"cellar": ClassFigures(measured_on="x")}})
    with pytest.raises(TopologyError) as caught:
        calibrated(small_topology(), strange)
    assert caught.value.code == "topology.calibration-class"
    assert "cellar" in caught.value.what
