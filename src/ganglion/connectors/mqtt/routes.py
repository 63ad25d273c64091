"""All routes of a gateway: topics lead to mappers, and what came with one socket read is shared out among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ganglion.connectors.mqtt.decoding import Decoded, Decoder, Form
from ganglion.connectors.mqtt.mapping import Letter, Mapper, Readings, Topic
from ganglion.connectors.mqtt.reading import Published
from ganglion.connectors.mqtt.topics import Pattern, fill


@dataclass(slots=True)
class _Share:
    """What one mapper takes. ``decoded``: rows that C has read, each with how many of the messages came before."""

    mapper: Mapper | None
    topics: list[Topic] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    decoded: list[tuple[int, Decoded]] = field(default_factory=list)


class Routes:
    """``resolve`` is for the `Reader`, which remembers what it says."""

    def __init__(self, mappers: Sequence[Mapper]) -> None:
        self._mappers = tuple(mappers)
        self._patterns = [(Pattern(m.route.topic), m) for m in mappers]
        self._decoder: Decoder | None = None
        self._numbers: dict[int, int] = {}

    @property
    def forms(self) -> list[Form | None]:
        """What a `Decoder` of these routes looks for."""
        return [m.form for m in self._mappers]

    def teach(self, decoder: Decoder) -> None:
        """Tells it of topics and devices, those that are known and those to come."""
        self._decoder = decoder
        for number in decoder.routes:
            mapper = self._mappers[number]
            self._numbers[id(mapper)] = number
            mapper.tell(partial(decoder.learn_device, number))

    def resolve(self, text: str) -> Topic:
        """The route of a topic: the first that matches; one without a mapper when none does."""
        for pattern, mapper in self._patterns:
            named = pattern.match(text)
            if named is not None:
                device = fill(mapper.route.device, named) or "" if "{" in mapper.route.device else ""
                return Topic(text, mapper, device)
        return Topic(text, None)

    def take(self, published: Published, now_ns: int) -> tuple[list[Readings], list[Letter]]:
        """Everything that came with one socket read, as readings by stream and letters that cannot be delivered."""
        if len(published.decoded) == 1 and not published.payloads:
            rows = published.decoded[0][1]
            return [self._mappers[rows.route].take_decoded(rows, now_ns)], []
        readings: list[Readings] = []
        letters: list[Letter] = []
        for share in self._shares(published):
            mapper = share.mapper
            if mapper is None:
                letters += [
                    Letter(t.text, p, "mqtt.unrouted", "no route matches the topic")
                    for t, p in zip(share.topics, share.payloads, strict=True)
                ]
                continue
            found, bad = mapper.take(share.topics, share.payloads, now_ns, share.decoded)
            letters += bad
            if found is not None:
                readings.append(found)
            if self._decoder is not None:
                self._learn(self._decoder, mapper, share.topics)
        return readings, letters

    def _learn(self, decoder: Decoder, mapper: Mapper, topics: Sequence[Topic]) -> None:
        """The next message to these topics need not come here."""
        number = self._numbers.get(id(mapper))
        if number is None:
            return
        for topic in set(topics):
            place = mapper.place(topic)
            if place is not None:
                decoder.learn_topic(topic.text, number, place)

    def _shares(self, published: Published) -> list[_Share]:
        """By mapper, in the order in which each comes first."""
        topics: list[Topic] = published.topics
        if not published.decoded and len(set(topics)) == 1:
            return [_Share(topics[0].mapper, topics, published.payloads)]
        shares: dict[int, _Share] = {}
        start = 0
        for before, rows in published.decoded:
            _add(shares, topics[start:before], published.payloads[start:before])
            start = before
            mapper = self._mappers[rows.route]
            share = shares.setdefault(id(mapper), _Share(mapper))
            share.decoded.append((len(share.payloads), rows))
        _add(shares, topics[start:], published.payloads[start:])
        return list(shares.values())


def _add(shares: dict[int, _Share], topics: Sequence[Topic], payloads: Sequence[bytes]) -> None:
    mapper: Mapper | None = None
    add: tuple[Callable[[Topic], None], Callable[[bytes], None]] | None = None
    for topic, payload in zip(topics, payloads, strict=True):
        if add is None or topic.mapper is not mapper:
            mapper = topic.mapper
            share = shares.get(id(mapper))
            if share is None:
                share = shares[id(mapper)] = _Share(mapper)
            add = share.topics.append, share.payloads.append
        add[0](topic)
        add[1](payload)
