"""Lines of bytes: a serial port of this machine, and its twin in memory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import termios
from collections.abc import Callable

from ganglion.core.errors import HostError

HELD_BYTES_MAX = 1 << 16
"""What a line keeps of either direction; beyond it the kernel's buffer fills, and then bytes are lost."""
_READ_BYTES = 4096


class _Inbox:
    """Bytes that came in and were not read yet."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.ended = False
        self.came = asyncio.Event()

    async def read(self) -> bytes:
        while not self.content and not self.ended:
            self.came.clear()
            await self.came.wait()
        content = bytes(self.content)
        self.content.clear()
        return content

    def end(self) -> None:
        self.ended = True
        self.came.set()


class SerialLine:
    """`Line` on a serial port or pseudo-terminal, 8 bits, no parity, no flow control. Needs a running loop.

    Raises `HostError` ``host.line`` when the port is not there, may not be used, or does not know the speed.
    """

    def __init__(self, path: str, bits_per_s: int = 115200) -> None:
        self._loop = asyncio.get_running_loop()
        self._in = _Inbox()
        self._out = bytearray()
        speed = getattr(termios, f"B{bits_per_s}", None)
        if speed is None:
            raise _refused(path, f"no port runs at {bits_per_s} bit/s", "name a usual speed, 115200 for one")
        try:
            self._file = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise _refused(path, error.strerror or str(error), "check the name and who may use it") from error
        try:
            self._make_raw(speed)
        except termios.error as error:
            os.close(self._file)
            raise _refused(path, "it is not a serial port", "name a port, /dev/ttyUSB0 for one") from error
        self._is_open = self._is_reading = True
        self._loop.add_reader(self._file, self._readable)

    def _make_raw(self, speed: int) -> None:
        mode = termios.tcgetattr(self._file)
        mode[0] = mode[1] = mode[3] = 0
        mode[2] = termios.CS8 | termios.CREAD | termios.CLOCAL
        mode[4] = mode[5] = speed
        termios.tcsetattr(self._file, termios.TCSANOW, mode)

    def _readable(self) -> None:
        try:
            content = os.read(self._file, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            content = b""  # it was unplugged
        if not content:
            self.close()
            return
        self._in.content += content
        self._in.came.set()
        if len(self._in.content) >= HELD_BYTES_MAX:
            self._is_reading = False
            self._loop.remove_reader(self._file)

    async def read(self) -> bytes:
        content = await self._in.read()
        if self._is_open and not self._is_reading:
            self._is_reading = True
            self._loop.add_reader(self._file, self._readable)
        return content

    def write(self, content: bytes) -> bool:
        if not self._is_open or len(self._out) + len(content) > HELD_BYTES_MAX:
            return False
        self._out += content
        self._writable()
        return self._is_open

    def _writable(self) -> None:
        try:
            del self._out[: os.write(self._file, self._out)]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EINTR:
                self.close()
                return
        if self._out:
            self._loop.add_writer(self._file, self._writable)
        else:
            self._loop.remove_writer(self._file)

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._file)
        self._loop.remove_writer(self._file)
        with contextlib.suppress(OSError):
            os.close(self._file)
        self._in.end()


class MemoryLine:
    """`Line` in memory; `memory_line` makes both ends."""

    def __init__(self, passes: Callable[[bytes], bytes]) -> None:
        self._in = _Inbox()
        self._passes = passes
        self.other: MemoryLine

    async def read(self) -> bytes:
        return await self._in.read()

    def write(self, content: bytes) -> bool:
        far = self.other._in
        if far.ended or self._in.ended or len(far.content) + len(content) > HELD_BYTES_MAX:
            return False
        far.content += self._passes(content)
        far.came.set()
        return True

    def close(self) -> None:
        self._in.end()
        self.other._in.end()


def memory_line(passes: Callable[[bytes], bytes] = bytes) -> tuple[MemoryLine, MemoryLine]:
    """Both ends of a line; ``passes`` makes of what is written what comes out, noise and losses too."""
    here, there = MemoryLine(passes), MemoryLine(passes)
    here.other, there.other = there, here
    return here, there


def _refused(path: str, why: str, next_step: str) -> HostError:
    return HostError("host.line", f"{path} cannot be used as a serial line", why=why, next_step=next_step)
