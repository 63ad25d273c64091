"""One program at a time in a directory of state: two would write the same files, and each believe that it is alone."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ganglion.core.errors import HostError


@contextlib.contextmanager
def sole_use(directory: Path) -> Iterator[None]:
    """Nobody else who asks has the directory meanwhile; raises ``host.in-use``, or ``host.disk``.

    The system lets go for a process that ends, however it ends. Nothing is written: a node has to start on a full disk
    too. Only where there are POSIX locks.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl  # there is none elsewhere

    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise HostError(
            "host.disk",
            f"cannot use {directory}",
            why=error.strerror or str(error),
            next_step="check that the directory exists and may be read",
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HostError(
                "host.in-use",
                f"another program runs in {directory}",
                why="two that write the same state would destroy it",
                next_step=f"end it first, or name another directory; how it is: ganglion health {directory}",
            ) from error
        yield
    finally:
        os.close(handle)
