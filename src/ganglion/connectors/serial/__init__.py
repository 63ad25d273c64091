"""Devices without IP: the same CoAP datagrams over a line of bytes, framed by SLIP with a check (docs/adr/0015).

`Frames` reads a line's bytes, `encode` writes them, `Bridge` stands between a line and a gateway's UDP socket.
"""

from ganglion.connectors.serial.bridge import Bridge, BridgeCounts
from ganglion.connectors.serial.slip import FrameCounts, Frames, encode

__all__ = ["Bridge", "BridgeCounts", "FrameCounts", "Frames", "encode"]
