"""The real machine: system clocks, files, child processes, loopback ports."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import random
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ganglion.core.errors import HostError
from ganglion.host.loopback import SystemPorts
from ganglion.host.ports import ANSWER_NS_MAX, Host

PIPE_BYTES = 1 << 16
_PR_SET_PDEATHSIG = 1


class SystemClock:
    """`Clock` on the operating system's clocks."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def cpu_ns(self) -> int:
        return time.thread_time_ns()

    def process_cpu_ns(self) -> int:
        return time.process_time_ns()

    async def sleep_until_ns(self, monotonic_ns: int) -> None:
        # At least once, so that a caller who is behind lets others run; a timer may fire a little early.
        await self.sleep_ns(monotonic_ns - time.monotonic_ns())
        while (left_ns := monotonic_ns - time.monotonic_ns()) > 0:
            await self.sleep_ns(left_ns)

    async def sleep_ns(self, duration_ns: int) -> None:
        await asyncio.sleep(max(0, duration_ns) / 1e9)


def _disk_error(name: str, error: OSError) -> HostError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HostError(
            "host.disk-full",
            f"no space left for {name}",
            why=error.strerror or "the file system is full",
            next_step="free space or name another directory with --run-dir",
        )
    return HostError(
        "host.disk",
        f"cannot use {name}",
        why=error.strerror or str(error),
        next_step="check that the directory exists and may be written",
    )


class SystemDisk:
    """`Disk` on a directory of the real file system; creates it when it is missing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _disk_error(str(root), error) from error

    def read(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _disk_error(name, error) from error

    def replace(self, name: str, content: bytes) -> None:
        path = self.root / name
        draft = path.with_name(path.name + ".new")
        try:
            _create_directory(path.parent)
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            _sync_directory(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)  # on a full disk its bytes are wanted
            raise _disk_error(name, error) from error

    def append(self, name: str, content: bytes) -> int:
        path = self.root / name
        before: int | None = None
        try:
            _create(path)
            before = path.stat().st_size
            with path.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                return file.tell()
        except OSError as error:
            if before is not None:
                with contextlib.suppress(OSError):
                    os.truncate(path, before)  # or the next append would follow half a line
            raise _disk_error(name, error) from error

    def truncate(self, name: str, size_bytes: int) -> None:
        path = self.root / name
        try:
            _create(path)
            with path.open("ab") as file:
                file.truncate(size_bytes)
                os.fsync(file.fileno())
        except OSError as error:
            raise _disk_error(name, error) from error

    def size_bytes(self, name: str) -> int:
        try:
            return (self.root / name).stat().st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise _disk_error(name, error) from error

    def free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self.root).free
        except OSError as error:
            raise _disk_error(str(self.root), error) from error


def _create(path: Path) -> None:
    """Makes an empty file that survives a power cut, when there is none."""
    if not path.exists():
        _create_directory(path.parent)
        path.touch()
        _sync_directory(path.parent)


def _create_directory(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    if os.name != "posix":  # a directory cannot be opened, and need not be synced, elsewhere
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class SystemProcess:
    """`Process` over an asyncio child."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child
        self.pid = child.pid

    def alive(self) -> bool:
        return self._child.returncode is None

    async def wait(self) -> int:
        return await self._child.wait()

    async def stop(self, grace_ns: int) -> int:
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                self._child.terminate()
            try:
                async with asyncio.timeout(grace_ns / 1e9):
                    return await self._child.wait()
            except TimeoutError:
                self.kill()
        return await self._child.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()


class SystemConversation:
    """`Conversation` over a child's standard input and output."""

    def __init__(self, child: subprocess.Popen[bytes], name: str, answer_ns_max: int) -> None:
        self._child = child
        self._name = name
        self._answer_ns_max = answer_ns_max
        assert child.stdin is not None and child.stdout is not None
        self._to, self._from = child.stdin, child.stdout
        self._held = b""
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._from, selectors.EVENT_READ)

    def write(self, content: bytes) -> None:
        try:
            self._to.write(content)
            self._to.flush()
        except (OSError, ValueError) as error:  # the latter after `close`
            raise self._ended() from error

    def read(self, size: int) -> bytes:
        deadline_ns = time.monotonic_ns() + self._answer_ns_max
        while len(self._held) < size:
            if not self._ready.select(max(0, deadline_ns - time.monotonic_ns()) / 1e9):
                self._child.kill()
                raise HostError(
                    "host.process",
                    f"{self._name} did not answer and was ended",
                    why=f"it said nothing for {self._answer_ns_max / 1e9:g} s",
                    next_step="read its log",
                )
            more = os.read(self._from.fileno(), PIPE_BYTES)
            if not more:
                raise self._ended()
            self._held += more
        content, self._held = self._held[:size], self._held[size:]
        return content

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._to.close()
        self._child.kill()
        self._child.wait()
        self._ready.close()
        self._from.close()

    def _ended(self) -> HostError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(1)  # its pipes close a little before it has ended
        return HostError(
            "host.process",
            f"{self._name} ended while it was talked to",
            why=f"exit status {self._child.returncode}",
            next_step="read its log",
        )


class SystemProcesses:
    """`Processes` by fork and exec; on Linux the kernel ends a child when its parent ends, even by SIGKILL."""

    def converse(
        self, command: Sequence[str], *, log: Path, answer_ns_max: int = ANSWER_NS_MAX
    ) -> SystemConversation:
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=output,
                    process_group=0,
                    preexec_fn=_die_with_parent(os.getpid(), 0) if sys.platform == "linux" else None,  # noqa: PLW1509 # it makes system calls only
                )
        except OSError as error:
            raise _cannot_start(command, error) from error
        return SystemConversation(child, Path(command[0]).name, answer_ns_max)

    async def start(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        niceness: int = 0,
    ) -> SystemProcess:
        variables = dict(os.environ) | dict(environment or {})
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                child = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=variables,
                    process_group=0,
                    preexec_fn=_die_with_parent(os.getpid(), niceness) if sys.platform == "linux" else None,
                )
        except OSError as error:
            raise _cannot_start(command, error) from error
        return SystemProcess(child)


def _cannot_start(command: Sequence[str], error: OSError) -> HostError:
    return HostError(
        "host.process",
        f"cannot start {command[0]}",
        why=error.strerror or str(error),
        next_step="check that the program is installed and may be run",
    )


if sys.platform == "linux":
    _LIBC = ctypes.CDLL(None, use_errno=True)

    def _die_with_parent(parent: int, niceness: int) -> _Preexec:
        return _Preexec(parent, niceness)


class _Preexec:
    """Runs in the child between fork and exec: nothing but a few system calls, so it is safe there."""

    def __init__(self, parent: int, niceness: int) -> None:
        self._parent = parent
        self._niceness = niceness

    def __call__(self) -> None:
        os.nice(self._niceness)
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self._parent:  # the parent ended before the request was in force
            os.kill(os.getpid(), signal.SIGKILL)


class SystemChances:
    """`Chances` from one seed: the same seed and component draw the same numbers."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def stream(self, component: str) -> random.Random:
        return random.Random(f"{self._seed}/{component}")  # noqa: S311  # ids and waits, not secrets


def variable(name: str) -> str | None:
    """An environment variable; None when it is unset or empty."""
    return os.environ.get(name) or None


def system_host(root: Path, seed: int | None = None) -> Host:
    """This machine, with ``root`` as the directory for state; raises ``host.disk`` when it cannot be made.

    ``seed`` None draws one from the operating system.
    """
    chosen = int.from_bytes(os.urandom(8), "big") if seed is None else seed
    return Host(SystemClock(), SystemDisk(root), SystemProcesses(), SystemPorts(), SystemChances(chosen))
