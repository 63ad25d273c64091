"""The real disk: whole files or none, whatever fails and wherever it crashes."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.core.errors import HostError
from ganglion.host.system import SystemDisk

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full, which Linux has")
posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits, users and directory handles")

OLD, NEW = b"what was there", b"what comes instead"


class Crash(BaseException):
    """The machine stops here: no code of ours that handles errors runs for it."""


def crash(*_args: Any, **_kwargs: Any) -> None:
    raise Crash


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture
def disk(tmp_path: Path) -> SystemDisk:
    return SystemDisk(tmp_path / "state")


# --- what it does when all is well ---


names = st.sampled_from(["a", "b.jsonl", "deep/er/c"])
contents = st.binary(max_size=40)
steps = st.one_of(
    st.tuples(st.just("replace"), names, contents),
    st.tuples(st.just("append"), names, contents),
    st.tuples(st.just("truncate"), names, st.floats(0, 1)),
)


@settings(max_examples=25)
@given(st.lists(steps, max_size=8))
def test_files_hold_what_was_written_and_so_they_do_for_the_next_process(todo: list[Any]) -> None:
    model: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as directory:
        disk = SystemDisk(Path(directory))
        for verb, name, what in todo:
            before = model.get(name, b"")
            if verb == "replace":
                disk.replace(name, what)
                model[name] = what
            elif verb == "append":
                assert disk.append(name, what) == len(before) + len(what)
                model[name] = before + what
            else:
                size = int(len(before) * what)
                disk.truncate(name, size)
                model[name] = before[:size]
        later = SystemDisk(Path(directory))
        assert {n: later.read(n) for n in model} == model
        assert {n: later.size_bytes(n) for n in model} == {n: len(c) for n, c in model.items()}
        assert files(Path(directory)) == model, "nothing else lies about"


def test_a_missing_file_is_none_and_empty(disk: SystemDisk) -> None:
    assert disk.read("nothing") is None
    assert disk.size_bytes("nothing") == 0
    assert disk.read("no/such/folder") is None
    assert disk.size_bytes("no/such/folder") == 0
    assert files(disk.root) == {}, "looking creates nothing"


def test_truncating_a_missing_file_to_nothing_makes_it(disk: SystemDisk) -> None:
    disk.truncate("deep/log", 0)
    assert disk.read("deep/log") == b""


def test_the_root_is_made_with_its_parents_and_has_space(tmp_path: Path) -> None:
    disk = SystemDisk(tmp_path / "a" / "b")
    assert disk.root.is_dir()
    assert disk.free_bytes() > 0


# --- crashes ---


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_before_the_rename_leaves_the_old_content(
    disk: SystemDisk, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    disk.replace("boot", OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os, step, crash)
        with pytest.raises(Crash):
            disk.replace("boot", NEW)
    after = SystemDisk(disk.root)
    assert after.read("boot") == OLD
    after.replace("boot", NEW * 3)
    assert after.read("boot") == NEW * 3
    assert files(disk.root) == {"boot": NEW * 3}, "what the crash left behind is gone with the next write"


def test_a_crash_before_the_first_rename_leaves_no_file(
    disk: SystemDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(Crash):
        disk.replace("boot", NEW)
    assert SystemDisk(disk.root).read("boot") is None


@posix_only
def test_content_is_on_disk_before_its_name_and_the_name_before_we_go_on(
    disk: SystemDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.replace("boot", OLD)
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            done.append("directory")
        elif found.st_size == len(NEW):
            done.append("content")
        fsync(handle)

    def renamed(*args: Any) -> None:
        done.append("rename")
        replace(*args)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    disk.replace("boot", NEW)
    assert done == ["content", "rename", "directory"]


@posix_only
@pytest.mark.parametrize("verb", ["append", "truncate"])
def test_a_new_file_is_synced_and_its_directory_too(
    disk: SystemDisk, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    synced: set[tuple[int, int]] = set()
    fsync = os.fsync

    def noted(handle: int) -> None:
        found = os.fstat(handle)
        synced.add((found.st_dev, found.st_ino))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    if verb == "append":
        disk.append("new/log", NEW)
    else:
        disk.truncate("new/log", 0)
    wanted = [disk.root / "new" / "log", disk.root / "new", disk.root]
    assert {(p.stat().st_dev, p.stat().st_ino) for p in wanted} <= synced


# --- errors ---


def failing(number: int) -> Callable[..., None]:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


CODES = [
    (errno.ENOSPC, "host.disk-full"),
    (errno.EDQUOT, "host.disk-full"),
    (errno.EIO, "host.disk"),
    (errno.EROFS, "host.disk"),
]


@pytest.mark.parametrize("number, code", CODES, ids=[errno.errorcode[n] for n, _ in CODES])
@pytest.mark.parametrize("verb", ["replace", "append"])
def test_a_write_that_fails_late_leaves_nothing_half_written(
    disk: SystemDisk, monkeypatch: pytest.MonkeyPatch, verb: str, number: int, code: str
) -> None:
    disk.append("log", OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(number))
        with pytest.raises(HostError) as caught:
            getattr(disk, verb)("log", NEW)
    assert caught.value.code == code
    assert caught.value.next_step
    assert "log" in caught.value.what
    assert files(disk.root) == {"log": OLD}
    assert disk.append("log", NEW) == len(OLD + NEW), "and afterwards it goes on"


@linux_only
@pytest.mark.parametrize("verb", ["replace", "append"])
def test_a_full_disk_is_told_from_other_trouble(disk: SystemDisk, verb: str) -> None:
    name = "log.new" if verb == "replace" else "log"
    (disk.root / name).symlink_to("/dev/full")
    with pytest.raises(HostError) as caught:
        getattr(disk, verb)("log", NEW)
    assert caught.value.code == "host.disk-full"
    assert isinstance(caught.value.__cause__, OSError)


@contextlib.contextmanager
def files_at_most(size_bytes: int) -> Iterator[None]:
    """A file that grows beyond this takes what fits, and then the write fails."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@posix_only
@pytest.mark.parametrize("verb", ["replace", "append"])
@pytest.mark.parametrize("size", [5_000, 200_000])
def test_a_write_that_fits_in_part_is_taken_back(disk: SystemDisk, verb: str, size: int) -> None:
    disk.append("log", OLD)
    with files_at_most(4096), pytest.raises(HostError) as caught:
        getattr(disk, verb)("log", b"x" * size)
    assert caught.value.code == "host.disk"
    assert files(disk.root) == {"log": OLD}


@posix_only
def test_an_append_to_a_new_file_that_fails_leaves_it_empty(disk: SystemDisk) -> None:
    with files_at_most(4096), pytest.raises(HostError):
        disk.append("log", b"x" * 10_000)
    assert disk.size_bytes("log") == 0


@pytest.fixture
def nobody() -> Iterator[None]:
    """Not root while the test runs: root may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


VERBS: dict[str, Callable[[SystemDisk, str], Any]] = {
    "read": lambda disk, name: disk.read(name),
    "replace": lambda disk, name: disk.replace(name, NEW),
    "append": lambda disk, name: disk.append(name, NEW),
    "truncate": lambda disk, name: disk.truncate(name, 0),
    "size": lambda disk, name: disk.size_bytes(name),
}


@posix_only
@pytest.mark.parametrize("verb", VERBS)
def test_a_forbidden_folder_is_host_disk(request: pytest.FixtureRequest, tmp_path: Path, verb: str) -> None:
    disk = SystemDisk(tmp_path / "state")
    disk.replace("closed/log", OLD)
    (disk.root / "closed").chmod(0)
    try:
        request.getfixturevalue("nobody")
        with pytest.raises(HostError) as caught:
            VERBS[verb](disk, "closed/log")
        assert caught.value.code == "host.disk"
        assert caught.value.next_step
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        (disk.root / "closed").chmod(0o700)
    assert files(disk.root) == {"closed/log": OLD}


@pytest.mark.parametrize("verb", ["read", "replace", "append", "truncate"])
def test_a_folder_in_place_of_a_file_is_host_disk(disk: SystemDisk, verb: str) -> None:
    (disk.root / "log").mkdir()
    with pytest.raises(HostError) as caught:
        VERBS[verb](disk, "log")
    assert caught.value.code == "host.disk"
    assert files(disk.root) == {}
    assert [p.name for p in disk.root.iterdir()] == ["log"]


def test_a_root_that_cannot_be_made_is_host_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(HostError) as caught:
        SystemDisk(tmp_path / "file" / "state")
    assert caught.value.code == "host.disk"


def test_the_space_of_a_root_that_is_gone_is_host_disk(tmp_path: Path) -> None:
    disk = SystemDisk(tmp_path / "state")
    disk.root.rmdir()
    with pytest.raises(HostError) as caught:
        disk.free_bytes()
    assert caught.value.code == "host.disk"
