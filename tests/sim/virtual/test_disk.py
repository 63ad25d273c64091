"""The virtual disk does what the real one does, and can lose, tear and fill up besides."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.core.errors import HostError
from ganglion.host.system import SystemDisk
from ganglion.sim.virtual.disk import MachineDied, Platter, VirtualDisk

names = st.sampled_from(["a", "b.jsonl", "deep/er/c"])
steps = st.one_of(
    st.tuples(st.just("replace"), names, st.binary(max_size=40)),
    st.tuples(st.just("append"), names, st.binary(max_size=40)),
    st.tuples(st.just("truncate"), names, st.integers(0, 60)),
)


def do(disk, verb, name, what):
    return getattr(disk, verb)(name, what)


@settings(max_examples=40)
@given(st.lists(steps, max_size=10))
def test_both_disks_answer_alike(todo):
    with tempfile.TemporaryDirectory() as directory:
        real, virtual = SystemDisk(Path(directory)), VirtualDisk(Platter(), Path("/virtual/x"))
        for verb, name, what in todo:
            assert do(real, verb, name, what) == do(virtual, verb, name, what)
            for known in ("a", "b.jsonl", "deep/er/c", "never"):
                assert real.read(known) == virtual.read(known)
                assert real.size_bytes(known) == virtual.size_bytes(known)


@settings(max_examples=40)
@given(st.lists(steps, min_size=1, max_size=8), st.integers(0, 2**32))
def test_what_was_answered_survives_a_power_cut_and_what_was_not_is_torn_at_most(todo, seed):
    chance, platter = random.Random(seed), Platter()
    disk = VirtualDisk(platter, Path("/virtual/x"))
    for verb, name, what in todo[:-1]:
        do(disk, verb, name, what)
    before = {name: bytes(file.content) for name, file in platter.files.items()}
    verb, name, what = todo[-1]
    disk.tear(chance)
    with pytest.raises(MachineDied):
        do(disk, verb, name, what)
    platter.power_cut(chance)
    after = VirtualDisk(platter, Path("/virtual/x"))
    for other in before.keys() - {name}:
        assert after.read(other) == before[other]
    old, found = before.get(name, b""), after.read(name) or b""
    if verb == "append":
        assert (old + what).startswith(found) and found.startswith(old)
    elif verb == "replace":
        assert found in (old, what)
    else:
        assert found == old


def test_what_was_never_synced_is_lost(monkeypatch):
    platter = Platter()
    disk = VirtualDisk(platter, Path("/virtual/x"))
    disk.append("log", b"safe")
    disk.replace("state", b"old")
    monkeypatch.setattr(VirtualDisk, "_sync", lambda _self, _name: None)
    disk.append("log", b"x" * 1000)
    disk.replace("state", b"new")
    disk.replace("state", b"newer")
    assert disk.read("state") == b"newer"
    platter.power_cut(random.Random(1))
    assert disk.read("state") == b"old"
    found = disk.read("log") or b""
    assert found.startswith(b"safe")
    assert len(found) < 1004


def test_a_full_disk_says_so_and_keeps_what_it_has():
    platter = Platter(capacity_bytes=10)
    disk = VirtualDisk(platter, Path("/virtual/x"))
    disk.append("log", b"12345678")
    for verb in ("append", "replace"):
        with pytest.raises(HostError) as caught:
            do(disk, verb, "log", b"90abc")
        assert caught.value.code == "host.disk-full"
    assert disk.read("log") == b"12345678"
    assert disk.free_bytes() == 2
    platter.full = True
    with pytest.raises(HostError):
        disk.append("log", b"9")
    assert disk.free_bytes() == 0


def test_a_dead_machines_disk_takes_nothing():
    platter = Platter()
    disk = VirtualDisk(platter, Path("/virtual/x"))
    disk.die()
    with pytest.raises(MachineDied):
        disk.append("log", b"x")
    assert platter.files == {}
