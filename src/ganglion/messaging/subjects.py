"""The names of a site's streams and subjects, in one place.

Journal ``j.<stream>.<origin>``, outbox ``out.<stream>.<partition>.<origin>``, inbox
``in.<child>.out.<stream>.<partition>.<origin>``. The ``in.<child>`` part is stamped by the parent from the link a
message came by, so a child cannot speak for another. The partition follows from the origin (ADR 0026). What must not
wait behind a backlog has ``urgent`` in the place of ``out``, and is drawn by itself (ADR 0027).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from ganglion.core.errors import MessagingError
from ganglion.core.origins import NAME_CHARS, is_name
from ganglion.core.partition import partition_of

OUTBOX_PREFIX = "OUT_"
LOCAL_SUBJECTS = ("j.>", "out.>", "urgent.>", "in.>", "state.>")
"""What must never cross a link as a plain message: every site has streams on the same subjects."""

_SITE = re.compile(r"[a-z][a-z0-9-]{0,30}")


@dataclass(frozen=True, slots=True)
class Lane:
    """One order of an outbox's messages: a durable ``consumer`` draws those whose subjects begin with ``prefix``."""

    consumer: str
    prefix: str

    @property
    def filter(self) -> str:
        """The subjects of its messages in the outbox."""
        return f"{self.prefix}.>"


BULK = Lane("up", "out")
URGENT = Lane("urgent", "urgent")
LANES = (URGENT, BULK)


@dataclass(frozen=True, slots=True)
class Address:
    """What a subject says: the child that sent it ("" for the site's own), the stream, the origin."""

    child: str
    stream: str
    origin: str


@lru_cache(1024)
def check_site(site: str) -> str:
    """``site`` itself; raises `MessagingError` ``messaging.site`` unless it matches ``[a-z][a-z0-9-]{0,30}``."""
    if not _SITE.fullmatch(site):
        raise MessagingError(
            "messaging.site",
            f"{site!r} is not a site id",
            why="it names streams and directories: a small letter, then at most 30 of a-z, 0-9 and -",
            next_step="rename the site in the topology",
        )
    return site


def journal(site: str) -> str:
    """The stream of what the site's devices sent."""
    return f"JOURNAL_{check_site(site)}"


def outbox(site: str) -> str:
    """The stream of what the site owes its parent."""
    return f"{OUTBOX_PREFIX}{check_site(site)}"


def inbox(site: str) -> str:
    """The stream of what the site's children sent."""
    return f"IN_{check_site(site)}"


def state(site: str) -> str:
    """The stream of what the processes of a site keep of each partition."""
    return f"STATE_{check_site(site)}"


def outbox_partition(partition: int) -> str:
    """All subjects of a partition in an outbox, of all lanes."""
    return f"*.*.{partition}.*"


def inbox_partition(partition: int) -> str:
    """All subjects of a partition in an inbox, whichever child sent it."""
    return f"in.*.*.*.{partition}.*"


def state_partition(partition: int) -> str:
    """All subjects of a partition's state."""
    return f"state.{partition}.>"


def state_subject(partition: int, part: str) -> str:
    """``state.<partition>.<part>``."""
    return f"state.{partition}.{part}"


def deliver(child: str, lane: Lane = BULK) -> str:
    """The subject on which a lane of a child's outbox is delivered to the parent's inbox."""
    return f"deliver.{check_site(child)}" + ("" if lane == BULK else f".{lane.consumer}")


def answers(child: str) -> str:
    """Where a child answers its parent: it may send there and, of all such subjects, nowhere else."""
    return f"_INBOX_{check_site(child)}"


def journal_subject(stream: str, origin: str) -> str:
    """``j.<stream>.<origin>``; raises ``messaging.subject``."""
    return f"j.{_token(stream)}.{_token(origin)}"


def outbox_subject(stream: str, origin: str, lane: Lane = BULK) -> str:
    """``out.<stream>.<partition>.<origin>``, or another lane's; raises ``messaging.subject``."""
    return f"{lane.prefix}.{_token(stream)}.{partition_of(origin)}.{_token(origin)}"


def stream_filter(stream: str, lane: Lane = BULK) -> str:
    """The subjects of one stream's messages in an outbox; raises ``messaging.subject``."""
    return f"{lane.prefix}.{_token(stream)}.>"


def inbox_subject(child: str, stream: str, origin: str) -> str:
    """``in.<child>.out.<stream>.<partition>.<origin>``; raises ``messaging.subject`` or ``messaging.site``."""
    return f"in.{check_site(child)}.{outbox_subject(stream, origin)}"


def sender(subject: str) -> str:
    """The child that the parent's server stamped a message with; "" for what came from none."""
    first, _, rest = subject.partition(".")
    return rest.partition(".")[0] if first == "in" else ""


def parse(subject: str) -> Address:
    """The parts of a subject made by one of the above; raises ``messaging.subject`` for any other."""
    match subject.split("."):
        case ["j", stream, origin]:
            return Address("", _text(stream), _text(origin))
        case ["out" | "urgent", stream, partition, origin]:
            return _partitioned(subject, partition, Address("", _text(stream), _text(origin)))
        case ["in", child, "out" | "urgent", stream, partition, origin]:
            return _partitioned(subject, partition, Address(check_site(child), _text(stream), _text(origin)))
        case _:
            raise _wrong(subject)


def _partitioned(subject: str, partition: str, address: Address) -> Address:
    """A message in another partition than its origin's would be taken out of turn."""
    if partition != str(partition_of(address.origin)):
        raise _wrong(subject)
    return address


def _token(text: str) -> str:
    if not is_name(text):
        raise _wrong(text)
    # A point would end the part; names of origins may hold some.
    return text.replace(".", "%2E")


def _text(token: str) -> str:
    text = token.replace("%2E", ".")
    if not is_name(text):
        raise _wrong(token)
    return text


def _wrong(text: str) -> MessagingError:
    return MessagingError(
        "messaging.subject",
        f"{text!r} is no subject or part of one",
        why=f"a part is {NAME_CHARS}",
        next_step="rename the stream or the device",
    )
