"""Datagrams on a line of bytes: SLIP (RFC 1055) around each datagram and its CRC-16/IBM-3740.

The twin of the firmware's ``runtime/slip.c``. The check has the polynomial 0x1021, the first value 0xFFFF, no
reflection and nothing added; it is sent high byte first. It misses one broken frame in 65,536.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from dataclasses import dataclass

from ganglion.core.errors import DataError

END, ESC, ESC_END, ESC_ESC = b"\xc0", b"\xdb", b"\xdc", b"\xdd"
CHECK_BYTES = 2
DATAGRAM_BYTES_MAX = 4096
"""The largest datagram that devices and gateways send each other."""
_BAD_ESCAPE = re.compile(rb"\xdb(?![\xdc\xdd])")


def encode(datagram: bytes, datagram_bytes_max: int = DATAGRAM_BYTES_MAX) -> bytes:
    """The bytes of one frame. Raises `DataError` ``serial.size`` for an empty or too large datagram."""
    if not 0 < len(datagram) <= datagram_bytes_max:
        raise DataError(
            "serial.size",
            f"a datagram of {len(datagram)} bytes cannot go over the line",
            why=f"frames hold 1 to {datagram_bytes_max} bytes",
            next_step="send smaller messages: fewer rows, or a smaller frame",
        )
    content = datagram + crc_hqx(datagram, 0xFFFF).to_bytes(CHECK_BYTES, "big")
    return END + content.replace(ESC, ESC + ESC_ESC).replace(END, ESC + ESC_END) + END


@dataclass(slots=True)
class FrameCounts:
    """What became of the frames on a line; nothing is dropped without being counted here."""

    received: int = 0
    """Whole frames with the right check."""
    bad_check: int = 0
    """Frames whose check is wrong, or that are too short to have one; noise between frames looks like this."""
    bad_escape: int = 0
    """Frames with an escape that RFC 1055 does not know."""
    too_long: int = 0
    """Frames that are larger than a datagram may be."""


class Frames:
    """Takes a line's bytes in whatever pieces they come and gives the datagrams. Holds one frame at most."""

    def __init__(self, datagram_bytes_max: int = DATAGRAM_BYTES_MAX) -> None:
        self.counts = FrameCounts()
        self._content_bytes_max = datagram_bytes_max + CHECK_BYTES
        self._held = bytearray()
        self._is_too_long = False

    def take(self, content: bytes) -> list[bytes]:
        """The datagrams that these bytes complete, oldest first; broken frames are counted."""
        datagrams = []
        *ended, rest = content.split(END)
        for piece in ended:
            self._hold(piece)
            datagram = self._end()
            if datagram is not None:
                datagrams.append(datagram)
        self._hold(rest)
        return datagrams

    def _hold(self, piece: bytes) -> None:
        # Escapes at most double what a frame holds: more than that cannot become one.
        if self._is_too_long or len(self._held) + len(piece) > 2 * self._content_bytes_max:
            self._is_too_long = True
            self._held.clear()
        else:
            self._held += piece

    def _end(self) -> bytes | None:
        content, is_too_long = bytes(self._held), self._is_too_long
        self._held.clear()
        self._is_too_long = False
        if not content and not is_too_long:  # two ENDs in a row, which is how frames meet
            return None
        if _BAD_ESCAPE.search(content):
            self.counts.bad_escape += 1
            return None
        content = content.replace(ESC + ESC_END, END).replace(ESC + ESC_ESC, ESC)
        if is_too_long or len(content) > self._content_bytes_max:
            self.counts.too_long += 1
        elif len(content) <= CHECK_BYTES or crc_hqx(content, 0xFFFF) != 0:
            self.counts.bad_check += 1
        else:
            self.counts.received += 1
            return content[:-CHECK_BYTES]
        return None
