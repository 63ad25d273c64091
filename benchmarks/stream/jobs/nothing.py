"""The empty baseline: no engine. What comes from the broker is counted, and hot readings go back as they are.

python nothing.py PORT PATTERN

What this takes, every peer's figures hold too: two passes through the broker, and the reading of a socket.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.stream.mqtt_socket import Connection, publish

HOT_AND_GOOD = b'"temp":150.00,"q":0'


def main() -> None:
    port, pattern = sys.argv[1:]
    connection = Connection(int(port), "nothing")
    connection.subscribe(pattern)
    connection.socket.settimeout(None)
    count = 0
    while True:
        out = bytearray()
        for _, payload in connection.messages():
            count += 1
            if HOT_AND_GOOD in payload:
                out += publish(b"out/alarms", b'%s,"received":%d}' % (payload[:-1], count))
        if out:
            connection.socket.sendall(out)


if __name__ == "__main__":
    main()
