"""Repairs: only what is touched moves, what cannot be reached stays, reflexes are whole at every step."""

from __future__ import annotations

import numpy as np
import pytest

from ganglion.core.calibration import Calibration, ClassFigures, calibrated, figures_of
from ganglion.core.errors import PlacementInfeasible, TopologyError
from ganglion.placement import (
    Cut,
    broken_reflexes,
    changed,
    crowded,
    parse_objective,
    plan,
    repair,
    rollout,
    standing,
    survey,
    worth,
)
from ganglion.placement.decompose import solve_fleet
from tests.placement.instances import random_flow, random_topology, small_flow, small_topology
from tests.placement.judge import Judge
from tests.placement.test_fleet import fleet, fleet_flow

DEAR = {"classes__relay__ns_per_call": 400_000}


def after(steps, now):
    """The assignments after each step."""
    now = dict(now)
    for step in steps:
        if step.assignment is None:
            now.pop(step.node)
        else:
            now[step.node] = step.assignment
        yield dict(now)


def moving(number):
    """A random instance, and the same after a change that may move stages; None when either has no plan."""
    rng = np.random.default_rng(number)
    spec, topology = random_flow(rng), random_topology(rng)
    texts = ["class c0 ns_per_call=9000000 watts_busy=900", "class c1 price_per_cpu_month=90000 memory=90KB",
             "class c0 memory=9KB", "price electricity_per_kwh=900", "home gw0 cloud"]  # fmt: skip
    try:
        before = plan(spec, topology)
        there = changed(topology, texts[number % len(texts)])
        return spec, there, before, repair(spec, topology, before, there)
    except PlacementInfeasible:
        return None


def test_repairs_obey_every_rule_and_no_step_of_them_breaks_a_reflex():
    repaired = moved = 0
    for number in range(45):
        found = moving(number)
        if found is None:
            continue
        spec, there, before, mended = found
        repaired += 1
        moved += bool(mended.moves)
        tiers = {(p.stage, p.path): p.tier for p in mended.plan.placements}
        assert Judge(spec, there).judge(tiers).broken == set()
        best = plan(spec, there)
        assert worth(mended.plan) >= worth(best) * (1 - 1e-7) - 1e-6
        assert worth(mended.plan) * (1 - mended.plan.gap) <= worth(best) * (1 + 1e-7) + 1e-6
        was, now = before.assignments(), mended.plan.assignments()
        steps = rollout(spec, was, now, full=crowded(before, mended.plan))
        assert not broken_reflexes(spec, was)
        stages = list(after(steps, was))
        assert all(not broken_reflexes(spec, s) for s in stages)
        assert (stages[-1] if stages else was) == now
    assert repaired >= 15
    assert moved >= 3


def test_senders_that_change_before_their_receivers_break_a_reflex():
    """The checker is no rubber stamp: without the phase of both, in the other order, it trips."""
    spec = small_flow()
    cheap, dear = plan(spec, small_topology()), plan(spec, small_topology(), pins={"decide": "gateway"})
    assert cheap.tier_of("decide") != dear.tier_of("decide")
    was, now = cheap.assignments(), dear.assignments()
    steps = rollout(spec, was, now)
    assert all(not broken_reflexes(spec, s) for s in after(steps, was))
    straight = [s for s in steps if s.phase == "both"]
    bare = [type(s)(s.phase, s.node, now[s.node]) for s in straight]
    assert any(broken_reflexes(spec, s) for s in after(reversed(bare), was))


def test_only_touched_paths_move():
    spec, topology = small_flow(), small_topology()
    before = plan(spec, topology)
    there = small_topology(sites__gw1__uplink__price_per_gb=4000.0)
    mended = repair(spec, topology, before, there)
    assert mended.scope == "path"
    assert all(m.path == "gw1-relay" for m in mended.moves)


def test_a_crowded_gateway_makes_room_first():
    spec = small_flow()
    before = plan(spec, small_topology(), pins={"minutes": "gateway"})
    other = plan(spec, small_topology(), pins={"minutes": "device"})
    steps = rollout(spec, before.assignments(), other.assignments(), full=frozenset({"gw1", "gw2"}))
    assert [s.phase for s in steps][:2] == ["room", "room"]
    assert all(s.assignment and "minutes" not in s.assignment.runs for s in steps if s.phase == "room")
    assert all(not broken_reflexes(spec, s) for s in after(steps, before.assignments()))


def test_what_cannot_be_reached_stays():
    spec, topology = small_flow(), small_topology()
    before = plan(spec, topology)
    with pytest.raises(Cut) as caught:
        changed(topology, "link gw1 dies")
    assert caught.value.sites == ("gw1",)
    there = small_topology(**DEAR)  # which would move stages from all devices
    mended = repair(spec, topology, before, there, unreachable=caught.value.sites)
    assert mended.held == ("gw1-relay",)
    assert {m.path for m in mended.moves} == {"gw2-relay"}
    with pytest.raises(Cut) as caught:
        changed(topology, "node edge1 dies")
    assert set(caught.value.sites) == {"edge1", "gw1", "gw2"}


@pytest.mark.parametrize(
    "text, of, value",
    [
        ("link gw1 bandwidth=1Mbit", lambda t: t.uplink("gw1").bandwidth_bit_per_s, 10**6),
        ("link gw1 halves", lambda t: t.uplink("gw1").bandwidth_bit_per_s, 2_500_000),
        ("link relay latency=3ms price_per_gb=2.5", lambda t: t.devices["relay"].link.price_per_gb, 2.5),
        ("node gw2 memory=1MB", lambda t: t.memory_bytes("gw2"), 10**6),
        ("class box cpus=2", lambda t: t.classes["box"].cpus, 2.0),
        ("site gw2 jurisdiction=US", lambda t: t.sites["gw2"].jurisdiction, "US"),
        ("home gw1 cloud", lambda t: t.sites["gw1"].parent, "cloud"),
        ("devices relay count=9", lambda t: t.devices["relay"].count, 9),
        ("price carbon_g_per_kwh=300", lambda t: t.carbon_g_per_kwh, 300),
        ("node gw2 dies", lambda t: t.devices["relay"].count, 2),
    ],
)
def test_changes_in_words(text, of, value):
    topology = small_topology()
    assert of(changed(topology, text)) == value
    assert topology == small_topology()


@pytest.mark.parametrize(
    "text, part",
    [
        ("", "begins with one of"),
        ("link gw7 bandwidth=1Mbit", "there is no 'gw7'"),
        ("link gw1", "nothing is set"),
        ("link gw1 faster", "is not KEY=VALUE"),
        ("link cloud bandwidth=1Mbit", "cloud has no uplink"),
        ("link gw1 colour=red", "colour"),
        ("link gw1 bandwidth=fast", "fast"),
        ("price gold=3", "gold is no price"),
        ("home gw1 gw2", "gw2"),
    ],
)
def test_changes_that_are_not_understood(text, part):
    with pytest.raises(TopologyError) as caught:
        changed(small_topology(), text)
    assert part in str(caught.value)


# -- a fleet that stands -------------------------------------------------------------------------------
def random_change(stand, rng):
    """One of the things that happen."""
    names = list(stand.gateways)
    name = names[rng.integers(len(names))]
    gateway = stand.gateways[name]
    kind = rng.integers(6)
    if kind == 0:
        return stand.devices(name, ("relay", "meter")[rng.integers(2)], 1)
    if kind == 1 and gateway.counts[0] > 1:
        return stand.devices(name, "relay", -1)
    if kind == 2:
        return stand.rehomed([name], f"e{rng.integers(3)}")
    if kind == 3:
        link = gateway.site.uplink
        less = link.model_copy(update={"price_per_gb": link.price_per_gb * rng.uniform(0.5, 2)})
        return stand.altered(name, gateway.site.model_copy(update={"uplink": less}))
    if kind == 4 and len(names) > 5:
        return stand.gone([name])
    stand.accept(stand.cut_off([name]))
    return stand.healed([name])


@pytest.mark.parametrize(
    "seed, crowded_, edge_cpus", [(1, 9.0, 9.0), (1, 0.25, 9.0), (1, 0.25, 0.05), (3, 0.25, 0.02)]
)
def test_a_standing_fleet_stays_within_its_certificate(seed, crowded_, edge_cpus):
    spec, topology = fleet_flow(), fleet(seed, crowded=crowded_, edge_cpus=edge_cpus)
    stand = standing(spec, topology)
    assert stand.cost == pytest.approx(worth(plan(spec, topology)), rel=0.02)
    rng = np.random.default_rng(seed)
    done = refused = 0
    for _ in range(40):
        try:
            patch = random_change(stand, rng)
        except PlacementInfeasible:
            refused += 1
            continue
        before = stand.cost
        stand.accept(patch)
        assert stand.cost == pytest.approx(before + patch.money, rel=1e-9)
        done += 1
    assert done >= 20
    anew = solve_fleet(survey(spec, stand.topology(), {}, {}, parse_objective("money", "EUR")))
    value = float(anew.sums @ anew.weights)
    assert stand.cost >= value * (1 - anew.gap - 1e-8)
    assert stand.cost * (1 - stand.gap) <= value * (1 + 1e-8)
    assert stand.gap < 0.05
    tiers = stand.tiers()
    assert Judge(spec, stand.topology()).judge(tiers).broken == set()


def test_a_cut_gateway_is_not_moved_to_make_room():
    spec, topology = fleet_flow(), fleet(1, crowded=0.25, edge_cpus=0.05)
    stand = standing(spec, topology)
    cut = [n for n in stand.gateways if stand.gateways[n].edge == "e0"][:6]
    stand.accept(stand.cut_off(cut))
    kept = {n: stand.gateways[n].picks for n in cut}
    rng = np.random.default_rng(0)
    others = [n for n in stand.gateways if n not in cut]
    for _ in range(30):
        name = others[rng.integers(len(others))]
        try:
            patch = stand.devices(name, "meter", 1)
        except PlacementInfeasible:
            continue
        assert not set(cut) & {m.gateway for m in patch.moves}
        stand.accept(patch)
    assert {n: stand.gateways[n].picks for n in cut} == kept


def test_a_patch_changes_nothing_until_it_is_accepted():
    stand = standing(fleet_flow(), fleet(1, crowded=0.25))
    before, cost = dict(stand.gateways), stand.cost
    patch = stand.devices("g3", "meter", 2)
    assert (dict(stand.gateways), stand.cost) == (before, cost)
    stand.accept(patch)
    assert stand.gateways["g3"].counts[1] == before["g3"].counts[1] + 2
    with pytest.raises(AssertionError):
        stand.accept(patch)


def test_what_was_measured_stays_where_its_class_did_not_change():
    classes = {name: ClassFigures(measured_on="here") for name in ("box", "relay")}
    calibration = Calibration(
        format=1, flow="small", measured_at="2026-11-25T17:00:00Z", machine={}, classes=classes
    )
    topology = calibrated(small_topology(), calibration)
    link = changed(topology, "link gw1 halves")
    assert {n for n, k in link.classes.items() if figures_of(k)} == {"box", "relay"}
    faster = changed(topology, "class box ns_per_call=1")
    assert {n for n, k in faster.classes.items() if figures_of(k)} == {"relay"}
