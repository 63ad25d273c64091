"""The feeder's classifier: what its network may and may not do to the trip, and that it is what its card says."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ganglion as gg
from examples.feeder import classify, detect, score

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'ganglion[models]'")
from tests.examples.test_feeder_detect import DEAD, FAULT, cycle
from tests.learning.nets import images, needs_emulator

ROOT = Path(__file__).resolve().parents[2]
FEEDER = ROOT / "examples" / "feeder"
CARD = json.loads((FEEDER / "fault.json").read_bytes())
NETWORK = gg.network(FEEDER / "fault.onnx")


def answering(value):
    """A network that always gives this logit for no fault, and 0 for all others."""
    return lambda _: np.array([value, *[0] * 10], np.float32)


def following(networks):
    """A network that answers each time as the next of several."""

    def answer(x):
        return next(networks)(x)

    return answer


SURE_NONE, SURE_FAULT, UNSURE = answering(9.0), answering(-5.0), answering(0.5)
WEAK = cycle(unbalance=(1.25, 0.9, 1.0))
SHARED = Path(os.environ.get("GANGLION_SHARED_DATA", ROOT.parent / "shared" / "data"))
RECORDINGS = SHARED / "ieee123_fault_waveforms"


def play(frames, network, state=None):
    decide, state = classify.decider(network), dict(classify.STATE) if state is None else state
    outputs = []
    for x in frames:
        out, _, state = decide(SimpleNamespace(**detect.features(x)), SimpleNamespace(**state))
        outputs.append(out)
    return outputs, state


def trips(frames, network):
    return [n for n, out in enumerate(play(frames, network)[0]) if out["trip"]]


def test_no_network_holds_back_what_the_rule_trips_at_once():
    assert trips([cycle()] * 10 + [FAULT] * 5, SURE_NONE) == [10]


def test_only_a_network_that_is_very_sure_of_no_fault_overrules_a_slow_rule():
    assert trips([cycle()] * 10 + [WEAK] * 8, SURE_NONE) == []
    for logit in (0.5, 3.0, 5.9):
        assert trips([cycle()] * 10 + [WEAK] * 8, answering(logit)) == [11]


def test_a_network_that_is_sure_of_a_fault_needs_no_rule_but_two_frames():
    calm = [cycle()] * 12
    assert (
        trips(calm, SURE_FAULT) == [detect.HOLD_OFF_FRAMES + 1]
        or trips(calm, SURE_FAULT)[0] >= detect.HOLD_OFF_FRAMES
    )
    calls = iter([SURE_NONE] * 10 + [SURE_FAULT] + [SURE_NONE] * 9)
    assert trips([cycle()] * 20, following(calls)) == []
    again = iter([SURE_NONE] * 10 + [SURE_FAULT] * 2 + [SURE_NONE] * 8)
    assert trips([cycle()] * 20, following(again)) == [11]


def test_an_unsure_network_leaves_the_rule_as_it_is():
    for shot in ([cycle()] * 10 + [WEAK] + [cycle()] * 5, [cycle()] * 10 + [WEAK] * 5, [cycle()] * 30):
        rule = [n for n, out in enumerate(score.run(np.stack(shot))[0]) if out["trip"]]
        assert trips(shot, UNSURE) == rule


@pytest.mark.parametrize("network", [SURE_FAULT, SURE_NONE, NETWORK], ids=["fault", "none", "learnt"])
def test_nothing_trips_on_a_dead_line_or_before_it_has_settled(network):
    assert trips([DEAD] * 20, network) == []
    assert all(n >= detect.HOLD_OFF_FRAMES for n in trips([cycle()] * 8, network))


def test_one_trip_until_the_line_is_dead_even_if_the_network_never_rests():
    shot = [cycle()] * 10 + [FAULT] * 20
    found, state = play(shot, SURE_FAULT)
    assert sum(bool(out["trip"]) for out in found) == 1
    assert state["latched"]
    _, state = play([DEAD] * 3, SURE_FAULT, state)
    assert not state["latched"]
    assert state["likely"] == 0


@given(
    value=st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -2e6]),
    where=st.tuples(st.integers(0, 5), st.integers(0, 63)),
    at=st.integers(0, 14),
)
@settings(max_examples=25, deadline=None)
def test_a_bad_frame_never_trips_and_leaves_numbers(value, where, at):
    frames = [cycle().copy() for _ in range(15)]
    frames[at][where] = value
    outputs, state = play(frames, NETWORK)
    assert not any(out["trip"] for out in outputs)
    assert all(np.isfinite(np.asarray(v, float)).all() for v in state.values())


@given(seed=st.integers(0, 2**32 - 1), size=st.floats(0, 5))
@settings(max_examples=30, deadline=None)
def test_what_the_network_sees_is_between_minus_one_and_one(seed, size):
    rng = np.random.default_rng(seed)
    state = dict(classify.STATE)
    for x in [cycle()] * 3 + [rng.normal(0, 10.0**size, (6, 64)).astype(np.float32) for _ in range(5)]:
        out, _, state = classify.observe(SimpleNamespace(**detect.features(x)), SimpleNamespace(**state))
        assert out["x"].shape == (2 * classify.NUMBERS,)
        assert np.abs(out["x"]).max() <= 1 + 1e-6


def test_what_is_learned_is_what_the_device_sees():
    """The network's input in `observe` and in `decide`, with memories that have seen the same frames."""
    seen = []
    frames = [cycle()] * 8 + [WEAK] * 3 + [FAULT] * 2

    def noting(x):
        seen.append(np.array(x))
        return SURE_NONE(x)

    play(frames, noting)
    state = dict(classify.STATE)
    for n, x in enumerate(frames):
        out, _, state = classify.observe(SimpleNamespace(**detect.features(x)), SimpleNamespace(**state))
        assert np.array_equal(out["x"], seen[n])


def test_the_kind_names_the_phases():
    for unbalance, kind in (((6.0, 0.9, 1.0), "A"), ((1.1, 6.0, 1.0), "B"), ((1.1, 0.9, 6.0), "C")):
        outputs, _ = play([cycle()] * 10 + [cycle(unbalance=unbalance)] * 4, NETWORK)
        assert kind in classify.KINDS[int(outputs[12]["kind"])]


@pytest.mark.skipif(not (RECORDINGS / "dev").is_dir(), reason="ieee123_fault_waveforms not present")
def test_recordings_of_the_dev_part():
    result = score.score(RECORDINGS / "dev", classify.decider(NETWORK), classify.STATE)
    assert (result.caught, result.faults) == (50, 50), result.missed
    assert (result.false_trips, result.repeated_trips) == (0, 0), result.false


# --- the committed file and its card ---


@pytest.fixture(scope="module")
def recipe():
    pytest.importorskip("pandapower", reason="pandapower is not installed")
    from ganglion.learning.recipe import load_recipe

    path = list(sys.path)
    yield load_recipe(FEEDER / "fault_recipe.py")
    sys.path[:] = path


def test_the_file_is_that_of_its_card():
    from ganglion.learning.card import network_facts
    from ganglion.learning.int8_network import Int8Network

    content = (FEEDER / "fault.onnx").read_bytes()
    assert sha256(content).hexdigest() == CARD["network"]["sha256"]
    assert CARD["network"] == json.loads(json.dumps(network_facts(Int8Network.read(content), classify.KINDS)))
    assert all(finding["held"] for finding in CARD["gate"])
    assert CARD["onnx_runtime_differing_integers"] == 0
    assert len(CARD["learning"]["seeds"]) >= 5


def test_its_figures_are_found_again(recipe, tmp_path):
    """On the plain dev part, from the generator on; and the flow's own decision gives the trips that are counted."""
    from ganglion.learning.course import measured
    from ganglion.learning.int8_network import Int8Network

    module = sys.modules["ganglion_recipe_fault_recipe"]
    played = module.simulated(tmp_path, "dev-plain")
    examples = module.examples(played)
    if examples.digest != CARD["data"]["dev-plain"]["sha256"]:
        pytest.skip("other versions of pandapower or NumPy simulate other bytes than the card's")
    network = Int8Network.read((FEEDER / "fault.onnx").read_bytes())
    found = measured(network, replace(recipe, measures=None), {"dev-plain": examples}, tmp_path)
    logits = network(played.x.reshape(-1, 44)).reshape(*played.x.shape[:2], -1)
    counted = module.outcome(played, module.network_trips(played, logits))
    found |= {f"trips.dev-plain.{key}": value for key, value in counted.items()}
    assert found == {name: CARD["measures"][name] for name in found}
    whole = score.score(tmp_path / "data" / "dev-plain", classify.decider(NETWORK), classify.STATE)
    assert (whole.caught, whole.false_trips) == (counted["caught"], counted["false_trips"])


@needs_emulator
def test_its_sizes_are_found_again():
    from ganglion.host.system import SystemProcesses
    from ganglion.learning.footprint import board, footprint
    from ganglion.learning.int8_network import Int8Network

    network = Int8Network.read((FEEDER / "fault.onnx").read_bytes()).network
    frames = np.random.default_rng(1).integers(-128, 128, (4, 44)).astype(np.int8)
    sizes = footprint(network, frames, board("cortex-m4f"), images(), SystemProcesses())
    stated = CARD["footprint"]
    assert (sizes.flash_bytes, sizes.ram_bytes) == (stated["flash_bytes"], stated["ram_bytes"])
    assert sizes.instructions == stated["instructions"]


def test_the_network_is_read_without_torch_or_onnx():
    assert importlib.util.find_spec("ganglion.learning") is not None
    lines = "import sys\nsys.modules['torch'] = sys.modules['onnxruntime'] = sys.modules['onnx'] = None\n"
    lines += f"import pathlib\nfrom ganglion.flow.load import load_flow\nload_flow(pathlib.Path({str(FEEDER)!r}))\n"
    subprocess.run([sys.executable, "-c", lines], check=True)
