"""How much of an outbox each stream takes, in chunks of messages that are shed together: bounded, whatever waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from ganglion.flow.stages import Backlog

CHUNKS = 64
"""A stream's part of an outbox is shed in about so many pieces."""
CHUNK_BYTES_MIN = 1 << 14
RESERVED_PART = 8
"""The last eighth of an outbox is for what is urgent, and for telling what was shed."""


@dataclass(slots=True)
class Chunk:
    """Messages of one stream that follow each other in the outbox, perhaps with others between them."""

    stream: str
    first_seq: int
    last_seq: int
    size_bytes: int


class Owed:
    """What declared streams take. ``cap_bytes``: the outbox's; sizes are as the message server counts them."""

    def __init__(self, declared: Mapping[str, Backlog], cap_bytes: int) -> None:
        self.total_bytes = 0
        self._declared = declared
        self._cap_bytes = cap_bytes
        self._chunks: dict[str, deque[Chunk]] = {
            s: deque() for s, b in declared.items() if b.budget_bytes or b.when_full != "wait"
        }
        self._bytes = dict.fromkeys(self._chunks, 0)

    def stored(self, stream: str, seq: int, size_bytes: int) -> None:
        """A message is in the outbox."""
        self.total_bytes += size_bytes
        chunks = self._chunks.get(stream)
        if chunks is None:
            return
        self._bytes[stream] += size_bytes
        if chunks and chunks[-1].size_bytes < self._chunk_bytes(stream):
            chunks[-1].last_seq = seq
            chunks[-1].size_bytes += size_bytes
        else:
            chunks.append(Chunk(stream, seq, seq, size_bytes))

    def _chunk_bytes(self, stream: str) -> int:
        most = self._declared[stream].budget_bytes or self._cap_bytes
        return max(CHUNK_BYTES_MIN, most // CHUNKS)

    def delivered(self, seq: int, size_bytes: int) -> None:
        """The parent has everything up to ``seq``; the outbox takes ``size_bytes``."""
        self.total_bytes = size_bytes
        for stream, chunks in self._chunks.items():
            while chunks and chunks[0].last_seq <= seq:
                self._bytes[stream] -= chunks.popleft().size_bytes

    def room(self, stream: str, size_bytes: int, *, reserved: bool = False) -> str:
        """What is used up for one more message: ``budget``, ``outbox``, or "" when there is room.

        ``reserved``: for a message that tells of shed ones.
        """
        backlog = self._declared.get(stream, Backlog())
        if reserved:
            most = self._cap_bytes - self._cap_bytes // (2 * RESERVED_PART)
            return "outbox" if self.total_bytes + size_bytes > most else ""
        if backlog.budget_bytes and self._bytes[stream] + size_bytes > backlog.budget_bytes:
            return "budget"
        most = self._cap_bytes - (0 if backlog.urgent else self._cap_bytes // RESERVED_PART)
        return "outbox" if self.total_bytes + size_bytes > most else ""

    def doomed(self, stream: str, used_up: str) -> Chunk | None:
        """The oldest chunk that the flow gives up for a message of ``stream``, no longer counted; None: it must wait.

        When the outbox is full, what keeps its newest rows makes room for what keeps all.
        """
        urgent = self._declared.get(stream, Backlog()).urgent
        willing = [
            s
            for s, chunks in self._chunks.items()
            if chunks
            and self._declared[s].when_full == "keep-newest"
            and (s == stream or (used_up == "outbox" and not urgent and not self._declared[s].urgent))
        ]
        if not willing:
            return None
        largest = stream if used_up == "budget" else max(willing, key=lambda s: (self._bytes[s], s))
        chunk = self._chunks[largest].popleft()
        self._bytes[largest] -= chunk.size_bytes
        self.total_bytes -= chunk.size_bytes
        return chunk
