"""What processes that share a site's input need of its server: a consumer for each partition, and a stream of state.

One process at a time is pinned to a partition (`pins`); what it makes of it goes to the outbox under the partition's
subjects, and its checkpoints to the state stream, from where the next one goes on (docs/adr/0026).
"""

from __future__ import annotations

from typing import Any, Protocol

from ganglion.core.errors import MessagingError
from ganglion.core.partition import PARTITIONS
from ganglion.messaging import subjects
from ganglion.messaging.bus import Bus
from ganglion.messaging.pins import Post, make_consumer
from ganglion.messaging.provision import StreamApi

STATE_BYTES_MAX = 128 << 20
"""The checkpoints of all partitions of a site, the newest ones and those that are being written."""


class PartitionBus(Bus, Post, Protocol):
    """What a bus of a site whose work is shared can do."""


def consumer(partition: int) -> str:
    """The name of the consumer that gives a partition to one process."""
    return f"partition-{partition}"


async def provision_partitions(bus: StreamApi, site: str, replicas: int = 1) -> None:
    """Makes the state stream and the consumers on the site's inbox be there; what they hold stays.

    ``replicas``: how many servers of a cluster keep the stream, as those that `provision` makes.
    """
    name = subjects.state(site)
    config: dict[str, Any] = {
        "name": name,
        "subjects": ["state.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_bytes": STATE_BYTES_MAX,
        "max_age": 0,
        "num_replicas": replicas,
    }
    try:
        await bus.ask(f"STREAM.INFO.{name}", {})
    except MessagingError as error:
        if error.code != "messaging.no-stream":
            raise
        await bus.ask(f"STREAM.CREATE.{name}", config)
    for partition in range(PARTITIONS):
        stream = subjects.inbox(site)
        await make_consumer(bus, stream, consumer(partition), subjects.inbox_partition(partition))
