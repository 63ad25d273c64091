"""The headers by which a message server stores a message only where it belongs, and only after what it must follow."""

from __future__ import annotations

from collections.abc import Mapping

STREAM = "Nats-Expected-Stream"
LAST = "Nats-Expected-Last-Sequence"
LAST_AMONG = "Nats-Expected-Last-Subject-Sequence"
AMONG = "Nats-Expected-Last-Subject-Sequence-Subject"


def fenced(
    headers: Mapping[str, str] | None, stream: str, expect_last: int | None, among: str
) -> dict[str, str]:
    """``headers`` and those of the fence, see `Bus.append`."""
    sent = {**(headers or {}), STREAM: stream}
    if expect_last is None:
        return sent
    if among:
        return sent | {LAST_AMONG: str(expect_last), AMONG: among}
    return sent | {LAST: str(expect_last)}
