"""What a run may be asked, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from ganglion.core.errors import GanglionError, RunError
from ganglion.sim.run import load_topology
from ganglion.sim.rundir import KEPT_MAX, MARK, make_run_dir
from ganglion.sim.settings import Cut, Settings, check, parse_cut

FEEDER = Path(__file__).parents[2] / "examples" / "feeder"


def test_a_cut_is_read() -> None:
    assert parse_cut(" gw1@10s-25.5s ") == Cut("gw1", 10 * 10**9, 25_500_000_000)


@pytest.mark.parametrize(
    "text",
    ["", "gw1", "gw1@10s", "gw1@25s-10s", "gw1@10s-10s", "gw1@1x-2x", "@1s-2s", "gw1@1s-2s-3s", "GW1@1s-2s"],
)
def test_what_is_no_cut_is_refused(text: str) -> None:
    with pytest.raises(RunError) as caught:
        parse_cut(text)
    assert caught.value.code == "run.cut"
    assert caught.value.why
    assert "gw1@10s-25s" in caught.value.next_step


@pytest.mark.parametrize(
    "site, from_s, to_s",
    [("cloud", 1, 2), ("nowhere", 1, 2), ("gw1", 30, 41)],
    ids=["top", "unknown", "too late"],
)
def test_a_cut_that_cannot_be_made_is_refused(site: str, from_s: int, to_s: int) -> None:
    cut = Cut(site, from_s * 10**9, to_s * 10**9)
    with pytest.raises(RunError, match="gw1, gw2"):
        check(Settings(FEEDER, Path(), 40 * 10**9, (cut,)), load_topology(FEEDER))


@pytest.mark.parametrize("duration_ns", [0, -1, 25 * 3600 * 10**9])
def test_a_run_of_no_or_endless_time_is_refused(duration_ns: int) -> None:
    with pytest.raises(RunError) as caught:
        check(Settings(FEEDER, Path(), duration_ns), load_topology(FEEDER))
    assert caught.value.code == "run.duration"


def test_a_topology_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(GanglionError, match=r"topology\.missing"):
        load_topology(tmp_path)


def test_run_directories_are_new_and_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    foreign = tmp_path / "runs" / "feeder-00000000-mine"
    foreign.mkdir(parents=True)
    made = [make_run_dir(FEEDER, None) for _ in range(KEPT_MAX + 3)]
    assert len(set(made)) == len(made)
    assert sum((p / MARK).exists() for p in (tmp_path / "runs").iterdir()) == KEPT_MAX
    assert foreign.exists(), "only what carries our mark may be removed"


def test_a_run_directory_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError) as caught:
        make_run_dir(FEEDER, tmp_path)
    assert caught.value.code == "run.directory"
    assert (tmp_path / "file").exists()
