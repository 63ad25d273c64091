"""Files for one pair of eyes: a directory of mode 0700, files of mode 0600, at no moment readable by others."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ganglion.core.errors import HostError

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
FILE_BYTES_MAX = 1 << 20


class PrivateDirectory:
    """Files below ``root``, each replaced as a whole.

    Every method may raise `HostError`: ``host.disk``, or ``host.exposed`` for a secret that others may read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Where a file is, for programs that read it themselves."""
        return self.root / name

    def names(self, folder: str = "") -> list[str]:
        """The files of a folder, sorted; none when it is missing."""
        place = self.root / folder
        return sorted(p.name for p in place.iterdir() if p.is_file()) if place.is_dir() else []

    def read(self, name: str) -> bytes | None:
        """A file's content; None when it is missing. Refuses what its group or others may read or write."""
        path = self.root / name
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(path, error) from error
        with os.fdopen(handle, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if os.name == "posix" and mode & 0o077:
                raise HostError(
                    "host.exposed",
                    f"{path} may be read by others (mode {mode:04o})",
                    why="it holds a key, and whoever has read it can speak in its name",
                    next_step=f"make new keys, or if nobody has read it: chmod 600 {path}",
                )
            return file.read(FILE_BYTES_MAX)

    def write(self, name: str, content: bytes) -> None:
        """Replaces a file atomically and durably; directories are made with mode 0700, the file with 0600."""
        path = self.root / name
        draft = path.with_name(path.name + ".new")
        try:
            self._directory(path.parent)
            draft.unlink(missing_ok=True)
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), FILE_MODE)  # whatever the umask says
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise _unusable(path, error) from error

    def _directory(self, path: Path) -> None:
        if path != self.root and self.root in path.parents:
            self._directory(path.parent)
        if not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=DIRECTORY_MODE)
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(DIRECTORY_MODE)


def _unusable(path: Path, error: OSError) -> HostError:
    return HostError(
        "host.disk",
        f"cannot use {path}",
        why=error.strerror or str(error),
        next_step="check that the directory exists and belongs to you",
    )
