"""The feeder example's generator: same seed same bytes, the folder layout, labels and physics that hold."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pandapower")
from examples.feeder import generate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return generate.generate(tmp_path_factory.mktemp("feeder"), seed=11, faults=40, others=12)


@pytest.fixture(scope="module")
def events(folder):
    with np.load(folder / "events.npz", allow_pickle=False) as archive:
        wave = archive["wave"]
    with (folder / "labels.csv").open(newline="") as file:
        return wave, list(csv.DictReader(file))


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        generate.generate(tmp_path / name, seed=seed, faults=10, others=3)
    for file in ("events.npz", "labels.csv"):
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b
        assert a != c


def test_layout(folder, events):
    wave, labels = events
    assert sorted(p.name for p in folder.iterdir()) == ["events.npz", "labels.csv"]
    assert wave.dtype == np.int16
    assert wave.shape == (52, 6, 768)
    header = (folder / "labels.csv").read_text().splitlines()[0]
    assert header == "row,event_id,fault_bus,event,is_fault,fault_resistance_ohm,load_mult,inception_sample"
    assert [int(label["row"]) for label in labels] == list(range(52))
    assert len({label["event_id"] for label in labels}) == 52


def test_labels_are_sane(events):
    _, labels = events
    faults = [label for label in labels if label["is_fault"] == "1"]
    others = [label for label in labels if label["is_fault"] == "0"]
    assert {label["event"] for label in faults} == set(generate.KINDS)
    assert {label["event"] for label in others} == set(generate.OTHERS)
    assert all(0.05 <= float(label["fault_resistance_ohm"]) <= 30 for label in faults)
    assert all(label["fault_bus"] == "-" and float(label["fault_resistance_ohm"]) == 0 for label in others)
    assert all(192 <= int(label["inception_sample"]) < 384 for label in labels)
    assert all(0.4 <= float(label["load_mult"]) <= 1.1 for label in labels)


def test_nothing_saturates(events):
    wave, _ = events
    assert np.abs(wave.astype(np.int32)).max() < 32767


def test_pre_fault_part_is_steady(events):
    """The cycles before the inception repeat, but for noise (0.4 %) and a frequency a little off 60 Hz."""
    wave, labels = events
    for frames, label in zip(wave.astype(float), labels, strict=True):
        cycles = frames[:, : int(label["inception_sample"]) // 64 * 64].reshape(6, -1, 64)
        spread = np.abs(cycles - cycles[:, :1]).max(axis=(1, 2))
        assert (spread < 0.05 * np.abs(cycles).max(axis=(1, 2)) + 1).all(), label


def test_low_resistance_draws_current_in_the_named_phases(events):
    wave, labels = events
    seen = 0
    for frames, label in zip(wave.astype(float), labels, strict=True):
        if label["is_fault"] == "0" or float(label["fault_resistance_ohm"]) > 2:
            continue
        seen += 1
        before = frames[3:, :128].std(axis=1)
        after = frames[3:, -128:].std(axis=1)
        named = np.array([letter in label["event"] for letter in "ABC"])
        assert (after[named] > 2 * before[named]).all(), label
        assert (after[~named] < 1.5 * before[~named]).all(), label
    assert seen >= 5


def test_parts_share_no_bus():
    train, dev = ({p.name for p in generate.places_of(part)} for part in ("train", "dev"))
    assert train
    assert dev
    assert not train & dev
    assert train | dev == {p.name for p in generate.places_of("all")}


def test_events_stay_in_their_part(events):
    _, labels = events
    named = {label["fault_bus"] for label in labels} - {"-"}
    assert named <= {p.name for p in generate.places_of("dev")}


def test_currents_without_resistance_are_the_library_s():
    """At 1 micro-ohm and the voltage factor of IEC 60909 the derived currents are those of calc_sc."""
    volt = 1.1 * generate.NOMINAL_KV * 1e3 / np.sqrt(3)
    for place in generate.solve().places:
        for kind, library in (("ABC", "3ph"), ("BC", "2ph"), ("AG", "1ph")):
            amp = np.abs(generate.fault_current(place, kind, 1e-6, volt)).max()
            assert amp == pytest.approx(place.short_circuit_a[library], rel=1e-3), (place.name, kind)


@pytest.mark.parametrize("kind", generate.KINDS)
def test_only_named_phases_carry_fault_current(kind):
    amp = np.abs(generate.fault_current(generate.solve().places[0], kind, 3.0, 2400.0))
    assert [letter for letter, a in zip("ABC", amp, strict=True) if a > 1e-6] == sorted(
        kind.removesuffix("G")
    )


def test_more_resistance_draws_less_current():
    place = generate.solve().places[0]
    for kind in generate.KINDS:
        amps = [np.abs(generate.fault_current(place, kind, r, 2400.0)).max() for r in (0.05, 0.5, 5.0, 30.0)]
        assert amps == sorted(amps, reverse=True)


def test_fault_current_is_continuous_at_the_inception():
    """The DC offset starts each phase where the load current left it: no jump within one sample."""
    place = generate.places_of("dev")[0]
    rng = np.random.default_rng(3)
    event = generate._fault(place, "ABC", 0.05, 1.0, rng)
    wave = generate.waveform(event, 200, rng)[3:]
    assert np.abs(wave[:, 200] - wave[:, 199]).max() < 0.15 * np.abs(wave).max()


def test_wrong_use_is_refused(tmp_path):
    for wrong in ({"faults": -1}, {"faults": 0, "others": 0}, {"faults": 10**9}, {"part": "test"}):
        with pytest.raises(ValueError):
            generate.generate(tmp_path, seed=1, **wrong)
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    generate.main([str(out), "--seed", "5", "--faults", "10", "--others", "3"])
    assert "13 simulated events" in capsys.readouterr().out
    assert (out / "events.npz").exists()
    rows = list(csv.DictReader(io.StringIO(Path(out / "labels.csv").read_text())))
    assert len(rows) == 13
