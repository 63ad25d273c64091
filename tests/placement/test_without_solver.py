"""Plans where HiGHS cannot be imported, or gives up: they come, obey every rule, and say how sure they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import PlacementInfeasible
from ganglion.placement import plan, repair, report, solver, why, worth
from ganglion.placement import planner as planner_
from ganglion.placement.cuts import by_corners
from ganglion.placement.solver import OutOfBudget, mixture
from tests.placement.instances import random_flow, random_topology, small_flow, small_topology
from tests.placement.judge import Judge
from tests.placement.test_fleet import fleet, fleet_flow, judged

FEEDER = Path(__file__).parents[2] / "examples" / "feeder"


@pytest.fixture
def without_highs(monkeypatch):
    monkeypatch.setitem(sys.modules, "highspy", None)
    assert "HiGHS cannot be used" in solver.missing()


@pytest.mark.parametrize("number", range(1, 60, 3))
def test_small_instances_without_a_solver_are_allowed_and_bounded(number, without_highs):
    rng = np.random.default_rng(number)
    spec, topology = random_flow(rng), random_topology(rng)
    best = Judge(spec, topology).best()
    if best is None:
        with pytest.raises(PlacementInfeasible, match="which rules clash is not known"):
            plan(spec, topology)
        return
    made = plan(spec, topology)
    verdict = judged(made, spec, topology)
    assert verdict.broken == set()
    assert made.solver == solver.WITHOUT
    money, slack = verdict.sums["money"], 1e-6 * abs(best[0]) + 1e-6
    assert money * (1 - made.gap) - slack <= best[0] <= money + slack
    assert ("proved optimal" if made.proved else "not proved") in report(made, spec)


@pytest.mark.parametrize("seed, crowded, edge_cpus", [(0, 9.0, 9.0), (1, 0.2, 0.05), (3, 0.2, 0.02)])
def test_congested_fleets_without_a_solver(seed, crowded, edge_cpus, monkeypatch):
    spec, topology = fleet_flow(), fleet(seed, crowded=crowded, edge_cpus=edge_cpus)
    solved = plan(spec, topology)
    monkeypatch.setitem(sys.modules, "highspy", None)
    made = plan(spec, topology)
    assert judged(made, spec, topology).broken == set()
    assert made.gap <= 0.05
    assert worth(made) * (1 - made.gap) <= worth(solved) * (1 + 1e-9) <= worth(made) * (1 + 2e-9)


def test_questions_that_need_programs_say_so(without_highs):
    spec, topology = small_flow(), small_topology()
    made = plan(spec, topology)
    for ask in (
        lambda: why(spec, topology, made, "level"),
        lambda: repair(spec, topology, made, small_topology(sites__gw1__uplink__price_per_gb=1.0)),
    ):
        with pytest.raises(PlacementInfeasible) as caught:
            ask()
        assert caught.value.code == "placement.solver"


def test_a_solver_that_gives_up_is_done_without(monkeypatch):
    def gives_up(*_args, **_given):
        raise OutOfBudget("kSolveError")

    spec, topology = small_flow(), small_topology()
    proved = plan(spec, topology)
    monkeypatch.setattr(planner_, "solve", gives_up)
    made = plan(spec, topology)
    assert judged(made, spec, topology).broken == set()
    assert worth(made) == pytest.approx(worth(proved), rel=1e-6)


def test_the_command_plans_in_a_process_without_highspy():
    code = (
        "import sys; sys.modules['highspy'] = None\n"
        "from ganglion.cli.main import app\n"
        f"app(['plan', {str(FEEDER)!r}, '--json'], standalone_mode=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    value = json.loads(done.stdout)
    assert value["certificate"]["solver"] == solver.WITHOUT
    assert value["placements"]


Number = st.floats(-50, 50).map(lambda x: round(x, 3))


@given(st.integers(1, 3), st.data())
def test_corners_give_the_prices_of_the_linear_program(rows, data):
    points = data.draw(st.integers(1, 7))
    values = data.draw(st.lists(st.floats(1, 100), min_size=points, max_size=points))
    excess = [np.array(data.draw(st.lists(Number, min_size=rows, max_size=rows))) for _ in range(points)]
    upper, _ = mixture(values, excess, 1000.0)
    own, prices = by_corners(np.array(values), np.array(excess), 1000.0)
    assert own == pytest.approx(upper, rel=1e-6, abs=1e-6)
    assert ((prices >= 0) & (prices <= 1000)).all()
    assert min(v + e @ prices for v, e in zip(values, excess, strict=True)) == pytest.approx(
        own, rel=1e-6, abs=1e-6
    )
