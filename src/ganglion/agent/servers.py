"""The message servers of a node: one of its own, or those that others run."""

from __future__ import annotations

from ganglion.agent.config import Limits, NodeConfig
from ganglion.agent.mqtt import mqtt_listener
from ganglion.host.ports import Host
from ganglion.messaging.cluster import ClusterServers
from ganglion.messaging.security.identity import Trust
from ganglion.messaging.server import ServerSettings, SiteServer

STORE_RESERVE_BYTES = 256 << 20


def store_bytes(limits: Limits) -> int:
    """What each of a site's servers may store: its streams at their caps, and a reserve."""
    return limits.journal_bytes_max + limits.outbox_bytes_max + limits.inbox_bytes_max + STORE_RESERVE_BYTES


def message_servers(
    config: NodeConfig, host: Host, trust: Trust | None, binary: str | None
) -> SiteServer | ClusterServers:
    """``trust``: what a server of the node's own is told of the tree; ``binary``: instead of the packaged one."""
    if config.servers:
        return ClusterServers(config.site, config.servers, host.clock)
    settings = ServerSettings(
        site=config.site,
        port=config.nats_port,
        store_max_bytes=store_bytes(config.limits),
        leaf_port=config.leaf_port or None,
        parent_url=config.parent_url or None,
        trust=trust,
        mqtt=mqtt_listener(config.mqtt) if config.mqtt is not None else None,
        binary=binary,
    )
    return SiteServer(settings, host)


def unwatched(_stream: str, _answered: bool) -> None:
    """What became of writes to the servers of others is for others to count."""
