"""What a network needs of a microcontroller: flash, RAM and stack of a linked image, instructions of an emulated one.

The image holds the network and nothing else: from reset it sleeps, and each time it wakes it computes one frame.
Counted is the network's own function, by the firmware's emulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ganglion.core.errors import DataError
from ganglion.device.firmware.calls import Calls, lacks_emulator
from ganglion.device.firmware.image import Elf, worst_stack
from ganglion.device.firmware.stepping import step_network
from ganglion.host.ports import Processes
from ganglion.kernels.c.targets import TARGETS, Target
from ganglion.kernels.c.toolchain import Compiler, build_image, compilers
from ganglion.kernels.networks.emission import EmittedNetwork, emit_network
from ganglion.kernels.networks.layers import Network
from ganglion.learning.recipe import Array

FLASH_AT, RAM_AT, REGION_BYTES = 0x0800_0000, 0x2000_0000, 0x0800_0000
SYMBOL = "gg_network"
FRAMES_MAX = 8
STACK_BYTES = 4096

_APART = """\
#include <stdint.h>
/* Not copied into its caller: it is called by itself, too. */
__attribute__((noinline)) void {symbol}_step(const int8_t *in, int8_t *out, void *work);

"""
_BOARD = """
static int8_t net_in[{taken}] __attribute__((aligned(8))), net_out[{given}];
static uint64_t net_work[{work} / 8] __attribute__((aligned(8)));
static uint64_t board_stack[{stack} / 8] __attribute__((aligned(8), used));

void Reset(void) {{
#if defined(__ARM_FP)
  *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: the floating-point unit on */
  __asm__ volatile("dsb\\n isb");
#endif
  for (;;) {{
    __asm__ volatile("wfi" ::: "memory");
    {symbol}_step(net_in, net_out, net_work);
  }}
}}

__attribute__((section(".vectors"), used)) const void *const board_vectors[2] = {{
    (uint8_t *)board_stack + {stack}, (void *)Reset}};
"""


class _Measured(Target):
    """A target whose compiler also says how large each function's frame is."""

    @property
    def flags(self) -> tuple[str, ...]:
        return ("-target", self.triple, f"-mcpu={self.cpu}", "-fstack-size-section")


@dataclass(frozen=True)
class Footprint:
    """Bytes and instructions on ``target``. ``flash_bytes`` and ``stack_bytes`` are None without zig.

    ``ram_bytes``: working memory, input and output; the stack is beside it. ``instructions``: the most of a few frames,
    None where nobody counts. ``missing``: why something is None, by name.
    """

    target: str
    flash_bytes: int | None
    ram_bytes: int
    stack_bytes: int | None
    instructions: int | None
    missing: tuple[str, ...] = ()


def board(name: str) -> Target:
    """A Cortex-M by its name. Raises `DataError` ``learning.target`` for another."""
    known = [t for t in TARGETS if t.startswith("cortex")]
    if name not in known:
        raise DataError(
            "learning.target",
            f"there is no microcontroller {name!r}",
            why=f"networks are built for {', '.join(known)}",
            next_step="name one of those with --target",
        )
    return TARGETS[name]


def footprint(
    network: Network, frames: Array, target: Target, directory: Path, processes: Processes
) -> Footprint:
    """Builds an image in ``directory`` and runs up to `FRAMES_MAX` int8 ``frames`` through it. Blocks for seconds.

    The emulated integers are compared with the reference. Raises `KernelError` ``kernel.compile``.
    """
    written = emit_network(network, SYMBOL)
    ram = written.workspace_bytes + written.input_bytes + written.output_bytes
    zig = [c for c in compilers() if c.kind == "zig"]
    if not zig:
        return Footprint(target.name, None, ram, None, None, ("flash, stack and instructions: ziglang",))
    elf = _image(written, target, zig[0], directory)
    content = Elf.read(elf)
    flash, _ = content.bytes_at(FLASH_AT, FLASH_AT + REGION_BYTES)
    stack = worst_stack(content, "Reset", ()).depth_bytes
    if (lacking := lacks_emulator()) is not None:
        return Footprint(target.name, flash, ram, stack, None, (f"instructions: {lacking}",))
    counted = _counted(written, network, frames[:FRAMES_MAX], elf, target, directory, processes)
    return Footprint(target.name, flash, ram, stack, counted)


def _image(written: EmittedNetwork, target: Target, zig: Compiler, directory: Path) -> Path:
    source = _APART.format(symbol=written.symbol) + written.source
    source += _BOARD.format(
        taken=max(8, written.input_bytes),
        given=written.output_bytes,
        work=max(8, (written.workspace_bytes + 7) // 8 * 8),
        stack=STACK_BYTES,
        symbol=written.symbol,
    )
    measured = _Measured(target.name, target.triple, target.cpu, target.float_unit)
    return build_image(source, measured, zig, directory, entry="Reset", flash=FLASH_AT, ram=RAM_AT)


def _counted(
    written: EmittedNetwork,
    network: Network,
    frames: Array,
    elf: Path,
    target: Target,
    directory: Path,
    processes: Processes,
) -> int:
    """The most instructions of a frame."""
    from ganglion.kernels.networks.reference import compute

    with Calls(elf, target.name, processes, directory / "emulator.log", counting=True) as calls:
        found = step_network(calls, written, frames)
    wanted = compute(network, frames).reshape(len(frames), -1)
    assert np.array_equal(found.integers, wanted), "emulated integers differ from the reference"
    return max(found.instructions)
