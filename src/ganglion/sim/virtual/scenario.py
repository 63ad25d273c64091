"""Scenarios: what a world holds, what its devices measure, what goes wrong in it, and what must hold anyway."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ganglion.core.declarations import RuleBroken
from ganglion.core.errors import GanglionError, RunError, TopologyError
from ganglion.core.topology import Topology
from ganglion.core.topology_text import read_topology
from ganglion.core.units import parse_duration_ns, parse_rate_bit_per_s

BUILT_IN = Path(__file__).parent / "scenarios"
FAULTS_MAX = 50
DEVICES_MAX = 1_000
TEXT_BYTES_MAX = 1 << 20

FaultKind = Literal[
    "kill",
    "kill-server",
    "power-cut",
    "cut",
    "slow-link",
    "slow-disk",
    "disk-full",
    "clock-jump",
    "bad-radio",
]
BROKER = "broker"
"""Stands for the MQTT brokers, one beside each site that has MQTT devices."""
LINK_FAULTS = frozenset({"cut", "slow-link", "bad-radio"})
"""What happens to the path to the site above."""
Checker = Literal["readings", "windows", "once", "reflexes", "drained", "alive"]


def _read_by(parse: Callable[[str], int]) -> Callable[[Any], Any]:
    """Text in the spelling of topologies; numbers pass."""

    def read(value: Any) -> Any:
        try:
            return parse(value) if isinstance(value, str) else value
        except GanglionError as error:
            raise ValueError(f"{error.what}: {error.why}") from error

    return read


Duration = Annotated[int, BeforeValidator(_read_by(parse_duration_ns)), Field(gt=0)]
Rate = Annotated[int, BeforeValidator(_read_by(parse_rate_bit_per_s)), Field(gt=0)]
Chance = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Workload(_Part):
    """What devices measure: ``calm`` frames, and at times a spike of some frames.

    ``spikes_every``: mean time between spikes of one device. ``devices``: how many in all; None as the topology says.
    """

    lasts: Duration
    spikes_every: Duration = 30_000_000_000
    spike_frames: Annotated[int, Field(ge=1, le=100)] = 2
    devices: Annotated[int, Field(ge=1, le=DEVICES_MAX)] | None = None


class Air(_Part):
    """How every path behaves when nothing is wrong; loss and duplication are for datagrams only."""

    loss: Chance = 0.0
    duplication: Chance = 0.0
    delay: tuple[Duration, Duration] = (200_000, 2_000_000)


class Fault(_Part):
    """One kind of fault: where, how often on average at each place, and for how long (drawn evenly)."""

    kind: FaultKind
    at: Annotated[tuple[str, ...], Field(min_length=1)]
    every: Duration
    lasts: tuple[Duration, Duration] = (1_000_000_000, 10_000_000_000)
    rate: Rate = 320_000
    jump: Duration = 86_400_000_000_000


class Scenario(_Part):
    """One file. ``flow``: a directory beside it. ``topology``: a table as in topology.yaml; None: the flow's own."""

    scenario: Literal[1]
    flow: str
    topology: dict[str, Any] | None = None
    pins: dict[str, str] = {}
    workload: Workload
    network: Air = Air()
    fault: Annotated[tuple[Fault, ...], Field(max_length=FAULTS_MAX)] = ()
    checkers: Annotated[tuple[Checker, ...], Field(min_length=1)]
    settle: Duration = 600_000_000_000
    journal_bytes_max: Annotated[int, Field(ge=1 << 16)] = 1 << 30
    outbox_bytes_max: Annotated[int, Field(ge=1 << 16)] = 1 << 30
    inbox_bytes_max: Annotated[int, Field(ge=1 << 16)] = 1 << 30
    recording_bytes_max: Annotated[int, Field(ge=0)] = 0


class Loaded:
    """A scenario with its place on disk. ``file``: as it was asked for."""

    def __init__(self, name: str, scenario: Scenario, directory: Path, file: str) -> None:
        self.name = name
        self.file = file
        self.scenario = scenario
        self.flow_dir = directory / scenario.flow
        self.topology = self._topology()
        self._check_places()

    def _topology(self) -> Topology:
        given = self.scenario.topology
        if given is None:
            path = self.flow_dir / "topology.yaml"
            try:
                topology = read_topology(path.read_text(encoding="utf-8"), str(path))
            except OSError as error:
                raise refused(self.name, f"{path} cannot be read: {error.strerror}") from error
            except UnicodeDecodeError as error:
                raise refused(self.name, f"{path} is not text in UTF-8") from error
        else:
            try:
                topology = Topology.model_validate(given)
            except (ValidationError, RuleBroken, TopologyError) as error:
                raise refused(self.name, f"its topology is wrong: {error}") from error
        several = [site_id for site_id, site in topology.sites.items() if site.servers]
        if several:
            why = (
                f"{several[0]} has several message servers, whose elections have no twin: remove its servers"
            )
            raise refused(self.name, why)
        devices = self.scenario.workload.devices
        return topology if devices is None else topology.with_devices(devices)

    def _check_places(self) -> None:
        sites = self.topology.sites
        known = {*sites, *(site.tier for site in sites.values()), "device"}
        if any(site.mqtt is not None for site in sites.values()):
            known.add(BROKER)
        at_top = {name for s, site in sites.items() if site.parent is None for name in (s, site.tier)}
        for fault in self.scenario.fault:
            for place in fault.at:
                if place not in known:
                    raise refused(
                        self.name,
                        f"fault {fault.kind} is at {place!r}; places are {', '.join(sorted(known))}",
                    )
                if place in at_top and fault.kind in LINK_FAULTS:
                    raise refused(self.name, f"fault {fault.kind} is at {place!r}, which has no uplink")
                if place == "device" and fault.kind not in ("kill", "power-cut", "bad-radio", "cut"):
                    raise refused(self.name, f"fault {fault.kind} cannot be at devices")
                if place == BROKER and fault.kind not in ("kill", "power-cut", "slow-link", "cut"):
                    raise refused(self.name, f"fault {fault.kind} cannot be at brokers")


def load_scenario(file: Path) -> Loaded:
    """Reads a scenario file, or the built-in one of that name.

    Raises `RunError` ``run.scenario`` for a file that is missing or wrong, naming the key.
    """
    path = file
    if not path.exists() and (built_in := BUILT_IN / f"{file.name}.toml").exists() and file.parent == Path():
        path = built_in
    try:
        content = path.read_bytes()
        if len(content) > TEXT_BYTES_MAX:
            raise refused(str(file), f"it is larger than {TEXT_BYTES_MAX} bytes")
        value = tomllib.loads(content.decode())
    except OSError as error:
        raise refused(str(file), f"{_unread(error)}; built in are {', '.join(built_in_names())}") from error
    except UnicodeDecodeError as error:
        raise refused(str(file), "it is not text in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise refused(str(file), f"it cannot be read as TOML: {error}") from error
    try:
        scenario = Scenario.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise refused(str(file), f"{where}: {first['msg']}") from error
    return Loaded(path.stem, scenario, path.parent, str(file))


def _unread(error: OSError) -> str:
    """Why a file could not be read, in words."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder, not a file"
    if isinstance(error, PermissionError):
        return "this user may not read it"
    return f"it cannot be read ({error.strerror or error})"


def built_in_names() -> list[str]:
    """Scenarios that need no file."""
    return sorted(p.stem for p in BUILT_IN.glob("*.toml"))


def refused(name: str, why: str) -> RunError:
    """The scenario cannot be played."""
    return RunError(
        "run.scenario",
        f"scenario {name} cannot be played",
        why=why,
        next_step="see docs/reference/scenarios.md",
    )
