"""Exactly once: however often a process is killed, outbox and sinks are those of one that never was."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.core.batch import Batch
from ganglion.core.errors import DataError, MessagingError
from ganglion.core.packing import pack, unpack
from ganglion.core.shed import Shed
from ganglion.core.wire import End, decode, encode
from ganglion.engine import arrivals, durable
from ganglion.engine.checkpoints import CHECKPOINT
from ganglion.engine.graph import Graph
from ganglion.flow.assignment import Assignment
from tests.engine.flows import EDGE, GATEWAY, LONG_HISTORY, SPEC, WHOLE, assignment, flow, histories, items_of
from tests.engine.site import Site, sink_rows
from tests.engine.stores import Killed, Lifetime
from tests.engine.streams import row_list, rows_of

TICK = None
BAD = [
    b"",
    b"not a message",
    encode(End("frames", "gw1-relay-00"))[:-1],
    encode(End("nowhere", "gw1-relay-00")),
]


def outcome(site: Site) -> Any:
    """Everything that must not depend on kills."""
    assert site.engine is not None
    p = site.engine.progress
    return (
        site.outbox.messages,
        {name: sink_rows(site, name) for name in site.engine.sinks},
        [s.rows for s in site.engine.sinks.values()],
        (p.input_seq, p.ordinal, p.bad_messages, p.duplicated_rows, p.out_of_order_rows),
        site.engine.counts(),
        site.engine.holds,
    )


def uninterrupted(payloads: list[bytes | None], part: Assignment, *, gather: bool) -> Any:
    site = Site(payloads, part, gather=gather)
    asyncio.run(site.run())
    return outcome(site)


def history(*, every_tick: int = 4) -> list[bytes | None]:
    """The long history with ticks, repeated messages and bad ones in it."""
    payloads: list[bytes | None] = []
    for i, item in enumerate(items_of(LONG_HISTORY)):
        payloads.append(encode(item))
        if i % every_tick == 1:
            payloads += [TICK, payloads[0]]
        payloads += BAD[i : i + 1]
    return [*payloads, TICK]


@pytest.mark.parametrize("gather", [True, False])
def test_an_uninterrupted_run_gives_what_the_graph_gives(gather):
    payloads = history()
    site = Site(payloads, GATEWAY, gather=gather)
    asyncio.run(site.run())
    graph = Graph(SPEC, GATEWAY, "durable")
    emissions = [e for item in items_of(LONG_HISTORY) for e in graph.push(item)]
    exported = [e.item for e in emissions if e.kind == "export"]
    messages = [decode(payload) for _, _, payload in site.outbox.messages]
    for stream in ("tens", "trips"):
        rows = row_list(i for i in exported if i.stream == stream)
        assert sorted(row_list(m for m in messages if m.stream == stream)) == sorted(rows) != []
    assert [i for i in messages if isinstance(i, End)] == [i for i in exported if isinstance(i, End)] != []
    kept = row_list(e.item for e in emissions if e.kind == "sink")
    assert [row[1:4] for row in sink_rows(site, "incidents")] == [row[1:4] for row in kept] != []


def killed_everywhere(payloads: list[bytes | None], part: Assignment, **how: Any) -> int:
    """Kills a fresh site after one step, after two and so on, and restarts it; returns how many steps there are."""
    expected = uninterrupted(payloads, part, gather=how["gather"])
    for steps in itertools.count():
        site = Site(payloads, part, entries_per_checkpoint=3, **how)
        try:
            asyncio.run(site.run(Lifetime(steps)))
        except Killed:
            asyncio.run(site.run())
            assert outcome(site) == expected, f"killed after {steps} steps"
        else:
            assert outcome(site) == expected
            return steps
    raise AssertionError


@pytest.mark.parametrize("gather, part", [(True, GATEWAY), (False, GATEWAY), (True, WHOLE)])
def test_a_kill_at_any_point_loses_nothing_and_repeats_nothing(gather, part):
    payloads = history()
    assert killed_everywhere(payloads, part, gather=gather) > 2 * len(payloads)


def test_a_kill_at_any_point_of_a_replay_loses_nothing_and_repeats_nothing():
    """The checkpoints of a replay know less of the outbox than it holds."""
    payloads = history()
    expected = uninterrupted(payloads, GATEWAY, gather=False)
    for steps in itertools.count(0, 2):
        site = Site(payloads, GATEWAY, gather=False)
        site.outbox.hangs_at = len(expected[0])
        asyncio.run(site.run_until_stuck())
        site.outbox.hangs_at = None
        assert CHECKPOINT not in site.disk.files  # it was within an entry
        site.pace(1)
        try:
            asyncio.run(site.run(Lifetime(steps)))
        except Killed:
            asyncio.run(site.run())
            assert outcome(site) == expected, f"killed after {steps} steps"
        else:
            return


def test_a_kill_at_any_point_at_the_top_loses_nothing_that_the_children_sent():
    below = Site(history(), GATEWAY, gather=True)
    asyncio.run(below.run())
    payloads: list[bytes | None] = [payload for *_, payload in below.outbox.messages]
    assert uninterrupted(payloads, EDGE, gather=True)[1]["totals_kept"]
    assert killed_everywhere(payloads, EDGE, gather=True, top=True) > 2 * len(payloads)


@settings(max_examples=40)
@given(
    histories,
    st.lists(st.tuples(st.integers(0, 14), st.sampled_from([TICK, TICK, *BAD])), max_size=6),
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from([None, 1, 3])), max_size=5),
    st.booleans(),
)
def test_many_kills_of_any_history_lose_nothing_and_repeat_nothing(items, inserted, kills, gather):
    payloads: list[bytes | None] = [encode(i) for i in items]
    for at, payload in inserted:
        payloads.insert(at, payload)
    payloads += payloads[: len(payloads) // 3]
    expected = uninterrupted(payloads, GATEWAY, gather=gather)
    site = Site(payloads, GATEWAY, gather=gather)
    for steps, every in kills:
        site.pace(every)
        try:
            asyncio.run(site.run(Lifetime(steps)))
        except Killed:
            continue
    asyncio.run(site.run())
    assert outcome(site) == expected


def test_a_cancelled_append_leaves_the_last_checkpoint_and_is_done_once_after_a_restart():
    payloads = history()
    expected = uninterrupted(payloads, GATEWAY, gather=False)
    for ordinal in range(1, len(expected[0]) + 1):
        site = Site(payloads, GATEWAY, gather=False)
        site.outbox.hangs_at = ordinal
        asyncio.run(site.run_until_stuck())
        assert len(site.outbox.messages) == ordinal - 1
        site.outbox.hangs_at = None
        asyncio.run(site.run())
        assert outcome(site) == expected


def test_input_that_comes_while_it_runs_is_taken_and_saved_in_the_lull(monkeypatch):
    monkeypatch.setattr(durable, "CHECKPOINT_EVERY_NS", 1_000_000)
    payloads = history()
    expected = uninterrupted(payloads, GATEWAY, gather=True)
    site = Site(payloads[:2], GATEWAY, gather=True, entries_per_checkpoint=50_000)
    asyncio.run(site.run_with(payloads[2:]))
    saved = unpack(site.disk.files[CHECKPOINT])
    assert saved["input_seq"] == len(payloads)
    asyncio.run(site.run())
    assert outcome(site) == expected


# ---------------------------------------------------------------------------------------- checkpoints


def test_before_it_has_run_there_is_nothing_to_save():
    site = Site(history(), GATEWAY)
    asyncio.run(site.started().checkpoint())
    assert site.disk.files == {}


def test_a_checkpoint_is_due_after_a_time_a_number_of_entries_or_bytes_of_sinks(monkeypatch):
    payloads: list[bytes | None] = [TICK] * 7

    def checkpoints(**how: Any) -> list[int]:
        site = Site(how.pop("payloads", payloads), GATEWAY, **how)
        asyncio.run(site.run())
        return site.checkpointed

    assert checkpoints(entries_per_checkpoint=2) == [2, 4, 6, 7]  # the last one at the stop
    assert checkpoints() == [7]
    monkeypatch.setattr(durable, "CHECKPOINT_ENTRIES_MAX", 4)
    assert checkpoints() == [4, 7]
    monkeypatch.setattr(durable, "SINK_WAITING_BYTES_MAX", 1)
    trip = [encode(item) for item in items_of([("gw1-relay-00", 0, [0, 5])])]
    assert checkpoints(payloads=[TICK, *trip, TICK]) == [2, 3]


def refused(site: Site) -> str:
    """Why the checkpoint does not belong; nothing that was there may have been changed."""
    files, messages = dict(site.disk.files), list(site.outbox.messages)
    with pytest.raises(MessagingError) as caught:
        asyncio.run(site.run())
    assert caught.value.code == "engine.checkpoint"
    assert {name: site.disk.files[name] for name in files} == files
    assert site.outbox.messages == messages
    assert CHECKPOINT in files or CHECKPOINT not in site.disk.files
    return caught.value.why


def finished(**how: Any) -> Site:
    site = Site(history(), GATEWAY, **how)
    asyncio.run(site.run())
    return site


OTHER_EXPORTS = assignment("gw1", " ".join(GATEWAY.runs), "tens")
OTHER_NODE = assignment("gw2", " ".join(GATEWAY.runs), " ".join(GATEWAY.exports))


@pytest.mark.parametrize("other", [OTHER_EXPORTS, OTHER_NODE], ids=["exports", "node"])
def test_a_checkpoint_of_another_assignment_is_refused(other):
    site = finished()
    site.assignment = other
    assert "another flow or assignment" in refused(site)


def test_a_checkpoint_of_another_flow_or_way_of_gathering_is_refused():
    site = finished(gather=True)
    site.spec = flow("another")
    assert "another flow or assignment" in refused(site)
    site = finished(gather=True)
    site.gather = False
    assert "another flow or assignment" in refused(site)


def test_a_checkpoint_of_another_format_is_refused():
    site = finished()
    state = unpack(site.disk.files[CHECKPOINT])
    site.disk.files[CHECKPOINT] = pack(state | {"format": state["format"] + 1})
    assert "format" in refused(site)


def test_streams_and_sinks_shorter_than_the_checkpoint_are_refused():
    site = finished()
    site.outbox.messages.pop()
    assert "outbox" in refused(site)
    site = finished()
    site.journal.payloads = site.journal.payloads[:-1]
    assert "input" in refused(site)
    site = finished()
    path = "sinks/incidents.arrows"
    site.disk.files[path] = site.disk.files[path][:-1]
    assert "incidents" in refused(site)


def test_a_torn_checkpoint_is_an_error_and_not_a_fresh_start():
    site = finished()
    site.disk.files[CHECKPOINT] = site.disk.files[CHECKPOINT][:-1]
    with pytest.raises(DataError) as caught:
        asyncio.run(site.run())
    assert caught.value.code == "packing.corrupt"


def test_entries_that_were_removed_unread_are_missed():
    site = Site(history(), GATEWAY)
    site.journal.removed = 2
    assert "after input 0 comes 3" in refused(site)
    site = finished()
    site.journal.payloads = site.journal.payloads + [TICK] * 3
    site.journal.removed = len(site.journal.payloads) - 1
    assert "removed unread" in refused(site)


def test_entries_removed_after_they_were_saved_are_not_missed():
    site = finished()
    expected = outcome(site)
    site.journal.removed = len(site.journal.payloads)
    asyncio.run(site.run())
    assert outcome(site) == expected


# ------------------------------------------------------------------------------------------- messages


def test_bad_messages_are_counted_and_the_others_pass():
    items = items_of([("gw1-relay-00", 0, [0, 5]), ("gw1-relay-00", 0, [0] * 10)])
    first = items[0]
    assert isinstance(first, Batch)
    misshapen = Batch(first.stream, first.origin, first.seq, first.time_ns, {"other": first.seq})
    good = [encode(item) for item in items]
    expected = uninterrupted([*good, TICK], GATEWAY, gather=True)
    site = Site([*BAD, good[0], encode(misshapen), good[1], TICK], GATEWAY, gather=True)
    asyncio.run(site.run())
    assert site.started_engine.progress.bad_messages == len(BAD) + 1
    assert outcome(site)[:2] == expected[:2]


def hostile(**changes: Any) -> bytes:
    """What a child says that it shed."""
    told = asdict(Shed("tens", "gw1-relay-00", 0, 9, 1, 1, 1)) | changes
    return pack([1, [list(told.values())], None])


@pytest.mark.parametrize(
    "payload",
    [
        hostile(origin="gw1-relay-0 0"),
        hostile(origin="gw1-relay-\u00e9"),
        hostile(origin="gw1-relay-" + "0" * 128),
        hostile(rows=1 << 64),
        hostile(first_seq=-(1 << 70)),
        hostile(last_seq=1 << 70),
        hostile(payload_bytes=1 << 64),
        encode(End("tens", "gw1-relay-*")),
        encode(rows_of("frames", "gw1-relay-a b", 0, [0], frame=np.zeros((1, 2), np.float32))),
    ],
)
def test_what_could_be_neither_sent_on_nor_reported_is_bad(payload):
    """A child that says it would otherwise end its parent, and again at every replay."""
    site = Site([payload, TICK], GATEWAY, gather=False)
    asyncio.run(site.run())
    assert site.started_engine.progress.bad_messages == 1
    assert site.outbox.messages == []
    orjson.dumps(site.started_engine.progress.missing.to_json())


def test_claims_without_end_stay_numbers_of_a_report():
    most = (1 << 63) - 1
    payloads = [hostile(first_seq=n, last_seq=n + 1, rows=most, payload_bytes=most) for n in range(300)]
    site = Site([*payloads, TICK], GATEWAY, gather=False)
    asyncio.run(site.run())
    assert site.started_engine.progress.bad_messages == 0
    assert orjson.loads(orjson.dumps(site.started_engine.progress.missing.to_json()))["tens"]["rows"] == most


def test_origins_beyond_the_limit_are_bad_messages(monkeypatch):
    monkeypatch.setattr(arrivals, "LINES_MAX", 1)
    items = items_of([("gw1-relay-00", 0, [0, 5]), ("gw1-relay-01", 0, [1, 2]), ("gw1-relay-00", 2, [3])])
    site = Site([*(encode(item) for item in items), TICK], GATEWAY, gather=True)
    asyncio.run(site.run())
    progress = site.started_engine.progress
    assert (progress.bad_messages, len(progress.seen)) == (1, 1)


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(1, 6)), min_size=1, max_size=10))
@settings(max_examples=30)
def test_repeated_rows_are_skipped_and_reordered_ones_used_once(cuts):
    (whole,) = items_of([("gw1-relay-00", 0, [0, 0, 5, 0, 1, 7, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0])])
    assert isinstance(whole, Batch)
    parts = [whole.take(slice(first, first + count)) for first, count in cuts]
    site = Site([encode(p) for p in parts], EVERY_FRAME, gather=False)
    asyncio.run(site.run())
    taken: list[int] = []
    late = 0
    for first, count in cuts:
        new = [s for s in range(first, first + count) if s not in taken]
        late += sum(s < max(taken, default=-1) for s in new)
        taken += new
    exported = row_list(decode(payload) for *_, payload in site.outbox.messages)
    assert [row[2] for row in exported] == taken
    progress = site.started_engine.progress
    assert progress.duplicated_rows == sum(count for _, count in cuts) - len(taken)
    assert progress.out_of_order_rows == late
    assert progress.last_seq("frames", "gw1-relay-00") == max(taken)
    assert progress.last_seq("frames", "gw1-relay-09") == -1


EVERY_FRAME = assignment("gw1", "level", "frames")


# ----------------------------------------------------------------------------------------------- disk


def test_a_full_disk_delays_the_checkpoint_and_says_so():
    payloads = history()
    expected = uninterrupted(payloads, GATEWAY, gather=True)
    site = Site(payloads, GATEWAY, gather=True, entries_per_checkpoint=5)
    said = []

    def look() -> None:
        progress = site.started_engine.progress
        said.append((progress.disk_trouble, progress.checkpoints, progress.input_seq))
        site.disk.full = len(said) < 3

    site.clock.on_sleep = look
    site.disk.full = True
    asyncio.run(site.run())
    assert len(said) == 3
    assert all("host.disk-full" in trouble and done == 0 and seq == 5 for trouble, done, seq in said)
    assert site.started_engine.progress.disk_trouble == ""
    assert outcome(site) == expected
    asyncio.run(site.run())
    assert outcome(site) == expected


def test_a_kill_while_the_disk_is_full_loses_nothing():
    payloads = history()
    expected = uninterrupted(payloads, GATEWAY, gather=True)
    site = Site(payloads, GATEWAY, gather=True, entries_per_checkpoint=5)

    def kill() -> None:
        raise Killed

    site.clock.on_sleep = kill
    site.disk.full = True
    with pytest.raises(Killed):
        asyncio.run(site.run())
    site.disk.full = False
    asyncio.run(site.run())
    assert outcome(site) == expected
