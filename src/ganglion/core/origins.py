"""How origins may be called: the same everywhere, as their names stand in subjects, messages and SenML."""

from __future__ import annotations

import re
from functools import lru_cache

NAME_CHARS = "1 to 128 of A-Z, a-z, 0-9 and - : . / _"
_NAME = re.compile(r"[A-Za-z0-9_:/.-]{1,128}")


@lru_cache(maxsize=100_000)
def is_name(text: str) -> bool:
    """True for what may name an origin, or a stream."""
    return _NAME.fullmatch(text) is not None
