"""Message servers without servers: what we use of JetStream, in memory, under the same conformance suite.

`store` holds streams as a server keeps them on disk, `server` answers the administrative requests, `links` moves
outboxes up the tree, `bus` is the client's side; `sites` puts a tree of them together for tests. Time comes from a
`Pace`; without one nothing takes any, and runs repeat exactly.
"""

from ganglion.messaging.memory.bus import MemoryBus
from ganglion.messaging.memory.links import Link
from ganglion.messaging.memory.pace import Pace
from ganglion.messaging.memory.server import MemoryServer
from ganglion.messaging.memory.sites import MemorySites
from ganglion.messaging.memory.store import Store

__all__ = ["Link", "MemoryBus", "MemoryServer", "MemorySites", "Pace", "Store"]
