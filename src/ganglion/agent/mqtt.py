"""A gateway's MQTT: readings in through the intake, commands and results of sinks out, all by one client.

The order is that of every way in: decode, reflex (memory only), journal (fsync), acknowledgement to the broker. What
cannot be taken goes to the dead letters, and is acknowledged when it is there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from ganglion.agent.config import NodeConfig
from ganglion.agent.dead_letters import DeadLetters
from ganglion.agent.health import Condition
from ganglion.agent.ingest import COMMAND_TIMEOUT_NS, COMMANDS_MAX, REACTIONS_MAX, Reaction
from ganglion.agent.intake import Intake
from ganglion.agent.streams import BusJournal, PassingJournal
from ganglion.connectors.mqtt.client import Client
from ganglion.connectors.mqtt.compiled import proven
from ganglion.connectors.mqtt.connection import Pace
from ganglion.connectors.mqtt.devices import Devices
from ganglion.connectors.mqtt.mapping import Mapper, Readings
from ganglion.connectors.mqtt.reading import Published
from ganglion.connectors.mqtt.routes import Routes
from ganglion.connectors.mqtt.settings import Settings, settings_of
from ganglion.connectors.mqtt.topics import fill
from ganglion.core.block import Block, Rows
from ganglion.core.errors import ConnectorError, TopologyError
from ganglion.core.topology_mqtt import Mqtt, Output, template_filter, topic_filter
from ganglion.engine.durable import Durable
from ganglion.engine.graph import Graph
from ganglion.engine.urgency import Urgency
from ganglion.flow.spec import FlowSpec
from ganglion.flow.stages import ActStage, SinkStage
from ganglion.host.ports import Host
from ganglion.kernels.c.toolchain import compilers
from ganglion.messaging.mqtt import GATEWAY_USER, Listener
from ganglion.messaging.security.identity import SiteIdentity

OUTPUT_TIMEOUT_NS = 60_000_000_000
REST_NS_MAX = 2_000_000
REST_SHARE = 16
"""The socket rests between reads for such a part of the shortest deadline of a command, and never longer than the
former: docs/adr/0031."""
HOLD_NS = 16_000_000
"""From one handing over to the next, of readings that no command follows from: docs/adr/0034."""


@dataclass(slots=True)
class MqttCounts:
    """What became of messages since the process started, beyond what client and dead letters count."""

    rows: int = 0
    repeated_rows: int = 0
    commands: int = 0
    commands_failed: int = 0
    outputs: int = 0
    outputs_failed: int = 0


class MqttDoor:
    """Opened with an `Intake`. ``act`` is for that intake; ``gave`` for the durable engine's sinks."""

    def __init__(
        self,
        spec: FlowSpec,
        mqtt: Mqtt,
        site: str,
        devices: Mapping[str, int],
        settings: Settings,
        host: Host,
    ) -> None:
        """``devices``: group -> how many are at this gateway.

        Raises `TopologyError` ``mqtt.route`` or ``mqtt.output`` when topology and flow do not fit together.
        """
        self.counts = MqttCounts()
        self.reactions: deque[Reaction] = deque(maxlen=REACTIONS_MAX)
        self.letters = DeadLetters(host.disk, host.clock)
        self.trouble = ""
        self._spec = spec
        self._clock = host.clock
        self._groups = {group: Devices(f"{site}-{group}", count) for group, count in devices.items()}
        self._mappers = [
            Mapper(route, _source(spec, route.stream, route.topic).schema, self._groups[route.devices])
            for route in mqtt.routes
        ]
        self._streams = [mapper.route.stream for mapper in self._mappers]
        self._routes = Routes(self._mappers)
        self._acts = {s.id: s for s in spec.reflexes}
        self._commands = {c.actuator: c for c in mqtt.commands}
        self._outputs = _outputs(spec, mqtt)
        self._commanding = 0
        self._intake: Intake | None = None
        self._urgency = Urgency(spec)
        deadlines_ns = [act.within_ns // REST_SHARE for act in spec.reflexes]
        self.client = Client(
            settings,
            self._routes.resolve,
            self._deliver,
            host.clock,
            host.chances.stream("mqtt"),
            Pace(min([REST_NS_MAX, *deadlines_ns]), HOLD_NS, self._patient),
        )

    def compile(self, directory: Path) -> None:
        """Lets compiled code read usual messages, where a compiler builds it and a route allows. Blocks."""
        self.client.decoder = proven(self._routes, compilers(), directory)

    def remember(self, origins: set[str]) -> None:
        """Devices that sent before a restart keep their place."""
        for origin in sorted(origins):
            for group in self._groups.values():
                group.remember(origin)

    async def run(
        self, reflex: Graph, journal: BusJournal | PassingJournal, engine: Durable, config: NodeConfig
    ) -> None:
        """Takes messages from now on, until cancelled, with the reflex in the state the journal left it in."""
        self.remember({origin for _, origin in engine.progress.seen})
        wanted = config.assignment.wanted(self._spec)
        for mapper in self._mappers:
            if mapper.route.stream not in wanted:
                raise TopologyError(
                    "mqtt.route",
                    f"nothing here or above needs {mapper.route.stream}, which the route of "
                    f"{mapper.route.topic} brings",
                    why=f"the plan gives this gateway {', '.join(sorted(wanted)) or 'no stream'}",
                    next_step="remove the route, or let a stage at this gateway use the stream",
                )
        intake = self._intake = Intake(
            reflex,
            journal.put,
            streams=wanted,
            paths=frozenset(config.paths),
            last_seq=engine.progress.last_seq,
            clock=self._clock,
            on_act=self.act,
            elsewhere=lambda: journal.unread_rows,
        )
        journal.on_read = intake.made_room
        intake.take_over(engine.graph.snapshot())
        async with asyncio.TaskGroup() as group:
            group.create_task(intake.run())
            group.create_task(self.letters.run())
            group.create_task(self.client.run())

    def _patient(self, published: Published) -> bool:
        """True when no device waits for an answer, no command follows from any row, and rows say their time."""
        if published.packet_ids or published.payloads:
            return False
        urgent = self._urgency.urgent
        return not any(
            rows.time_ns is None or urgent(self._streams[rows.route], rows.columns)
            for _, rows in published.decoded
        )

    async def _deliver(self, published: Published) -> asyncio.Future[Any] | None:
        intake = self._intake
        assert intake is not None
        readings, letters = self._routes.take(published, self._clock.wall_ns())
        stored: list[asyncio.Future[None]] = []
        for one in readings:
            self.counts.rows += len(one)
            stored.append(await _taken(one, intake, awaited=bool(published.packet_ids)))
        if letters:
            stored.append(self.letters.put(letters))
        return stored[0] if len(stored) == 1 else asyncio.gather(*stored) if stored else None

    def act(self, stage: str, rows: Rows, received_ns: int) -> None:
        """A command for each row, published before this returns."""
        act = self._acts[stage]
        for place, origin, seq, time_ns in _identities(rows):
            self.counts.commands += 1
            values = {name: column[place].tolist() for name, column in rows.columns.items()}
            try:
                self._command(act, origin, seq, time_ns, values, received_ns)
            except ConnectorError as error:
                self.counts.commands_failed += 1
                self.trouble = str(error)

    def _command(
        self, act: ActStage, origin: str, seq: int, time_ns: int, row: dict[str, Any], received_ns: int
    ) -> None:
        command = self._commands.get(act.actuator)
        command_id = f"{act.id}:{origin}:{seq}"
        device = self._device(origin)
        names = {"device": device, "origin": origin, "actuator": act.actuator, "verb": act.verb}
        topic = fill(command.topic, names) if command is not None else None
        if command is None or topic is None:
            raise ConnectorError(
                "mqtt.command",
                f"the command {command_id} went nowhere",
                why=f"no topic is declared for the actuator {act.actuator}"
                if command is None
                else f"the name {device!r} cannot stand in a topic",
                next_step="add it to commands: under mqtt in topology.yaml",
            )
        if self._commanding >= COMMANDS_MAX:
            raise ConnectorError(
                "mqtt.full",
                f"the command {command_id} was not sent",
                why=f"{COMMANDS_MAX} commands wait for the broker",
                next_step="look at the broker's log",
            )
        payload = {"id": command_id, **names, "seq": seq, "time_ns": time_ns, "row": row}
        commanded_ns = self._clock.monotonic_ns()  # before: the device may have it before the call returns
        content = orjson.dumps(payload)
        self.client.publish(
            topic, content, qos=command.qos, within_ns=COMMAND_TIMEOUT_NS, done=self._commanded
        )
        self._commanding += command.qos
        self.reactions.append(Reaction(command_id, received_ns, commanded_ns))

    def _commanded(self, arrived: bool) -> None:
        self._commanding -= 1
        self.counts.commands_failed += not arrived

    def gave(self, stage: str, rows: Rows) -> None:
        """Rows were given to a sink: published as well, when topology says where."""
        output = self._outputs.get(stage)
        if output is None:
            return
        columns = {name: column.tolist() for name, column in rows.columns.items()}
        for place, origin, seq, time_ns in _identities(rows):
            device = self._device(origin)
            value = {"device": device, "origin": origin, "seq": seq, "time_ns": time_ns}
            value |= {name: column[place] for name, column in columns.items()}
            topic = fill(output.topic, {"device": device, "origin": origin})
            try:
                if topic is None:
                    raise ConnectorError(
                        "mqtt.output",
                        f"rows of {output.sink} were not published",
                        why=f"the name {device!r} cannot stand in a topic",
                        next_step="leave {device} out of the topic in topology.yaml",
                    )
                self.client.publish(
                    topic,
                    orjson.dumps(value),
                    qos=output.qos,
                    within_ns=OUTPUT_TIMEOUT_NS,
                    done=self._published,
                )
                self.counts.outputs += 1
            except ConnectorError as error:
                self.counts.outputs_failed += 1
                self.trouble = str(error)

    def _published(self, arrived: bool) -> None:
        self.counts.outputs_failed += not arrived

    def _device(self, origin: str) -> str:
        for group in self._groups.values():
            if (name := group.names.get(origin)) is not None:
                return name
        return origin

    @property
    def troubles(self) -> tuple[str, ...]:
        """What a person should see, "" where all is well."""
        return self.client.trouble, self.letters.trouble, self.trouble

    def conditions(self, node_dir: Path) -> list[Condition]:
        """What is wrong with the way to the broker, or with what comes from there."""
        found = []
        if not self.client.subscribed:
            text = f"the MQTT broker is away: {self.client.trouble or 'subscriptions are not granted yet'}"
            found.append(Condition("health.mqtt-away", "warning", text, f"cat {node_dir / 'report.json'}"))
        if refused := sum(self.letters.counts.values()):
            text = f"{refused} MQTT messages or readings could not be taken since the start"
            command = f"ganglion node dead-letters {node_dir}"
            found.append(Condition("health.mqtt-dead-letters", "info", text, command))
        return found

    def to_json(self) -> dict[str, Any]:
        """For the node's report."""
        decoder = self.client.decoder
        return {
            "connected": self.client.subscribed,
            "client": asdict(self.client.counts),
            **asdict(self.counts),
            "repeated_rows": sum(m.repeated for m in self._mappers),
            "devices": {name: len(group) for name, group in self._groups.items()},
            "decoder": decoder.to_json() if decoder is not None else None,
            "dead_letters": dict(sorted(self.letters.counts.items())),
            "dead_letters_left_out": self.letters.left_out,
            "intake": asdict(self._intake.counts) if self._intake else None,
        }


def mqtt_listener(mqtt: Mqtt) -> Listener | None:
    """What the site's own server is told, when devices come in there."""
    if mqtt.listen is None:
        return None
    given = [c.topic for c in mqtt.commands] + [o.topic for o in mqtt.outputs]
    return Listener(
        mqtt.listen,
        send=tuple(dict.fromkeys(topic_filter(r.topic) for r in mqtt.routes)),
        hear=tuple(dict.fromkeys(template_filter(topic) for topic in given)),
        redelivery_s=mqtt.redelivery_s,
    )


def mqtt_door(
    config: NodeConfig, spec: FlowSpec, host: Host, identity: SiteIdentity | None
) -> MqttDoor | None:
    """The door of a gateway that has MQTT devices; raises as `MqttDoor` and `settings_of`."""
    if config.mqtt is None:
        return None
    settings = settings_of(config.mqtt, config.site, config.flow_dir)
    if config.mqtt.listen is not None:
        settings = replace(
            settings, user=GATEWAY_USER, password=identity.mqtt() if identity else GATEWAY_USER.encode()
        )
    return MqttDoor(spec, config.mqtt, config.site, config.mqtt_devices, settings, host)


async def _taken(readings: Readings, intake: Intake, *, awaited: bool) -> asyncio.Future[None]:
    r = readings
    if r.seq is None:
        return await intake.take_unnumbered(
            r.stream, r.origins, r.origin, r.time_ns, r.columns, awaited=awaited
        )
    block = Block(r.stream, r.origins, r.origin, r.seq, r.time_ns, r.columns)
    return await intake.take(block, awaited=awaited)


def _identities(rows: Rows) -> list[tuple[int, str, int, int]]:
    """(place, origin, sequence number, time) of each row."""
    seq, time_ns = rows.seq.tolist(), rows.time_ns.tolist()
    if isinstance(rows, Block):
        origins = [rows.origins[o] for o in rows.origin_index.tolist()]
    else:
        origins = [rows.origin] * len(rows)
    return list(zip(range(len(rows)), origins, seq, time_ns, strict=True))


def _source(spec: FlowSpec, stream: str, topic: str) -> Any:
    found = next((s for s in spec.sources if s.id == stream), None)
    if found is None:
        raise TopologyError(
            "mqtt.route",
            f"the route of {topic} leads to {stream!r}, which is no source",
            why=f"the sources of flow {spec.name} are {', '.join(s.id for s in spec.sources)}",
            next_step="name one of those as stream: in topology.yaml",
        )
    return found


def _outputs(spec: FlowSpec, mqtt: Mqtt) -> dict[str, Output]:
    sinks = {s.id for s in spec.stages if isinstance(s, SinkStage) and s.at == "gateway"}
    for output in mqtt.outputs:
        if output.sink not in sinks:
            raise TopologyError(
                "mqtt.output",
                f"{output.topic} is to have the rows of {output.sink!r}, which is no sink at gateways",
                why=f"those of flow {spec.name} are {', '.join(sorted(sinks)) or 'none'}",
                next_step='name one of those, or write .sink(..., at="gateway") in flow.py',
            )
    return {o.sink: o for o in mqtt.outputs}
