"""The energy ledger: what the device counts is what passed the box, and `GET ledger` gives it to anybody who asks."""

from __future__ import annotations

import numpy as np
import pytest

from ganglion.connectors.coap import message as wire
from ganglion.connectors.coap.message import Code, Message, MessageType, Option
from ganglion.core.packing import unpack
from ganglion.device.firmware.box import Core, Sent
from ganglion.device.firmware.hosted import HostedFirmware
from ganglion.kernels.c.toolchain import compilers
from tests.device.firmware.benches import (
    FRAMES,
    GATEWAY,
    START_NS,
    Answering,
    core_of,
    firmware_of,
    needs_compiler,
    stage,
)

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def hosted(folder):
    return HostedFirmware.build(firmware_of(*stage("plant")), compilers()[0], folder)


class Counting(Answering):
    """Counts beside the device what goes through the box."""

    sent = sent_bytes = 0

    def answer(self, sent: Sent) -> bytes:
        self.sent += 1
        self.sent_bytes += len(sent.datagram)
        return super().answer(sent)


def get(core: Core, path: str, kind: MessageType = MessageType.CON, *more: tuple[int, bytes]) -> Message:
    options: list[tuple[int, bytes]] = [*wire.request_options(path.split("/"), (), None, None), *more]
    asked = Message(kind, Code.GET, 77, b"token", tuple(sorted(options)), b"")
    records = [r for r in core.receive(0, ("127.0.0.1", 40000), wire.encode(asked)) if isinstance(r, Sent)]
    answers = [wire.decode(r.datagram) for r in records if r.to[1] == 40000]
    assert len(answers) == 1 and answers[0].token == b"token"
    return answers[0]


def test_the_ledger_counts_what_passed(hosted: HostedFirmware, rng: np.random.Generator) -> None:
    core = core_of(hosted.firmware, hosted.device())
    gateway = Counting(core)
    gateway.take(0, core.start(0, GATEWAY, 1, 5))
    every_ns = hosted.firmware.measured.every_ns
    for number, frame in enumerate(FRAMES["plant"](rng, 50)):
        now_ns = (number + 1) * every_ns
        gateway.take(now_ns, core.frame(now_ns, number, START_NS + now_ns, frame.tobytes()))
    before = core.report()
    answer = get(core, "ledger")
    assert answer.code == Code.CONTENT and answer.type is MessageType.ACK and answer.message_id == 77
    assert wire.uint(answer.options, Option.CONTENT_FORMAT) == 60
    told = unpack(answer.payload)
    ledger = before.ledger
    assert (ledger.frames, ledger.sent, ledger.sent_bytes) == (50, gateway.sent, gateway.sent_bytes)
    assert told["frames"] == 50 and told["sent"] == gateway.sent and told["sent_bytes"] == gateway.sent_bytes
    # The start, each frame, each answer, and the question itself woke it.
    assert told["wakeups"] == 1 + 50 + gateway.sent + 1
    assert told["received"] == gateway.sent + 1
    offered = sum(u.offered for u in before.uplinks.values())
    acknowledged = sum(u.acknowledged for u in before.uplinks.values())
    assert told["rows_acknowledged"] == acknowledged > 0
    assert told["rows_stored"] == offered - acknowledged > 0
    assert told["rows_shed"] == told["rows_refused"] == told["instructions"] == told["cycles"] == 0


def test_who_gets_no_answer_costs_retransmissions_that_are_counted(hosted: HostedFirmware) -> None:
    core = core_of(hosted.firmware, hosted.device())
    core.start(0, GATEWAY, 1, 5)
    core.frame(1, 0, START_NS, np.full((2, 4), 30000, np.int16).tobytes())
    while core.next_ns < 10_000_000_000:
        core.poll(core.next_ns)
    told = unpack(get(core, "ledger").payload)
    assert told["retransmitted"] == core.report().coap.retransmitted > 0
    assert told["rows_stored"] > 0


def test_a_repeated_question_is_answered_again_with_new_counts(hosted: HostedFirmware) -> None:
    core = core_of(hosted.firmware, hosted.device())
    core.start(0, GATEWAY, 1, 5)
    first, again = (unpack(get(core, "ledger").payload) for _ in range(2))
    assert again["received"] == first["received"] + 1
    assert get(core, "ledger", MessageType.NON).type is MessageType.NON


@pytest.mark.parametrize(
    "path, more, code",
    [
        ("ledger", ((int(Option.ACCEPT), b"\x3c"),), Code.CONTENT),
        ("ledger", ((int(Option.ACCEPT), b"\x32"),), Code.NOT_ACCEPTABLE),
        ("ledger/all", (), Code.NOT_FOUND),
        ("Ledger", (), Code.NOT_FOUND),
        ("ledger", ((9, b""),), Code.BAD_OPTION),
    ],
)
def test_other_questions(
    hosted: HostedFirmware, path: str, more: tuple[tuple[int, bytes], ...], code: int
) -> None:
    core = core_of(hosted.firmware, hosted.device())
    core.start(0, GATEWAY, 1, 5)
    assert get(core, path, MessageType.CON, *more).code == code


def test_the_largest_counts_fit_the_answer(hosted: HostedFirmware) -> None:
    """Every count as wide as it can be, and the longest token."""
    names = [
        "frames",
        "wakeups",
        "sent",
        "sent_bytes",
        "received",
        "received_bytes",
        "instructions",
        "cycles",
    ]
    names += ["retransmitted", "rows_stored", "rows_acknowledged", "rows_shed", "rows_refused"]
    largest = 1 + sum(1 + len(n) + 9 for n in names) + 4 + 8 + 2 + 1
    assert largest <= hosted.firmware.sizes["GD_DATAGRAM_BYTES"]
