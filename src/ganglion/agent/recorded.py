"""What a recording of a gateway's inputs holds: requests of its CoAP devices, and the states they met."""

from __future__ import annotations

from ganglion.agent.config import NodeConfig
from ganglion.agent.ingest import Ingest
from ganglion.agent.inputs import Arrival, InputRecorder, Start
from ganglion.connectors.coap.exchange import Request
from ganglion.core.packing import pack, unpack
from ganglion.engine.durable import Durable
from ganglion.host.ports import Clock


def record(
    recorder: InputRecorder, ingest: Ingest, engine: Durable, config: NodeConfig, clock: Clock
) -> None:
    """From now on what comes in is recorded, with the states it met."""

    def start(number: int) -> Start:
        return Start(
            number,
            config.site,
            str(config.flow_dir),
            config.assignment.to_json(),
            config.is_gateway,
            tuple(sorted(ingest.streams)),
            config.paths,
            clock.wall_ns(),
            clock.monotonic_ns(),
            engine.progress.ordinal,
            unpack(pack(ingest.snapshot())),
            engine.snapshot(),
        )

    def arrived(request: Request, commands: tuple[str, ...]) -> None:
        peer = (request.peer[0], request.peer[1])
        recorder.arrival(
            Arrival(
                clock.monotonic_ns(), peer, request.method, tuple(request.path), request.payload, commands
            )
        )

    recorder.start = start
    ingest.on_request = arrived
