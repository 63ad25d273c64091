"""Worlds: the agents' own code on virtual machines, with planted bugs to prove that the checkers can fail."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ganglion.agent import watch
from ganglion.sim.virtual.play import lay, play
from ganglion.sim.virtual.scenario import built_in_names, load_scenario
from tests.sim.virtual.mutants import BACKLOG_MUTANTS, BROKER_MUTANTS, MUTANTS

HARD = Path(__file__).parent / "scenarios" / "hard.toml"
OTHER_PYTHON = os.environ.get("GANGLION_OTHER_PYTHON")
SHORT_NS = 100 * 10**9
"""The built-in worlds last longer; this is enough for some faults of each kind."""


@pytest.fixture(scope="module")
def hard():
    return lay(load_scenario(HARD))


@pytest.fixture(scope="module")
def sound(hard):
    """Verdicts of the code as it is, by seed, each played once."""
    verdicts = {}

    def sound(seed):
        if seed not in verdicts:
            verdicts[seed] = play(hard, seed)
        return verdicts[seed]

    return sound


def shortened(name):
    loaded = load_scenario(Path(name))
    workload = loaded.scenario.workload.model_copy(update={"lasts": SHORT_NS})
    loaded.scenario = loaded.scenario.model_copy(update={"workload": workload})
    return loaded


@pytest.mark.parametrize("name", built_in_names())
def test_a_built_in_world_is_sound(name):
    verdict = play(lay(shortened(name)), 1)
    assert verdict.findings == ()
    assert verdict.acknowledged > 100
    assert verdict.commands > 5
    assert (verdict.faults > 0) == (name != "calm")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name.replace(" ", "-"))
def test_a_planted_bug_is_found_and_without_it_the_same_seeds_are_sound(mutant, hard, sound, monkeypatch):
    for seed in range(1, mutant.seeds + 1):
        assert sound(seed).findings == (), f"the code itself fails at seed {seed}"
        with monkeypatch.context() as patch:
            mutant.plant(patch)
            findings = play(hard, seed).findings
        assert not any("TypeError" in f or "AttributeError" in f for f in findings), (
            f"a broken mutant: {findings}"
        )
        if any(finding.startswith(f"{mutant.finder}:") for finding in findings):
            return
    pytest.fail(f"{mutant.seeds} seeds did not find it: {mutant.name}")


@pytest.fixture(scope="module")
def brokers():
    """The world of MQTT devices, and its sound verdicts by seed."""
    ground = lay(shortened("brokers"))
    verdicts = {}

    def sound(seed):
        if seed not in verdicts:
            verdicts[seed] = play(ground, seed)
        return verdicts[seed]

    return ground, sound


@pytest.mark.parametrize("mutant", BROKER_MUTANTS, ids=lambda m: m.name.replace(" ", "-"))
def test_a_bug_of_mqtt_is_found_and_without_it_the_same_seeds_are_sound(mutant, brokers, monkeypatch):
    ground, sound = brokers
    for seed in range(1, mutant.seeds + 1):
        assert sound(seed).findings == (), f"the code itself fails at seed {seed}"
        with monkeypatch.context() as patch:
            mutant.plant(patch)
            findings = play(ground, seed).findings
        if any(finding.startswith(f"{mutant.finder}:") for finding in findings):
            return
    pytest.fail(f"{mutant.seeds} seeds did not find it: {mutant.name}")


@pytest.mark.parametrize("mutant", BACKLOG_MUTANTS, ids=lambda m: m.name.replace(" ", "-"))
def test_a_bug_in_shedding_is_found(mutant, monkeypatch):
    ground = lay(shortened("backlogs"))
    mutant.plant(monkeypatch)
    found = [f for seed in range(1, mutant.seeds + 1) for f in play(ground, seed).findings]
    assert any(f.startswith(f"{mutant.finder}:") for f in found), found


def test_a_server_that_a_full_disk_stopped_and_nobody_restarts_is_found(monkeypatch):
    async def blind(_self):
        await asyncio.Event().wait()

    ground = lay(shortened("disks"))
    monkeypatch.setattr(watch.ServerWatch, "run", blind)
    assert any(finding.startswith("drained:") for finding in play(ground, 1).findings)


def test_a_seed_repeats_exactly_and_another_does_not(hard, sound):
    assert play(hard, 1).digest == sound(1).digest != sound(2).digest


PROGRAM = """
import sys
from pathlib import Path
from ganglion.sim.virtual.play import lay, play
from ganglion.sim.virtual.scenario import load_scenario
print(play(lay(load_scenario(Path(sys.argv[1]))), 1).digest)
"""


def test_another_process_with_another_hash_seed_gives_the_same_trace(sound):
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(HARD)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == sound(1).digest


@pytest.mark.skipif(
    OTHER_PYTHON is None, reason="GANGLION_OTHER_PYTHON names no interpreter with these packages"
)
def test_another_python_gives_the_same_trace(sound):
    environment = {**os.environ, "PYTHONPATH": "src"}
    version = [str(OTHER_PYTHON), "-c", "import sys; print(sys.version_info[:2])"]
    assert (
        subprocess.run(version, capture_output=True, text=True, check=True).stdout
        != f"{sys.version_info[:2]}\n"
    )
    done = subprocess.run(
        [str(OTHER_PYTHON), "-c", PROGRAM, str(HARD)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == sound(1).digest


def test_all_of_the_trace_is_kept_on_request(hard, sound):
    lines: list[str] = []
    verdict = play(hard, 1, lines.append)
    assert len(lines) == verdict.events == sound(1).events
    assert any(" killed" in line for line in lines)
    times = [int(line.split(" ", 1)[0]) for line in lines]
    assert times == sorted(times)
