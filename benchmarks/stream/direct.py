"""The rate `direct`: one process on the load's core is the engine's broker, its load maker and its listener.

python direct.py DIRECTORY

It answers as a broker of MQTT 3.1.1 does to clients that ask for QoS 0, and keeps what they publish with the time at
which its bytes were read. Readings go to one subscriber, as fast as its socket takes them. It is led by lines. Out:
`port N`, `subscribed PATTERN`, `heard N` (messages so far), `ready` (packets are made), `sent`, `kept` (sent.npz and
heard.pickle are written). In: an empty line once DIRECTORY/plan.json is there, the time to begin, an empty line to
keep what was heard. It answers clients until its input ends.
"""

from __future__ import annotations

import json
import pickle
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from benchmarks.stream import load
from benchmarks.stream import mqtt_socket as mqtt
from benchmarks.stream.feed import Heard

LEVEL = 4
"""MQTT 3.1.1's."""
ACCEPTED, UNSUPPORTED_LEVEL = b"\x20\x02\x00\x00", b"\x20\x02\x00\x01"
SEND_BUFFER_BYTES = 1 << 18
"""What waits on this side of a connection; more would only let readings grow old before an engine can take them."""


class Refused(Exception):
    """A client sent what ends its connection."""


class Session:
    """One connection. Whoever reads from it never writes to it, so a client that publishes is always listened to.

    Two threads: one reads, one writes the answers. `send` shares the socket with the latter.
    """

    def __init__(self, accepted: socket.socket, heard: Heard, subscribed: Callable[[str], None]) -> None:
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.patterns: list[str] = []
        self.ended = False
        self._socket = accepted
        self._heard = heard
        self._subscribed = subscribed
        self._connected = False
        self._answers: deque[bytes] = deque()
        self._wake = threading.Event()
        self._writing = threading.Lock()
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._read, self._write)]

    def start(self) -> None:
        """Begins to read and to answer."""
        for thread in self._threads:
            thread.start()

    def send(self, content: bytes) -> None:
        """Returns when the socket has taken it. Raises `OSError` when the client has gone."""
        with self._writing:
            self._flush()
            self._socket.sendall(content)

    def stop(self) -> None:
        """Ends the connection."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _flush(self) -> None:
        while self._answers:
            self._socket.sendall(self._answers.popleft())

    def _write(self) -> None:
        with suppress(OSError):  # the client has gone, which its reader finds too
            while not (self.ended and not self._answers):
                self._wake.wait()
                self._wake.clear()
                with self._writing:
                    self._flush()
        self._threads[0].join()
        with self._writing:
            self._socket.close()

    def _answer(self, packet: bytes) -> None:
        self._answers.append(packet)
        self._wake.set()

    def _read(self) -> None:
        packets = mqtt.Packets()
        try:
            while got := self._socket.recv(mqtt.READ_BYTES):
                at_ns = time.monotonic_ns()
                for first, body in packets.split(got):
                    if first & 0xF0 == mqtt.DISCONNECT:
                        return
                    self._take(first, body, at_ns)
        except ConnectionError:
            pass  # as good an end as any: an engine may be killed
        except Refused as why:
            print(f"a client was cut off: {why}", file=sys.stderr, flush=True)
        finally:
            self.ended = True
            self._wake.set()

    def _take(self, first: int, body: bytes, at_ns: int) -> None:
        kind = first & 0xF0
        if self._connected is (kind == mqtt.CONNECT):
            raise Refused("it sent CONNECT twice, or another packet before it\nnext: see its log")
        if kind == mqtt.CONNECT:
            if body[:7] != mqtt.text("MQTT") + bytes((LEVEL,)):
                self._answer(UNSUPPORTED_LEVEL)
                raise Refused(f"it asked for protocol {body[2:7]!r}\nnext: set it to MQTT 3.1.1")
            self._connected = True
            self._answer(ACCEPTED)  # a session of an earlier connection is never present
        elif kind == mqtt.PUBLISH:
            self._publish(first >> 1 & 3, body, at_ns)
        elif kind == mqtt.SUBSCRIBE:
            self._subscribe(body)
        elif kind == mqtt.UNSUBSCRIBE:
            self._answer(bytes((mqtt.UNSUBACK, 2)) + body[:2])
        elif kind == mqtt.PINGREQ:
            self._answer(bytes((mqtt.PINGRESP, 0)))
        else:
            raise Refused(
                f"it sent a packet of kind {kind >> 4}\nnext: use QoS 0 or 1, which take none of these"
            )

    def _publish(self, qos: int, body: bytes, at_ns: int) -> None:
        end = 2 + int.from_bytes(body[:2], "big")
        if qos > 1:
            raise Refused(f"it published with QoS {qos}\nnext: set it to QoS 0 or 1")
        if qos:
            self._answer(bytes((mqtt.PUBACK, 2)) + body[end : end + 2])
        self._heard.append((at_ns, body[2:end], body[end + 2 * qos :]))

    def _subscribe(self, body: bytes) -> None:
        """Grants QoS 0 whatever was asked for, as readings are sent with it."""
        at, found = 2, []
        while at < len(body):
            end = at + 2 + int.from_bytes(body[at : at + 2], "big")
            found.append(body[at + 2 : end].decode())
            at = end + 1
        self.patterns += found
        for pattern in found:
            self._subscribed(pattern)
        self._answer(bytes((mqtt.SUBACK,)) + mqtt.length(2 + len(found)) + body[:2] + bytes(len(found)))


class Server:
    """Takes connections at a free port of this machine; ``subscribed`` is called with each pattern."""

    def __init__(self, subscribed: Callable[[str], None]) -> None:
        self.heard: Heard = []
        self._subscribed = subscribed
        self._sessions: list[Session] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return  # stopped
            self._sessions = [s for s in self._sessions if not s.ended]
            session = Session(accepted, self.heard, self._subscribed)
            self._sessions.append(session)  # before it answers: whoever has been answered can be found
            session.start()

    def subscriber(self, pattern: str) -> Session:
        """The first that has subscribed to a pattern and is still there. Raises `LookupError`."""
        for session in self._sessions:
            if pattern in session.patterns and not session.ended:
                return session
        raise LookupError(f"nobody is subscribed to {pattern} any more\nnext: see the engine's log")

    def stop(self) -> None:
        """Ends all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)  # which ends the waiting for the next one
        self._thread.join()
        self._listener.close()
        for session in self._sessions:
            session.stop()


class Teller:
    """Whole lines to whoever leads this process, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, line: str) -> None:
        with self._lock:
            print(line, flush=True)

    def count(self, heard: Heard) -> None:
        """Tells how many messages there are whenever there are more."""
        told = 0
        while True:
            time.sleep(load.SAVE_EVERY_S)
            if len(heard) > told:
                told = len(heard)
                self(f"heard {told}")


def main() -> None:
    directory = Path(sys.argv[1])
    tell = Teller()
    server = Server(lambda pattern: tell(f"subscribed {pattern}"))
    tell(f"port {server.port}")
    threading.Thread(target=tell.count, args=(server.heard,), daemon=True).start()
    if not sys.stdin.readline():
        return
    plan = json.loads((directory / "plan.json").read_text())
    rows, parcels = load.parcels(plan)
    tell("ready")
    start_ns = int(sys.stdin.readline())
    times = load.transmit(rows, parcels, start_ns, server.subscriber(plan["pattern"]).send)
    tell("sent")
    sys.stdin.readline()
    np.savez(directory / "sent.npz", **times)
    (directory / "heard.pickle").write_bytes(pickle.dumps(server.heard))
    tell("kept")
    sys.stdin.read()


if __name__ == "__main__":
    main()
