"""What a site could not keep, told to its parent in the place of the rows: which numbers of which origin, how many.

A message that carries such claims is CBOR of [format, claims, message or None]: the message is the one it came with, as
`core.wire` has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ganglion.core.errors import DataError
from ganglion.core.packing import pack, unpack

FORMAT = 1
CLAIMS_MAX = 10_000
NUMBER_MAX = (1 << 63) - 1
"""Reports and stored messages hold no larger one; sums stop there."""
_FIRST_BYTE = 0x83
"""CBOR's array of three, with which no message of `core.wire` begins."""


@dataclass(frozen=True, slots=True)
class Shed:
    """``rows`` rows of a stream and origin, with numbers from ``first_seq`` to ``last_seq``, exist no more.

    They went in ``messages`` messages of ``payload_bytes`` in all. A later claim with the same ``first_seq`` contains
    the earlier one.
    """

    stream: str
    origin: str
    first_seq: int
    last_seq: int
    rows: int
    messages: int
    payload_bytes: int

    def plus(self, later: Shed) -> Shed:
        """Both as one claim; they must be of one stream and origin, in either order."""
        assert (self.stream, self.origin) == (later.stream, later.origin)
        return replace(
            self,
            first_seq=min(self.first_seq, later.first_seq),
            last_seq=max(self.last_seq, later.last_seq),
            rows=min(NUMBER_MAX, self.rows + later.rows),
            messages=min(NUMBER_MAX, self.messages + later.messages),
            payload_bytes=min(NUMBER_MAX, self.payload_bytes + later.payload_bytes),
        )


def merged(claims: Iterable[Shed]) -> tuple[Shed, ...]:
    """One claim per stream and origin, in the order of their first ones."""
    found: dict[tuple[str, str], Shed] = {}
    for claim in claims:
        key = (claim.stream, claim.origin)
        found[key] = found[key].plus(claim) if key in found else claim
    return tuple(found.values())


def wrap(claims: Iterable[Shed], message: bytes | None) -> bytes:
    """The message with the claims before it; at most `CLAIMS_MAX` of them."""
    told = [[getattr(c, name) for name in Shed.__dataclass_fields__] for c in claims]
    assert 1 <= len(told) <= CLAIMS_MAX
    return pack([FORMAT, told, message])


def unwrap(content: bytes) -> tuple[tuple[Shed, ...], bytes | None]:
    """(claims, message); no claims for a message that carries none. Raises `DataError` ``shed.corrupt``."""
    if content[:1] != bytes([_FIRST_BYTE]):
        return (), content
    try:
        number, told, message = unpack(content)
        if number != FORMAT or not 1 <= len(told) <= CLAIMS_MAX:
            raise ValueError(f"format {number}, {len(told)} claims")
        if not (message is None or isinstance(message, bytes)):
            raise ValueError("its message is not bytes")
        return tuple(_claim(*one) for one in told), message
    except (DataError, TypeError, ValueError) as error:
        raise DataError(
            "shed.corrupt",
            "a message that tells of shed rows cannot be read",
            why=str(error),
            next_step="look at its sender's log",
        ) from error


def _claim(
    stream: str, origin: str, first_seq: int, last_seq: int, rows: int, messages: int, payload_bytes: int
) -> Shed:
    numbers = (first_seq, last_seq, rows, messages, payload_bytes)
    if not (isinstance(stream, str) and isinstance(origin, str) and all(isinstance(n, int) for n in numbers)):
        raise ValueError("a claim has parts of other types")
    if not all(-NUMBER_MAX <= n <= NUMBER_MAX for n in numbers):
        raise ValueError("a claim has numbers beyond 64 bits")
    if not (first_seq <= last_seq and rows >= 1 and messages >= 1 and payload_bytes >= 0):
        raise ValueError(f"a claim of {rows} rows from {first_seq} to {last_seq}")
    return Shed(stream, origin, first_seq, last_seq, rows, messages, payload_bytes)
