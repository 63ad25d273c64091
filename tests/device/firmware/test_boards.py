"""The image of a device on emulated boards does what the library here does, and needs no more than was said."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ganglion.core.batch import Batch
from ganglion.core.errors import FlowError, HostError
from ganglion.device.firmware import build as building
from ganglion.device.firmware.boards import Boards
from ganglion.device.firmware.box import Core, Op
from ganglion.device.firmware.build import ENTRY, INTERRUPT_BYTES, PORT, Image, build
from ganglion.device.firmware.device import FirmwareDevice
from ganglion.device.firmware.generate import resource
from ganglion.device.firmware.hosted import HostedFirmware
from ganglion.device.firmware.image import Elf, _Calls, _pushed, worst_stack
from ganglion.device.firmware.warming import walk_through
from ganglion.host.system import SystemProcesses
from ganglion.kernels.c.targets import TARGETS
from ganglion.kernels.c.toolchain import build_image, compilers
from tests.device import bays
from tests.device.firmware.benches import (
    BOOT,
    FRAMES,
    GATEWAY,
    START_NS,
    Answering,
    assigned,
    core_of,
    needs_onnx,
    play,
    stage,
)
from tests.device.gateways import Gateway, HastyClock, run, until
from tests.device.recordings import player, recording

NEEDED = [m for m in ("ziglang", "unicorn", "elftools") if importlib.util.find_spec(m) is None]
pytestmark = pytest.mark.skipif(bool(NEEDED), reason=f"{', '.join(NEEDED)} is not installed")
FLOWS = ("feeder-protection", "plant")
CASES = [("feeder-protection", "cortex-m4f"), ("plant", "cortex-m4f"), ("plant", "cortex-m0plus")]
WATCHED = ["cortex-m4f", "cortex-m3"]
if "GANGLION_FRAMES" in os.environ:
    WATCHED = [target for target in TARGETS if target.startswith("cortex")]
    CASES = [(flow, target) for flow in FLOWS for target in WATCHED]
FRAMES_N = int(os.environ.get("GANGLION_FRAMES", "240"))


@contextlib.contextmanager
def boards_of(image: Image, folder: Path) -> Iterator[Boards]:
    boards = Boards(image, SystemProcesses(), folder / "boards.txt", counting=True)
    try:
        yield boards
    finally:
        boards.close()


def image_of(flow: str, target: str, folder: Path, **more) -> Image:
    spec, part = stage(flow)
    return build(spec, assigned(spec, part), TARGETS[target], folder, **more)


@pytest.mark.parametrize(
    "flow, target", [*CASES, *(pytest.param("watch", t, marks=needs_onnx) for t in WATCHED)]
)
def test_a_board_does_what_the_library_does(
    flow: str, target: str, folder: Path, rng: np.random.Generator
) -> None:
    image = image_of(flow, target, folder)
    # A network takes a processor without floats 200,000 instructions a frame.
    count = FRAMES_N // 3 if flow == "watch" else FRAMES_N
    frames, every_ns = FRAMES[flow](rng, count), image.firmware.measured.every_ns
    hosted = HostedFirmware.build(image.firmware, compilers()[0], folder).device()
    wanted_core = core_of(image.firmware, hosted)
    wanted = play(wanted_core, frames, every_ns=every_ns)
    with boards_of(image, folder) as boards:
        memory = boards.device()
        core = core_of(image.firmware, memory)
        got = play(core, frames, every_ns=every_ns)
        report, used = core.report(), memory.stack_used()
    assert wanted.acts and all(wanted.payloads.values())
    assert (got.payloads, got.ends, got.acts) == (wanted.payloads, wanted.ends, wanted.acts)
    assert report.ledger.instructions == sum(n for op, n in memory.calls[:-1])
    assert replace(report, ledger=replace(report.ledger, instructions=0)) == wanted_core.report()
    assert 0 < used <= image.stack.depth_bytes, "the stack was measured too small"
    per_frame = [n for op, n in memory.calls if op == Op.FRAME]
    print(f"{flow} on {target}: {np.median(per_frame):.0f} instructions a frame, at most {max(per_frame)};")
    print(f"{image.flash_bytes} B flash, {image.ram_bytes} B RAM, {image.device_bytes} of them the device,")
    print(f"stack {image.stack.depth_bytes} B by calls, {used} B used: {' > '.join(image.stack.chain)}")


def test_a_board_reaches_its_gateway_by_udp(folder: Path, tmp_path: Path) -> None:
    """The device host's own calls, with Thumb code behind them."""

    async def story() -> None:
        firmware = image.firmware
        gateway = await Gateway({e.stage.id: e.stage.schema for e in firmware.streams}).open()
        acknowledged: list[Batch] = []
        device = FirmwareDevice(
            bays.ORIGIN,
            Core(firmware, boards.device(), bays.ORIGIN, frozenset({"breaker"})),
            player(events),
            boot=bays.BOOT,
            clock=bays.SteadyClock(),
            on_acknowledged=acknowledged.append,
        )
        await device.open(gateway.address, random.Random(4))
        stop = asyncio.Event()
        playing = asyncio.ensure_future(device.play(HastyClock().monotonic_ns(), stop))
        await until(lambda: device.frames >= 90 or playing.done())
        stop.set()
        await playing
        levels = Batch.concat(gateway.batches("level"))
        same = player(events)
        peaks = [float(np.max(np.abs(same.next_frame()))) * 0.5 for _ in range(device.frames)]
        assert levels.columns["peak"].tolist() == peaks
        commands = device.take_commands()
        tripped = [n for n, peak in enumerate(peaks) if peak > bays.LIMIT_A]
        assert tripped and [c.seq for c in commands] == [device.frame_seq(n) for n in tripped]
        assert sum(len(b) for b in acknowledged if b.stream == "level") == device.frames
        assert device.report().ledger.instructions > 0
        await device.close()
        await gateway.close()

    image = build(bays.SPEC, bays.assigned(bays.DECIDES), TARGETS["cortex-m4f"], folder)
    events = recording(tmp_path / "recording")
    with boards_of(image, folder) as boards:
        run(story())


def test_boards_of_one_process_do_not_share_memory(folder: Path, rng: np.random.Generator) -> None:
    image = image_of("plant", "cortex-m4f", folder)
    frames = FRAMES["plant"](rng, 60)
    with boards_of(image, folder) as boards:
        one, other = (core_of(image.firmware, boards.device()) for _ in range(2))
        first = play(one, frames, every_ns=image.firmware.measured.every_ns)
        second = play(other, frames[:30], every_ns=image.firmware.measured.every_ns)
        assert one.report().ledger.frames == 60 and other.report().ledger.frames == 30
    assert len(first.payloads["level"]) == len(second.payloads["level"]) * 2


def test_two_hundred_boards_take_turns_and_each_is_as_if_alone(
    folder: Path, rng: np.random.Generator
) -> None:
    image = image_of("plant", "cortex-m4f", folder)
    every_ns, count = image.firmware.measured.every_ns, 200
    hosted = HostedFirmware.build(image.firmware, compilers()[0], folder)
    frames = [FRAMES["plant"](rng, 12) for _ in range(count)]
    wanted = [play(core_of(image.firmware, hosted.device()), f, every_ns=every_ns) for f in frames]
    boards = Boards(image, SystemProcesses(), folder / "boards.txt")
    try:
        cores = [core_of(image.firmware, boards.device()) for _ in range(count)]
        seen = [Answering(core) for core in cores]
        for core, gateway in zip(cores, seen, strict=True):
            gateway.take(0, core.start(0, GATEWAY, BOOT, 77))
        for number in range(12):
            now_ns = (number + 1) * every_ns
            order = rng.permutation(count)  # nobody comes after the same neighbour each time
            for k in order.tolist():
                while cores[k].next_ns < now_ns:
                    seen[k].take(cores[k].next_ns, cores[k].poll(cores[k].next_ns))
                content = frames[k][number].tobytes()
                seen[k].take(now_ns, cores[k].frame(now_ns, number, START_NS + now_ns, content))
        for core, gateway in zip(cores, seen, strict=True):
            gateway.take(12 * every_ns, core.close(12 * every_ns))
    finally:
        boards.close()
    assert [(g.payloads, g.ends, g.acts) for g in seen] == [(w.payloads, w.ends, w.acts) for w in wanted]
    assert any(g.acts for g in seen) and len({str(g.payloads) for g in seen}) == count


BROKEN = {
    "hangs": ('for (;;) __asm__ volatile("");', "it said nothing for 2 s", 2 * 10**9),
    "stores where nothing is": (
        "*(volatile uint32_t *)0x70000000u = 1;",
        "board 1 stopped at 0x",
        60 * 10**9,
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_board_that_goes_wrong_is_one_clear_error(folder: Path, tmp_path: Path, what: str) -> None:
    body, why, answer_ns_max = BROKEN[what]
    runs = "gd_box_run(&board_flow, &board_box);"
    broken = resource("cortex_m.c").replace(runs, f"if (board_box.op) {{ {body} }}\n{runs}")
    spec, part = stage("plant")
    support = building.Support(broken, building.FLASH_AT, boxed=True)
    image = build(spec, assigned(spec, part), TARGETS["cortex-m4f"], folder, support=support)
    boards = Boards(image, SystemProcesses(), tmp_path / "boards.txt", answer_ns_max=answer_ns_max)
    try:
        core = core_of(image.firmware, boards.device())
        errors = []
        for _ in range(2):
            with pytest.raises(HostError) as raised:
                core.start(0, GATEWAY, BOOT, 77)
            errors.append(raised.value)
        assert errors[0].code == "firmware.board" and why in str(errors[0])
        assert errors[1] is errors[0], "nobody waits a second time"
    finally:
        boards.close()


def test_walking_a_board_through_leaves_the_others_as_they_are(
    folder: Path, rng: np.random.Generator
) -> None:
    image = image_of("plant", "cortex-m4f", folder)
    frames, every_ns = FRAMES["plant"](rng, 40), image.firmware.measured.every_ns
    boards = Boards(image, SystemProcesses(), folder / "boards.txt")
    try:
        alone = play(core_of(image.firmware, boards.device()), frames, every_ns=every_ns)
        walk_through(image.firmware, boards.device(), iter(frames))
        after = play(core_of(image.firmware, boards.device()), frames, every_ns=every_ns)
    finally:
        boards.close()
    assert (after.payloads, after.acts) == (alone.payloads, alone.acts)


def test_the_same_input_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    one, other = (image_of("plant", "cortex-m4f", place) for place in (folder, tmp_path))
    assert one.elf != other.elf and one.flash() == other.flash() and len(one.flash()) == one.flash_bytes


@pytest.mark.parametrize("what", ["flash", "ram"])
def test_what_does_not_fit_is_refused_by_how_much(folder: Path, what: str) -> None:
    image = image_of("plant", "cortex-m4f", folder)
    needed = getattr(image, f"{what}_bytes")
    assert image_of("plant", "cortex-m4f", folder, **{f"{what}_bytes_max": needed}) == image
    with pytest.raises(FlowError) as raised:
        image_of("plant", "cortex-m4f", folder, **{f"{what}_bytes_max": needed - 5})
    assert raised.value.code == "firmware.fit" and ", 5 too many" in str(raised.value)


def test_ram_is_the_device_its_stack_and_the_box(folder: Path) -> None:
    image = image_of("plant", "cortex-m4f", folder)
    stack = image.firmware.sizes["GD_STACK_BYTES"]
    assert stack >= image.stack.depth_bytes + INTERRUPT_BYTES
    parts = image.device_bytes + image.box_bytes + stack
    assert parts <= image.ram_bytes < parts + 64


@pytest.mark.parametrize("target", ["cortex-m4f", "cortex-m0plus"])
def test_frames_read_from_code_are_those_the_compiler_says(folder: Path, target: str) -> None:
    """The reading that is used where the compiler says nothing is never too small."""
    calls = _Calls(Elf.read(image_of("plant", target, folder).elf), PORT)
    said = calls._frames
    assert len(said) > 20
    for at, size in said.items():
        if at in calls._functions:
            function = calls._functions[at]
            code = calls._instructions(function)
            assert sum(_pushed(function.name, a, b) for _, a, b in code) >= size, function.name


RECURSIVE = """
void board_now(void) {}
__attribute__((noinline)) static int down(volatile int *n) { int k = *n; *n = k - 1; return k ? 1 + down(n) * 3 : 0; }
int Reset(void) { volatile int n = 3; board_now(); return down(&n); }
"""


def test_recursion_is_refused(folder: Path) -> None:
    zig = next(c for c in compilers() if c.kind == "zig")
    target = TARGETS["cortex-m4f"]
    measured = building._Measured(target.name, target.triple, target.cpu, target.float_unit)
    file = build_image(
        RECURSIVE, measured, zig, folder, entry=ENTRY, flash=building.FLASH_AT, ram=building.RAM_AT
    )
    with pytest.raises(FlowError) as raised:
        worst_stack(Elf.read(file), ENTRY, PORT)
    assert raised.value.code == "firmware.stack" and "down calls down" in str(raised.value)


def test_without_zig_there_are_no_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "compilers", list)
    with pytest.raises(HostError) as raised:
        image_of("plant", "cortex-m4f", folder)
    assert raised.value.code == "firmware.compiler"
