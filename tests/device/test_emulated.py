"""One device: its stages run, its rows go up, its own reflex and its gateway's commands reach the actuator."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganglion.connectors.coap import Code
from ganglion.core.batch import Batch, sequence
from ganglion.core.errors import DataError
from ganglion.core.packing import pack
from ganglion.device import emulated
from ganglion.device.emulated import EmulatedDevice
from tests.device.bays import (
    BOOT,
    COUNTS,
    DECIDES,
    LIMIT_A,
    MEASURES,
    OFFSET_NS,
    ORIGIN,
    PERIOD_NS,
    RAW,
    SPEC,
    Bay,
    assigned,
    scenario,
)
from tests.device.gateways import rounds, rows_of, until
from tests.device.recordings import player

# --- what it measures ---


def test_raw_frames_go_up_exactly_as_played_numbered_and_timed(tmp_path: Path) -> None:
    made = scenario(tmp_path, RAW, lambda bay: bay.play(90))
    rows = Batch.concat(made.gateway.batches("frames"))
    assert np.array_equal(rows.columns["frame"], np.stack(made.frames()))
    assert rows.origin == ORIGIN
    assert rows.seq.tolist() == [sequence(BOOT, n) for n in range(made.device.frames)]
    assert set(np.diff(rows.time_ns).tolist()) == {PERIOD_NS}
    assert made.device.raw_bytes == sum(f.nbytes for f in made.frames())
    assert made.device.uplinks["frames"].urgent, "the gateway's reflex waits for these"
    assert [h.is_end for h in made.gateway.heard].index(True) == len(made.gateway.heard) - 1


def test_event_time_is_when_the_frame_was_complete(tmp_path: Path) -> None:
    made = scenario(tmp_path, RAW, lambda bay: bay.play(10))
    times = Batch.concat(made.gateway.batches("frames")).time_ns.tolist()
    done = [made.device.frame_done_ns(sequence(BOOT, n)) for n in range(made.device.frames)]
    assert times == [OFFSET_NS + ns for ns in done]


def test_stages_of_the_device_run_and_only_their_rows_go_up(tmp_path: Path) -> None:
    made = scenario(tmp_path, MEASURES, lambda bay: bay.play(90))
    rows = Batch.concat(made.gateway.batches("level"))
    assert rows.columns["peak"].tolist() == made.peaks()
    assert rows.seq.tolist() == [sequence(BOOT, n) for n in range(made.device.frames)]
    assert {h.path[1] for h in made.gateway.heard} == {"level"}
    assert made.device.uplinks["level"].urgent
    assert made.device.take_commands() == [], "the gateway decides, not the device"
    counted = made.device.counts()
    assert counted["frames"] == made.device.frames
    assert counted["streams"]["level"].counts.acknowledged == made.device.frames
    assert [r for b in made.acknowledged for r in rows_of(b)] == made.gateway.rows("level")


def test_an_assignment_of_other_devices_is_not_its_own(tmp_path: Path) -> None:
    async def story(bay: Bay) -> None:
        other = EmulatedDevice(
            ORIGIN,
            SPEC,
            assigned(DECIDES, "gw2-relay"),
            player(bay.events),
            boot=1,
            clock=bay.clock,
            actuators=frozenset({"breaker"}),
            on_acknowledged=bay.acknowledged.append,
        )
        await other.open(bay.gateway.address, random.Random(1))
        playing = asyncio.ensure_future(other.play(bay.clock.monotonic_ns(), bay.stop))
        await until(lambda: other.frames >= 60)
        bay.stop.set()
        await playing
        await other.close()
        assert other.uplinks == {}
        assert other.take_commands() == []

    assert scenario(tmp_path, DECIDES, story).gateway.heard == []


def test_nothing_is_measured_before_the_start_and_stopping_then_ends_the_streams(tmp_path: Path) -> None:
    async def story(bay: Bay) -> None:
        bay.stop.set()
        await bay.start(in_ns=3600 * 10**9)

    made = scenario(tmp_path, DECIDES, story)
    assert made.device.frames == 0
    assert sorted(h.path[1] for h in made.gateway.heard if h.is_end) == ["level", "trips"]
    assert all(h.is_end for h in made.gateway.heard)


def test_each_stream_ends_after_all_of_its_rows(tmp_path: Path) -> None:
    async def story(bay: Bay) -> None:
        bay.gateway.deaf = True
        playing = bay.start()
        await until(lambda: bay.device.frames >= 70)
        bay.stop.set()
        await rounds()
        assert not playing.done(), "what is owed is sent before it ends"
        bay.gateway.deaf = False
        await playing

    made = scenario(tmp_path, DECIDES, story)
    for stream in ("level", "trips"):
        paths = [h.path for h in made.gateway.heard if h.path[1] == stream]
        assert paths[-1] == ("s", stream, "end")
        assert paths.count(("s", stream, "end")) == 1
    assert len(made.gateway.rows("level")) == made.device.frames


def test_what_stages_still_hold_at_the_end_goes_up_before_the_end_mark(tmp_path: Path) -> None:
    made = scenario(tmp_path, COUNTS, lambda bay: bay.play(60))
    rows = Batch.concat(made.gateway.batches("hours"))
    assert rows.columns["n"].sum() == made.device.frames
    assert rows.columns["peak"].max() == max(made.peaks())
    assert made.gateway.heard[-1].is_end


# --- its own reflex ---


def test_its_own_reflex_opens_the_breaker_at_every_frame_that_trips(tmp_path: Path) -> None:
    async def story(bay: Bay) -> None:
        bay.gateway.answer = lambda _request: Code.FORBIDDEN  # no gateway is needed for this
        await bay.play(90)

    made = scenario(tmp_path, DECIDES, story)
    wanted = [sequence(BOOT, n) for n, peak in enumerate(made.peaks()) if peak > LIMIT_A]
    assert wanted
    commands = made.device.take_commands()
    assert [c.seq for c in commands] == wanted
    for command in commands:
        assert (command.actuator, command.verb, command.origin) == ("breaker", "open", ORIGIN)
        assert command.command_id == f"breaker_open:{ORIGIN}:{command.seq}"
        assert command.frame_done_ns == made.device.frame_done_ns(command.seq)
        assert command.arrived_ns >= command.frame_done_ns, "nobody acts before the frame is complete"
        assert not command.repeated
    assert made.device.take_commands() == [], "each is told once"


def test_rows_that_only_the_device_acts_on_may_gather(tmp_path: Path) -> None:
    made = scenario(tmp_path, DECIDES, lambda bay: bay.play(60))
    assert {s: u.urgent for s, u in made.device.uplinks.items()} == {"level": False, "trips": False}


# --- commands of the gateway ---


def order(name: str = "breaker_open:x:1", seq: int = sequence(BOOT, 0), **more: Any) -> dict[str, Any]:
    return {"verb": "open", "id": name, "seq": seq, **more}


def test_a_command_is_obeyed_once_per_id(tmp_path: Path) -> None:
    async def story(bay: Bay) -> None:
        for name in ("a", "b", "a", "a"):
            assert (await bay.command(order(name))).code == Code.CHANGED

    commands = scenario(tmp_path, MEASURES, story).device.take_commands()
    assert [(c.command_id, c.repeated) for c in commands] == [
        ("a", False),
        ("b", False),
        ("a", True),
        ("a", True),
    ]
    assert {(c.actuator, c.verb, c.seq) for c in commands} == {("breaker", "open", sequence(BOOT, 0))}


def test_a_command_for_a_frame_its_own_reflex_acted_on_is_a_repetition(tmp_path: Path) -> None:
    async def story(bay: Bay) -> None:
        await bay.play(60)
        (first, *_) = bay.device.take_commands()
        assert (await bay.command(order(first.command_id, first.seq))).code == Code.CHANGED
        assert [c.repeated for c in bay.device.take_commands()] == [True]

    scenario(tmp_path, DECIDES, story)


def test_ids_are_remembered_up_to_the_bound_oldest_forgotten_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulated, "COMMANDS_MAX", 3)

    async def story(bay: Bay) -> None:
        for name in ("a", "b", "c", "d", "b", "a"):
            await bay.command(order(name))

    commands = scenario(tmp_path, MEASURES, story).device.take_commands()
    assert [c.repeated for c in commands] == [False, False, False, False, True, False]


@pytest.mark.parametrize(
    "path, method",
    [
        ("a/siren", Code.PUT),
        ("a/breaker", Code.POST),
        ("a/breaker", Code.GET),
        ("a", Code.PUT),
        ("a/breaker/open", Code.PUT),
        ("b/breaker", Code.PUT),
        ("", Code.PUT),
    ],
)
def test_what_is_no_actuator_here_is_not_found_and_counted(tmp_path: Path, path: str, method: int) -> None:
    async def story(bay: Bay) -> None:
        assert (await bay.command(order(), path, method)).status == "4.04"
        assert bay.device.commands_unknown == 1
        assert bay.device.take_commands() == []

    scenario(tmp_path, MEASURES, story)


MALFORMED: dict[str, Any] = {
    "nothing": b"",
    "no CBOR": b"\xff\xff",
    "cut short": pack(order())[:-1],
    "too long": pack(order()) + b"\0",
    "text": "open",
    "a list": ["open", "id", 1],
    "none": None,
    "no verb": {"id": "x", "seq": 1},
    "no id": {"verb": "open", "seq": 1},
    "no seq": {"verb": "open", "id": "x"},
    "verb a number": order(verb=5),
    "id a list": {"verb": "open", "id": ["x"], "seq": 1},
    "seq text": {"verb": "open", "id": "x", "seq": "1"},
    "seq a fraction": {"verb": "open", "id": "x", "seq": 1.5},
    "seq true": {"verb": "open", "id": "x", "seq": True},
    "seq infinite": {"verb": "open", "id": "x", "seq": float("inf")},
    "seq no number": {"verb": "open", "id": "x", "seq": float("nan")},
    "seq negative": order(seq=-1),
    "seq beyond 64 bits": order(seq=1 << 63),
    "seq huge": order(seq=1 << 400),
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_command_is_answered_and_nothing_more(tmp_path: Path, payload: Any) -> None:
    async def story(bay: Bay) -> None:
        answer = await bay.command(payload)
        assert answer.status == "4.00"
        assert answer.payload
        assert bay.device.take_commands() == []
        assert (await bay.command(order("after"))).code == Code.CHANGED
        await bay.play(5)
        assert [c.command_id for c in bay.device.take_commands()] == ["after"]

    scenario(tmp_path, MEASURES, story)


@pytest.mark.parametrize("seq", [0, 5, sequence(BOOT - 1, 100), sequence(BOOT + 1, 0), (1 << 63) - 1])
def test_a_command_of_another_boot_is_obeyed_and_can_be_logged(tmp_path: Path, seq: int) -> None:
    """The gateway sends a command again after its own restart; the device may have restarted meanwhile."""

    async def story(bay: Bay) -> None:
        started = bay.clock.monotonic_ns()
        await bay.play(10)
        assert (await bay.command(order(seq=seq))).code == Code.CHANGED
        (command,) = bay.device.take_commands()
        assert command.seq == seq
        assert started <= command.frame_done_ns <= command.arrived_ns
        line = json.loads(json.dumps(asdict(command)))
        assert all(abs(n) < 1 << 63 for n in line.values() if isinstance(n, int))

    scenario(tmp_path, RAW, story)


# --- how it ends ---


@pytest.mark.parametrize("stages", [RAW, MEASURES, DECIDES], ids=["raw", "measures", "decides"])
def test_an_uplink_that_fails_ends_play_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: Mapping[str, tuple[str, ...]]
) -> None:
    monkeypatch.setattr(emulated, "COAP", replace(emulated.COAP, datagram_bytes_max=64))

    async def story(bay: Bay) -> None:
        with pytest.raises(DataError) as caught:
            await bay.start()  # nobody stops it
        assert caught.value.code == "coap.size"

    assert scenario(tmp_path, stages, story).gateway.heard == []


def test_an_uplink_that_fails_at_the_end_is_not_silent_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulated, "COAP", replace(emulated.COAP, datagram_bytes_max=64))

    async def story(bay: Bay) -> None:
        with pytest.raises(DataError):
            await bay.play(1)

    scenario(tmp_path, DECIDES, story)


@pytest.mark.parametrize("frames", [0, 1, 40])
def test_a_cancelled_device_leaves_nothing_running(tmp_path: Path, frames: int) -> None:
    async def story(bay: Bay) -> None:
        bay.gateway.deaf = True
        playing = bay.start()
        await until(lambda: bay.device.frames >= frames)
        playing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await playing

    scenario(tmp_path, MEASURES, story)
