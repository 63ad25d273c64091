"""One program at a time in a directory, whatever becomes of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ganglion.core.errors import HostError
from ganglion.host.sole import sole_use

HOLDER = """
import sys
from pathlib import Path
from ganglion.host.sole import sole_use
with sole_use(Path(sys.argv[1])):
    print("has it", flush=True)
    sys.stdin.read()
"""


def refused(directory: Path) -> str:
    with pytest.raises(HostError) as caught, sole_use(directory):
        pass
    return caught.value.code


def test_a_second_one_is_refused_until_the_first_has_left(tmp_path: Path) -> None:
    with sole_use(tmp_path):
        assert refused(tmp_path) == "host.in-use"
        with sole_use(tmp_path.parent):
            pass
    with sole_use(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == [], "a node has to start on a full disk too"


def test_a_process_that_was_killed_has_left(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"has it\n"
        assert refused(tmp_path) == "host.in-use"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with sole_use(tmp_path):
        pass


def test_a_directory_that_is_missing_is_said(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere") == "host.disk"
