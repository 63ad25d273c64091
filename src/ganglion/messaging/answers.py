"""Answers of a message server and what its error numbers mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ganglion.core.errors import MessagingError
from ganglion.messaging.bus import fence, full, no_stream, unavailable

FULL = 10077
FENCE = frozenset({10070, 10071, 10164})
NO_STREAM = 10059
NO_CONSUMER = 10014
NO_MESSAGE = 10037
NO_SEQUENCE = 10043
WRONG_STREAM = 10060
NO_SPACE_RESERVED = 10047
IN_USE = 10058
NOT_PURGED = 10051
ALONE = 10074
"""A server that is no cluster was to store something several times."""


class ApiRefused(MessagingError):
    """The server answered a request with an error; ``number`` is its own error code."""

    def __init__(self, code: str, what: str, *, why: str = "", next_step: str = "", number: int = 0) -> None:
        self.number = number
        super().__init__(code, what, why=why, next_step=next_step)


def checked(about: str, content: dict[str, Any], expect_last: int | None) -> dict[str, Any]:
    """The answer itself; an error in it is raised as ours."""
    error: Mapping[str, Any] | None = content.get("error")
    if error is None:
        return content
    number = int(error.get("err_code", 0))
    if number == FULL:
        raise full(about)
    if number in FENCE:
        raise fence(about, expect_last)
    if number in (NO_STREAM, WRONG_STREAM):
        raise no_stream(about.rpartition(".")[2])
    if int(error.get("code", 0)) == 503:
        raise unavailable(about, str(error.get("description", "")))
    raise ApiRefused(
        "messaging.refused",
        f"the message server refused {about}",
        why=f"{error.get('description', 'no reason given')} ({number})",
        next_step="compare the site's byte caps with the space its server may use",
        number=number,
    )
