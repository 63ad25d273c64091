"""What a running node consists of."""

from __future__ import annotations

from dataclasses import dataclass

from ganglion.agent.backlog import SheddingOutbox
from ganglion.agent.ingest import Ingest
from ganglion.agent.inputs import InputRecorder
from ganglion.agent.shared import Shared
from ganglion.agent.streams import BusJournal, PassingJournal
from ganglion.agent.supervisor import Supervisor
from ganglion.agent.watch import ServerWatch
from ganglion.engine.durable import Durable
from ganglion.messaging.cluster import ClusterServers
from ganglion.messaging.janitor import Janitor
from ganglion.messaging.pacing import Pacer
from ganglion.messaging.provision import SiteBus
from ganglion.messaging.server import SiteServer


@dataclass(slots=True)
class Subsystems:
    """Made and wired by a `Node`, and by nobody else; None is what the site has no need of."""

    server: SiteServer | ClusterServers
    bus: SiteBus
    engine: Durable | Shared
    outbox: SheddingOutbox | None
    janitor: Janitor
    ingest: Ingest | None
    recorder: InputRecorder | None
    watch: ServerWatch | None
    supervisor: Supervisor | None
    pacer: Pacer | None
    journal: BusJournal | PassingJournal

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why something waits; "" where nothing does."""
        outbox = self.outbox.trouble if self.outbox else ""
        recorder = self.recorder.trouble if self.recorder else ""
        return self.engine.progress.disk_trouble, outbox, self.janitor.trouble, recorder
