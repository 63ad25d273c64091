"""Recordings of a gateway's inputs: kept within their size, and played to the same decisions."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ganglion.agent.inputs import DIRECTORY, FILES, Arrival, InputRecorder, Start, Taken, decode, encode
from ganglion.core.errors import DataError
from ganglion.engine.windows import WindowOperator
from ganglion.sim.replay import read_recordings, replay
from ganglion.sim.virtual import loop as virtual
from ganglion.sim.virtual.clock import VirtualClock
from ganglion.sim.virtual.disk import Platter, VirtualDisk
from ganglion.sim.virtual.play import lay
from ganglion.sim.virtual.scenario import BUILT_IN, load_scenario
from ganglion.sim.virtual.trace import Trace
from ganglion.sim.virtual.world import World

HARD = Path(__file__).parent / "virtual" / "scenarios" / "hard.toml"
RECORDING_BYTES = 160_000


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """What gw1 recorded in a rough world."""
    loaded = load_scenario(HARD)
    loaded.scenario = loaded.scenario.model_copy(update={"recording_bytes_max": RECORDING_BYTES})
    ground, made = lay(loaded), []

    async def main(loop):
        made.append(World(ground, 2, loop, Trace()))
        await made[0].run()

    virtual.run(main)
    assert made[0].truth.failures == []
    directory = tmp_path_factory.mktemp("recording")
    for name, file in made[0].machines["gw1"].platter.files.items():
        if name.startswith(f"{DIRECTORY}/"):
            (directory / Path(name).name).write_bytes(bytes(file.content))
    return directory


def test_the_ring_stays_within_its_size(recording):
    sizes = [p.stat().st_size for p in recording.glob("*.glog")]
    assert 0 < len(sizes) <= FILES
    assert 0 < sum(sizes) <= RECORDING_BYTES


def test_what_was_decided_then_is_decided_now(recording):
    results = [replay(records) for records in read_recordings(recording)]
    assert [r.start.number for r in results] == sorted(r.start.number for r in results)
    assert sum(len(r.decisions) for r in results) > 2
    assert sum(len(r.messages_now) for r in results) > 20
    for result in results:
        assert result.same_flow
        assert result.same, result.to_json()
        assert result.to_json() == replay(read_recordings(recording)[results.index(result)]).to_json()


def test_other_code_is_told_apart(recording, monkeypatch):
    """What a replay is for: to see what a change of the code would have done."""
    monkeypatch.setattr(WindowOperator, "_add", lambda _self, _slots, _batch, _inverse, _counts: [])
    results = [replay(records) for records in read_recordings(recording)]
    assert any(r.differing_messages for r in results)
    assert all(d.then == d.now for r in results for d in r.decisions), "no reflex depends on windows"


def test_another_flow_decides_otherwise(recording, tmp_path):
    text = (BUILT_IN / "meters" / "flow.py").read_text().replace("t.peak > 4", "t.peak > 9")
    (tmp_path / "flow.py").write_text(text)
    results = [replay(records, tmp_path) for records in read_recordings(recording)]
    decisions = [d for r in results for d in r.decisions]
    assert decisions
    assert all(d.then and not d.now for d in decisions)
    assert not any(r.same_flow for r in results)


def test_a_flow_without_the_gateways_stages_is_refused(recording):
    with pytest.raises(DataError) as caught:
        replay(read_recordings(recording)[0], Path(__file__).parents[2] / "examples" / "feeder")
    assert caught.value.code == "replay.flow"


def test_a_torn_end_is_left_out(recording, tmp_path):
    whole = list(decode(min(recording.glob("*.glog")).read_bytes()))
    content = b"".join(map(encode, whole))  # the world, too, may have torn the end of this file
    (tmp_path / "torn.glog").write_bytes(content[:-5])
    (torn,) = read_recordings(tmp_path)
    assert len(torn) == len(whole) - 1
    replay(torn)


@pytest.mark.parametrize(
    "content", [b"", b"x" * 100, encode(Taken(1, 1, None))], ids=["empty", "noise", "headless"]
)
def test_what_is_no_recording_is_said(tmp_path, content):
    (tmp_path / "x.glog").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_recordings(tmp_path)
    assert caught.value.code == "replay.recording"


def test_a_missing_recording_is_said(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.glog"):
        with pytest.raises(DataError) as caught:
            read_recordings(path)
        assert caught.value.code == "replay.recording"


def start(number, state=b""):
    return Start(number, "gw1", "flow", {}, True, (), (), 0, 0, 0, {}, state)


def arrival(number, size):
    return Arrival(number, ("127.0.0.1", 5), 2, ("s", "x"), bytes(size), ())


class Recorder:
    """A recorder on a virtual disk."""

    def __init__(self, loop, bytes_max=64_000):
        self.platter = Platter()
        self.bytes_max = bytes_max
        self.loop = loop
        self.again()

    def again(self):
        disk = VirtualDisk(self.platter, Path("/virtual/x"))
        self.recorder = InputRecorder(disk, VirtualClock(self.loop.virtual_time), self.bytes_max)
        self.recorder.start = start

    def numbers(self):
        firsts = [next(decode(bytes(f.content))) for f in self.platter.files.values() if f.content]
        return sorted(first.number for first in firsts if isinstance(first, Start))

    def size_bytes(self):
        return self.platter.used_bytes


def with_recorder(story, **options):
    async def main(loop):
        await story(Recorder(loop, **options))

    virtual.run(main)


def test_the_oldest_file_makes_room_for_the_newest_and_a_restart_counts_on():
    async def story(kept):
        await kept.recorder.open()
        for number in range(100):
            if kept.recorder.wants_start:
                kept.recorder.begin()
            kept.recorder.arrival(arrival(number, 2_000))
            await kept.recorder.write()
            assert kept.size_bytes() <= kept.bytes_max
        last = kept.numbers()[-1]
        assert kept.numbers() == list(range(last - FILES + 1, last + 1))
        kept.again()
        await kept.recorder.open()
        kept.recorder.begin()
        await kept.recorder.write()
        assert kept.numbers()[-1] == last + 1

    with_recorder(story)


def test_a_full_disk_leaves_out_and_holds_nobody_up():
    async def story(kept):
        await kept.recorder.open()
        kept.recorder.begin()
        await kept.recorder.write()
        kept.platter.full = True
        kept.recorder.arrival(arrival(1, 100))
        await kept.recorder.write()
        assert "host.disk-full" in kept.recorder.trouble
        assert kept.recorder.left_out == 1
        kept.recorder.arrival(arrival(2, 100))
        assert kept.recorder.wants_start
        kept.platter.full = False
        kept.recorder.begin()
        await kept.recorder.write()
        assert kept.recorder.trouble == ""
        assert kept.numbers() == [1, 2]

    with_recorder(story)


def test_what_does_not_fit_before_the_next_state_is_left_out_and_counted():
    async def story(kept):
        kept.recorder.begin()
        for number in range(20):
            kept.recorder.arrival(arrival(number, 2_000))
        await kept.recorder.write()
        assert kept.recorder.left_out > 5
        assert kept.size_bytes() <= kept.bytes_max // FILES

    with_recorder(story)


def numbers_in(kept):
    """The arrivals of each file, in order, as a replay finds them."""
    found = {}
    for file in kept.platter.files.values():
        first, *others = decode(bytes(file.content))
        assert isinstance(first, Start)
        found[first.number] = [r.at_ns for r in others if isinstance(r, Arrival)]
    return [found[number] for number in sorted(found)]


def test_nothing_is_recorded_after_a_record_that_was_left_out_until_the_next_state():
    async def story(kept):
        kept.recorder.begin()
        kept.recorder.arrival(arrival(0, 9_000))
        kept.recorder.arrival(arrival(1, 9_000))
        kept.recorder.arrival(arrival(2, 10))
        assert kept.recorder.wants_start
        kept.recorder.begin()
        kept.recorder.arrival(arrival(3, 10))
        await kept.recorder.write()
        assert numbers_in(kept) == [[0], [3]]
        assert kept.recorder.left_out == 2

    with_recorder(story)


def test_nothing_is_written_after_a_record_that_a_full_disk_left_out():
    async def story(kept):
        kept.recorder.begin()
        kept.recorder.arrival(arrival(0, 10))
        await kept.recorder.write()
        kept.platter.full = True
        kept.recorder.arrival(arrival(1, 10))
        writing = asyncio.ensure_future(kept.recorder.write())
        await asyncio.sleep(0)
        kept.recorder.arrival(arrival(2, 10))  # while the disk is asked
        await writing
        kept.platter.full = False
        await kept.recorder.write()
        assert numbers_in(kept) == [[0]]
        assert "host.disk-full" in kept.recorder.trouble
        assert kept.recorder.left_out == 2
        kept.recorder.begin()
        kept.recorder.arrival(arrival(3, 10))
        await kept.recorder.write()
        assert numbers_in(kept) == [[0], [3]]
        assert kept.recorder.trouble == ""

    with_recorder(story)


def test_a_disk_that_answers_nothing_makes_no_more_wait_than_the_ring_holds():
    async def story(kept):
        for number in range(300):
            if kept.recorder.wants_start:
                kept.recorder.begin()
            kept.recorder.arrival(arrival(number, 2_000))
        await kept.recorder.write()
        assert kept.numbers() == [1, 2, 3, 4]
        assert kept.recorder.left_out > 200
        kept.recorder.begin()
        kept.recorder.arrival(arrival(300, 10))
        await kept.recorder.write()
        assert kept.numbers() == [2, 3, 4, 5]
        assert numbers_in(kept)[-1] == [300]

    with_recorder(story)


def test_a_state_that_has_grown_too_large_stays_said():
    async def story(kept):
        kept.recorder.begin()
        kept.recorder.arrival(arrival(0, 10))
        kept.recorder.start = lambda number: start(number, bytes(60_000))
        kept.recorder.begin()
        await kept.recorder.write()
        assert "60" in kept.recorder.trouble

    with_recorder(story)


def test_a_state_that_is_too_large_is_said():
    async def story(kept):
        kept.recorder.start = lambda number: start(number, bytes(60_000))
        kept.recorder.begin()
        assert "60" in kept.recorder.trouble
        kept.recorder.arrival(arrival(1, 10))
        await kept.recorder.write()
        assert kept.size_bytes() == 0

    with_recorder(story)


def test_the_command_shows_decisions_and_its_status(recording, tmp_path, monkeypatch, capsys):
    from ganglion.cli import main

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["ganglion", "replay", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr()

    status, told = call(recording)
    assert status == 0
    assert "breaker_open" in told.out
    assert "as recorded" in told.out
    status, told = call(recording, "--json")
    assert [json.loads(line)["same"] for line in told.out.splitlines()]
    text = (BUILT_IN / "meters" / "flow.py").read_text().replace("t.peak > 4", "t.peak > 9")
    (tmp_path / "flow.py").write_text(text)
    status, told = call(recording, "--flow", tmp_path)
    assert status == 1
    assert "then only" in told.out
    first = read_recordings(recording)[0]
    at, came = next((i, r) for i, r in enumerate(first) if isinstance(r, Arrival))
    first[at] = replace(came, commands=("breaker_open:gw1-meter-a:2f:00:17",))
    (tmp_path / "named.glog").write_bytes(b"".join(map(encode, first)))
    status, told = call(tmp_path / "named.glog")
    assert status == 1
    assert "breaker_open  gw1-meter-a:2f:00  row 17  then only" in told.out
    status, told = call(tmp_path / "nothing")
    assert status == 2
    assert "replay.recording" in told.err
