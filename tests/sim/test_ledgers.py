"""A run's report adds up what its devices counted, per class, and lists a bounded number of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ganglion.sim.ledgers import DEVICES_MAX, ledger_lines, ledgers
from ganglion.sim.run import load_topology

FEEDER = Path(__file__).parents[2] / "examples" / "feeder"
NAMES = ("frames", "wakeups", "sent", "sent_bytes", "received", "received_bytes", "instructions", "cycles")
MORE = ("retransmitted", "rows_stored", "rows_acknowledged", "rows_shed", "rows_refused")


def counted(number: int) -> dict[str, int]:
    return {name: (k + 1) * number * 1_000_000 for k, name in enumerate((*NAMES, *MORE))}


def host(gateway: str, *numbers: int, devices: int | None = None) -> dict[str, object]:
    found = {f"{gateway}-relay-{n:02d}": counted(n) for n in numbers}
    return {"ledgers": found, "devices": len(numbers) if devices is None else devices}


def test_classes_add_up_their_devices_and_energy_follows_from_the_topology() -> None:
    topology = load_topology(FEEDER)
    found = ledgers(topology, [host("gw1", 1, 2), host("gw2", 3, devices=2)], played_s=10.0)
    relay = found["classes"]["relay"]
    assert relay["devices"] == 3 and found["without"] == 1 and found["not_listed"] == 0
    assert {n: relay[n] for n in (*NAMES, *MORE)} == counted(6)
    kind, link = topology.classes["emulated"], topology.devices["relay"].link
    assert relay["energy"] == {
        "radio_j": round((relay["sent_bytes"] + relay["received_bytes"]) * link.energy_nj_per_byte * 1e-9, 9),
        "compute_j": round(relay["instructions"] * kind.nj_per_instruction * 1e-9, 9),
        "idle_j": 30 * kind.watts_idle,
    }
    assert list(found["devices"]) == ["gw1-relay-01", "gw1-relay-02", "gw2-relay-03"]
    text = "\n".join(ledger_lines(found, 10.0))
    assert "instructions" in text and "keep no ledger: 1" in text and "not counted" not in text


def test_what_is_listed_is_bounded_and_what_is_added_up_is_not() -> None:
    found = ledgers(load_topology(FEEDER), [host("gw1", *range(DEVICES_MAX + 50))], played_s=1.0)
    assert len(found["devices"]) == DEVICES_MAX and found["not_listed"] == 50
    assert found["classes"]["relay"]["devices"] == DEVICES_MAX + 50


@pytest.mark.parametrize("played_s", [0.0, 4.0])
def test_uncounted_instructions_are_said_to_be(played_s: float) -> None:
    one = host("gw1", 5)
    one["ledgers"]["gw1-relay-05"]["instructions"] = 0  # type: ignore[index] # a plain dictionary
    found = ledgers(load_topology(FEEDER), [one], played_s)
    assert found["classes"]["relay"]["energy"]["compute_j"] is None
    assert found["classes"]["relay"]["instructions"] is None
    assert found["devices"]["gw1-relay-05"]["instructions"] is None
    assert found["devices"]["gw1-relay-05"]["cycles"] == counted(5)["cycles"]
    assert "not counted" in "\n".join(ledger_lines(found, played_s))


def test_devices_in_python_keep_no_ledger() -> None:
    found = ledgers(load_topology(FEEDER), [host("gw1", devices=2)], played_s=1.0)
    assert found == {"classes": {}, "devices": {}, "not_listed": 0, "without": 2}
