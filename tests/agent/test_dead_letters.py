"""Dead letters: counted whatever happens, kept in bounded files, and still there after a restart."""

import asyncio

import pytest

from ganglion.agent import dead_letters
from ganglion.agent.dead_letters import DeadLetters, read_letters
from ganglion.connectors.mqtt.mapping import Letter
from ganglion.core.errors import HostError
from ganglion.host.system import SystemClock, SystemDisk


def letter(number, payload=b"x"):
    return Letter(f"t/{number}", payload, "mqtt.value" if number % 2 else "mqtt.payload", "why")


def kept(tmp_path, *batches, disk=None):
    disk = disk or SystemDisk(tmp_path)

    async def scenario():
        letters = DeadLetters(disk, SystemClock())
        running = asyncio.ensure_future(letters.run())
        for batch in batches:
            await letters.put(batch)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return letters

    return asyncio.run(scenario()), [x["topic"] for x in read_letters(SystemDisk(tmp_path))]


def test_letters_are_on_disk_when_put_is_done_and_stay(tmp_path):
    letters, topics = kept(tmp_path, [letter(1), letter(2)], [letter(3, b"\xff\x00")])
    assert topics == ["t/1", "t/2", "t/3"]
    assert letters.counts == {"mqtt.value": 2, "mqtt.payload": 1}
    _, topics = kept(tmp_path, [letter(4)])
    assert topics == ["t/1", "t/2", "t/3", "t/4"]
    last = read_letters(SystemDisk(tmp_path))[-2]
    assert (last["payload_hex"], last["payload_bytes"], last["why"]) == ("ff00", 2, "why")


def test_the_ring_forgets_the_oldest_and_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(dead_letters, "FILE_BYTES_MAX", 2000)
    monkeypatch.setattr(dead_letters, "WRITE_EVERY_NS", 0)
    batches = [[letter(n, b"p" * 1000)] for n in range(60)]
    letters, topics = kept(tmp_path, *batches)
    assert topics == [f"t/{n}" for n in range(60 - len(topics), 60)]
    assert 10 < len(topics) < 40
    assert sum(letters.counts.values()) == 60
    sizes = [f.stat().st_size for f in (tmp_path / "dead-letters").iterdir()]
    assert len(sizes) == dead_letters.FILES
    assert max(sizes) <= 2000 + 800


def test_a_flood_is_counted_and_not_all_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(dead_letters, "LETTERS_MAX", 10)
    letters, topics = kept(tmp_path, [letter(n) for n in range(1000)])
    assert len(topics) == 10
    assert letters.left_out == 990
    assert sum(letters.counts.values()) == 1000


def test_a_full_disk_is_said_and_holds_nobody_up(tmp_path):
    class Full(SystemDisk):
        def replace(self, name, content):
            raise HostError("host.disk-full", "no room")

    letters, topics = kept(tmp_path, [letter(1)], disk=Full(tmp_path))
    assert topics == []
    assert "host.disk-full" in letters.trouble
    assert (letters.left_out, letters.counts) == (1, {"mqtt.value": 1})


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b'{"a": 1}\n', b'{"number": 1}\n{"topic": "t/9"}\n{"top']
)
def test_a_torn_file_is_read_as_far_as_it_is_whole(tmp_path, content):
    (tmp_path / "dead-letters").mkdir()
    (tmp_path / "dead-letters" / "1.jsonl").write_bytes(content)
    _, topics = kept(tmp_path, [letter(1)])
    assert topics[-1] == "t/1"
