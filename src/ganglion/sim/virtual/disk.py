"""`Disk` in memory that can lose what was not synced, tear what was being written, and fill up.

The steps of each call are those of `SystemDisk`: write, sync, rename. Mutants of the tests leave one out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ganglion.core.errors import HostError
from ganglion.host.ports import Chance


class MachineDied(BaseException):
    """The machine stopped in the middle of a call: no code that handles errors may go on with it."""


@dataclass(slots=True)
class _File:
    """Bytes as programs see them, and what of them a power cut leaves.

    The first ``synced_bytes`` are safe. ``before``: what a power cut brings back instead of them (None: nothing does).
    """

    content: bytearray = field(default_factory=bytearray)
    synced_bytes: int = 0
    before: bytes | None = None


class Platter:
    """What outlives a machine's programs. ``capacity_bytes`` is a limit on the sum of all files."""

    def __init__(self, capacity_bytes: int = 1 << 40) -> None:
        self.files: dict[str, _File] = {}
        self.capacity_bytes = capacity_bytes
        self.full = False

    @property
    def used_bytes(self) -> int:
        return sum(len(f.content) for f in self.files.values())

    def room_for(self, size_bytes: int) -> bool:
        """True when so many bytes more would fit."""
        return not self.full and self.used_bytes + size_bytes <= self.capacity_bytes

    def power_cut(self, chance: Chance) -> None:
        """Forgets what was not synced, but for a piece of random length of what was appended last."""
        for name in sorted(self.files):
            file = self.files[name]
            if file.before is not None:
                file.content = bytearray(file.before)
            else:
                torn_bytes = int(chance.random() * (len(file.content) - file.synced_bytes + 1))
                del file.content[file.synced_bytes + torn_bytes :]
            file.synced_bytes, file.before = len(file.content), None


class VirtualDisk:
    """`Disk` of one start of a machine on its `Platter`; after `die` every call ends as the machine did."""

    def __init__(self, platter: Platter, root: Path) -> None:
        self.root = root
        self._platter = platter
        self._tear: Chance | None = None
        self._dead = False

    def die(self) -> None:
        """Nothing is written any more."""
        self._dead = True

    def tear(self, chance: Chance) -> None:
        """The power goes in the middle of the next write, which gets as far as chance will have it."""
        self._tear = chance

    def read(self, name: str) -> bytes | None:
        self._check_alive()
        file = self._platter.files.get(name)
        return None if file is None else bytes(file.content)

    def replace(self, name: str, content: bytes) -> None:
        self._check_alive()
        self._check_room(name, len(content))
        if self._tear is not None:
            if self._tear.random() < 0.5:  # the rename came or it did not
                self._renamed(name, content)
                self._sync(name)
            raise MachineDied
        self._renamed(name, content)
        self._sync(name)

    def append(self, name: str, content: bytes) -> int:
        self._check_alive()
        self._check_room(name, len(content))
        file = self._platter.files.setdefault(name, _File())
        if self._tear is not None:
            file.content += content[: int(self._tear.random() * (len(content) + 1))]
            raise MachineDied
        file.content += content
        self._sync(name)
        return len(file.content)

    def truncate(self, name: str, size_bytes: int) -> None:
        self._check_alive()
        if self._tear is not None:
            raise MachineDied
        file = self._platter.files.setdefault(name, _File())
        if size_bytes > len(file.content):
            file.content += bytes(size_bytes - len(file.content))
        del file.content[size_bytes:]
        self._sync(name)

    def size_bytes(self, name: str) -> int:
        self._check_alive()
        file = self._platter.files.get(name)
        return 0 if file is None else len(file.content)

    def free_bytes(self) -> int:
        self._check_alive()
        platter = self._platter
        return 0 if platter.full else max(0, platter.capacity_bytes - platter.used_bytes)

    def _renamed(self, name: str, content: bytes) -> None:
        """The whole new content, which a power cut before `_sync` would undo."""
        old = self._platter.files.get(name)
        before = b"" if old is None else bytes(old.content) if old.before is None else old.before
        self._platter.files[name] = _File(bytearray(content), 0, before)

    def _sync(self, name: str) -> None:
        file = self._platter.files[name]
        file.synced_bytes, file.before = len(file.content), None

    def _check_alive(self) -> None:
        if self._dead:
            raise MachineDied

    def _check_room(self, name: str, size_bytes: int) -> None:
        if not self._platter.room_for(size_bytes):
            raise HostError(
                "host.disk-full",
                f"no space left for {name}",
                why="the file system is full",
                next_step="free space or name another directory with --run-dir",
            )
