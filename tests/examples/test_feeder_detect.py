"""The feeder example's detector: recall and false trips, one trip per fault, and what must never trip."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.feeder import detect, score

ROOT = Path(__file__).resolve().parents[2]
RECORDINGS = (
    Path(os.environ.get("GANGLION_SHARED_DATA", ROOT.parent / "shared" / "data")) / "ieee123_fault_waveforms"
)


def cycle(volt=2400.0, amp=200.0, angle=-0.4, unbalance=(1.1, 0.9, 1.0), phase=0.0):
    """f32[6, 64]: one cycle of a loaded feeder, RMS values given."""
    turn = 2 * np.pi * np.arange(64) / 64 + phase
    shift = np.array([0, -2, 2])[:, None] * np.pi / 3
    volts = volt * np.sqrt(2) * np.cos(turn + shift)
    amps = amp * np.sqrt(2) * np.array(unbalance)[:, None] * np.cos(turn + shift + angle)
    return np.concatenate([volts, amps]).astype(np.float32)


DEAD = np.zeros((6, 64), np.float32)
FAULT = cycle(unbalance=(6.0, 0.9, 1.0))


def trips(frames, state=None):
    outputs, state = score.run(np.stack(frames), state)
    return [n for n, out in enumerate(outputs) if out["trip"]], state


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    pytest.importorskip("pandapower")
    from examples.feeder import generate

    return generate.generate(tmp_path_factory.mktemp("feeder"), seed=7, faults=60, others=30)


def test_generated_events(generated):
    result = score.score(generated)
    assert result.recall >= 0.95, result.missed
    assert result.false_trips <= 1, result.false
    assert result.repeated_trips == 0
    assert max(result.latency_ms) < 60


@pytest.mark.skipif(not (RECORDINGS / "dev").is_dir(), reason="ieee123_fault_waveforms not present")
def test_recordings_of_the_dev_part():
    result = score.score(RECORDINGS / "dev")
    assert (result.events, result.faults) == (79, 50)
    assert result.recall >= 0.98, result.missed
    assert result.false_trips == 0, result.false
    assert result.repeated_trips == 0


def test_components_of_a_known_cycle():
    f = SimpleNamespace(**detect.features(cycle(unbalance=(1, 1, 1), angle=-np.pi / 6)))
    assert f.seq[0:3] == pytest.approx([0, 200 * np.cos(np.pi / 6), 0], abs=0.1)
    assert f.seq[3:6] == pytest.approx([0, -100, 0], abs=0.1)
    assert f.seq[6] == pytest.approx(2400, abs=1)
    assert f.v_rms == pytest.approx(2400, rel=1e-3)
    assert f.i_rms == pytest.approx(200, rel=1e-3)
    assert f.rms == pytest.approx(200, rel=1e-3)
    assert f.peak == pytest.approx(200 * np.sqrt(2), rel=2e-3)
    assert not f.bad


def test_offset_is_not_read_as_current():
    """A decaying offset of 1,000 A leaves little in the fundamental; a plain Fourier sum reads over 100 A."""
    x = cycle(amp=0.0)
    x[3] += 1000 * np.exp(-np.arange(64) / 3.84 / 20)
    seq = detect.features(x)["seq"]
    assert np.hypot(seq[0:3], seq[3:6]).max() < 20


@given(phase=st.floats(0, 2 * np.pi), angle=st.floats(-1.2, 0.5), amp=st.floats(20, 600))
@settings(max_examples=30)
def test_components_do_not_depend_on_the_clock(phase, angle, amp):
    one, two = (detect.features(cycle(amp=amp, angle=angle, phase=p)) for p in (0.0, phase))
    assert one["seq"][0:6] == pytest.approx(two["seq"][0:6], abs=0.01 * amp)


def test_one_trip_per_fault_until_the_line_is_dead():
    shot = [cycle()] * 10 + [FAULT] * 40 + [DEAD] * 3
    first, state = trips(shot)
    assert first == [10]
    again, _ = trips(shot, state)
    assert again == [10]


def test_a_fault_that_comes_and_goes_trips_once():
    found, _ = trips([cycle()] * 10 + ([FAULT] * 4 + [cycle()] * 4) * 5)
    assert found == [10]


def test_small_residual_needs_a_second_frame():
    weak = cycle(unbalance=(1.25, 0.9, 1.0))
    assert trips([cycle()] * 10 + [weak] + [cycle()] * 5)[0] == []
    assert trips([cycle()] * 10 + [weak] * 5)[0] == [11]


@pytest.mark.parametrize("size", [0.4, 0.7, 1.3, 1.6])
def test_a_load_step_does_not_trip(size):
    assert trips([cycle()] * 10 + [cycle(amp=200 * size)] * 20)[0] == []


def test_a_slow_rise_of_load_does_not_trip():
    assert trips([cycle(amp=a) for a in np.linspace(100, 400, 300)])[0] == []


def test_a_capacitor_does_not_trip():
    capacitor = cycle(amp=90.0, angle=np.pi / 2, unbalance=(1, 1, 1))
    capacitor[:3] = 0
    assert trips([cycle()] * 10 + [cycle() + capacitor] * 20)[0] == []
    assert trips([cycle() + capacitor] * 10 + [cycle()] * 20)[0] == []


def test_a_balanced_fault_trips():
    assert trips([cycle(unbalance=(1, 1, 1))] * 10 + [cycle(amp=900.0, unbalance=(1, 1, 1))] * 5)[0] == [10]


def test_held_off_after_energisation():
    """Energising onto a load that settles within the hold-off does not trip; a fault just after it does."""
    hold = detect.HOLD_OFF_FRAMES
    assert trips([cycle(amp=900.0)] + [cycle()] * 20)[0] == []
    assert trips([cycle()] * (hold - 1) + [FAULT] + [cycle()] * 10)[0] == []
    assert trips([cycle()] * hold + [FAULT] * 3)[0] == [hold]


def test_a_dead_line_never_trips():
    assert trips([DEAD] * 20)[0] == []
    assert trips([cycle()] * 10 + [DEAD] * 20)[0] == []


def test_current_in_one_phase_keeps_the_line_alive():
    """A collapsed voltage alone is not a dead line: the latch holds until no phase carries current."""
    held = cycle(volt=10.0, unbalance=(0.08, 0, 0))
    shot = [cycle()] * 10 + [FAULT] * 3
    _, state = trips([*shot, held, held])
    assert state["latched"]
    _, state = trips([*shot, 0.5 * held])
    assert not state["latched"]


HOSTILE = st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -2e6])


@given(value=HOSTILE, where=st.tuples(st.integers(0, 5), st.integers(0, 63)), at=st.integers(0, 14))
@settings(max_examples=40)
def test_a_bad_frame_never_trips_and_changes_nothing(value, where, at):
    frames = [cycle().copy() for _ in range(15)]
    frames[at][where] = value
    outputs, state = score.run(np.stack(frames))
    assert not any(out["trip"] for out in outputs)
    assert [bool(out["bad"]) for out in outputs] == [n == at for n in range(15)]
    assert all(np.isfinite(np.asarray(v, float)).all() for v in state.values())
    assert all(np.isfinite(out["residual"]) and np.isfinite(out["rise"]) for out in outputs)


def test_a_fault_frame_with_nan_does_not_trip_but_the_next_does():
    broken = FAULT.copy()
    broken[3, 5] = np.nan
    assert trips([cycle()] * 10 + [broken] * 3 + [FAULT] * 3)[0] == [13]


def test_random_frames_never_trip_twice(rng):
    for _ in range(20):
        frames = [cycle()] * 8 + [
            (rng.normal(0, 10.0 ** rng.uniform(1, 5), (6, 64))).astype(np.float32) for _ in range(12)
        ]
        assert len(trips(frames)[0]) <= 1


def test_state_keeps_its_shape_and_kind():
    _, state = trips([cycle()] * 10 + [FAULT] * 3)
    assert state.keys() == detect.STATE.keys()
    for name, value in detect.STATE.items():
        assert np.shape(state[name]) == np.shape(value), name
        assert np.asarray(state[name]).dtype.kind == np.asarray(value).dtype.kind, name


@pytest.mark.parametrize("state", [detect.STATE, trips([cycle()] * 10)[1]], ids=["fresh", "settled"])
def test_truth_values_stay_truth_values_without_numbers(state):
    nothing = detect.features(np.full((6, 64), np.nan, np.float32))
    assert type(nothing["bad"]) is np.bool_
    for name in ("seq", "i_rms", "v_rms"):
        for bad in (np.True_, np.False_):
            frame = {**nothing, name: nothing[name] * np.float32("nan"), "bad": bad}
            out, _, after = detect.decide(SimpleNamespace(**frame), SimpleNamespace(**state))
            assert {type(v) for v in (out["trip"], out["bad"], after["latched"], after["last_calm"])} == {
                np.bool_
            }
            assert {type(after[k]) for k in ("live", "picked", "grey")} == {np.int32}
