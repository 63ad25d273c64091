"""SLIP with a check, in C and in Python: one suite, and the same datagrams from the same bytes, noise included."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import cffi
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ganglion.connectors.serial.slip import CHECK_BYTES, END, Frames, encode
from ganglion.core.errors import DataError
from ganglion.kernels.c.toolchain import build_library, compilers
from tests.device.firmware.benches import needs_compiler

ROOM = 64
FFI: Any = cffi.FFI()
FFI.cdef(
    """
    typedef struct { uint8_t *at; uint32_t room, size; uint8_t is_escaped, is_bad;
      uint32_t received, bad_check, bad_escape, too_long; } gd_slip;
    typedef struct { const uint8_t *at; uint32_t size, next; uint16_t check; uint8_t step, escaped; } gd_slip_sender;
    uint16_t gd_slip_check(uint16_t check, const uint8_t *at, uint32_t n);
    void gd_slip_start(gd_slip *s, uint8_t *memory, uint32_t bytes);
    uint32_t gd_slip_receive(gd_slip *s, uint8_t byte);
    void gd_slip_send(gd_slip_sender *s, const uint8_t *datagram, uint32_t n);
    int32_t gd_slip_next(gd_slip_sender *s);
    """
)


class InC:
    """The firmware's side, with the calls of `Frames` and `encode`."""

    def __init__(self, c: Any) -> None:
        self._c = c
        self._memory = FFI.new("uint8_t[]", ROOM + CHECK_BYTES + 8)
        self._memory[ROOM + CHECK_BYTES : ROOM + CHECK_BYTES + 8] = bytes([0xA5]) * 8
        self._slip = FFI.new("gd_slip *")
        c.gd_slip_start(self._slip, self._memory, ROOM + CHECK_BYTES)

    def take(self, content: bytes) -> list[bytes]:
        found = [
            bytes(FFI.buffer(self._slip.at, size))
            for byte in content
            if (size := self._c.gd_slip_receive(self._slip, byte))
        ]
        assert bytes(FFI.buffer(self._memory))[-8:] == bytes([0xA5]) * 8, "written beyond its memory"
        return found

    @property
    def broken(self) -> int:
        return int(self._slip.bad_check + self._slip.bad_escape + self._slip.too_long)

    def encode(self, datagram: bytes) -> bytes:
        sender, kept = FFI.new("gd_slip_sender *"), FFI.new("uint8_t[]", datagram)
        self._c.gd_slip_send(sender, kept, len(datagram))
        out = bytearray()
        while (byte := self._c.gd_slip_next(sender)) >= 0:
            out.append(byte)
        assert self._c.gd_slip_next(sender) == -1
        return bytes(out)


class InPython:
    def __init__(self) -> None:
        self._frames = Frames(ROOM)
        self.take = self._frames.take

    @property
    def broken(self) -> int:
        counts = self._frames.counts
        return counts.bad_check + counts.bad_escape + counts.too_long

    def encode(self, datagram: bytes) -> bytes:
        return encode(datagram, ROOM)


@pytest.fixture(scope="module")
def c(tmp_path_factory):
    runtime = files("ganglion.device.firmware").joinpath("runtime")
    source = "".join(runtime.joinpath(f"slip.{end}").read_text() for end in "hc").replace(
        '#include "slip.h"', ""
    )
    return FFI.dlopen(str(build_library(source, compilers()[0], tmp_path_factory.mktemp("slip"), ("-O2",))))


@pytest.fixture(scope="module", params=[pytest.param("c", marks=needs_compiler), "python"])
def new(request: pytest.FixtureRequest) -> Callable[[], Any]:
    if request.param == "python":
        return InPython
    loaded = request.getfixturevalue("c")
    return lambda: InC(loaded)


datagrams = st.binary(min_size=1, max_size=ROOM) | st.lists(
    st.sampled_from([0xC0, 0xDB, 0xDC, 0xDD, 0x00]), min_size=1, max_size=ROOM
).map(bytes)
noise = st.lists(datagrams | st.binary(max_size=3 * ROOM), max_size=6).map(b"".join)
TWO = st.lists(datagrams, max_size=4)


@pytest.mark.parametrize(
    "datagram, line",
    [
        (b"123456789", "c0 31 32 33 34 35 36 37 38 39 29 b1 c0"),  # the check value of CRC-16/IBM-3740
        (b"\xc0\xdb", "c0 db dc db dd"),  # RFC 1055: END becomes ESC ESC_END, ESC becomes ESC ESC_ESC
    ],
)
def test_what_stands_on_the_line(new, datagram: bytes, line: str) -> None:
    assert new().encode(datagram).startswith(bytes.fromhex(line))


@given(TWO, st.data())
def test_datagrams_come_as_they_were_sent_in_any_pieces(new, sent: list[bytes], data: st.DataObject) -> None:
    one = new()
    line = b"".join(one.encode(d) for d in sent)
    cut = data.draw(st.integers(0, len(line)))
    assert one.take(line[:cut]) + one.take(line[cut:]) == sent
    assert one.broken == 0


@given(noise, TWO)
@example(b"\xdb", [b"x"])
@example(b"\xc0" + bytes(10 * ROOM), [b"x"])
def test_frames_after_noise_are_all_there(new, before: bytes, sent: list[bytes]) -> None:
    one = new()
    one.take(before)
    got = [d for part in sent for d in one.take(one.encode(part))]
    assert got[len(got) - len(sent) :] == sent, "what came first may end a frame of the noise"


@given(datagrams, st.data())
def test_a_broken_frame_is_never_another_datagram(new, datagram: bytes, data: st.DataObject) -> None:
    """Up to 16 bits in a row that are wrong are always found by the check, if no END or ESC comes in."""
    one = new()
    line = bytearray(one.encode(datagram))
    at = data.draw(st.integers(1, len(line) - 2))
    line[at] ^= data.draw(st.integers(1, 255))
    got = one.take(bytes(line))
    special = {0xC0, 0xDB}
    if not special & {line[at], one.encode(datagram)[at]} and line[at - 1] != 0xDB:
        assert got == [] and one.broken == 1


@needs_compiler
@given(noise, TWO, noise)
def test_both_sides_make_the_same_of_any_bytes(c, before: bytes, sent: list[bytes], after: bytes) -> None:
    line = before + b"".join(encode(d, ROOM) for d in sent) + after + END
    ours, theirs = InPython(), InC(c)
    assert ours.take(line) == theirs.take(line)
    assert ours.broken == theirs.broken


def test_what_is_held_is_bounded() -> None:
    frames = Frames(ROOM)
    for _ in range(1000):
        assert frames.take(bytes(ROOM)) == []
    assert len(frames._held) == 0 and frames.take(b"\xc0") == []
    assert frames.counts.too_long == 1


@pytest.mark.parametrize("size", [0, ROOM + 1])
def test_what_no_frame_holds_is_refused(size: int) -> None:
    with pytest.raises(DataError) as raised:
        encode(bytes(size), ROOM)
    assert raised.value.code == "serial.size"
