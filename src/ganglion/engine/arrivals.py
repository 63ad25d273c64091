"""What comes to a durable engine: opened, checked, and each row once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from ganglion.core.block import Block
from ganglion.core.errors import DataError
from ganglion.core.origins import NAME_CHARS, is_name
from ganglion.core.shed import Shed, unwrap
from ganglion.core.wire import End, Item, decode_several
from ganglion.engine.missing import Missing
from ganglion.engine.seen import Seen, take_block
from ganglion.engine.senders import Senders
from ganglion.flow.spec import FlowSpec

LINES_MAX = 500_000
"""Streams of origins a node keeps sequence numbers of; messages of further ones are counted bad."""


@dataclass(slots=True)
class Exported:
    """What left a node of one stream since its process started: rows, the messages they went in, payload bytes."""

    rows: int = 0
    messages: int = 0
    payload_bytes: int = 0


@dataclass(slots=True)
class Progress:
    """What `Durable` has done, for reports."""

    input_seq: int = 0
    ordinal: int = 0
    checkpoints: int = 0
    bad_messages: int = 0
    duplicated_rows: int = 0
    out_of_order_rows: int = 0
    disk_trouble: str = ""
    state_bytes: dict[str, int] = field(default_factory=dict)
    """What stages' state took at the last checkpoint."""
    exported: dict[str, Exported] = field(default_factory=dict)
    seen: dict[tuple[str, str], Seen] = field(default_factory=dict)
    missing: Missing = field(default_factory=Missing)

    def last_seq(self, stream: str, origin: str) -> int:
        """The highest row number taken of a stream and origin; -1 when there was none."""
        seen = self.seen.get((stream, origin))
        return seen.last_seq if seen else -1


class Arrivals:
    """``on_claim`` is told what sites below could not keep. ``takes``: whose rows may come here.

    ``senders``: whose rows each child may send; None where nothing comes from children.
    """

    def __init__(
        self,
        spec: FlowSpec,
        progress: Progress,
        on_claim: Callable[[Shed], None],
        takes: Callable[[str], bool] = lambda _origin: True,
        senders: Senders | None = None,
    ) -> None:
        self._senders = senders
        self._takes = takes
        self._spec = spec
        self._progress = progress
        self._on_claim = on_claim

    def opened(self, payload: bytes, child: str = "") -> list[Item]:
        """What a message holds that is of known streams and as they were promised; the rest is counted bad.

        What it tells of shed rows is noted, and told on. ``child``: who sent it, as its parent's server knows.
        """
        try:
            claims, message = unwrap(payload)
            found = [] if message is None else decode_several(message)
        except DataError:
            self._progress.bad_messages += 1
            return []
        for claim in claims:
            if self._is_of(child, (claim.origin,)):
                self._on_claim(claim)
            else:
                self._progress.bad_messages += 1
        items: list[Item] = []
        for item in found:
            try:
                items.append(self._checked(item, child))
            except DataError:
                self._progress.bad_messages += 1
        return items

    def _is_of(self, child: str, origins: Collection[str]) -> bool:
        return self._senders is None or self._senders.may_send(child, origins)

    def _checked(self, item: Item, child: str) -> Item:
        if item.stream not in self._spec:
            raise DataError(
                "engine.stream",
                f"unknown stream {item.stream!r}",
                why="the flow has none such",
                next_step="run every node from the same plan",
            )
        names = item.present if isinstance(item, Block) else (item.origin,)
        if not all(map(is_name, names)):  # it could not be sent on
            raise DataError(
                "batch.origin",
                f"{item.stream} has rows of an origin without a proper name",
                why=f"a name is {NAME_CHARS}",
                next_step="look at the sender: its rows are not those of devices",
            )
        if not self._is_of(child, names):
            raise DataError(
                "engine.sender",
                f"{child or 'this site'} sent {item.stream} of origins that are not below it",
                why="a site speaks for the devices below it, and for no others",
                next_step="look at the sender, and at its parent: both must run the same topology",
            )
        if not all(map(self._takes, names)):
            raise DataError(
                "engine.partition",
                f"{item.stream} has rows that are not of this partition",
                why="the message's subject says another partition than its rows",
                next_step="run every node from the same topology, or look at the sender: it names messages wrongly",
            )
        return item if isinstance(item, End) else item.check(self._spec[item.stream].schema)

    def fresh(self, item: Item) -> Item | None:
        """The rows not seen yet; a repeated or reordered row is counted, and never used twice."""
        if isinstance(item, End):
            return item
        if isinstance(item, Block):
            return self._fresh_block(item)
        seen = self._seen(item.stream, item.origin)
        if seen is None:
            self._progress.bad_messages += 1
            return None
        fresh, repeated, late = seen.take(item)
        self._progress.duplicated_rows += repeated
        self._progress.out_of_order_rows += late
        return fresh

    def _fresh_block(self, block: Block) -> Block | None:
        refused = 0

        def seen_of(origin: str) -> Seen | None:
            nonlocal refused
            seen = self._seen(block.stream, origin)
            refused += seen is None
            return seen

        fresh, repeated, late, _ = take_block(block, seen_of)
        self._progress.duplicated_rows += repeated
        self._progress.out_of_order_rows += late
        self._progress.bad_messages += refused
        return fresh

    def _seen(self, stream: str, origin: str) -> Seen | None:
        """None for a line too many: its rows are counted bad, and the devices are to be spread over more gateways."""
        lines = self._progress.seen
        seen = lines.get((stream, origin))
        if seen is None and len(lines) < LINES_MAX:
            seen = lines[stream, origin] = Seen()
        return seen
