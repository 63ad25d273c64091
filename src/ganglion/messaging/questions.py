"""The part of a bus that only asks its server: the same for a nats-server and for its twin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from ganglion.messaging.answers import NO_CONSUMER, ApiRefused
from ganglion.messaging.bus import StreamState
from ganglion.messaging.subjects import UPLINK_CONSUMER


class Questions(ABC):
    """`Bus`'s questions, and its purge, in terms of the server's administrative interface."""

    @abstractmethod
    async def ask(
        self, subject: str, request: Mapping[str, Any], *, domain: str | None = None
    ) -> dict[str, Any]:
        """See `StreamApi`."""

    async def state(self, stream: str) -> StreamState:
        held = (await self.ask(f"STREAM.INFO.{stream}", {}))["state"]
        # The server says 0 for the first message of a stream that never had one.
        first = int(held["first_seq"]) or 1
        last = int(held["last_seq"])
        return StreamState(
            first if held["messages"] else last + 1, last, int(held["messages"]), int(held["bytes"])
        )

    async def purge(self, stream: str, up_to_seq: int) -> None:
        # Purging beyond the end would move last_seq, which others count by.
        up_to = min(up_to_seq, (await self.state(stream)).last_seq)
        if up_to > 0:
            await self.ask(f"STREAM.PURGE.{stream}", {"seq": up_to + 1})

    async def delivered(self, stream: str) -> int:
        try:
            info = await self.ask(f"CONSUMER.INFO.{stream}.{UPLINK_CONSUMER}", {})
        except ApiRefused as refusal:
            if refusal.number == NO_CONSUMER:
                return 0
            raise
        # A consumer that never delivered says 0, or one less than the stream's first number.
        return int(info["ack_floor"]["stream_seq"])

    async def drawn(self, stream: str) -> bool:
        """True while a parent draws from an outbox: it has bound the outbox's consumer."""
        return bool((await self.ask(f"CONSUMER.INFO.{stream}.{UPLINK_CONSUMER}", {})).get("push_bound"))
