"""Python files that a user wrote and we run: always as they stand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def as_it_stands() -> Iterator[None]:
    """Modules that are imported within leave no bytecode behind.

    Python takes bytecode for that of a file when second and size agree: a file that was changed within a second, and
    kept its size, would be run as it was before.
    """
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
