"""Brokers beside the gateways of a world, the devices that publish there, and who watches them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from ganglion.agent.config import NodeConfig
from ganglion.connectors.mqtt.settings import settings_of
from ganglion.core.batch import Batch
from ganglion.core.topology_mqtt import Mqtt, Route
from ganglion.flow.spec import FlowSpec
from ganglion.sim.virtual.broker import VirtualBroker
from ganglion.sim.virtual.mqtt_reflexes import MqttReflexWatch
from ganglion.sim.virtual.network import Network
from ganglion.sim.virtual.reflexes import ReflexWatch
from ganglion.sim.virtual.scenario import BROKER, Workload
from ganglion.sim.virtual.sensor import VirtualSensor, reading_of


def broker_of(site_id: str) -> str:
    """The machine of a site's broker."""
    return f"{site_id}-{BROKER}"


class MqttSites:
    """``brokers``: by machine."""

    def __init__(
        self, spec: FlowSpec, workload: Workload, network: Network, on_acknowledged: Callable[[Batch], None]
    ) -> None:
        self.brokers: dict[str, VirtualBroker] = {}
        self._sensors: dict[str, VirtualSensor] = {}
        self._spec = spec
        self._workload = workload
        self._network = network
        self._on_acknowledged = on_acknowledged

    def begin(self, site_id: str, declared: Mqtt) -> Mqtt:
        """A broker for a site; gives what the site is told of it."""
        port = self._network.free_port()
        self.brokers[broker_of(site_id)] = VirtualBroker(port)
        return replace(declared, broker=f"mqtt://127.0.0.1:{port}", listen=None)

    def sensor(self, origin: str, route: Route, site_id: str) -> VirtualSensor:
        """A device that publishes at the site's broker."""
        source = next(s for s in self._spec.sources if s.id == route.stream)
        name, broker = origin.rpartition("-")[2], self.brokers[broker_of(site_id)]
        made = VirtualSensor(origin, name, route, source, self._workload, broker, self._on_acknowledged)
        self._sensors[origin] = made
        return made

    def closing(self, origin: str) -> Collection[int]:
        """Numbers of a device's readings that are in no window that is ever closed."""
        sensor = self._sensors.get(origin)
        return sensor.closing if sensor is not None else ()

    def watch(self, config: NodeConfig, reflexes: ReflexWatch) -> None:
        """Lets ``reflexes`` know of the site's readings and commands."""
        assert config.mqtt is not None
        watch = MqttReflexWatch(
            self._spec,
            {config.site: config.assignment},
            settings_of(config.mqtt, config.site, config.flow_dir).level,
            reading_of(self._spec, config.mqtt.routes, config.paths),
            reflexes,
        )
        self._network.stream_taps.append(watch.tap)
