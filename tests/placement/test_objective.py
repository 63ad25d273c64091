"""Objectives in words: what they mean, and that the plan is the best in them."""

from __future__ import annotations

import numpy as np
import pytest

import ganglion as gg
from ganglion.core.errors import FlowError, PlacementInfeasible
from ganglion.placement import parse_objective, plan, worth
from tests.placement.instances import level, random_flow, random_topology, small_flow, small_topology
from tests.placement.judge import OBJECTIVES, Judge

MONEY = {"links": 1.0, "energy": 1.0, "cpu": 1.0}
REST = ({"latency_ms": 1.0}, {"height": 1.0})


@pytest.mark.parametrize(
    "text, levels",
    [
        ("money", (MONEY, *REST)),
        ("money, then latency", (MONEY, *REST)),
        ("latency, then money", ({"latency_ms": 1.0}, MONEY, {"height": 1.0})),
        ("energy then money", ({"kwh": 1.0}, MONEY, *REST)),
        ("money + 50 EUR/t carbon", ({**MONEY, "carbon_kg": 0.05}, *REST)),
        ("money + 0.2 EUR/kWh energy + 3 EUR/ms latency", ({**MONEY, "kwh": 0.2, "latency_ms": 3.0}, *REST)),
        ("carbon", ({"carbon_kg": 1.0}, *REST)),
    ],
)
def test_words(text, levels):
    assert parse_objective(text, "EUR").levels == levels


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "not understood"),
        ("beauty", "is none of"),
        ("money + carbon", "different units"),
        ("money + 5 USD/t carbon", "no price that is known"),
        ("money + 5 EUR/m latency", "no price that is known"),
        ("money, money, money, money, money", "more than 4 levels"),
        ("money and latency", "not understood"),
        ("m" * 300, "longer than"),
    ],
)
def test_what_is_not_understood(text, why):
    with pytest.raises(FlowError) as caught:
        parse_objective(text, "EUR")
    assert caught.value.code == "flow.objective"
    assert why in caught.value.why


ORDERS = {
    "latency, then money": ("latency", "money", "height"),
    "money": ("money", "latency", "height"),
}


@pytest.mark.parametrize("text", ORDERS)
@pytest.mark.parametrize("number", range(40, 60))
def test_the_plan_is_the_best_in_each_level(text, number):
    """Against trying everything, in the stated order."""
    rng = np.random.default_rng(number)
    spec, topology = random_flow(rng), random_topology(rng)
    best = Judge(spec, topology).best(ORDERS[text])
    try:
        made = plan(spec, topology, objective=text)
    except PlacementInfeasible:
        assert best is None
        return
    verdict = Judge(spec, topology).judge({(p.stage, p.path): p.tier for p in made.placements})
    assert verdict.broken == set()
    for name, value in zip(ORDERS[text], best, strict=True):
        if name != "height":
            assert verdict.sums[name] == pytest.approx(value, rel=1e-7, abs=1e-5)
    assert set(OBJECTIVES) == set(ORDERS[text])


def test_a_price_on_carbon_moves_work_to_where_power_is_clean():
    flow = gg.Flow("free")
    flow.source("frames", gg.Frame(4), every="20ms").map(level).sink("rows")
    changes = {
        "electricity_per_kwh": 0.0, "carbon_g_per_kwh": 900.0, "sites__cloud__carbon_g_per_kwh": 0.0,
        "classes__relay__watts_busy": 400.0, "classes__relay__ns_per_call": 400_000,
        "classes__box__watts_busy": 4.0, "classes__hall__price_per_cpu_month": 0.0,
        "devices__relay__link": {"latency": "1ms", "bandwidth": "1Mbit"},
    }  # fmt: skip
    for gateway in ("gw1", "gw2"):
        changes[f"sites__{gateway}__uplink"] = {"latency": "1ms", "bandwidth": "5Mbit", "price_per_gb": 0.01}
    changes["sites__edge1__uplink"] = {"latency": "1ms", "bandwidth": "9Mbit", "price_per_gb": 0.01}
    topology = small_topology(**changes)
    cheap = plan(flow.spec(), topology)
    clean = plan(flow.spec(), topology, objective="money + 90000 EUR/t carbon")
    assert set(cheap.tier_of("level").values()) == {"device"}
    assert set(clean.tier_of("level").values()) == {"gateway"}  # whose processors take no more when busy
    assert clean.summary.quantities["carbon_kg"] < cheap.summary.quantities["carbon_kg"]
    assert clean.money.total >= cheap.money.total
    assert worth(clean) < worth(cheap) + 90 * cheap.summary.quantities["carbon_kg"]


def test_a_flow_states_its_objective_and_its_digest_knows():
    flow = gg.Flow("stated", objective="latency, then money")
    flow.source("frames", gg.Frame(4), every="20ms").map(level).sink("rows")
    spec = flow.spec()
    assert plan(spec, small_topology()).objective == "latency, then money"
    assert plan(spec, small_topology(), objective="money").objective == "money"
    assert plan(spec, small_topology()).to_json()["objective"] == "latency, then money"
    assert "objective" not in plan(small_flow(), small_topology()).to_json()
    plain = gg.Flow("stated")
    plain.source("frames", gg.Frame(4), every="20ms").map(level).sink("rows")
    assert plain.spec().digest != spec.digest
