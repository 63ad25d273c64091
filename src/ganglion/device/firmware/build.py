"""Images for boards: one ELF file per device class, and what it needs; too large ones are refused, by how much."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ganglion.core.errors import FlowError, HostError
from ganglion.device.firmware.generate import Firmware, generate, resource
from ganglion.device.firmware.image import Elf, Stack, worst_stack
from ganglion.device.firmware.layout import Limits, up
from ganglion.flow.assignment import Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.kernels.c.targets import Target
from ganglion.kernels.c.toolchain import Compiler, build_image, compilers

FLASH_AT, RAM_AT = 0x0800_0000, 0x2000_0000
REGION_BYTES = 0x0800_0000
ENTRY = "Reset"
PORT = ("board_now", "board_send", "board_act", "board_acknowledged")
"""What the runtime calls through pointers."""
INTERRUPT_BYTES = 256
"""Stack for an interrupt on top of the deepest call: its frame with floating-point registers, and a small handler."""


class _Measured(Target):
    """A target whose compiler also says how large each function's frame is."""

    @property
    def flags(self) -> tuple[str, ...]:
        return ("-target", self.triple, f"-mcpu={self.cpu}", "-fstack-size-section")


@dataclass(frozen=True, slots=True)
class Support:
    """What makes firmware an image for a board: C from reset on, and where the board's flash lies.

    ``boxed``: from reset on nothing is asked of hardware, and whoever wakes the board has put something into its box.
    """

    source: str
    flash_at: int
    boxed: bool


@dataclass(frozen=True, slots=True)
class Image:
    """A linked image. ``ram_bytes`` holds ``device_bytes`` (the device's memory), the stack and the box.

    ``stack``: the deepest chain of calls from reset; the image's stack is that and `INTERRUPT_BYTES`.
    """

    firmware: Firmware
    target: str
    compiler: str
    elf: Path
    flash_bytes: int
    ram_bytes: int
    device_bytes: int
    box_bytes: int
    stack: Stack
    boxed: bool

    def flash(self) -> bytes:
        """What is written to the board, from `FLASH_AT` on: the same for the same flow, limits and compiler.

        The ELF file around it also names folders of the compiler's cache.
        """
        return Elf.read(self.elf).loaded(FLASH_AT, self.flash_bytes)


def build(
    spec: FlowSpec,
    assignment: Assignment,
    target: Target,
    directory: Path,
    *,
    path: str | None = None,
    limits: Limits | None = None,
    flash_bytes_max: int | None = None,
    ram_bytes_max: int | None = None,
    support: Support | None = None,
) -> Image:
    """The image of a device class for a Cortex-M; the same input gives the same flash. Blocks for seconds.

    Raises `FlowError` ``firmware.*`` (``firmware.fit`` says by how much flash or RAM is too small), `HostError`
    ``firmware.compiler`` without zig, `KernelError` ``kernel.compile``. ``support`` None: a processor with nothing
    around it, whose host has its hands in its memory.
    """
    firmware = generate(spec, assignment, path=path, limits=limits)
    compiler = _zig()
    board = support or Support(resource("cortex_m.c"), FLASH_AT, boxed=True)
    draft = _link(firmware, target, compiler, directory, board)
    stack = worst_stack(Elf.read(draft), ENTRY, PORT)
    # Once more with exactly the stack it needs: its size changes no code.
    wanted = replace(firmware.limits, stack_bytes=up(stack.depth_bytes + INTERRUPT_BYTES, 8))
    firmware = generate(spec, assignment, path=path, limits=wanted)
    file = _link(firmware, target, compiler, directory, board)
    elf = Elf.read(file)
    assert worst_stack(elf, ENTRY, PORT) == stack
    flash, _ = elf.bytes_at(board.flash_at, board.flash_at + REGION_BYTES)
    _, ram = elf.bytes_at(RAM_AT, RAM_AT + REGION_BYTES)
    _fits(spec, target, "flash", flash, flash_bytes_max)
    _fits(spec, target, "RAM", ram, ram_bytes_max)
    device, box = (elf.variable(name).size for name in ("board_flow", "board_box"))
    return Image(firmware, target.name, compiler.label, file, flash, ram, device, box, stack, board.boxed)


def _zig() -> Compiler:
    for compiler in compilers():
        if compiler.kind == "zig":
            return compiler
    raise HostError(
        "firmware.compiler",
        "there is no compiler for microcontrollers",
        why="images are built by zig, which is not installed",
        next_step="pip install 'ganglion[device]'",
    )


def _link(firmware: Firmware, target: Target, compiler: Compiler, directory: Path, board: Support) -> Path:
    assert target.triple.startswith("thumb"), target.name
    measured = _Measured(target.name, target.triple, target.cpu, target.float_unit)
    source = firmware.source + board.source
    return build_image(source, measured, compiler, directory, entry=ENTRY, flash=board.flash_at, ram=RAM_AT)


def _fits(spec: FlowSpec, target: Target, what: str, needed: int, there: int | None) -> None:
    if there is not None and needed > there:
        raise FlowError(
            "firmware.fit",
            f"{spec.name} needs {needed:,} bytes of {what} on {target.name}, {needed - there:,} too many",
            why=f"the board has {there:,}",
            next_step="run fewer stages on the device, lower messages_max, or choose a larger board",
        )
