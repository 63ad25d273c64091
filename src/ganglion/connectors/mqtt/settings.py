"""How a client reaches its broker, and the limits of the conversation."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ganglion.connectors.mqtt.packets import V3, V5
from ganglion.connectors.mqtt.topics import filters
from ganglion.core.errors import ConnectorError
from ganglion.core.topology_mqtt import Mqtt

PORTS = {"mqtt": 1883, "mqtts": 8883}
SECRET_BYTES_MAX = 65_535


@dataclass(frozen=True, slots=True)
class Settings:
    """One connection. ``subscriptions``: filters with their QoS. ``tls`` None: in the clear.

    ``session_expiry_s`` and ``in_flight_max`` (messages of QoS 1 not acknowledged yet) are for MQTT 5; a broker of
    3.1.1 has its own ideas. ``unsettled_bytes_max``: what was read and is not safe yet; beyond it nothing more is read.
    """

    host: str
    port: int
    level: int
    client_id: str
    subscriptions: tuple[tuple[str, int], ...] = ()
    user: str | None = None
    password: bytes | None = None
    tls: ssl.SSLContext | None = None
    keep_alive_s: int = 30
    session_expiry_s: int = 86_400
    in_flight_max: int = 4096
    packet_bytes_max: int = 1 << 20
    unsettled_bytes_max: int = 4 << 20
    sent_max: int = 1024
    """Messages of ours of QoS 1 that wait for an acknowledgement."""
    unsent_bytes_max: int = 1 << 20
    """Bytes of ours that the broker does not take; beyond it messages are refused."""


def settings_of(mqtt: Mqtt, site: str, directory: Path) -> Settings:
    """What a topology says of a gateway's broker, or of its own server's listener; files relative to ``directory``.

    Raises `ConnectorError` ``mqtt.file`` for a password or certificate that cannot be read.
    """
    parts = urlsplit(mqtt.broker or f"mqtt://127.0.0.1:{mqtt.listen}")
    password = None
    if mqtt.password_file is not None:
        password = _read(directory / mqtt.password_file).rstrip(b"\r\n")
    return Settings(
        host=parts.hostname or "",
        port=parts.port or PORTS[parts.scheme],
        level=V5 if mqtt.broker is not None and mqtt.version != "3.1.1" else V3,
        client_id=mqtt.client_id or f"ganglion-{site}",
        subscriptions=filters([(r.topic, r.qos) for r in mqtt.routes]),
        user=mqtt.user,
        password=password,
        tls=_tls(mqtt, directory) if parts.scheme == "mqtts" else None,
        keep_alive_s=mqtt.keep_alive_s,
        session_expiry_s=mqtt.session_expiry_s,
        in_flight_max=mqtt.in_flight_max,
    )


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if len(content) > SECRET_BYTES_MAX:
        raise _unreadable(path, f"it has {len(content)} bytes")
    return content


def _tls(mqtt: Mqtt, directory: Path) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=directory / mqtt.ca_file if mqtt.ca_file else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if mqtt.certificate_file is not None:
            key = directory / mqtt.key_file if mqtt.key_file else None
            context.load_cert_chain(directory / mqtt.certificate_file, key)
    except OSError as error:  # an SSLError is one
        raise _unreadable(directory / (mqtt.certificate_file or mqtt.ca_file or ""), str(error)) from error
    return context


def _unreadable(path: Path, why: str) -> ConnectorError:
    return ConnectorError(
        "mqtt.file",
        f"{path} cannot be used for the MQTT broker",
        why=why,
        next_step="correct the file named in topology.yaml; names there are relative to that file's directory",
    )
