"""Watches gateways' connections to brokers for readings that ask for a command, and for the commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ganglion.connectors.mqtt.packets import Publish
from ganglion.connectors.mqtt.reading import take
from ganglion.core.batch import Batch
from ganglion.engine.graph import Graph
from ganglion.flow.assignment import Assignment
from ganglion.flow.spec import FlowSpec
from ganglion.sim.virtual.reflexes import ReflexWatch
from ganglion.sim.virtual.streams import StreamSocket, StreamTap

Said = Callable[[Publish], Batch | None]
"""The reading that a message is; None for other messages."""


@dataclass(slots=True)
class _Heard:
    """What is known of one connection: bytes of packets that are not whole, readings that wait for their command."""

    arrived: bytearray = field(default_factory=bytearray)
    sent: bytearray = field(default_factory=bytearray)
    asking: list[tuple[str, int]] = field(default_factory=list)


class MqttReflexWatch:
    """Taps connections, and tells ``watch`` when a reading came to a gateway and when its command left.

    A reading that came just before its connection or its gateway's program ended came to nobody: the broker gives it
    again, and it counts from then.
    """

    def __init__(
        self, spec: FlowSpec, gateways: Mapping[str, Assignment], level: int, said: Said, watch: ReflexWatch
    ) -> None:
        """``gateways``: by machine."""
        self._gateways = {name: Graph(spec, one, "reflex") for name, one in gateways.items()}
        self._level = level
        self._said = said
        self._watch = watch
        self._heard: dict[StreamSocket, _Heard] = {}

    def tap(self, tap: StreamTap) -> None:
        """One write of a gateway, or one that it read, or the end of its connection."""
        if tap.machine not in self._gateways:
            return
        heard = self._heard.setdefault(tap.end, _Heard())
        if tap.kind == "over":
            for key in heard.asking:
                if key not in self._watch.sent_ns:
                    self._watch.arrived_ns.pop(key, None)
            del self._heard[tap.end]
        elif tap.kind == "arrived":
            heard.arrived += tap.data
            while (packet := take(heard.arrived, self._level)) is not None:
                if isinstance(packet, Publish):
                    self._came(tap, packet, heard)
        else:
            heard.sent += tap.data
            while (packet := take(heard.sent, self._level)) is not None:
                if isinstance(packet, Publish):
                    self._left(tap, packet)

    def _came(self, tap: StreamTap, packet: Publish, heard: _Heard) -> None:
        batch = self._said(packet)
        if batch is None:
            return
        for emission in self._gateways[tap.machine].push(batch):
            for seq in emission.item.seq.tolist():  # type: ignore[union-attr] # commands are rows
                key = (batch.origin, seq)
                self._watch.arrived_ns.setdefault(key, tap.now_ns)
                heard.asking.append(key)

    def _left(self, tap: StreamTap, packet: Publish) -> None:
        try:
            command_id = json.loads(packet.payload)["id"]
        except (ValueError, KeyError, TypeError):
            return  # a sink's row
        _, origin, seq = command_id.split(":")
        self._watch.sent_ns.setdefault((origin, int(seq)), tap.now_ns)
