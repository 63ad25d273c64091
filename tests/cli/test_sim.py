"""``ganglion sim``: one line per world, equal hashes for equal seeds, and an exit status that tells."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ganglion.cli import main
from tests.sim.virtual import mutants

HARD = Path(__file__).parents[1] / "sim" / "virtual" / "scenarios" / "hard.toml"


@pytest.fixture
def sim(monkeypatch, capsys):
    """Runs ``ganglion sim``: (exit status, standard output, standard error)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ganglion", "sim", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def test_one_line_tells_the_verdict_and_the_hash(sim, tmp_path):
    trace = tmp_path / "trace.txt"
    status, out, _ = sim("run", str(HARD), "--seed", "2", "--trace", str(trace))
    assert status == 0
    (line,) = out.splitlines()
    assert line.startswith("hard seed 2: ok  trace ")
    status, out, _ = sim("run", str(HARD), "--seed", "2", "--json")
    verdict = json.loads(out)
    assert status == 0
    assert verdict["ok"]
    assert verdict["trace"] in line
    assert len(trace.read_text().splitlines()) == verdict["events"]


def test_a_world_that_fails_says_what_and_how_to_see_it_again(sim, monkeypatch):
    late = next(m for m in mutants.MUTANTS if m.name == "late reading dropped")
    late.plant(monkeypatch)
    status, out, _ = sim("run", str(HARD), "--seeds", "1..1")
    assert status == 1
    assert "hard seed 1: FAILED" in out
    assert "  windows: frames in counted in sink totals_kept" in out
    assert f"again: ganglion sim run {HARD} --seed 1 --trace trace.txt" in out


def test_built_in_scenarios_are_named(sim):
    status, out, _ = sim("list")
    assert status == 0
    assert "storm" in out.split()


@pytest.mark.parametrize(
    "arguments, code",
    [
        (("run", "nothing"), "run.scenario"),
        (("run", "calm", "--seeds", "5..2"), "cli.seeds"),
        (("run", "calm", "--seeds", "many"), "cli.seeds"),
        (("run", "calm", "--seed", "-3"), "cli.seeds"),
        (("run", "calm", "--seeds", "0..99999999999999999999"), "cli.seeds"),
        (("run", "calm", "--seed", "1", "--seeds", "1..2"), "cli.seeds"),
        (("run", "calm", "--trace", "/nowhere/at/all"), "cli.trace"),
    ],
)
def test_what_is_wrong_has_a_code(sim, arguments, code):
    status, _, err = sim(*arguments)
    assert status == 2
    assert f"[{code}]" in err
