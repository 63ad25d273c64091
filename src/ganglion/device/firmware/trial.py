"""Tries the kernels of a linked image on hostile frames, on an emulated processor, before it may claim the same bits.

What is tried is the image itself: the functions that its stages call, in the flash that boards get.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ganglion.core.errors import KernelError
from ganglion.device.firmware.build import Image
from ganglion.device.firmware.calls import Calls, lacks_emulator
from ganglion.device.firmware.generate import Firmware
from ganglion.device.firmware.image import Elf
from ganglion.device.firmware.stepping import step
from ganglion.host.ports import Processes
from ganglion.kernels.c.emission import emit
from ganglion.kernels.c.proof import claim, frames_of, keep_claim, require_subnormals, wrong_frames_of
from ganglion.kernels.c.toolchain import COMPILER_VARIABLE
from ganglion.kernels.ir.interpret import Computed
from ganglion.kernels.ir.program import Program
from ganglion.kernels.ops.op import Array


def tried(image: Image, processes: Processes, log: Path) -> str:
    """Which build it is and what it was tried on; empty where nothing can be emulated. Remembered beside the image.

    Blocks for a second, or longer the larger its networks are. Raises `KernelError` ``kernel.bits`` when a kernel
    gives other bytes than the reference, ``kernel.subnormals`` when this process flushes them, `HostError`
    ``host.process`` when the emulator fails.
    """
    if known := claim(image.elf):
        return known
    if lacks_emulator() is not None:
        return ""
    require_subnormals()
    # From reset on, so that what its start-up sets in the processor counts.
    box_bytes = image.firmware.sizes["GD_IN_BYTES"] if image.boxed else 0
    with Calls(image.elf, image.target, processes, log, box_bytes=box_bytes) as calls:
        for symbol, program in image.firmware.kernels:
            assert _is_called(image, symbol), f"{symbol} is not what the image runs"
            if wrong_frames_of(program, _computing(calls, program, symbol)):
                raise differs(image.firmware, f"{image.compiler} for {image.target}")
    build = f"image for {image.target} by {image.compiler}, emulated"
    return keep_claim(image.elf, build, frames_of(program for _, program in image.firmware.kernels))


def _is_called(image: Image, symbol: str) -> bool:
    """A linked image holds only functions that are called; a copy of one under a longer name would be another's."""
    names = {s.name for s in Elf.read(image.elf).symbols}
    return f"{symbol}_step" in names and not any(n.startswith(f"{symbol}_step.") for n in names)


def _computing(
    calls: Calls, program: Program, symbol: str
) -> Callable[[Mapping[str, Array], Array], Computed]:
    workspace_bytes = emit(program, symbol).workspace_bytes

    def compute(given: Mapping[str, Array], table: Array) -> Computed:
        return step(calls, program, symbol, workspace_bytes, given, table).computed

    return compute


def differs(firmware: Firmware, build: str) -> KernelError:
    """The error for a build whose kernels give other bytes than the reference."""
    return KernelError(
        "kernel.bits",
        f"the firmware of {firmware.spec.name} does not give the reference's bytes",
        why=f"{build} computes hostile frames differently",
        next_step=f"name another C compiler with {COMPILER_VARIABLE}=/path/to/cc",
    )
