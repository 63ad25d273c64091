"""The part of a bus that only asks its server: the same for a nats-server and for its twin."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from ganglion.messaging.answers import NO_CONSUMER, NO_MESSAGE, ApiRefused
from ganglion.messaging.bus import Stored, StreamState
from ganglion.messaging.cluster import Replicas
from ganglion.messaging.subjects import BULK, LANES, Lane


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

    async def replicas(self, stream: str) -> Replicas:
        """Which servers of a cluster have a stream; of a single server's nobody leads and nobody lags."""
        cluster = (await self.ask(f"STREAM.INFO.{stream}", {})).get("cluster") or {}
        others = cluster.get("replicas") or ()
        lag = (r["name"] for r in others if not r.get("current") or r.get("offline"))
        return Replicas(str(cluster.get("leader") or ""), tuple(sorted(map(str, lag))))

    async def purge(self, stream: str, up_to_seq: int, among: str = "") -> None:
        # Purging beyond the end would move last_seq, which others count by.
        up_to = min(up_to_seq, (await self.state(stream)).last_seq)
        if up_to > 0:
            only = {"filter": among} if among else {}
            await self.ask(f"STREAM.PURGE.{stream}", {"seq": up_to + 1, **only})

    async def newest(self, stream: str, among: str) -> Stored | None:
        return await self._held(stream, {"last_by_subj": among})

    async def following(self, stream: str, among: str, after_seq: int) -> Stored | None:
        return await self._held(stream, {"next_by_subj": among, "seq": after_seq + 1})

    async def _held(self, stream: str, which: Mapping[str, Any]) -> Stored | None:
        try:
            found = (await self.ask(f"STREAM.MSG.GET.{stream}", which))["message"]
        except ApiRefused as refusal:
            if refusal.number == NO_MESSAGE:
                return None
            raise
        payload = base64.b64decode(found.get("data", ""))
        return Stored(int(found["seq"]), found["subject"], payload, _headers(found.get("hdrs", "")))

    async def delivered(self, stream: str) -> int:
        last = (await self.state(stream)).last_seq
        infos = {lane: await self._lane_info(stream, lane) for lane in LANES}
        if infos[BULK] is None:
            return 0
        return min([await self._delivered(stream, lane, info, last) for lane, info in infos.items()])

    async def _delivered(self, stream: str, lane: Lane, info: Mapping[str, Any] | None, last_seq: int) -> int:
        """Up to where the parent has all of a lane; ``last_seq``: where the stream ended before the lane was asked."""
        # A consumer that never delivered says 0, or one less than the stream's first number.
        floor = 0 if info is None else int(info["ack_floor"]["stream_seq"])
        if floor >= last_seq:
            return last_seq
        # Where the lane goes on after that: the stream itself is asked, not the consumer's counters.
        owed = await self.following(stream, lane.filter, floor)
        return last_seq if owed is None else min(last_seq, owed.seq - 1)

    async def _lane_info(self, stream: str, lane: Lane) -> dict[str, Any] | None:
        try:
            return await self.ask(f"CONSUMER.INFO.{stream}.{lane.consumer}", {})
        except ApiRefused as refusal:
            if refusal.number == NO_CONSUMER:
                return None
            raise

    async def drawn(self, stream: str) -> bool:
        """True while a parent draws from an outbox: it has bound the outbox's consumer."""
        return bool((await self.ask(f"CONSUMER.INFO.{stream}.{BULK.consumer}", {})).get("push_bound"))


def _headers(encoded: str) -> dict[str, str]:
    lines = base64.b64decode(encoded).decode(errors="replace").split("\r\n")[1:]
    # What nats-server itself adds for MQTT has no space behind the colon.
    named = (line.partition(":") for line in lines if line)
    return {name: value.strip() for name, _, value in named}
