"""Sinks: rows kept in one Arrow IPC stream file per sink, each row exactly once.

The checkpoint records each file's length; after a crash the file is cut back to it and the replay writes the rest
again. Any Arrow reader opens the files (``pyarrow.ipc.open_stream``).
"""

from __future__ import annotations

from ganglion.core.block import Rows
from ganglion.core.errors import HostError
from ganglion.core.schema import Schema
from ganglion.engine.arrow_records import ArrowRecords
from ganglion.host.ports import Disk


class SinkFile:
    """One sink's file on a `Disk`; rows wait in memory until `sync`, which the checkpoint calls."""

    def __init__(self, disk: Disk, name: str, schema: Schema) -> None:
        self.path = f"sinks/{name}.arrows"
        self._disk = disk
        self._records = ArrowRecords(schema)
        self._waiting: list[bytes] = []
        self._size_bytes: int | None = None  # what is whole on disk; None until it was asked
        self.rows = 0

    @property
    def waiting_bytes(self) -> int:
        return sum(len(w) for w in self._waiting)

    def add(self, rows: Rows) -> None:
        """Takes rows; they are on disk after the next `sync`."""
        self._waiting.append(self._records.record(rows))
        self.rows += len(rows)

    def sync(self) -> int:
        """Writes and fsyncs what waits; returns the file's length. Blocks: call it in a thread.

        After an error everything still waits, and what was written of it is cut off by the next call.
        """
        size = self._whole()
        if self._waiting or not size:
            head = [] if size else [self._records.head]
            size = self._size_bytes = self._disk.append(self.path, b"".join(head + self._waiting))
            self._waiting = []
        return size

    def _whole(self) -> int:
        size = self._disk.size_bytes(self.path)
        if self._size_bytes is None:
            self._size_bytes = size
        if size < self._size_bytes:
            raise HostError(
                "host.disk",
                f"{self.path} was cut short by somebody else",
                why=f"it had {self._size_bytes} bytes, now it has {size}",
                next_step="put the file back, or start from a fresh --run-dir",
            )
        if size > self._size_bytes:
            self._disk.truncate(self.path, self._size_bytes)
        return self._size_bytes

    def cut_back(self, size_bytes: int, rows: int) -> None:
        """After a restart: forgets what the checkpoint does not know. The file must be at least that long."""
        self._waiting = []
        assert self._disk.size_bytes(self.path) >= size_bytes
        self._disk.truncate(self.path, size_bytes)
        self._size_bytes = size_bytes
        self.rows = rows
