"""iFogSim's other case study, a game played with EEG headsets, event by event; and the last digits of the first one.

Parameters (million instructions, bytes, latencies) are those of the case study "EEG tractor beam" (H. Gupta et al.,
iFogSim, Software: Practice and Experience 47(9), 2017): departments with four phones, a gateway each, a proxy to the
cloud, 10 s; headset A sends each 10 ms, B each 5 ms. The loop is from a headset to its display. Published are the
simulator's own results; a tenth of the readings is dropped by chance, so a run is compared within 1 %.

Within 1 %: A in the fog with 1, 2 and 4 departments, and through the cloud with those and 16 (with 8: 1.02 %); B
through the cloud with 1, 2 and 4 (the larger ones take too long to run here). B with 8 is 1.75 % above what was
published, and 0.1 % above a run of iFogSim itself. Not: B in the fog, 1 to 2 % off with a reading each 5.1 ms, 5 to 8 %
with 5 ms, where iFogSim's own run is 4 to 6 % off its published figure; A in the fog with 8 and 16, 2 to 3 %.
"""

from __future__ import annotations

import random

import pytest

from tests.sim.fogengine import Device, Engine, Kind, Message

END_MS = 10_000.0
# Departments: loop in fog and in cloud (ms).
HEADSET_A = {1: (24.2268, 230.895), 2: (24.3721, 230.547), 4: (24.1994, 230.6)}
HEADSET_B_CLOUD = {1: 225.157}
PLAYER_MS = GLOBAL_MS = 100.0


def game(departments, eeg_ms, eeg_work, *, cloud, seed=0):
    """In the fog phones also classify (A: they have room for it); else the cloud does."""
    rng = random.Random(seed)
    reading = Kind("reading", "client", eeg_work, 500, up=True)
    sensed = Kind("sensed", "classifier", 3500, 500, up=True)
    player = Kind("player", "connector", 1000, 1000, up=True)
    classified = Kind("classified", "client", 14, 500, up=False)
    world = Kind("world", "client", 28, 1000, up=False)
    own, shared = (Kind(name, "display", 1000, 500, up=False) for name in ("own", "shared"))
    devices = [
        Device("cloud", 44_800.0, 100, 10_000, ("connector", "classifier") if cloud else ("connector",)),
        Device("proxy", 2800.0, 10_000, 10_000, parent=0, latency=100.0),
    ]
    phones = []
    for d in range(departments):
        devices.append(Device(f"department {d}", 2800.0, 10_000, 10_000, parent=1, latency=4.0))
        above = len(devices) - 1
        for p in range(4):
            phones.append(len(devices))
            modules = ("client",) if cloud else ("client", "classifier")
            devices.append(
                Device(f"phone {d} {p}", 1000.0, 10_000, 270, modules, above, 2.0, origin=len(devices))
            )

    def react(device, message):
        made = {"sensed": classified, "classified": own, "world": shared}
        if message.kind is reading:
            return [Message(sensed, device.origin, message.born)] if rng.random() < 0.9 else []
        if message.kind.name not in made:
            return []
        return [Message(made[message.kind.name], message.origin, message.born)]

    engine = Engine(devices, react, END_MS)
    for phone in phones:
        engine.later(eeg_ms, "sense", phone, (eeg_ms, 6.0, reading))
    engine.later(GLOBAL_MS, "every", 0, (GLOBAL_MS, lambda: [Message(world)]))
    if cloud:
        engine.later(PLAYER_MS, "every", 0, (PLAYER_MS, lambda: [Message(player) for _ in phones]))
    else:
        for phone in phones:
            engine.later(PLAYER_MS, "every", phone, (PLAYER_MS, lambda: [Message(player)]))
    return engine


@pytest.mark.parametrize("departments", HEADSET_A)
def test_the_games_loop_in_the_fog_is_the_published_one_within_a_percent(departments):
    delay = game(departments, 10.0, 2000, cloud=False).run()
    assert delay == pytest.approx(HEADSET_A[departments][0], rel=0.01)


@pytest.mark.parametrize("departments", HEADSET_A)
def test_the_games_loop_through_the_cloud_is_the_published_one_within_a_percent(departments):
    delay = game(departments, 10.0, 2000, cloud=True).run()
    assert delay == pytest.approx(HEADSET_A[departments][1], rel=0.01)


@pytest.mark.parametrize("departments", HEADSET_B_CLOUD)
def test_the_faster_headsets_loop_through_the_cloud_too(departments):
    delay = game(departments, 5.0, 3000, cloud=True).run()
    assert delay == pytest.approx(HEADSET_B_CLOUD[departments], rel=0.01)


def surveillance(areas, seed=0):
    """The detection through the cloud, as in test_fogmodel; with the rest of the cloud's work."""
    rng = random.Random(seed)
    frame = Kind("frame", "motion", 1000, 20_000, up=True)
    moved = Kind("moved", "detector", 2000, 2000, up=True)
    detected = Kind("detected", "interface", 500, 2000, up=True)
    located = Kind("located", "tracker", 1000, 100, up=True)
    devices = [
        Device("cloud", 44_800.0, 100, 10_000, ("detector", "tracker", "interface")),
        Device("proxy", 2800.0, 10_000, 10_000, parent=0, latency=100.0),
    ]
    cameras = []
    for a in range(areas):
        devices.append(Device(f"router {a}", 2800.0, 10_000, 10_000, parent=1, latency=2.0))
        above = len(devices) - 1
        for c in range(4):
            cameras.append(len(devices))
            devices.append(Device(f"camera {a} {c}", 500.0, 10_000, 10_000, ("motion",), above, 2.0))

    def react(_device, message):
        if message.kind is frame:
            return [Message(moved, born=engine.now)]
        if message.kind is not moved:
            return []
        found = [Message(located, born=message.born)]
        return [*found, Message(detected)] if rng.random() < 0.05 else found

    engine = Engine(devices, react, END_MS, ends_at=located)
    for camera in cameras:
        engine.later(5.0, "sense", camera, (5.0, 1.0, frame))
    return engine


def test_the_last_digits_of_the_detection_are_the_order_in_which_work_is_noticed():
    """With 4 areas to the digit that was published; 8 and 16 give 1188.756 and 3119.849.

    There a run of iFogSim printed 1188.75 and 3119.85, and its results sheet says 1188.73 and 3119.78. With 1 and 2
    areas single frames are noticed with the next ones for a second of the run: 0.10 and 0.04 % above.
    """
    assert f"{surveillance(4).run():.3f}" == "106.443"
    assert surveillance(1).run() == pytest.approx(105.253, rel=1.1e-3)


# -- the engine alone ----------------------------------------------------------------------------------
def alone(work, period_ms, rate=1000.0, end_ms=1000.0):
    """One device that works on what its sensor sends, and shows it."""
    reading, shown = Kind("reading", "client", work, 500, up=True), Kind("shown", "display", 0, 0, up=False)
    device = Device("phone", rate, 10_000, 10_000, ("client",), origin=0)
    engine = Engine([device], lambda _, m: [Message(shown, born=m.born)], end_ms)
    engine.later(period_ms, "sense", 0, (period_ms, 6.0, reading))
    return engine


def test_work_that_nothing_disturbs_is_noticed_when_it_is_done():
    engine = alone(2000, 10.0)
    assert engine.run() == pytest.approx(6 + 2 + 0.1 + 1)
    assert len(engine.delays) == 99  # what is shown by the end of the second


def test_work_that_is_disturbed_is_noticed_when_the_next_piece_comes():
    """Each piece takes 1.5 periods: looks are forgotten, and the mean delay grows beyond what the work takes."""
    engine = alone(15_000, 10.0)
    assert engine.run() > 6 + 15 + 0.1 + 1
    assert len(engine.delays) <= 1000 / 15 + 1
