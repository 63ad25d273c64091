"""One server: its streams' administration, plain messages, and who waits for news."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ganglion.messaging.answers import (
    ALONE,
    FULL,
    IN_USE,
    NO_CONSUMER,
    NO_MESSAGE,
    NO_SEQUENCE,
    NO_SPACE_RESERVED,
    NO_STREAM,
    NOT_PURGED,
    WRONG_STREAM,
)
from ganglion.messaging.bus import Stored
from ganglion.messaging.fences import AMONG
from ganglion.messaging.memory.links import Link
from ganglion.messaging.memory.pins import Deliver, PulledConsumer
from ganglion.messaging.memory.store import Consumer, Store, Stream, pattern
from ganglion.messaging.pins import Delivered

LISTENER_WAITING_MAX = 10_000
_WRONG_LAST = 10071


@dataclass(slots=True, eq=False)
class Listener:
    """Who gets plain messages of a subject."""

    subject: str
    waiting: asyncio.Queue[Stored | None] = field(default_factory=asyncio.Queue)

    def offer(self, message: Stored) -> None:
        """A slow listener loses what it cannot hold, as core NATS has it."""
        if pattern(self.subject).fullmatch(message.subject) and self.waiting.qsize() < LISTENER_WAITING_MAX:
            self.waiting.put_nowait(message)


class MemoryServer:
    """A site's server on its `Store`. It may be stopped, killed, or lose power, and start again on the same store.

    ``sync_always`` False: acknowledged messages are synced only by `Store.sync`, as with nats-server's default.
    """

    def __init__(self, site: str, store: Store, *, store_max_bytes: int, sync_always: bool = True) -> None:
        self.site = site
        self.store = store
        self.running = True
        self.shut = False
        self.incarnation = 0
        self.uplink: Link | None = None
        self.downlinks: list[Link] = []
        self.listeners: list[Listener] = []
        self._store_max_bytes = store_max_bytes
        self._sync_always = sync_always
        self.on_append: Callable[[], None] = lambda: None
        self._changed = asyncio.Event()

    # --- life ---

    def stop(self) -> None:
        """SIGKILL: what was written stays."""
        self.running = self.shut = False
        self.incarnation += 1
        self.store.crash()
        self.break_links()
        self.wake()

    def start(self) -> None:
        """Runs again on the same store."""
        self.running = True
        self.wake()

    def break_links(self) -> None:
        for link in (self.uplink, *self.downlinks):
            if link is not None:
                link.broken()

    def changed(self) -> asyncio.Event:
        """Set at the next news of any kind."""
        return self._changed

    def wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # --- data ---

    def append(
        self, stream: str, subject: str, payload: bytes, headers: Mapping[str, str], expect_last: int | None
    ) -> dict[str, Any] | None:
        """The server's answer to a publication with a fence; None when there comes none, as on a full disk."""
        held = self.store.streams.get(stream)
        if held is None or self.shut or not held.takes(subject):
            return _error(400, WRONG_STREAM, "expected stream does not match")
        among = headers.get(AMONG)
        newest = held.newest(among) if among else None
        last_seq = (newest.seq if newest else 0) if among else held.last_seq
        if expect_last is not None and last_seq != expect_last:
            return _error(400, _WRONG_LAST, f"wrong last sequence: {last_seq}")
        if not self.can_write(held):
            return None
        seq = held.add(subject, payload, headers)
        if seq is None:
            return _error(503, FULL, "maximum bytes exceeded")
        self.stored(held)
        self.on_append()
        if self.uplink is not None:
            self.uplink.pump()
        return {"stream": stream, "seq": seq}

    def can_write(self, stream: Stream) -> bool:
        """False on a full disk, and from then on until the server starts anew."""
        stream.broken = stream.broken or self.store.full
        return not stream.broken

    def take(self, stream: Stream) -> bool:
        """Whether a drawn message may be written. A full disk makes the server shut all its streams."""
        if self.store.full:
            self.shut = True
            self.break_links()
        return not self.shut and self.can_write(stream)

    def stored(self, stream: Stream) -> None:
        """A stream has grown."""
        if self._sync_always:
            stream.sync()
        for (name, _), consumer in tuple(self.store.pulled.items()):
            if self.store.streams.get(name) is stream:
                consumer.serve(stream)
        self.wake()

    def publish(self, subject: str, payload: bytes) -> None:
        """A plain message: stored where a stream takes its subject, and handed to who listens."""
        for name, stream in self.store.streams.items():
            if stream.takes(subject):
                self.append(name, subject, payload, {}, None)
        for listener in tuple(self.listeners):
            listener.offer(Stored(0, subject, payload, {}))

    # --- administration ---

    def ask(self, subject: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer of ``$JS.API.<subject>``, of those requests that we make; None for silence."""
        if self.shut or (self.store.full and subject.split(".")[1] == "CREATE"):
            return None
        match subject.split("."):
            case ["STREAM", "CREATE", name]:
                return self._create(name, dict(request))
            case ["STREAM", "UPDATE", name]:
                return self._update(name, dict(request))
            case ["STREAM", "INFO", name]:
                return self._info(name)
            case ["STREAM", "PURGE", name]:
                return self._purge(name, int(request["seq"]), str(request.get("filter", "")))
            case ["STREAM", "MSG", "GET", name]:
                return self._message(name, request)
            case ["STREAM", "MSG", "DELETE", name]:
                return self._delete(name, int(request["seq"]))
            case ["CONSUMER", "UNPIN", stream, name]:
                return self._pulled(stream, name, "UNPIN", request)
            case ["CONSUMER", "CREATE", stream, name, *_filter]:
                return self._consumer(stream, name, dict(request["config"]))
            case ["CONSUMER", "RESET", stream, name]:
                if (stream, name) in self.store.pulled:
                    return self._pulled(stream, name, "RESET", request)
                return self._reset(stream, name, int(request["seq"]))
            case ["CONSUMER", "INFO", stream, name]:
                return self._consumer_info(stream, name)
        raise AssertionError(f"the twin does not know {subject}: teach it, with a conformance test")

    def _create(self, name: str, config: dict[str, Any]) -> dict[str, Any]:
        held = self.store.streams.get(name)
        if held is not None:
            same = held.config == config
            return self._info(name) if same else _error(400, IN_USE, "stream name already in use")
        if config["num_replicas"] > 1:
            return _error(500, ALONE, "replicas > 1 not supported in non-clustered mode")
        if not self._reserves(name, config):
            return _error(500, NO_SPACE_RESERVED, "insufficient storage resources available")
        self.store.streams[name] = Stream(config)
        self._sources(self.store.streams[name])
        return self._info(name)

    def _update(self, name: str, config: dict[str, Any]) -> dict[str, Any]:
        held = self.store.streams.get(name)
        if held is None:
            return _error(404, NO_STREAM, "stream not found")
        if not self._reserves(name, config):
            return _error(500, NO_SPACE_RESERVED, "insufficient storage resources available")
        held.config = config
        self._sources(held)
        return self._info(name)

    def _reserves(self, name: str, config: Mapping[str, Any]) -> bool:
        others = sum(s.max_bytes for n, s in self.store.streams.items() if n != name)
        return others + max(0, int(config["max_bytes"])) <= self._store_max_bytes

    def _sources(self, stream: Stream) -> None:
        """Positions live as long as their source is configured; what became possible begins to move."""
        names = {f"{s['name']}/{s['consumer']['name']}" for s in stream.config.get("sources") or ()}
        stream.sourced = {n: stream.sourced.get(n, 0) for n in sorted(names)}
        stream.sync()
        self.wake()
        for link in self.downlinks:
            link.pump()

    def _info(self, name: str) -> dict[str, Any]:
        held = self.store.streams.get(name)
        if held is None:
            return _error(404, NO_STREAM, "stream not found")
        state = {
            "messages": len(held.held),
            "bytes": held.size_bytes,
            "first_seq": held.first_seq if held.last_seq else 0,
            "last_seq": held.last_seq,
        }
        return {"config": held.config, "state": state}

    def _purge(self, name: str, keep_from_seq: int, subjects: str) -> dict[str, Any]:
        held = self.store.streams.get(name)
        if held is None:
            return _error(404, NO_STREAM, "stream not found")
        if held.broken and held.held and held.held[0].seq < keep_from_seq:
            return _error(500, NOT_PURGED, "no space left on device")
        up_to = keep_from_seq - 1
        purged = held.purge_some(up_to, subjects) if subjects else held.purge(up_to)
        self._removed(held)
        return {"success": True, "purged": purged}

    def _removed(self, held: Stream) -> None:
        """There is room again."""
        held.sync()
        self.wake()
        for link in self.downlinks:
            link.pump()

    def _message(self, name: str, which: Mapping[str, Any]) -> dict[str, Any]:
        held = self.store.streams.get(name)
        if held is None:
            return _error(404, NO_STREAM, "stream not found")
        if "last_by_subj" in which:
            found = held.newest(which["last_by_subj"])
        else:
            found = held.after(int(which["seq"]) - 1, which.get("next_by_subj", ""))
            if found is not None and "next_by_subj" not in which and found.seq != which["seq"]:
                found = None
        if found is None:
            return _error(404, NO_MESSAGE, "no message found")
        lines = "".join(f"{k}: {v}\r\n" for k, v in found.headers.items())
        message = {"subject": found.subject, "seq": found.seq, "data": _text(found.payload)}
        return {"message": message | ({"hdrs": _text(f"NATS/1.0\r\n{lines}\r\n".encode())} if lines else {})}

    def _pulled(self, stream: str, name: str, what: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Of a pinned consumer: go back, or let another client have it."""
        known = self.store.pulled.get((stream, name))
        if known is None:
            return _error(404, NO_CONSUMER, "consumer not found")
        if what == "RESET":
            known.reset(int(request["seq"]))
        else:
            known.unpin()
        known.serve(self.store.streams[stream])
        return known.info(self.store.streams[stream])

    def pull(self, stream: str, consumer: str, request: Mapping[str, Any], deliver: Deliver) -> None:
        """A client asks a pinned consumer for messages."""
        known = self.store.pulled.get((stream, consumer))
        if known is None:
            deliver(Delivered("503"))
            return
        known.pull(self.store.streams[stream], request, deliver)

    def _delete(self, name: str, seq: int) -> dict[str, Any]:
        held = self.store.streams.get(name)
        if held is None:
            return _error(404, NO_STREAM, "stream not found")
        if not held.delete(seq):
            return _error(400, NO_SEQUENCE, f"sequence {seq} not found")
        self._removed(held)
        return {"success": True}

    def _consumer(self, stream: str, name: str, config: dict[str, Any]) -> dict[str, Any]:
        if stream not in self.store.streams:
            return _error(404, NO_STREAM, "stream not found")
        if "priority_policy" in config:
            pulled = self.store.pulled.setdefault((stream, name), PulledConsumer(name, stream, config))
            pulled.config = config
            return pulled.info(self.store.streams[stream])
        known = self.store.consumers.setdefault((stream, name), Consumer(config))
        known.config = config
        if self.uplink is not None:
            self.uplink.pump()
        return self._consumer_info(stream, name)

    def _reset(self, stream: str, name: str, seq: int) -> dict[str, Any]:
        known = self.store.consumers[stream, name]
        known.floor = known.saved_floor = seq - 1
        known.rewind(known.floor)
        known.told = True
        if self.uplink is not None:
            self.uplink.pump()
        return self._consumer_info(stream, name)

    def _consumer_info(self, stream: str, name: str) -> dict[str, Any]:
        held = self.store.streams.get(stream)
        if held is None:
            return _error(404, NO_STREAM, "stream not found")
        pulled = self.store.pulled.get((stream, name))
        if pulled is not None:
            return pulled.info(held)
        known = self.store.consumers.get((stream, name))
        if known is None:
            return _error(404, NO_CONSUMER, "consumer not found")
        pending = sum(1 for _ in held.beyond(max(known.sent_seq, known.floor), known.filter))
        return {
            "stream_name": stream,
            "name": name,
            "config": known.config,
            "ack_floor": {"consumer_seq": known.acknowledged, "stream_seq": known.floor},
            "num_ack_pending": known.under_way,
            "num_pending": pending,
            "push_bound": self.uplink is not None and self.uplink.bound,
        }


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _error(code: int, number: int, description: str) -> dict[str, Any]:
    return {"error": {"code": code, "err_code": number, "description": description}}
