"""The harder events: same seed same bytes, labels that hold, and the marks by which engineers know each kind."""

import csv

import numpy as np
import pytest

pytest.importorskip("pandapower", reason="pandapower is not installed")
from examples.feeder import generate, harder


@pytest.fixture
def rng():
    """Always the same draws: the marks of a kind are looked for among noise that can hide them."""
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return harder.generate(tmp_path_factory.mktemp("harder"), seed=11, faults=40, others=28)


def tone(wave, order):
    """Amplitude of a harmonic in the last four cycles."""
    turn = np.exp(-1j * order * generate.OMEGA * harder.T[-256:])
    return np.abs(2 * (wave[..., -256:] * turn).mean(-1))


def place():
    return generate.places_of("train")[0]


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        harder.generate(tmp_path / name, seed=seed, faults=10, others=7)
    for file in ("events.npz", "labels.csv"):
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b
        assert a != c


def test_labels_are_sane(folder):
    with (folder / "labels.csv").open(newline="") as file:
        labels = list(csv.DictReader(file))
    with np.load(folder / "events.npz") as archive:
        assert archive["wave"].shape == (68, 6, 768)
    faults = [label for label in labels if label["is_fault"] == "1"]
    others = [label for label in labels if label["is_fault"] == "0"]
    assert {label["event"] for label in faults} == set(generate.KINDS)
    assert {label["event"] for label in others} == set(harder.OTHERS)
    low, high = harder.RESISTANCE_OHM
    assert all(low <= float(label["fault_resistance_ohm"]) <= high for label in faults)
    assert {label["fault_bus"] for label in faults} <= {p.name for p in generate.places_of("dev")}


def test_feeders_differ_and_keep_their_bounds():
    rng = np.random.default_rng(3)
    seen = [harder.feeder(place(), 0.75, rng) for _ in range(200)]
    loads = [f.load_a for f in seen]
    source = [abs(f.z_ohm[0, 0]) for f in seen]
    assert max(loads) > 5 * min(loads)
    assert max(source) > 50 * min(source)
    assert all(np.abs(f.i_pre).max() < 2.5 * np.abs(f.i_pre).min() for f in seen)


def test_an_arc_carries_nothing_below_its_own_voltage(rng):
    volt = 3400 * np.cos(generate.OMEGA * harder.T)
    amps = harder.arc(volt, 50.0, rng)
    assert (amps * volt >= 0).all()
    assert (amps[np.abs(volt) < 0.02 * 3400] == 0).all()
    assert np.abs(amps).max() < 3400 / 50 * 2
    assert tone(amps, 3) > 0.02 * tone(amps, 1)


def test_inrush_flows_one_way_decays_and_has_a_second_harmonic(rng):
    turn = generate.OMEGA * harder.T[None] + np.angle(generate.BALANCED)[:, None]
    found = 0
    for _ in range(20):
        amps = harder.inrush(3400 * np.cos(turn), 200, 200.0, rng)
        assert (amps[:, :200] == 0).all()
        phase = np.abs(amps).max(1).argmax()
        early, late = np.abs(amps[phase, 200:320]).max(), np.abs(amps[phase, -128:]).max()
        if early < 5:
            continue
        found += 1
        assert late < early
        assert np.abs(amps[phase].sum()) > 0.9 * np.abs(amps[phase]).sum()
        first, second = (
            np.abs((amps[phase, 200:328] * np.exp(-1j * k * turn[0, :128])).mean()) for k in (1, 2)
        )
        assert second > 0.15 * first
    assert found >= 10


def test_a_drive_draws_harmonics(rng):
    for _ in range(10):
        f = harder.feeder(place(), 0.75, rng)
        event = harder._phasors(f, "DRIVE_ON", 0.0, 0.75, rng)
        amps = harder._extra(f, "DRIVE_ON", 0.0, np.zeros((3, 768)), 256, event, rng)
        assert (amps[:, :256] == 0).all()
        first = np.sqrt(2) * np.abs(event.i_step).mean()
        assert 0.15 * first < tone(amps, 5).mean() < 0.45 * first
        assert 0.05 * first < tone(amps, 7).mean() < 0.2 * first


@pytest.mark.parametrize("kind", harder.OTHERS)
def test_each_kind_changes_what_it_should(kind, rng):
    before, after = [], []
    for _ in range(12):
        wave = harder.wave_of(place(), kind, 0.0, 0.75, 256, rng)
        turn = np.exp(-1j * generate.OMEGA * harder.T[:256])
        before.append(np.abs(2 * (wave[3:, :256] * turn).mean(-1)))
        after.append(tone(wave[3:], 1))
    change = np.array(after) - np.array(before)
    steps = np.abs(change)
    if kind == "LOAD_1PH":
        assert (np.sort(steps, axis=1)[:, 0] < 0.6 * steps.max(1)).mean() > 0.8, "a phase takes no part"
    if kind in ("MOTOR_START", "DRIVE_ON"):
        assert (change > 0).mean() > 0.9
    if kind == "LOAD_STEP":
        assert (steps.max(1) > 0.03 * np.array(before).mean(1)).all()


def test_more_resistance_draws_less_and_an_arc_less_than_its_resistance(rng):
    def change(ohm):
        waves = [harder.wave_of(place(), "AG", ohm, 0.75, 256, np.random.default_rng(k)) for k in range(8)]
        return np.median([tone(w[3:], 1)[0] for w in waves])

    assert change(5.0) > change(20.0) > change(100.0)
    assert change(20.0) > change(-20.0)


def test_wrong_use_is_refused(tmp_path):
    for wrong in ({"faults": -1}, {"faults": 0, "others": 0}, {"faults": 10**9}, {"part": "test"}):
        with pytest.raises(ValueError):
            harder.generate(tmp_path, seed=1, **wrong)
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path, capsys):
    harder.main([str(tmp_path / "deep" / "out"), "--seed", "5", "--faults", "10", "--others", "3"])
    assert "13 simulated events" in capsys.readouterr().out
    assert (tmp_path / "deep" / "out" / "events.npz").exists()
