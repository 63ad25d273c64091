"""UDP in IPv4 in Ethernet, as the one neighbour of a board without ARP sees it (RFC 768, RFC 791, IEEE 802.3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

HOST_MAC, BOARD_MAC = bytes([2, 0, 0, 0, 0, 1]), bytes([2, 0, 0, 0, 0, 2])
HOST_IP, BOARD_IP = "10.77.0.1", "10.77.0.2"
BUS_PORT, COAP_PORT = 4712, 5683
CARRIED_BYTES_MAX = 1500 - 28
_HEAD = struct.Struct(">6s6sHBBHHHBBH4s4sHHHH")
_IPV4, _UDP, _DONT_FRAGMENT = 0x0800, 17, 0x4000


@dataclass(frozen=True, slots=True)
class Packet:
    """What a UDP datagram carries, and between whom."""

    source: tuple[str, int]
    target: tuple[str, int]
    carried: bytes


def checksum(header: bytes) -> int:
    """RFC 1071 over 16-bit words; 0 when the header's own checksum is in it and right."""
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def wrap(packet: Packet) -> bytes:
    """An Ethernet frame from the host to the board, without its check."""
    assert len(packet.carried) <= CARRIED_BYTES_MAX
    size = 28 + len(packet.carried)
    (source, source_port), (target, target_port) = packet.source, packet.target

    def head(check: int) -> bytes:
        ip = (0x45, 0, size, 0, _DONT_FRAGMENT, 64, _UDP, check, _packed(source), _packed(target))
        return _HEAD.pack(BOARD_MAC, HOST_MAC, _IPV4, *ip, source_port, target_port, size - 20, 0)

    return head(checksum(head(0)[14:34])) + packet.carried


def unwrap(frame: bytes) -> Packet | None:
    """What a frame of the board carries; None for anything but UDP in one sound IPv4 packet."""
    if len(frame) < _HEAD.size:
        return None
    (
        _,
        _,
        kind,
        version,
        _,
        size,
        _,
        fragment,
        _,
        protocol,
        _,
        source,
        target,
        from_port,
        to_port,
        carried,
        _,
    ) = _HEAD.unpack_from(frame)
    if kind != _IPV4 or version != 0x45 or protocol != _UDP or fragment & 0x3FFF or checksum(frame[14:34]):
        return None
    if not 28 <= size <= len(frame) - 14 or not 8 <= carried <= size - 20:
        return None
    content = frame[_HEAD.size : _HEAD.size + carried - 8]
    return Packet((_text(source), from_port), (_text(target), to_port), content)


def _packed(address: str) -> bytes:
    return bytes(map(int, address.split(".")))


def _text(packed: bytes) -> str:
    return ".".join(map(str, packed))
