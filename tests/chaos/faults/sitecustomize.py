"""Lets the wall clock of one process jump: nanoseconds to add stand in ``clock_jump_ns`` beside its configuration.

On the path of the chaos suite's processes only. It reaches every reader of `time.time_ns` in Python; a nats-server
asks the kernel itself and is not reached.
"""

import sys
import time
from pathlib import Path

_time_ns = time.time_ns


def _jumped() -> int:
    try:
        return _time_ns() + int(Path(sys.argv[1]).with_name("clock_jump_ns").read_text())
    except (OSError, IndexError, ValueError):
        return _time_ns()


time.time_ns = _jumped
