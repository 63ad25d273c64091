"""What may go wrong between us and an MQTT peer, as errors a person can act on."""

from __future__ import annotations

from ganglion.core.errors import ConnectorError


def malformed(why: str) -> ConnectorError:
    """The peer sent what is no packet of the protocol; the connection is closed and made anew."""
    return ConnectorError(
        "mqtt.packet",
        "the MQTT peer sent a packet that cannot be read",
        why=why,
        next_step="look at what listens at that address, and at the version the topology gives",
    )


def too_large(what: str, size: int, size_max: int) -> ConnectorError:
    """Something of ours does not fit into the protocol or our limits."""
    return ConnectorError(
        "mqtt.size",
        f"{what} is too large for MQTT here",
        why=f"it has {size} bytes, at most {size_max} are sent",
        next_step="shorten it",
    )
