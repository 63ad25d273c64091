"""What a topology says about MQTT at a gateway: the broker, which topics are which stream, where commands go.

Topics hold names of levels in braces: ``plant/+/{line}/{sensor}/temp``. `ganglion.connectors.mqtt.topics` reads them
the same way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import urlsplit

from ganglion.core.declarations import RuleBroken, between, matching, sized

ROUTES_MAX = 64
FIELDS_MAX = 64
TOPIC_CHARS_MAX = 200
COMMANDS_MAX = 32

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


def _filter(text: str) -> None:
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


def _template(text: str) -> None:
    rest = _CAPTURE.sub("", text)
    if not text or set(rest) & set("+#{}\0"):
        raise RuleBroken(
            (),
            f"{text!r} is no topic to publish to",
            "it is plain text with names in braces, without + and #",
            "write e.g. devices/{device}/set",
        )


def _address(text: str) -> None:
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


def _payload(text: str) -> None:
    raw = RAW.fullmatch(text)
    if text not in FORMATS and (raw is None or (raw[2] is None) != (raw[1] in ("i8", "u8"))):
        raise RuleBroken(
            (),
            f"{text!r} is no form of a payload",
            f"known are {', '.join(FORMATS)} and raw-TYPE with le or be, like raw-f32le or raw-u8",
            "name one of those",
        )


Filter = Annotated[str, sized(0, TOPIC_CHARS_MAX), _filter]
Template = Annotated[str, sized(0, TOPIC_CHARS_MAX), _template]
Address = Annotated[str, sized(0, TOPIC_CHARS_MAX), _address]
PayloadForm = Annotated[str, _payload]
FieldName = Annotated[str, matching(_NAME)]
Key = Annotated[str, sized(1, 100)]
"""Where a value stands in a payload: a key, or keys from the outside in with points between them."""
StageId = Annotated[str, matching(r"[a-z][a-z0-9_]{0,40}")]
Actuator = Annotated[str, matching(r"[a-z][a-z0-9-]{0,40}")]
GroupId = Annotated[str, matching(r"[a-z][a-z0-9]{0,20}")]
Qos = Annotated[int, between(0, 1)]
Text = Annotated[str, sized(1, 200)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """Where a reading's time stands in its payload, in which unit since the Unix epoch."""

    field: Key
    unit: Literal["s", "ms", "us", "ns"] = "ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
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
    admit: Text | None = None
    """A regular expression that names of devices match as a whole; any other is refused."""
    time: Time | None = None
    """None: a reading's time is when it arrived, in whole milliseconds."""
    sequence: Key | None = None
    """A key that counts up with each reading of a device, or ``time``: repeats are told by it. None: they are not."""
    fields: Annotated[dict[FieldName, Key], sized(0, FIELDS_MAX)] = field(default_factory=dict)
    """Field of the stream -> key of the payload, where they are not called the same."""
    qos: Qos = 1
    nan: Literal["refuse", "keep"] = "refuse"
    """What becomes of readings that hold a number that is none, which CBOR and raw numbers can say."""

    def __post_init__(self) -> None:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Where commands for an actuator are published: ``{device}``, ``{origin}``, ``{actuator}``, ``{verb}`` stand in."""

    actuator: Actuator
    topic: Template
    qos: Qos = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where the rows of a sink of this gateway are published; ``{device}`` and ``{origin}`` stand in."""

    sink: StageId
    topic: Template
    qos: Qos = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mqtt:
    """One gateway's MQTT: an external broker, or a listener of its own for devices.

    `ganglion.core.declarations.declaration` checks each field, on the way from a topology as on that to an agent.
    """

    broker: Address | None = None
    listen: Annotated[int, between(1, 65_535)] | None = None
    """A port of 127.0.0.1 on which the site's own server speaks MQTT 3.1.1."""
    redelivery_s: Annotated[int, between(1, 3600)] = 30
    """When that server gives again what the gateway did not acknowledge, as after a crash of the agent."""
    version: Literal["3.1.1", "5"] | None = None
    """None: 5 to a broker, 3.1.1 to the site's own server."""
    client_id: Annotated[str, matching(r"[A-Za-z0-9_-]{1,64}")] | None = None
    """None: ``ganglion-<site>``. The broker keeps what was not acknowledged under it."""
    user: Text | None = None
    password_file: Text | None = None
    ca_file: Text | None = None
    """Certificates that the broker's must be signed by; None: those the system trusts."""
    certificate_file: Text | None = None
    key_file: Text | None = None
    keep_alive_s: Annotated[int, between(1, 3600)] = 30
    session_expiry_s: Annotated[int, between(0, 0xFFFFFFFF)] = 86_400
    """How long the broker keeps what this gateway missed (MQTT 5; 3.1.1 brokers decide themselves)."""
    in_flight_max: Annotated[int, between(1, 65_535)] = 4096
    """Messages of QoS 1 that the broker may send before the first of them is acknowledged (MQTT 5)."""
    routes: Annotated[tuple[Route, ...], sized(0, ROUTES_MAX)] = ()
    commands: Annotated[tuple[Command, ...], sized(0, COMMANDS_MAX)] = ()
    outputs: Annotated[tuple[Output, ...], sized(0, COMMANDS_MAX)] = ()

    def __post_init__(self) -> None:
        if (self.broker is None) == (self.listen is None):
            raise RuleBroken(
                (),
                "MQTT with both a broker and a listener"
                if self.broker
                else "MQTT without a broker or a listener",
                "devices reach a gateway by one of the two",
                "keep broker: mqtt://HOST:PORT or listen: PORT",
            )
        if self.listen is not None and self.version == "5":
            raise RuleBroken(
                ("version",),
                "the site's own server speaks MQTT 3.1.1",
                "it refuses MQTT 5",
                "remove version, or use a broker of your own",
            )
