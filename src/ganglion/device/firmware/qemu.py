"""Boards in QEMU: the flow's image for ARM's MPS2 (AN386), from reset, with its own clock, interrupts and Ethernet.

A board is a process. Its Ethernet is a pair of UDP ports of this machine: sensor frames go in as datagrams for a port
of the board, and its CoAP is passed on between it and the gateway's own UDP, packet by packet.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ganglion.core.errors import FlowError, HostError
from ganglion.device.firmware.box import RECORD
from ganglion.device.firmware.build import Image, Support, build
from ganglion.device.firmware.generate import Firmware, generate, resource
from ganglion.device.firmware.layout import Limits
from ganglion.device.firmware.packets import CARRIED_BYTES_MAX
from ganglion.flow.assignment import Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.kernels.c.proof import claim
from ganglion.kernels.c.targets import TARGETS

Link = Literal["ethernet", "serial"]
"""How a board is reached: UDP over its LAN9118, or SLIP with a check over its UART, some hundred times slower."""
PROGRAM = "qemu-system-arm"
MACHINE = "mps2-an386"
MESSAGE_BYTES = 640
"""Rows of one message: with their numbers, times and names they have to fit a packet."""
DEVICES_MAX = 20
"""A process, 20 MB and a share of a processor each."""
FLASH_AT = 0


@dataclass(frozen=True, slots=True)
class QemuBoards:
    """Boards with one image, each in a process that is started when the device is opened."""

    firmware: Firmware
    image: Image
    log: Path
    link: Link

    @property
    def claim(self) -> str:
        """What the image was tried on; empty where it was not."""
        return claim(self.image.elf)

    def command(self, own_port: int, board_port: int) -> list[str]:
        """Starts one at the end of a wire: Ethernet frames go to UDP ``own_port`` of this machine and are taken at
        ``board_port``; a serial line is a TCP connection to ``own_port``.
        """
        words = [PROGRAM, "-M", MACHINE, "-nodefaults", "-display", "none", "-monitor", "none"]
        if self.link == "serial":
            line = f"socket,id=line,host=127.0.0.1,port={own_port},nodelay=on"
            words += ["-chardev", line, "-serial", "chardev:line"]
        else:
            ends = f"udp=127.0.0.1:{own_port},localaddr=127.0.0.1:{board_port}"
            words += ["-serial", "none", "-nic", f"socket,{ends},model=lan9118"]
        return [*words, "-kernel", str(self.image.elf)]


def lacks_qemu() -> str | None:
    """Why no boards run in QEMU here; None when they can."""
    return None if shutil.which(PROGRAM) else f"{PROGRAM} is not installed"


def qemu_boards(
    spec: FlowSpec,
    assignment: Assignment,
    directory: Path,
    log: Path,
    *,
    path: str,
    limits: Limits,
    link: Link = "ethernet",
) -> QemuBoards:
    """The image of a device class for QEMU's board. Blocks for seconds.

    Raises `HostError` ``firmware.qemu`` without QEMU, `FlowError` ``firmware.packet`` when a row has no room in a
    packet, and what `build` raises.
    """
    if (lacking := lacks_qemu()) is not None:
        raise HostError(
            "firmware.qemu",
            "boards cannot run in QEMU",
            why=lacking,
            next_step="apt-get install qemu-system-arm, or run devices as board",
        )
    drivers = {"ethernet": ("mps2_lan9118.c",), "serial": ("slip.h", "slip.c", "mps2_uart.c")}
    parts = ("mps2.h", *drivers[link], "mps2.c")
    source = "".join(
        line
        for part in parts
        for line in resource(part).splitlines(keepends=True)
        if not line.startswith(('#include "mps2.h"', '#include "slip.h"'))
    )
    draft = generate(spec, assignment, path=path, limits=limits)
    largest = max([draft.sizes["GD_DATAGRAM_BYTES"], *(RECORD.size + e.layout.stride for e in draft.streams)])
    if largest > CARRIED_BYTES_MAX:
        raise FlowError(
            "firmware.packet",
            f"{spec.name} sends up to {largest} bytes at once",
            why=f"the board's Ethernet carries {CARRIED_BYTES_MAX} bytes of a datagram, and cuts none in pieces",
            next_step="choose a smaller frame, run the stages that make it smaller there, or run devices as board",
        )
    target, support = TARGETS["cortex-m4f"], Support(source, FLASH_AT, boxed=False)
    image = build(spec, assignment, target, directory, path=path, limits=limits, support=support)
    return QemuBoards(image.firmware, image, log, link)
