"""Watches the wire for rows that ask for a command, and for the commands: when each came and left."""

from __future__ import annotations

import zlib

import numpy as np

from ganglion.connectors.batch_senml import decode as decode_rows
from ganglion.connectors.coap.message import Code, Option, decode, texts
from ganglion.core.errors import DataError
from ganglion.core.packing import unpack
from ganglion.engine.graph import Graph
from ganglion.flow.assignment import Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.sim.virtual.network import Tap

DATAGRAMS_KNOWN_MAX = 100_000


class ReflexWatch:
    """Taps a network. What a row asks for is decided by a reflex graph of the watch's own, row by row."""

    def __init__(self, spec: FlowSpec, gateways: dict[int, Assignment]) -> None:
        self.arrived_ns: dict[tuple[str, int], int] = {}
        self.sent_ns: dict[tuple[str, int], int] = {}
        self.within_ns = min((a.within_ns for a in spec.reflexes), default=0)
        self._spec = spec
        self._gateways = {port: Graph(spec, one, "reflex") for port, one in gateways.items()}
        self._seen: dict[int, None] = {}
        self._rows: set[tuple[str, str, int]] = set()

    def tap(self, tap: Tap) -> None:
        """One datagram: rows that came to a gateway, or a command that left one."""
        if tap.kind == "arrived" and tap.target[1] in self._gateways:
            self._came(tap)
        elif tap.kind == "sent" and tap.source[1] in self._gateways:
            self._left(tap)

    def _came(self, tap: Tap) -> None:
        key = zlib.crc32(tap.data, tap.source[1])
        if key in self._seen:
            return
        self._seen[key] = None
        if len(self._seen) > DATAGRAMS_KNOWN_MAX:
            del self._seen[next(iter(self._seen))]
        try:
            message = decode(tap.data)
            path = texts(message.options, Option.URI_PATH)
            if message.code != Code.POST or len(path) != 2 or path[1] not in self._spec:
                return
            batch = decode_rows(message.payload, path[1], self._spec[path[1]].schema)
        except DataError:
            return
        fresh = np.array([(batch.stream, batch.origin, s) not in self._rows for s in batch.seq.tolist()])
        if not fresh.any():
            return
        batch = batch.take(fresh)
        self._rows.update((batch.stream, batch.origin, s) for s in batch.seq.tolist())
        for emission in self._gateways[tap.target[1]].push(batch):
            for seq in emission.item.seq.tolist():  # type: ignore[union-attr] # commands are rows
                self.arrived_ns.setdefault((batch.origin, seq), tap.now_ns)

    def _left(self, tap: Tap) -> None:
        try:
            message = decode(tap.data)
        except DataError:
            return
        if message.code == Code.PUT:
            command = unpack(message.payload)
            origin = command["id"].split(":")[1]
            self.sent_ns.setdefault((origin, command["seq"]), tap.now_ns)
