"""An image is tried on hostile frames as it is: what its start-up, its compiler or its runtime do otherwise shows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from ganglion.core.errors import KernelError
from ganglion.device.firmware import trial
from ganglion.device.firmware.build import FLASH_AT, Image, Support, build
from ganglion.device.firmware.generate import resource
from ganglion.device.firmware.trial import tried
from ganglion.host.system import SystemProcesses
from ganglion.kernels.c import toolchain
from ganglion.kernels.c.proof import claim
from ganglion.kernels.c.targets import TARGETS
from tests.device.firmware.benches import assigned, stage

NEEDED = [m for m in ("ziglang", "unicorn", "elftools") if importlib.util.find_spec(m) is None]
pytestmark = pytest.mark.skipif(bool(NEEDED), reason=f"{', '.join(NEEDED)} is not installed")
SLEEP = '  for (;;) {\n    __asm__ volatile("wfi" ::: "memory");\n    gd_box_run'
FLUSH_TO_ZERO, TOWARDS_ZERO = 1 << 24, 3 << 22
"""Bits of FPSCR."""


def image_of(flow: str, folder: Path, target: str = "cortex-m4f", support: Support | None = None) -> Image:
    spec, part = stage(flow)
    return build(spec, assigned(spec, part), TARGETS[target], folder, support=support)


def tried_of(image: Image, folder: Path) -> str:
    return tried(image, SystemProcesses(), folder / "emulator.txt")


@pytest.mark.parametrize("target", ["cortex-m4f", "cortex-m0plus"])
def test_an_image_that_keeps_the_bits_says_which_it_is_and_on_what_it_was_tried(
    target: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_of("plant", folder, target)
    said = tried_of(image, folder)
    assert f"image for {target} by zig" in said and f"({image.elf.stem[:12]})" in said
    for _, program in image.firmware.kernels:
        assert f"{program.name} {program.digest[:12]}" in said
    monkeypatch.setattr(trial, "Calls", None)  # the second time it is known
    assert tried_of(image, folder) == said == claim(image.elf)


def test_without_an_emulator_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "lacks_emulator", lambda: "unicorn is not installed")
    assert tried_of(image_of("plant", tmp_path), tmp_path) == ""


def differs(image: Image, folder: Path) -> None:
    with pytest.raises(KernelError) as caught:
        tried_of(image, folder)
    assert caught.value.code == "kernel.bits" and "cortex-m4f" in str(caught.value)
    assert claim(image.elf) == ""


@pytest.mark.parametrize("bits", [FLUSH_TO_ZERO, TOWARDS_ZERO])
def test_a_start_up_that_sets_the_processor_otherwise_is_noticed(bits: int, folder: Path) -> None:
    source = resource("cortex_m.c")
    planted = source.replace(SLEEP, f'  __asm__ volatile("vmsr fpscr, %0" ::"r"({bits}u));\n{SLEEP}')
    assert planted != source
    differs(image_of("plant", folder, support=Support(planted, FLASH_AT, boxed=True)), folder)


def test_sums_in_another_order_are_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (*toolchain.EXACT, "-fassociative-math", "-fno-signed-zeros")
    monkeypatch.setattr(toolchain, "EXACT", flags)
    differs(image_of("feeder-protection", folder), folder)
