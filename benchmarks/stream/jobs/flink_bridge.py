"""Between the broker and Flink, on the load's core: readings become lines of one TCP connection, lines become messages.

python flink_bridge.py BROKER_PORT PATTERN PORT_IN PORT_OUT; it subscribes when Flink has connected to PORT_IN.
"""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.stream.mqtt_socket import Connection, publish


def back(listener: socket.socket, connection: Connection) -> None:
    """Lines with a start are windows, others alarms; one thread per connection that Flink opens."""
    while True:
        accepted, _ = listener.accept()
        threading.Thread(target=_lines, args=(accepted, connection), daemon=True).start()


def _lines(accepted: socket.socket, connection: Connection) -> None:
    held = b""
    while got := accepted.recv(1 << 16):
        *lines, held = (held + got).split(b"\n")
        out = b"".join(
            publish(b"out/windows" if b'"start"' in line else b"out/alarms", line) for line in lines if line
        )
        if out:
            connection.socket.sendall(out)


def main() -> None:
    port, pattern, port_in, port_out = sys.argv[1:]
    inward = socket.create_server(("127.0.0.1", int(port_in)))
    outward = socket.create_server(("127.0.0.1", int(port_out)))
    connection = Connection(int(port), "flink-bridge-in")
    answers = Connection(int(port), "flink-bridge-out")
    threading.Thread(target=back, args=(outward, answers), daemon=True).start()
    flink, _ = inward.accept()
    connection.subscribe(pattern)
    connection.socket.settimeout(None)
    while True:
        lines = b"".join(payload + b"\n" for _, payload in connection.messages())
        if lines:
            flink.sendall(lines)


if __name__ == "__main__":
    main()
