"""What a topology says about MQTT at a gateway: the broker, which topics are which stream, where commands go.

Topics hold names of levels in braces: ``plant/+/{line}/{sensor}/temp``. `ganglion.connectors.mqtt.topics` reads them
the same way.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ganglion.core.topology_checks import RuleBroken

if TYPE_CHECKING:
    from ganglion.core.topology import Topology

ROUTES_MAX = 64
FIELDS_MAX = 64
TOPIC_CHARS_MAX = 200
COMMANDS_MAX = 32
RUN_KINDS = ("map", "where", "around", "window", "act")
"""Kinds of stage that a device could run."""

_CAPTURE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_NAME = r"[a-z][a-z0-9_]{0,62}"
RAW = re.compile(r"raw-(f32|f64|i8|u8|i16|u16|i32|u32|i64)(le|be)?")
"""A payload of packed numbers: type and byte order (one byte has none)."""
FORMATS = ("json", "cbor", "senml+json", "senml+cbor")


def captures(topic: str) -> tuple[str, ...]:
    """The names in braces, in order."""
    return tuple(m[1] for level in topic.split("/") if (m := _CAPTURE.fullmatch(level)))


def topic_filter(topic: str) -> str:
    """The MQTT filter of a topic with names in braces: each is a ``+``."""
    return "/".join("+" if _CAPTURE.fullmatch(level) else level for level in topic.split("/"))


def template_filter(topic: str) -> str:
    """The narrowest filter of all topics that a template makes: a level with a name in it is a ``+``."""
    return "/".join("+" if _CAPTURE.search(level) else level for level in topic.split("/"))


def _filter(text: str) -> str:
    levels = text.split("/")
    wrong = ""
    if not text or "\0" in text:
        wrong = "it is empty"
    elif any(("+" in level and level != "+") or ("#" in level and level != "#") for level in levels):
        wrong = "+ and # stand for whole levels"
    elif "#" in levels[:-1]:
        wrong = "# stands for all levels that follow, so it is the last"
    elif any(("{" in level or "}" in level) and not _CAPTURE.fullmatch(level) for level in levels):
        wrong = "a name in braces is small letters, digits and _, and stands for a whole level"
    elif len(set(captures(text))) < len(captures(text)):
        wrong = "each name in braces stands once"
    if wrong:
        raise RuleBroken(
            (), f"{text!r} is no topic to subscribe to", wrong, "write e.g. plant/+/sensors/{sensor}/temp"
        )
    return text


def _template(text: str) -> str:
    rest = _CAPTURE.sub("", text)
    if not text or set(rest) & set("+#{}\0"):
        raise RuleBroken(
            (),
            f"{text!r} is no topic to publish to",
            "it is plain text with names in braces, without + and #",
            "write e.g. devices/{device}/set",
        )
    return text


def _address(text: str) -> str:
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("mqtt", "mqtts") and bool(parts.hostname) and parts.path in ("", "/")
        fits = fits and (parts.port or 1) > 0 and parts.username is None and not parts.query
    except ValueError:
        fits = False
    if not fits:
        raise RuleBroken(
            (),
            f"{text!r} is no broker's address",
            "it is mqtt:// or mqtts:// (TLS), a host and a port; user and password have keys of their own",
            "write e.g. mqtt://127.0.0.1:1883",
        )
    return text


def _payload(text: str) -> str:
    raw = RAW.fullmatch(text)
    if text not in FORMATS and (raw is None or (raw[2] is None) != (raw[1] in ("i8", "u8"))):
        raise RuleBroken(
            (),
            f"{text!r} is no form of a payload",
            f"known are {', '.join(FORMATS)} and raw-TYPE with le or be, like raw-f32le or raw-u8",
            "name one of those",
        )
    return text


Filter = Annotated[str, Field(max_length=TOPIC_CHARS_MAX), AfterValidator(_filter)]
Template = Annotated[str, Field(max_length=TOPIC_CHARS_MAX), AfterValidator(_template)]
Address = Annotated[str, Field(max_length=TOPIC_CHARS_MAX), AfterValidator(_address)]
PayloadForm = Annotated[str, AfterValidator(_payload)]
FieldName = Annotated[str, Field(pattern=f"^{_NAME}$")]
Key = Annotated[str, Field(min_length=1, max_length=100)]
"""Where a value stands in a payload: a key, or keys from the outside in with points between them."""
StageId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
Actuator = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")]
GroupId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,20}$")]
Qos = Annotated[int, Field(strict=True, ge=0, le=1)]
FilePath = Annotated[str, Field(min_length=1, max_length=200)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Time(_Frozen):
    """Where a reading's time stands in its payload, in which unit since the Unix epoch."""

    field: Key
    unit: Literal["s", "ms", "us", "ns"] = "ms"


class Route(_Frozen):
    """Messages of the topics that match: of which devices, which stream, and where values stand in the payload.

    The first route that matches a topic takes it.
    """

    topic: Filter
    devices: GroupId
    """The group that sends: at most as many devices as it counts at the gateway are let in."""
    stream: StageId
    payload: PayloadForm = "json"
    device: Key
    """The device's name: a key of the payload, or a text with names of the topic in braces."""
    admit: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """A regular expression that names of devices match as a whole; any other is refused."""
    time: Time | None = None
    """None: a reading's time is when it arrived, in whole milliseconds."""
    sequence: Key | None = None
    """A key that counts up with each reading of a device, or ``time``: repeats are told by it. None: they are not."""
    fields: Annotated[dict[FieldName, Key], Field(max_length=FIELDS_MAX)] = Field(default_factory=dict)
    """Field of the stream -> key of the payload, where they are not called the same."""
    qos: Qos = 1
    nan: Literal["refuse", "keep"] = "refuse"
    """What becomes of readings that hold a number that is none, which CBOR and raw numbers can say."""

    @model_validator(mode="after")
    def _whole(self) -> Route:
        known = captures(self.topic)
        unknown = [n for n in _CAPTURE.findall(self.device) if n not in known]
        if unknown:
            raise RuleBroken(
                ("device",),
                f"the topic has no level called {' or '.join(unknown)}",
                f"it has {', '.join(known) or 'none'}",
                "name a level of the topic in braces",
            )
        raw = self.payload.startswith("raw-")
        if raw and ("{" not in self.device or self.time is not None or self.sequence or self.fields):
            raise RuleBroken(
                ("payload",),
                "packed numbers have no keys",
                "so the device comes from the topic, the time is that of arrival, and fields have their order",
                'write device: "{sensor}" with {sensor} in the topic, and leave out time, sequence and fields',
            )
        if self.admit is not None:
            try:
                re.compile(self.admit)
            except re.error as error:
                raise RuleBroken(
                    ("admit",),
                    f"{self.admit!r} is no regular expression",
                    str(error),
                    "write e.g. s[0-9]{4}",
                ) from None
        return self


class Command(_Frozen):
    """Where commands for an actuator are published: ``{device}``, ``{origin}``, ``{actuator}``, ``{verb}`` stand in."""

    actuator: Actuator
    topic: Template
    qos: Qos = 1


class Output(_Frozen):
    """Where the rows of a sink of this gateway are published; ``{device}`` and ``{origin}`` stand in."""

    sink: StageId
    topic: Template
    qos: Qos = 1


class Mqtt(_Frozen):
    """One gateway's MQTT: an external broker, or a listener of its own for devices."""

    broker: Address | None = None
    listen: Annotated[int, Field(strict=True, ge=1, le=65535)] | None = None
    """A port of 127.0.0.1 on which the site's own server speaks MQTT 3.1.1."""
    redelivery_s: Annotated[int, Field(strict=True, ge=1, le=3600)] = 30
    """When that server gives again what the gateway did not acknowledge, as after a crash of the agent."""
    version: Literal["3.1.1", "5"] = "5"
    client_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    """None: ``ganglion-<site>``. The broker keeps what was not acknowledged under it."""
    user: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    password_file: FilePath | None = None
    ca_file: FilePath | None = None
    """Certificates that the broker's must be signed by; None: those the system trusts."""
    certificate_file: FilePath | None = None
    key_file: FilePath | None = None
    keep_alive_s: Annotated[int, Field(strict=True, ge=1, le=3600)] = 30
    session_expiry_s: Annotated[int, Field(strict=True, ge=0, le=0xFFFFFFFF)] = 86_400
    """How long the broker keeps what this gateway missed (MQTT 5; 3.1.1 brokers decide themselves)."""
    in_flight_max: Annotated[int, Field(strict=True, ge=1, le=65_535)] = 4096
    """Messages of QoS 1 that the broker may send before the first of them is acknowledged (MQTT 5)."""
    routes: Annotated[tuple[Route, ...], Field(max_length=ROUTES_MAX)] = ()
    commands: Annotated[tuple[Command, ...], Field(max_length=COMMANDS_MAX)] = ()
    outputs: Annotated[tuple[Output, ...], Field(max_length=COMMANDS_MAX)] = ()

    @model_validator(mode="after")
    def _whole(self) -> Mqtt:
        if (self.broker is None) == (self.listen is None):
            raise RuleBroken(
                (),
                "MQTT with both a broker and a listener"
                if self.broker
                else "MQTT without a broker or a listener",
                "devices reach a gateway by one of the two",
                "keep broker: mqtt://HOST:PORT or listen: PORT",
            )
        if self.listen is not None and "version" in self.model_fields_set and self.version == "5":
            raise RuleBroken(
                ("version",),
                "the site's own server speaks MQTT 3.1.1",
                "it refuses MQTT 5",
                "remove version, or use a broker of your own",
            )
        return self


def check_mqtt(topology: Topology) -> None:
    """MQTT is at gateways, and its routes name groups there that run no stage; raises `RuleBroken`."""
    for site_id, site in topology.sites.items():
        if site.mqtt is None:
            continue
        if site.tier != "gateway":
            raise RuleBroken(
                ("sites", site_id, "mqtt"),
                f"the {site.tier} site {site_id} has mqtt",
                "devices send to gateways",
                "move it to a site of tier gateway",
            )
        for place, route in enumerate(site.mqtt.routes):
            at = ("sites", site_id, "mqtt", "routes", str(place), "devices")
            _check_group(topology, site_id, route.devices, at)


def _check_group(topology: Topology, site_id: str, group_id: str, at: tuple[str, ...]) -> None:
    there = [g for g, group in topology.devices.items() if site_id in group.gateways]
    if group_id not in there:
        raise RuleBroken(
            at,
            f"there is no group {group_id!r} at {site_id}",
            f"the groups there are {', '.join(there[:12]) or 'none'}",
            "name one of those",
        )
    able = [
        k for k in RUN_KINDS if k not in topology.classes[topology.devices[group_id].class_name].cannot_run
    ]
    if able:
        raise RuleBroken(
            at,
            f"devices of group {group_id} could be given stages of kind {', '.join(able)}",
            "what speaks plain MQTT runs none of ours",
            f"give the group a class with cannot_run: [{', '.join(RUN_KINDS)}]",
        )
