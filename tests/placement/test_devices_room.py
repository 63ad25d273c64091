"""What a device can hold and what its stages take: flash and working memory of kernels, energy per row."""

from __future__ import annotations

from pathlib import Path

import pytest

from ganglion.core.errors import PlacementInfeasible, TopologyError
from ganglion.core.topology_text import read_topology
from ganglion.flow.load import load_flow
from ganglion.kernels.cost import constant_bytes, network_memory_bytes
from ganglion.placement import parse_objective, plan, report
from ganglion.placement.planner import fleet_plan, solved
from ganglion.placement.terrain import survey
from tests.core.test_calibration import spread
from tests.placement.instances import small_topology
from tests.placement.test_calibrated import SPEC, measured, stage, with_figures

FEEDER = Path(__file__).parents[2] / "examples" / "feeder"
HOURS_PER_MONTH = 30.4375 * 24


def by_prices(spec, topology, pins=None):
    terrain = survey(spec, topology, pins or {}, {}, parse_objective("money", topology.currency))
    return fleet_plan(solved(terrain, pins or {}), pins or {}, {})


@pytest.fixture(scope="module")
def feeder():
    return load_flow(FEEDER), (FEEDER / "topology.yaml").read_text()


def relay_with(text, **more):
    words = ", ".join(f"{k}: {v}" for k, v in more.items())
    assert text.count("  emulated:\n") == 1
    return read_topology(text.replace("  emulated:\n", f"  emulated:\n    {words}\n"), "topology.yaml")


def test_a_networks_weights_and_working_memory_are_counted(feeder):
    onnx = pytest.importorskip("onnx")
    spec, _ = feeder
    program = spec["decide"].kernel.program
    stored = onnx.load(FEEDER / "fault.onnx").graph.initializer
    weights = sum(
        len(onnx.numpy_helper.to_array(w).tobytes()) for w in stored if w.data_type == onnx.TensorProto.INT8
    )
    assert weights > 500
    assert weights <= constant_bytes(program) <= 3 * weights
    assert network_memory_bytes(program) > 0


def test_a_device_whose_flash_is_too_small_is_refused_by_name(feeder):
    spec, text = feeder
    needed = sum(constant_bytes(spec[name].kernel.program) for name in ("features", "decide"))
    at_device = {"decide": "device"}
    assert plan(spec, relay_with(text, flash=f"{needed}B"), pins=at_device).proved
    small = relay_with(text, flash=f"{needed - 1}B")
    assert set(plan(spec, small).tier_of("decide").values()) == {"gateway"}
    assert set(by_prices(spec, small).tier_of("decide").values()) == {"gateway"}
    for ask in (plan, by_prices):
        with pytest.raises(PlacementInfeasible) as caught:
            ask(spec, small, pins=at_device)
        assert caught.value.code == "placement.infeasible"
        assert "flash of emulated: kernels have" in caught.value.what
        assert "of flash of class emulated would do" in caught.value.next_step


def test_linked_flash_takes_the_place_of_the_constants():
    pins = {"level": "device", "decide": "gateway"}
    figures = measured(stage("level", call=1e5, row=1e4, flash_bytes=9_000, ram_bytes=700))
    there = with_figures(small_topology(classes__relay__flash="9500B"), relay=figures)
    made = plan(SPEC, there, pins=pins)
    use = next(n for n in made.nodes if n.node == "device:gw1-relay")
    assert (use.flash_bytes, use.flash_bytes_max) == (9_000, 9_500)
    assert "flash 9" in report(made, SPEC)
    without = next(n for n in plan(SPEC, small_topology(), pins=pins).nodes if n.node == use.node)
    assert use.memory_bytes == without.memory_bytes + 700
    assert (without.flash_bytes, without.flash_bytes_max) == (None, None)
    narrow = with_figures(small_topology(classes__relay__flash="8999B"), relay=figures)
    with pytest.raises(PlacementInfeasible, match="flash of relay"):
        plan(SPEC, narrow, pins=pins)


def test_only_devices_have_flash():
    with pytest.raises(TopologyError) as caught:
        small_topology(classes__box__flash="1MB")
    assert "only devices' flash is counted" in caught.value.why


def kwh(topology, pins):
    return plan(SPEC, topology, pins=pins).summary.quantities["kwh"]


@pytest.mark.parametrize(
    "figure, row_nj",
    [({"instructions": spread(40_000.0)}, 40_000 * 0.5), ({"energy_nj": spread(123_456.0)}, 123_456.0)],
)
def test_a_stages_energy_per_row_is_counted_and_paid(figure, row_nj):
    """50 rows a second, three devices; the rest of the plan is the same."""
    pins = {"level": "device", "decide": "gateway"}
    topology = small_topology(classes__relay__nj_per_instruction=0.5)
    none = stage("level", call=1e5, row=1e4)
    before = plan(SPEC, with_figures(topology, relay=measured(none)), pins=pins)
    after = plan(
        SPEC, with_figures(topology, relay=measured(stage("level", call=1e5, row=1e4, **figure))), pins=pins
    )
    busy_w = 50 * (1e5 + 1e4) * 1e-9 * (0.4 - 0.1)  # by time and power, where nothing else is known
    more_kwh = 3 * (50 * row_nj * 1e-9 - busy_w) / 1000 * HOURS_PER_MONTH
    assert after.summary.quantities["kwh"] - before.summary.quantities["kwh"] == pytest.approx(
        more_kwh, rel=1e-9
    )
    assert after.money.energy - before.money.energy == pytest.approx(more_kwh * 0.3, rel=1e-9)
    assert by_prices(
        SPEC, with_figures(topology, relay=measured(stage("level", call=1e5, row=1e4, **figure))), pins=pins
    ).money.total == pytest.approx(after.money.total, rel=1e-9)


def test_energy_per_row_decides_where_a_stage_runs():
    cheap, dear = (
        with_figures(relay=measured(stage("level", call=1e5, row=1e4, energy_nj=spread(nj))))
        for nj in (1.0, 1e9)
    )
    near = plan(SPEC, cheap, objective="energy")
    far = plan(SPEC, dear, objective="energy")
    assert set(near.tier_of("level").values()) == {"device"}
    assert set(far.tier_of("level").values()) == {"gateway"}


def test_a_processors_power_is_that_of_its_instructions_where_the_class_says_so():
    pins = {"level": "device", "decide": "gateway"}
    own = {"classes__relay__watts_busy": 0.1, "classes__relay__clock_mhz": 100.0}
    none = kwh(small_topology(**own), pins)
    some = kwh(small_topology(**own, classes__relay__nj_per_instruction=2.0), pins)
    watts = kwh(
        small_topology(classes__relay__watts_busy=0.1 + 2e-9 * 100e6, classes__relay__clock_mhz=100.0), pins
    )
    assert none < some == pytest.approx(watts, rel=1e-9)
