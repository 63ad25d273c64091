"""The MQTT 3.1.1 listener of a site's server: topics as subjects, and what devices may send and hear.

A device's message of QoS 1 is stored by the server, and on disk, before the device is answered; the gateway's own
client draws it from there. So the promise of an acknowledgement is the server's, and holds while the agent is down.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

IN_FLIGHT_MAX = 8192
GATEWAY_USER = "gateway"
"""Of the gateway's own client, where the server has no trust in claims."""
SESSION_SUBJECTS = ("$MQTT.sub.>",)
"""What a client with QoS 1 subscriptions must be let hear besides."""


@dataclass(frozen=True, slots=True)
class Listener:
    """``port`` of 127.0.0.1. Topics (filters) that devices may publish to, and that they may subscribe to.

    ``redelivery_s``: when the server gives a message again that the gateway did not acknowledge, as after its crash.
    """

    port: int
    send: tuple[str, ...] = ()
    hear: tuple[str, ...] = ()
    redelivery_s: int = 30


def subjects_of(topic_filter: str) -> tuple[str, ...]:
    """The subjects that an MQTT filter stands for: levels are tokens, ``.`` is ``//``, an empty level is ``/``."""
    levels = topic_filter.split("/")
    whole = ["*" if level == "+" else level.replace(".", "//") or "/" for level in levels]
    if levels[-1] != "#":
        return (".".join(whole),)
    above = ".".join(whole[:-1])
    return (above, f"{above}.>") if above else (">",)


def device_subjects(listener: Listener) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what devices may send to, what they may hear)."""
    return _all(listener.send), (*_all(listener.hear), *SESSION_SUBJECTS)


def gateway_subjects(listener: Listener) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The same of the gateway's own client, which is at the other end of them."""
    return _all(listener.hear), (*_all(listener.send), *SESSION_SUBJECTS)


def listening(listener: Listener, *, trusted: bool) -> list[str]:
    """Lines of the server's configuration. ``trusted``: every client shows signed claims as its password.

    Without trust, whoever reaches the server's own port may do all (as ever), and MQTT clients without a user are
    devices.
    """
    lines = [
        "mqtt {",
        f'  listen: "127.0.0.1:{listener.port}"',
        f'  ack_wait: "{listener.redelivery_s}s"',
        f"  max_ack_pending: {IN_FLIGHT_MAX}",
        *([] if trusted else ['  no_auth_user: "device"']),
        "}",
    ]
    if trusted:
        return lines
    device, gateway = device_subjects(listener), gateway_subjects(listener)
    return [
        "authorization {",
        "  users: [",
        '    { user: "agent", password: "agent", allowed_connection_types: ["STANDARD"] }',
        f"    {_user('device', *device)}",
        f"    {_user(GATEWAY_USER, *gateway)}",
        "  ]",
        "}",
        'no_auth_user: "agent"',
        *lines,
    ]


def _user(name: str, send: Sequence[str], hear: Sequence[str]) -> str:
    allowed = (
        f"publish: {{ allow: {json.dumps(list(send))} }}, subscribe: {{ allow: {json.dumps(list(hear))} }}"
    )
    return f'{{ user: "{name}", password: "{name}", allowed_connection_types: ["MQTT"], permissions: {{ {allowed} }} }}'


def _all(filters: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(subject for one in filters for subject in subjects_of(one)))
