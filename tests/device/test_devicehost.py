"""A host of devices: its logs are the truth about what they did, and it says what ended it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ganglion.connectors.coap import Code, Endpoint
from ganglion.core.batch import BOOT_BITS, sequence
from ganglion.core.errors import DataError, FlowError, GanglionError, HostError
from ganglion.core.packing import pack
from ganglion.device import devicehost
from ganglion.device.emulation import RunsAs
from ganglion.device.firmware.boards import Boards
from ganglion.flow.assignment import origin_name
from ganglion.kernels.c.toolchain import compilers
from tests.device.gateways import until
from tests.device.recordings import FRAMES, SAMPLES, player, recording
from tests.device.yards import LOGS, PERIOD_NS, FragileDisk, Yard, acknowledged, of, scenario, two_shots

BOARDS = [m for m in ("ziglang", "unicorn", "elftools") if importlib.util.find_spec(m) is None]
KINDS = [
    "python",
    pytest.param("firmware", marks=pytest.mark.skipif(not compilers(), reason="there is no C compiler")),
    pytest.param(
        "board", marks=pytest.mark.skipif(bool(BOARDS), reason=f"{', '.join(BOARDS)} is not installed")
    ),
]
"""Devices in Python, those that run the flow's firmware, and those that run it on an emulated Cortex-M."""

# --- the logs ---


@pytest.mark.parametrize("runs_as", KINDS)
def test_the_logs_hold_exactly_what_the_gateway_took(tmp_path: Path, runs_as: RunsAs) -> None:
    yard = scenario(Yard(tmp_path, devices=3, stride=1, runs_as=runs_as), two_shots)
    for device in yard.host.devices:
        for stream in ("level", "trips"):
            logged = of(device.origin, acknowledged(yard, stream))
            assert logged == of(device.origin, yard.gateway.rows(stream))
        seqs = [seq for _, seq, _ in of(device.origin, acknowledged(yard, "level"))]
        assert seqs == [sequence(1, n) for n in range(device.frames)]
    assert acknowledged(yard, "trips")


def test_the_shots_are_those_that_were_played(tmp_path: Path) -> None:
    yard = scenario(Yard(tmp_path), two_shots)
    config = yard.config()
    started: dict[str, set[int]] = {}
    for device, emulation in zip(yard.host.devices, config.devices, strict=True):
        same = player(recording(yard.data), emulation.index, emulation.stride, emulation.lead_frames)
        for _ in range(device.frames):
            same.next_frame()
        shots = [s for s in yard.log("shots.jsonl") if s["origin"] == device.origin]
        wanted = same.take_finished()
        assert len(shots) == len(wanted) >= 2
        for shot, played in zip(shots, wanted, strict=True):
            event = played.event
            assert (shot["row"], shot["kind"], shot["is_fault"]) == (event.row, event.kind, event.is_fault)
            assert shot["first_seq"] == sequence(1, played.first_frame)
            assert shot["end_seq"] == sequence(1, played.end_frame)
            assert shot["inception_seq"] == sequence(1, played.inception_frame)
            frames = played.inception_frame + 1
            started.setdefault(device.origin, set()).add(shot["inception_ns"] - frames * PERIOD_NS)
    (first,), (second,) = started.values()
    assert second - first == config.devices[1].phase_ns, "each begins at its own phase"


@pytest.mark.parametrize("runs_as", KINDS[:2])
def test_every_fault_was_answered_by_the_devices_own_reflex(tmp_path: Path, runs_as: RunsAs) -> None:
    yard = scenario(Yard(tmp_path, runs_as=runs_as), two_shots)
    commands = yard.log("commands.jsonl")
    assert len({c["command_id"] for c in commands}) == len(commands)
    faults = [s for s in yard.log("shots.jsonl") if s["is_fault"]]
    assert faults
    for shot in faults:
        mine = [
            c
            for c in commands
            if c["origin"] == shot["origin"] and shot["first_seq"] <= c["seq"] < shot["end_seq"]
        ]
        assert mine[0]["seq"] == shot["inception_seq"]
        assert mine[0]["frame_done_ns"] == shot["inception_ns"]
        assert len(mine) == FRAMES - (shot["row"] % 3 + 1), "every frame from the inception on"
    assert {(c["actuator"], c["verb"], c["repeated"]) for c in commands} == {("breaker", "open", False)}


@pytest.mark.parametrize("runs_as", KINDS)
def test_the_report_adds_up(tmp_path: Path, runs_as: RunsAs) -> None:
    yard = scenario(Yard(tmp_path, devices=3, stride=1, runs_as=runs_as), two_shots)
    report = yard.report()
    assert report == json.loads(json.dumps(yard.host.report()))
    frames = sum(d.frames for d in yard.host.devices)
    assert (report["name"], report["devices"], report["frames"]) == ("yard", 3, frames)
    assert report["raw_bytes"] == frames * 2 * SAMPLES * 2
    assert report["commands"] == len(yard.log("commands.jsonl"))
    for stream, counted in report["streams"].items():
        assert counted["acknowledged"] == counted["offered"] == len(acknowledged(yard, stream))
        assert counted["messages"] == len([h for h in yard.gateway.heard if h.path == ("s", stream)])
    assert report["stages"]["level"] == {"rows": frames, "out": frames, "bad": 0, "late": 0, "dropped": 0}
    assert report["stages"]["trips"]["out"] == len(acknowledged(yard, "trips"))


def test_logs_are_written_while_it_plays(tmp_path: Path) -> None:
    async def story(yard: Yard) -> None:
        await yard.start()
        await until(lambda: all(yard.disk.size_bytes(name) for name in LOGS))
        assert not yard.running.done()
        assert yard.report()["frames"] > 0
        await yard.stop()

    scenario(Yard(tmp_path), story)


# --- starts and stops ---


@pytest.mark.parametrize("runs_as", KINDS[:2])
def test_each_start_has_a_number_of_its_own_that_is_on_disk_before_it_is_used(
    tmp_path: Path, runs_as: RunsAs
) -> None:
    async def story(yard: Yard) -> None:
        for boot in (1, 2, 3):
            await yard.start()
            assert yard.disk.read("boot") == str(boot).encode()
            await yard.frames(30)
            await yard.stop()

    yard = scenario(Yard(tmp_path, devices=1, stride=1, runs_as=runs_as), story)
    rows = acknowledged(yard, "level")
    assert rows == yard.gateway.rows("level")
    seqs = [seq for _, seq, _ in rows]
    assert seqs == sorted(set(seqs)), "never one twice, always upwards"
    assert [seq & (1 << BOOT_BITS) - 1 for seq in seqs].count(0) == 3
    assert {seq >> BOOT_BITS for seq in seqs} == {1, 2, 3}


def test_a_start_that_never_runs_uses_its_number_up(tmp_path: Path) -> None:
    async def story(yard: Yard) -> None:
        yard.make()
        await yard.start()
        await yard.frames(1)
        await yard.stop()

    yard = scenario(Yard(tmp_path, devices=1), story)
    assert {seq >> BOOT_BITS for _, seq, _ in acknowledged(yard, "level")} == {2}


@pytest.mark.parametrize("content", [b"three", b"-1", b"1.5", b"9" * 30])
def test_a_damaged_counter_of_starts_is_not_guessed(tmp_path: Path, content: bytes) -> None:
    async def story(yard: Yard) -> None:
        yard.disk.replace("boot", content)
        with pytest.raises(DataError) as caught:
            yard.make()
        assert caught.value.code == "device.boot"

    scenario(Yard(tmp_path), story)


def test_a_full_disk_at_the_start_gives_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any) -> None:
        raise HostError("host.disk-full", "no space left for boot")

    async def story(yard: Yard) -> None:
        monkeypatch.setattr(yard.disk, "replace", full)
        with pytest.raises(HostError):
            yard.make()

    scenario(Yard(tmp_path), story)


def test_stopping_at_once_ends_it_with_everything_written(tmp_path: Path) -> None:
    async def story(yard: Yard) -> None:
        await yard.start()
        await yard.stop()

    yard = scenario(Yard(tmp_path), story)
    assert yard.report()["frames"] == sum(d.frames for d in yard.host.devices)
    assert sorted(h.path[1] for h in yard.gateway.heard if h.is_end) == ["level", "level", "trips", "trips"]


@pytest.mark.parametrize("runs_as", KINDS[:2])
def test_what_is_owed_when_it_stops_is_still_sent_and_logged(tmp_path: Path, runs_as: RunsAs) -> None:
    async def story(yard: Yard) -> None:
        yard.gateway.deaf = True
        await yard.start()
        await yard.frames(60)
        assert yard.log("acked.jsonl") == []
        yard.host.stop()
        await until(lambda: yard.gateway.unheard > 4)
        assert not yard.running.done()
        yard.gateway.deaf = False
        await yard.running

    yard = scenario(Yard(tmp_path, runs_as=runs_as), story)
    assert sorted(acknowledged(yard, "level")) == sorted(yard.gateway.rows("level"))
    assert len(acknowledged(yard, "level")) == sum(d.frames for d in yard.host.devices)


def test_a_gateway_that_never_answers_does_not_hold_it_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devicehost, "DRAIN_NS_MAX", 50_000_000)

    async def story(yard: Yard) -> None:
        yard.gateway.deaf = True
        await yard.start()
        await yard.frames(20)
        await yard.stop()

    yard = scenario(Yard(tmp_path), story)
    assert yard.log("acked.jsonl") == []
    counted = yard.report()["streams"]["level"]
    assert (counted["offered"], counted["acknowledged"]) == (yard.report()["frames"], 0), "and it says so"


# --- commands from outside ---


@pytest.mark.parametrize("runs_as", KINDS[:2])
def test_commands_of_the_gateway_are_in_the_log_and_the_strangest_do_no_harm(
    tmp_path: Path, runs_as: RunsAs
) -> None:
    async def story(yard: Yard) -> None:
        await yard.start()
        await yard.frames(5)
        async with await Endpoint.open(handler=None, random=random.Random(2)) as peer:
            for number, seq in enumerate((0, sequence(1, 2), 1 << 62, 1 << 63, -1, 1 << 200, None)):
                for device in yard.host.devices:
                    order = pack({"verb": "close", "id": f"order-{number}", "seq": seq})
                    await peer.request(device.address, Code.PUT, "a/breaker", order)
            await until(lambda: sum(c["verb"] == "close" for c in yard.log("commands.jsonl")) >= 6)
        await yard.stop()

    yard = scenario(Yard(tmp_path, runs_as=runs_as), story)
    orders = [(c["origin"], c["command_id"]) for c in yard.log("commands.jsonl") if c["verb"] == "close"]
    assert sorted(orders) == [(d.origin, f"order-{n}") for d in yard.host.devices for n in range(3)]


# --- what ends it ---


def operating(group: ExceptionGroup[Any]) -> list[str]:
    """The codes in a group; anything but an operating error is a failure of ours."""
    assert all(isinstance(error, GanglionError) for error in group.exceptions)
    return [getattr(error, "code", "") for error in group.exceptions]


def test_a_full_disk_ends_it_with_host_disk_full(tmp_path: Path) -> None:
    async def story(yard: Yard) -> None:
        await yard.start()
        await yard.frames(10)
        yard.disk.full = True
        with pytest.raises(ExceptionGroup) as caught:
            await yard.running  # nobody stops it
        assert operating(caught.value) == ["host.disk-full"]
        for device in yard.host.devices:
            async with await Endpoint.open(port=device.address[1], random=random.Random(1)):
                pass  # the sockets of a host that ended are closed

    scenario(Yard(tmp_path), story)


def test_a_full_disk_at_the_very_end_is_said_too(tmp_path: Path) -> None:
    async def story(yard: Yard) -> None:
        await yard.start()
        await yard.frames(10)
        yard.disk.full = True
        yard.host.stop()
        with pytest.raises(ExceptionGroup) as caught:
            await yard.running
        assert operating(caught.value) == ["host.disk-full"]

    scenario(Yard(tmp_path), story)


class SlowDisk(FragileDisk):
    """Its first write of the log ends when it is told to, and then fails; the others are well."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.begun, self.go = threading.Event(), threading.Event()

    def append(self, name: str, content: bytes) -> int:
        if not self.begun.is_set():
            self.begun.set()
            assert self.go.wait(60)
            raise HostError("host.disk-full", f"no space left for {name}")
        return super().append(name, content)


def test_lines_that_were_lost_while_it_stopped_are_not_kept_quiet(tmp_path: Path) -> None:
    async def story(yard: Yard) -> None:
        yard.disk = disk = SlowDisk(tmp_path / "state")
        await yard.start()
        await until(disk.begun.is_set)
        yard.host.stop()
        # The log is being written when everything else has ended and the log is cancelled.
        await until(lambda: len([h for h in yard.gateway.heard if h.is_end]) == 4)
        await asyncio.sleep(0.05)
        disk.go.set()
        with pytest.raises(ExceptionGroup) as caught:
            await yard.running
        assert operating(caught.value) == ["host.disk-full"]

    scenario(Yard(tmp_path), story)


def test_a_device_that_fails_ends_the_host_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_args: Any) -> None:
        raise DataError("coap.size", "a message does not fit")

    async def story(yard: Yard) -> None:
        await yard.start()
        monkeypatch.setattr(yard.host.devices[1], "play", fail)
        with pytest.raises(ExceptionGroup) as caught:
            await yard.running
        assert operating(caught.value) == ["coap.size"]

    scenario(Yard(tmp_path), story)


@pytest.mark.skipif(bool(BOARDS), reason=f"{', '.join(BOARDS)} is not installed")
def test_an_emulator_that_ends_ends_the_host_with_one_error(tmp_path: Path) -> None:
    async def story(yard: Yard) -> None:
        await yard.start()
        await yard.frames(10)
        for made in yard.host._made.values():
            assert isinstance(made, Boards)
            made._child.close()
        with pytest.raises(ExceptionGroup) as caught:
            await yard.running
        assert set(operating(caught.value)) == {"firmware.board"}

    scenario(Yard(tmp_path, runs_as="board"), story)


@pytest.mark.parametrize(
    "what, kind, code",
    [("flow_dir", FlowError, "flow.missing"), ("data_dir", DataError, "recording.missing")],
)
def test_what_it_cannot_load_is_said_before_it_starts(
    tmp_path: Path, what: str, kind: type[GanglionError], code: str
) -> None:
    async def story(yard: Yard) -> None:
        with pytest.raises(kind) as caught:
            yard.make(**{what: tmp_path / "nowhere"})
        assert caught.value.code == code
        assert yard.disk.read("boot") is None

    scenario(Yard(tmp_path), story)


@pytest.mark.skipif(not compilers(), reason="there is no C compiler")
def test_firmware_has_room_for_the_longest_name_a_topology_can_give(tmp_path: Path) -> None:
    """Ids of 21 characters for site and group; firmware's room for names is less where nobody needs it."""
    long_path = f"{'g' * 21}-{'r' * 21}"

    async def story(yard: Yard) -> None:
        here = yard.config().devices[0]
        stages = dict.fromkeys(here.assignment.runs, frozenset({long_path}))
        exports = dict.fromkeys(here.assignment.exports, frozenset({long_path}))
        device = replace(
            here,
            origin=origin_name(long_path, 999),
            assignment=replace(here.assignment, runs=stages, exports=exports),
        )
        yard.host = yard.make(devices=(device,))
        assert yard.host.report()["ran_as"] == {"board": 0, "qemu": 0, "firmware": 1, "python": 0}

    scenario(Yard(tmp_path, runs_as="firmware"), story)
