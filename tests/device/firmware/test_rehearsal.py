"""What frames cost: counted on an emulated board, the same when counted again, and not given where nobody counts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from ganglion.cli import device as command
from ganglion.core.schema import TensorType
from ganglion.device.firmware import boards, calls
from ganglion.device.firmware.build import Image, build
from ganglion.device.firmware.hosted import HostedFirmware
from ganglion.device.firmware.rehearsal import count, hostile, rehearse, waves
from ganglion.host.system import SystemProcesses
from ganglion.kernels.c.targets import TARGETS
from ganglion.kernels.c.toolchain import compilers
from tests.device.firmware.benches import assigned, firmware_of, needs_compiler, stage

NEEDED = [m for m in ("ziglang", "unicorn", "elftools") if importlib.util.find_spec(m) is None]
needs_boards = pytest.mark.skipif(bool(NEEDED), reason=f"{', '.join(NEEDED)} is not installed")


@pytest.fixture(scope="module")
def image(folder: Path) -> Image:
    spec, part = stage("plant")
    return build(spec, assigned(spec, part), TARGETS["cortex-m4f"], folder)


@needs_boards
def test_instructions_per_frame_are_those_of_the_boards_calls(image: Image, tmp_path) -> None:
    counted = count(image, SystemProcesses(), tmp_path / "log.txt")
    assert counted == count(image, SystemProcesses(), tmp_path / "log.txt")
    assert set(counted.kinds) == {"hostile", "waves"} and counted.frames == 24 + 72
    assert 0 < counted.median < counted.worst == max(worst for _, worst in counted.kinds.values())
    # Another way to the same number: what the emulator says of each call.
    made = boards.Boards(image, SystemProcesses(), tmp_path / "log.txt", counting=True)
    try:
        memory = made.device()
        found = rehearse(image.firmware, memory, waves(image.firmware.measured.schema.fields[0].type))
        of_frames = [n for op, n in memory.calls if op == 2]
    finally:
        made.close()
    assert list(found.frame_instructions) == of_frames
    assert counted.kinds["waves"] == (int(np.median(of_frames)), max(of_frames))
    assert found.report.ledger.instructions > sum(of_frames), "answers and timers cost too"


@needs_compiler
def test_counts_of_a_rehearsal_do_not_hang_on_who_runs_it(folder: Path) -> None:
    firmware = firmware_of(*stage("plant"))
    frames = waves(firmware.measured.schema.fields[0].type) * 5
    hosted = HostedFirmware.build(firmware, compilers()[0], folder)
    quick, slow = (rehearse(firmware, hosted.device(), frames, answer_ns=ns) for ns in (0, 1_000_000_000))
    for found in (quick, slow):
        assert found.report.ledger.frames == len(frames) and set(found.frame_instructions) == {0}
        assert found.played_ns == len(frames) * firmware.measured.every_ns
        assert found.report.ledger.received > 0
    assert quick.report.coap.retransmitted == 0 < slow.report.coap.retransmitted


@pytest.mark.parametrize("dtype", ["i16", "i32", "i64", "f32", "f64", "bool"])
def test_frames_are_of_the_sources_type(dtype: str) -> None:
    kind = TensorType(dtype, (2, 8))
    for frames in (hostile(kind), waves(kind)):
        assert {len(f) for f in frames} == {kind.size_bytes}
    if dtype == "i16":
        read = np.array([np.frombuffer(f, "<i2") for f in hostile(kind)])
        assert read.min() == -32768 and read.max() == 32767


@needs_boards
def test_without_an_emulator_it_is_said_and_there_is_no_number(image: Image, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(calls, "find_spec", lambda name: None if name == "unicorn" else object())
    row = command._instructions(image, tmp_path / "log.txt", None)
    assert row["instructions_per_frame"] is None
    said = command._instructions_text(row)
    assert said.startswith("not counted: unicorn is not installed; pip install 'ganglion[emulator]'")
