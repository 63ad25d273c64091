"""Blocking calls in a thread, for callers whose next step must not overlap a call they gave up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def to_its_end(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Like `asyncio.to_thread`, but a cancelled caller waits for the end: two never write one file at once.

    What the function raises for a cancelled caller is the cause (``__cause__``) of its `asyncio.CancelledError`.
    """
    doing = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError as cancelled:
        while not doing.done():
            with contextlib.suppress(asyncio.CancelledError):  # cancelled again: it still has to end first
                await asyncio.wait({doing})
        if not doing.cancelled() and (error := doing.exception()) is not None:
            raise cancelled from error
        raise
