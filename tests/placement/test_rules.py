"""Every rule: that it is obeyed, named when it clashes, and given as the reason why not."""

from __future__ import annotations

import re

import pytest

import ganglion as gg
from ganglion.core.errors import FlowError, PlacementInfeasible
from ganglion.placement import plan, why, why_text
from ganglion.placement.jurisdictions import EU, lies_in
from tests.placement.instances import level, small_flow, small_topology


def option(spec, topology, stage, tier):
    answer = why(spec, topology, plan(spec, topology), stage)
    return next(o for o in answer.options if o.tier == tier)


def clashing(spec, topology, **kwargs):
    with pytest.raises(PlacementInfeasible) as caught:
        plan(spec, topology, **kwargs)
    return caught.value


def test_the_small_feeder_runs_where_one_expects():
    made = plan(small_flow(), small_topology())
    assert made.tier_of("frames") == {"gw1-relay": "device", "gw2-relay": "device"}
    assert made.tier_of("breaker_open") == {"gw1-relay": "gateway", "gw2-relay": "gateway"}
    assert made.tier_of("totals") == {"*": "cloud"}
    assert made.node_of("trends", "gw1-relay") == "cloud"
    with pytest.raises(KeyError):
        made.node_of("trends", "gw9-relay")


# Each line: what the flow and the topology are, the stage and tier asked for, and the kinds and a part of the reason.
FORBIDDEN = [
    ({}, {}, "frames", "gateway", {"source"}, "frames are measured at the device"),
    ({}, {}, "trends", "edge", {"tier"}, "kept at the cloud"),
    ({"minutes_on": ("gateway",)}, {}, "minutes", "device", {"tier"}, "runs only at gateway (on=)"),
    ({}, {}, "breaker_open", "device", {"actuator"}, "commands to a breaker are sent by the gateway"),
    ({}, {}, "decide", "edge", {"offline"}, "works without an uplink"),
    ({}, {}, "breaker_open", "cloud", {"offline"}, "works without an uplink"),
    ({}, {}, "totals", "gateway", {"common"}, "meet first at edge1 (edge)"),
    (
        {},
        {"classes__relay__cannot_run": ["window"]},
        "minutes",
        "device",
        {"capability"},
        "relay runs no window",
    ),
    (
        {"keep": "1d"},
        {"classes__relay__memory": "900KB"},
        "minutes",
        "device",
        {"memory"},
        "stages have 900 KB",
    ),
    ({"within": "7ms"}, {"classes__relay__ns_per_call": 3e6}, "decide", "device", {"deadline"}, "within=)"),
    (
        {},
        {"classes__relay__cpus": 0.02, "classes__relay__ns_per_call": 1e6},
        "decide",
        "device",
        {"cpu"},
        "80% of 0.02",
    ),
    ({}, {"sites__edge1__uplink__bandwidth": "20Kbit"}, "incident", "cloud", {"bandwidth"}, "0.02 Mbit"),
]


@pytest.mark.parametrize("flow, changes, stage, tier, kinds, part", FORBIDDEN)
def test_why_not_names_the_rule(flow, changes, stage, tier, kinds, part):
    found = option(small_flow(**flow), small_topology(**changes), stage, tier)
    assert not found.allowed
    assert {r.kind for r in found.forbidden_by} == kinds
    assert part in "; ".join(r.text for r in found.forbidden_by)
    assert all(r.lift for r in found.forbidden_by)


def kept_flow(*keep_in):
    flow = gg.Flow("kept")
    rows = flow.source("frames", gg.Frame(4), every="20ms", keep_in=keep_in).map(level)
    rows.sink("all_rows")
    return flow.spec()


def test_a_jurisdiction_binds_the_place_of_a_stage():
    error = clashing(kept_flow("EU"), small_topology(sites__gw1__jurisdiction="US"))
    assert error.what.endswith(
        "this rule: jurisdiction of EU: rows are kept there (keep_in=), also on their way"
    )
    plan(kept_flow("EU", "US"), small_topology(sites__gw1__jurisdiction="US"))


def test_a_jurisdiction_binds_the_way_too():
    """Nothing needs to run at the edge site, but the rows would pass through it."""
    error = clashing(kept_flow("EU"), small_topology(sites__edge1__jurisdiction="US"))
    assert error.code == "placement.infeasible"
    assert "jurisdiction" in str(error)
    assert "also on their way" in str(error)
    assert "the sink is kept at the cloud" in str(error)


def test_a_site_that_does_not_say_where_it_is_keeps_nothing():
    error = clashing(kept_flow("EU"), small_topology(sites__cloud__jurisdiction=None))
    assert "jurisdiction of EU" in str(error)


def test_without_an_edge_there_is_no_edge():
    topology = small_topology(sites__gw2__parent="cloud")
    found = option(small_flow(rollup=False), topology, "minutes", "edge")
    assert [r.kind for r in found.forbidden_by] == ["topology"]
    assert "the gateway of gw2-relay has no edge site above it" in found.forbidden_by[0].text
    made = plan(small_flow(), topology)
    assert made.tier_of("totals") == {"*": "cloud"}
    assert {u.link for u in made.links} == {
        "gw1-relay>gw1",
        "gw2-relay>gw2",
        "gw1>edge1",
        "gw2>cloud",
        "edge1>cloud",
    }


def test_a_missing_actuator_is_named():
    error = clashing(small_flow(), small_topology(devices__relay__actuators=["valve"]))
    assert "actuator of breaker_open: devices relay have no actuator breaker" in error.what
    assert "add breaker to actuators of group relay" in error.next_step


def test_a_row_larger_than_a_datagram_does_not_leave_its_device():
    flow = gg.Flow("large")
    flow.source("frames", gg.Frame(1 << 15), every="1s").sink("all_frames")
    error = clashing(flow.spec(), small_topology())
    assert "a row of 131072 bytes is larger than a datagram" in error.what


def test_a_deadline_that_no_tier_meets():
    error = clashing(small_flow(within="2ms"), small_topology())
    assert error.code == "placement.infeasible"
    assert error.what.endswith(
        "obeys this rule: deadline of breaker_open: from frame to command within 2ms (within=)"
    )
    assert "allow breaker_open more time" in error.next_step


def test_rules_that_clash_are_all_named_and_each_can_be_lifted():
    slow = {"classes__relay__ns_per_call": 3e6}
    spec, topology = small_flow(within="7ms"), small_topology(**slow, classes__box__cannot_run=["map"])
    clash = clashing(spec, topology)
    assert "these 3 rules at once" in clash.what
    for name in ("deadline of breaker_open", "capability of box/map", "offline of breaker_open"):
        assert name in clash.what
    assert clash.why == "without any one of them there would be one"
    plan(small_flow(within="2s"), topology)
    plan(spec, small_topology(**slow))


def test_a_window_by_all_has_one_node_for_all_paths():
    made = plan(small_flow(by="all"), small_topology())
    assert made.tier_of("minutes").keys() == {"*"}
    assert made.tier_of("minutes")["*"] in ("edge", "cloud")
    alone = plan(small_flow(by="all"), small_topology(devices__relay__gateways=["gw2"]))
    assert alone.node_of("minutes", "*") == "gw2"  # the only gateway is above all paths


def found(pattern, text):
    match = re.search(pattern, text)
    assert match is not None, text
    return match[1]


def test_what_would_do_is_said_and_does():
    """Each change that the message names was tried; it does make the flow fit."""
    error = clashing(small_flow(within="2ms"), small_topology())
    needed = found(r"within=(\S+) of breaker_open would do", error.next_step)
    plan(small_flow(within=needed), small_topology())
    small = {"sites__cloud__node": {"class": "hall", "memory": "100B"}}
    error = clashing(small_flow(rollup=False), small_topology(**small))
    amount = found(r"(\S+ \S+) of cloud would do", error.next_step).replace(" ", "")
    small = {"sites__cloud__node": {"class": "hall", "memory": amount}}
    plan(small_flow(rollup=False), small_topology(**small))
    error = clashing(small_flow(), small_topology(sites__gw1__uplink__bandwidth="1300bit"))
    rate = float(found(r"(\S+) Mbit of gw1>edge1 would do", error.next_step))
    assert rate * 1e6 > 1300
    plan(small_flow(), small_topology(sites__gw1__uplink__bandwidth=f"{int(rate * 1e6) + 1}bit"))
    error = clashing(kept_flow("DE"), small_topology(sites__gw2__jurisdiction="DE"))
    assert "IE in keep_in= would do" in error.next_step
    plan(kept_flow("DE", "IE"), small_topology(sites__gw2__jurisdiction="DE"))


def test_a_declassifier_is_suggested_where_no_single_place_would_do():
    topology = small_topology(sites__gw2__jurisdiction="DE", sites__edge1__jurisdiction="US")
    error = clashing(kept_flow("DE"), topology)
    assert (
        "a declassifier at all_rows would do" in error.next_step or "declassifier at level" in error.next_step
    )


def test_a_site_may_refuse_categories_also_on_their_way():
    flow = gg.Flow("labelled")
    labels = gg.Labels(origin="DE", categories={"critical-infrastructure"})
    flow.source("frames", gg.Frame(4), every="20ms", labels=labels).map(level).sink("rows")
    error = clashing(flow.spec(), small_topology(sites__edge1__refuses=["critical-infrastructure"]))
    assert "site edge1 refuses critical-infrastructure" in error.what
    plan(flow.spec(), small_topology(sites__edge1__refuses=["health"]))


def test_a_sender_is_on_air_no_longer_than_its_duty():
    link = {"latency": "1ms", "bandwidth": "1Mbit", "duty_max": 0.00002}
    error = clashing(small_flow(), small_topology(devices__relay__link=link))
    assert "at most 2e-05 of 1 Mbit" in error.what
    plan(small_flow(), small_topology(devices__relay__link={**link, "duty_max": 0.5}))


def test_pins_hold_and_clash_by_name():
    spec, topology = small_flow(), small_topology()
    made = plan(spec, topology, pins={"minutes": "edge"})
    assert set(made.tier_of("minutes").values()) == {"edge"}
    assert made.money.total > plan(spec, topology).money.total
    error = clashing(spec, topology, pins={"decide": "cloud"})
    assert "pin of decide: it is pinned to cloud" in error.what
    assert "offline of breaker_open" in error.what
    assert error.next_step.startswith("unpin decide")


@pytest.mark.parametrize(
    "kwargs, code",
    [
        ({"pins": {"nothing": "edge"}}, "flow.unknown-stage"),
        ({"pins": {"minutes": "fog"}}, "flow.tier"),
        ({"selectivities": {"minutes": 0.5}}, "flow.selectivity"),
        ({"selectivities": {"trips": 1.5}}, "flow.selectivity"),
        ({"selectivities": {"nothing": 0.5}}, "flow.unknown-stage"),
    ],
)
def test_wrong_arguments(kwargs, code):
    with pytest.raises(FlowError) as caught:
        plan(small_flow(), small_topology(), **kwargs)
    assert caught.value.code == code


def test_why_gives_the_price_of_another_tier_and_its_loop():
    spec, topology = small_flow(), small_topology()
    made = plan(spec, topology)
    found = option(spec, topology, "incident", "cloud")
    pinned = plan(spec, topology, pins={"incident": "cloud"})
    assert found.allowed
    assert found.money_more_per_month == pytest.approx(pinned.money.total - made.money.total)
    assert found.money_more_per_month > 1
    assert found.loops == pinned.loops


def test_why_calls_a_tie_a_tie():
    """With free power, processors and device links nothing says where the frames are reduced."""
    free = {
        "electricity_per_kwh": 0.0,
        "classes__hall__price_per_cpu_month": 0.0,
        "devices__relay__link": {"latency": "1ms", "bandwidth": "1Mbit"},
    }
    spec, topology = small_flow(), small_topology(**free)
    answer = why(spec, topology, plan(spec, topology), "totals")
    edge = next(o for o in answer.options if o.tier in ("edge", "cloud"))
    saved = abs(edge.money_more_per_month)
    spread = why(spec, topology, plan(spec, topology), "decide").options
    tied = [o for o in spread if o.allowed]
    assert [o.tie for o in tied] == [True]
    assert tied[0].money_more_per_month == 0
    assert "costs the same (a tie" in why_text(why(spec, topology, plan(spec, topology), "decide"))
    assert saved >= 0


def test_ties_go_to_the_faster_reflex_then_to_the_lower_tier():
    free = {
        "electricity_per_kwh": 0.0,
        "classes__hall__price_per_cpu_month": 0.0,
        "devices__relay__link": {"latency": "1ms", "bandwidth": "1Mbit"},
    }
    spec = small_flow()
    slow_relay = plan(spec, small_topology(**free, classes__relay__ns_per_call=50_000))
    assert set(slow_relay.tier_of("decide").values()) == {"gateway"}
    fast_relay = plan(spec, small_topology(**free, classes__relay__ns_per_call=10))
    assert set(fast_relay.tier_of("decide").values()) == {"device"}
    assert set(fast_relay.tier_of("minutes").values()) == {"device"}


def test_why_says_where_the_stage_is_when_paths_differ():
    topology = small_topology(
        devices__meter={"class": "tiny", "count": 1, "gateways": ["gw1"], "actuators": ["breaker"],
                        "link": {"latency": "1ms", "bandwidth": "1Mbit"}},
        classes__tiny={"ns_per_call": 10, "ns_per_operation": 5, "hop_us": 100, "memory": "1MB", "cannot_run": ["map"]},
        devices__relay__link={"latency": "1ms", "bandwidth": "1Mbit", "energy_nj_per_byte": 1e6},
    )  # fmt: skip
    spec = small_flow()
    answer = why(spec, topology, plan(spec, topology), "level")
    assert answer.now == {"gw1-relay": "device", "gw1-meter": "gateway", "gw2-relay": "device"}
    assert "level runs at device (gw1-relay, gw2-relay), gateway (gw1-meter)" in why_text(answer)
    device = next(o for o in answer.options if o.tier == "device")
    assert [r.subject for r in device.forbidden_by] == ["tiny/map"]
    assert next(o for o in answer.options if o.tier == "gateway").money_more_per_month > 0


@pytest.mark.parametrize(
    "place, allowed, inside",
    [
        ("DE", ("DE",), True),
        ("DE", ("EU",), True),
        ("DE-BY", ("DE",), True),
        ("DE-BY", ("EU",), True),
        ("DE", ("DE-BY",), False),
        ("EU", ("DE",), False),
        ("EU", ("EU",), True),
        ("NO", ("EU",), False),
        ("GB", ("EU", "DE"), False),
        (None, ("EU",), False),
    ],
)
def test_jurisdictions(place, allowed, inside):
    assert lies_in(place, allowed) is inside
    assert len(EU) == 27
