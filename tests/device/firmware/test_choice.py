"""What devices of a run are when nobody says, and why."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from ganglion.core.errors import FlowError, HostError
from ganglion.device.emulation import RunsAs
from ganglion.device.firmware import build as building
from ganglion.device.firmware import choice
from ganglion.device.firmware.choice import BOARD_FRAMES_PER_S_MAX, Chosen, choose, qemu_for
from ganglion.device.firmware.layout import Limits
from ganglion.device.firmware.qemu import DEVICES_MAX, Link
from ganglion.host.system import SystemProcesses
from ganglion.kernels.c import toolchain
from ganglion.kernels.c.emission import runtime_header
from tests.device import bays

NEEDED = [m for m in ("ziglang", "unicorn", "elftools") if importlib.util.find_spec(m) is None]
needs_boards = pytest.mark.skipif(bool(NEEDED), reason=f"{', '.join(NEEDED)} is not installed")
ASSIGNMENTS = {bays.PATH: bays.assigned(bays.DECIDES)}


def chosen(folder: Path, asked: RunsAs | None = None, frames_per_s: float = 100.0) -> Chosen:
    return choose(asked, frames_per_s, bays.SPEC, ASSIGNMENTS, Limits(), folder, SystemProcesses())


def qemu_of(folder: Path, devices: int, link: Link) -> None:
    qemu_for(bays.SPEC, ASSIGNMENTS, Limits(), folder, SystemProcesses(), folder / "q", devices, link)


@needs_boards
def test_boards_when_they_can_be_emulated(folder: Path) -> None:
    assert chosen(folder) == Chosen("board")
    assert chosen(folder, frames_per_s=BOARD_FRAMES_PER_S_MAX) == Chosen("board")


def test_what_is_asked_for_is_not_argued_with(folder: Path) -> None:
    for asked in ("board", "qemu", "firmware", "python"):
        assert chosen(folder, asked, 1e9) == Chosen(asked)


def test_without_the_emulator_it_is_firmware_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "lacks_emulator", lambda: "unicorn is not installed")
    assert chosen(folder) == Chosen("firmware", "unicorn is not installed")


@needs_boards
def test_too_many_frames_are_not_emulated_unasked(folder: Path) -> None:
    found = chosen(folder, frames_per_s=BOARD_FRAMES_PER_S_MAX + 1)
    assert found.runs_as == "firmware" and str(BOARD_FRAMES_PER_S_MAX) in found.why


@needs_boards
def test_without_zig_it_is_firmware_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "compilers", list)
    found = chosen(folder)
    assert found.runs_as == "firmware" and "zig" in found.why


def test_qemu_takes_so_many_devices_and_no_more(folder: Path) -> None:
    with pytest.raises(HostError) as caught:
        qemu_of(folder, DEVICES_MAX + 1, "ethernet")
    assert caught.value.code == "firmware.qemu" and str(DEVICES_MAX + 1) in str(caught.value)


def test_a_line_that_is_too_slow_for_the_frames_is_refused(folder: Path) -> None:
    with pytest.raises(FlowError) as caught:
        qemu_of(folder, 1, "serial")
    assert caught.value.code == "firmware.line" and "115,200 baud" in str(caught.value)


@needs_boards
def test_an_image_with_other_bits_is_not_run_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: NaN is stored as it comes."""
    header = runtime_header().replace("(u & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : u", "u")
    assert header != runtime_header()
    monkeypatch.setattr(toolchain, "runtime_header", lambda: header)
    found = chosen(folder)
    assert found.runs_as == "firmware" and "computes hostile frames differently" in found.why
