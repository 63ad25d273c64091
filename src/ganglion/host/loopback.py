"""The real machine's loopback ports."""

from __future__ import annotations

import secrets
import socket
import sys
from pathlib import Path

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_FIRST, _LAST = 16_384, 65_535
_LOCAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_LOCAL_RANGE = (32_768, _LAST)
"""What Linux and macOS give to connections lies in it."""
_FEW = 1_000
_TRIES_MAX = 100


def local_range() -> tuple[int, int]:
    """First and last port that the system gives to sockets that do not ask for one (ip(7))."""
    if sys.platform != "linux":
        return _USUAL_LOCAL_RANGE
    try:
        first, last = _LOCAL_RANGE.read_text().split()
        return int(first), int(last)
    except (OSError, ValueError):
        return _USUAL_LOCAL_RANGE


class SystemPorts:
    """`Ports` on the loopback interface.

    A free port lies outside the range the system gives out by itself: whoever asks for one listens there a second
    later, and until then any outgoing connection of the machine may be given a port of that range.
    """

    def free(self, kind: str = "tcp") -> int:
        first, last = local_range()
        usable = [p for p in range(_FIRST, _LAST + 1) if not first <= p <= last]
        if len(usable) >= _FEW:
            for _ in range(_TRIES_MAX):
                port = secrets.choice(usable)
                if _bound(port, kind, reuse=False) is not None:
                    return port
        chosen = _bound(0, kind, reuse=False)
        assert chosen is not None, "the system has no port left"
        return chosen

    def taken(self, port: int, kind: str = "tcp") -> bool:
        return _bound(port, kind, reuse=kind == "tcp") is None


def _bound(port: int, kind: str, *, reuse: bool) -> int | None:
    """The port a socket could be bound to a moment ago; None when somebody holds it."""
    with socket.socket(socket.AF_INET, _KINDS[kind]) as probe:
        if reuse:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return None
        return int(probe.getsockname()[1])
