"""What an agent process is told at start, as one JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

from ganglion.core.declarations import RuleBroken, declaration
from ganglion.core.errors import DataError
from ganglion.core.topology_mqtt import Mqtt
from ganglion.core.units import NS_PER_S
from ganglion.device.emulation import DeviceHostConfig, Emulation
from ganglion.flow.assignment import Assignment

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Limits:
    """Byte caps of a site's streams, and how often a node ticks and reports.

    ``outbox_tail_bytes``: how much of what the parent has stays in the outbox, to refill a parent that was restored.
    ``recording_bytes_max``: what a gateway keeps of its newest inputs, 0 for nothing.
    """

    journal_bytes_max: int = 1 << 30
    outbox_bytes_max: int = 1 << 30
    inbox_bytes_max: int = 1 << 30
    outbox_tail_bytes: int = 32 << 20
    tick_ns: int = NS_PER_S
    report_ns: int = NS_PER_S // 4
    recording_bytes_max: int = 0
    durable: bool = True
    """Rows of devices go through the journal. Without it a gateway that ends loses what it has not sent."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A gateway, edge or cloud node. Ports are of 127.0.0.1; 0 means there is none.

    ``parent_url``: the leaf address of the parent site's server, empty at the top; commas stand between several.
    ``servers``: the message servers of the site that others run; then the agent starts none and both ports are 0.
    ``children``: site id -> the paths whose rows it may send; what else comes from it is refused. ``coap_port``: where
    devices send by CoAP, for gateways. ``paths``: whose origins may send here. ``kernel_dir``: where compiled kernels
    are kept. ``identity_dir``: the site's keys (None: its server lets in whoever reaches it). ``mqtt``: of a gateway
    with MQTT devices, files relative to ``flow_dir``; ``mqtt_devices``: group -> how many.
    ``processes``: how many share its input; with more than one they are `WorkerConfig`'s, and the node itself runs no
    stage. ``parent_processes``: how many share the input of its parent.
    """

    assignment: Assignment
    flow_dir: Path
    nats_port: int
    leaf_port: int
    parent_url: str
    children: Mapping[str, tuple[str, ...]]
    coap_port: int
    paths: tuple[str, ...]
    kernel_dir: Path
    limits: Limits = Limits()
    identity_dir: Path | None = None
    mqtt: Mqtt | None = None
    mqtt_devices: Mapping[str, int] = field(default_factory=dict)
    servers: tuple[str, ...] = ()
    processes: int = 1
    parent_processes: int = 1

    @property
    def site(self) -> str:
        return self.assignment.site

    @property
    def is_gateway(self) -> bool:
        """True where devices send: its input is the journal, and the reflex runs there."""
        return self.assignment.tier == "gateway"

    def to_json(self) -> dict[str, Any]:
        """What `load_config` reads back."""
        return {
            "kind": "node",
            "assignment": self.assignment.to_json(),
            "flow_dir": str(self.flow_dir),
            "nats_port": self.nats_port,
            "leaf_port": self.leaf_port,
            "parent_url": self.parent_url,
            "children": {child: list(paths) for child, paths in self.children.items()},
            "coap_port": self.coap_port,
            "paths": list(self.paths),
            "kernel_dir": str(self.kernel_dir),
            "limits": asdict(self.limits),
            "identity_dir": str(self.identity_dir) if self.identity_dir is not None else None,
            "mqtt": asdict(self.mqtt) if self.mqtt is not None else None,
            "mqtt_devices": dict(self.mqtt_devices),
            "servers": list(self.servers),
            "processes": self.processes,
            "parent_processes": self.parent_processes,
        }


def worker_name(node: str, index: int) -> str:
    """What the ``index``-th of a node's processes is called."""
    return f"{node}-w{index}"


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One of the processes that share a site's input: ``index`` of ``node.processes``.

    Its home partitions are those whose number leaves the rest ``index``; it takes others over while nobody has them.
    It needs to reach the site's message server, and shares no disk with anybody.
    """

    node: NodeConfig
    index: int

    @property
    def name(self) -> str:
        return worker_name(self.node.assignment.node, self.index)

    def to_json(self) -> dict[str, Any]:
        """What `load_config` reads back."""
        return {"kind": "worker", "node": self.node.to_json(), "index": self.index}


def device_host_json(config: DeviceHostConfig) -> dict[str, Any]:
    """The JSON of a device host's configuration."""
    return {
        "kind": "devices",
        "name": config.name,
        "flow_dir": str(config.flow_dir),
        "data_dir": str(config.data_dir),
        "kernel_dir": str(config.kernel_dir),
        "gateway": list(config.gateway),
        "actuators": sorted(config.actuators),
        "period_frames": config.period_frames,
        "runs_as": config.runs_as,
        "devices": [
            {
                "origin": d.origin,
                "assignment": d.assignment.to_json(),
                "index": d.index,
                "stride": d.stride,
                "lead_frames": d.lead_frames,
                "phase_ns": d.phase_ns,
            }
            for d in config.devices
        ],
    }


def load_config(path: Path) -> NodeConfig | WorkerConfig | DeviceHostConfig:
    """Reads a configuration file; raises `DataError` ``agent.config`` when it is missing or has another form."""
    try:
        value = orjson.loads(path.read_bytes())
        if value["kind"] == "devices":
            return _device_host(value)
        if value["kind"] == "worker":
            return WorkerConfig(_of_one_kind(_node(_part(dict, value, "node"))), _part(int, value, "index"))
        return _of_one_kind(_node(value))
    except RuleBroken as error:
        raise _wrong(path, f"{'.'.join(error.path) or 'the file'}: {error.what}; {error.why}") from error
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise _wrong(path, f"{type(error).__name__}: {error}") from error


def _wrong(path: Path, why: str) -> DataError:
    return DataError(
        "agent.config",
        f"{path} is not an agent's configuration",
        why=why,
        next_step="let ganglion run write it",
    )


def _part(form: type[Part], value: Mapping[str, Any], name: str, *default: Part) -> Part:
    """What stands under ``name``, read as a ``form``; ``default``: what it is when it is not there."""
    if name in value:
        return declaration(form, value[name], (name,))
    if not default:
        raise RuleBroken((name,), "missing", "it has no default", f"add {name}")
    return default[0]


def _node(value: Mapping[str, Any]) -> NodeConfig:
    if unknown := set(value) - {"kind", *NodeConfig.__dataclass_fields__}:
        raise RuleBroken((min(unknown),), "unknown key", "a node is told nothing of the kind", "remove it")
    mqtt, identity_dir = value.get("mqtt"), value.get("identity_dir")
    return NodeConfig(
        assignment=Assignment.from_json(_part(dict, value, "assignment")),
        flow_dir=Path(_part(str, value, "flow_dir")),
        nats_port=_part(int, value, "nats_port"),
        leaf_port=_part(int, value, "leaf_port"),
        parent_url=_part(str, value, "parent_url"),
        children=_part(dict[str, tuple[str, ...]], value, "children"),
        coap_port=_part(int, value, "coap_port"),
        paths=_part(tuple[str, ...], value, "paths"),
        kernel_dir=Path(_part(str, value, "kernel_dir")),
        limits=_part(Limits, value, "limits"),
        identity_dir=None
        if identity_dir is None
        else Path(declaration(str, identity_dir, ("identity_dir",))),
        mqtt=None if mqtt is None else declaration(Mqtt, mqtt, ("mqtt",)),
        mqtt_devices=_part(dict[str, int], value, "mqtt_devices", {}),
        servers=_part(tuple[str, ...], value, "servers", ()),
        processes=_part(int, value, "processes", 1),
        parent_processes=_part(int, value, "parent_processes", 1),
    )


def _of_one_kind(config: NodeConfig) -> NodeConfig:
    """Raises ValueError for a node that is to start a message server and to use those of others."""
    if config.servers and (config.nats_port or config.leaf_port or config.is_gateway):
        raise ValueError("servers are named, and ports for a server of its own; one of the two must go")
    if not config.servers and not config.nats_port:
        raise ValueError("it has neither a port for a message server of its own nor servers of others")
    return config


def _device_host(value: Mapping[str, Any]) -> DeviceHostConfig:
    devices = tuple(
        Emulation(
            d["origin"],
            Assignment.from_json(d["assignment"]),
            int(d["index"]),
            int(d["stride"]),
            int(d["lead_frames"]),
            int(d["phase_ns"]),
        )
        for d in value["devices"]
    )
    return DeviceHostConfig(
        value["name"],
        Path(value["flow_dir"]),
        Path(value["data_dir"]),
        Path(value["kernel_dir"]),
        (str(value["gateway"][0]), int(value["gateway"][1])),
        frozenset(value["actuators"]),
        int(value["period_frames"]),
        value["runs_as"],
        devices,
    )
