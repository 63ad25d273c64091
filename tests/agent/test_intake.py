"""What comes in by the thousand: the reflex at once, one append for all that waits, order, room and restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.agent import intake as intake_module
from ganglion.agent.intake import COMMIT_ROWS_MAX, PACE_NS, Intake
from ganglion.core.batch import sequence
from ganglion.core.block import Block
from ganglion.core.errors import MessagingError
from ganglion.core.wire import End, Item
from ganglion.engine.graph import Graph
from ganglion.sim.virtual import loop as virtual
from ganglion.sim.virtual.clock import VirtualClock
from tests.engine.flows import GATEWAY, PATH, SPEC, STRANGER, WHOLE
from tests.engine.streams import ORIGINS, row_list

STREAMS = frozenset({"frames"})
ACK_S = 0.01


class Journal:
    """Takes appends, one after another; ``refuses``: how many to fail first; ``at`` appends hang until let go."""

    def __init__(self) -> None:
        self.entries: list[list[Item]] = []
        self.refuses = 0
        self.code = "messaging.unavailable"
        self.took_s = ACK_S
        self.under_way = 0
        self.open = asyncio.Event()
        self.open.set()

    async def append(self, items: Any) -> None:
        self.under_way += 1
        assert self.under_way == 1, "two appends at once"
        await self.open.wait()
        await asyncio.sleep(self.took_s)
        self.under_way -= 1
        if self.refuses:
            self.refuses -= 1
            raise MessagingError(self.code, "not now", why="a test", next_step="go on")
        self.entries.append(list(items))

    @property
    def rows(self) -> list[Any]:
        return [r for entry in self.entries for r in row_list(entry)]


class Door:
    def __init__(self, loop: Any, last_seq: dict[str, int] | None = None) -> None:
        self.journal = Journal()
        self.clock = VirtualClock(loop.virtual_time)
        self.acts: list[tuple[str, list[Any]]] = []
        self.elsewhere = 0
        known = last_seq or {}
        self.intake = Intake(
            Graph(SPEC, WHOLE, "reflex"),
            self.journal.append,
            streams=STREAMS,
            paths=frozenset({PATH}),
            last_seq=lambda _stream, origin: known.get(origin, -1),
            clock=self.clock,
            on_act=self.act,
            elsewhere=lambda: self.elsewhere,
        )
        self.running = asyncio.ensure_future(self.intake.run())

    def act(self, stage: str, rows: Any, received_ns: int) -> None:
        assert received_ns <= self.clock.monotonic_ns()
        self.acts.append((stage, [r[1:3] for r in row_list([rows])]))

    async def send(
        self, origins: list[str], levels: list[float], seq: list[int] | None = None, *, awaited: bool = False
    ) -> Any:
        if seq is not None:
            return await self.intake.take(block_of(origins, levels, seq), awaited=awaited)
        b = block_of(origins, levels, list(range(len(origins))))
        return await self.intake.take_unnumbered(
            b.stream, b.origins, b.origin_index, b.time_ns, b.columns, awaited=awaited
        )


def block_of(origins: list[str], levels: list[float], seq: list[int]) -> Block:
    names = tuple(dict.fromkeys(origins))
    index = np.array([names.index(o) for o in origins], np.int32)
    times = np.arange(len(origins), dtype=np.int64)
    columns = {"frame": np.array([[x, 0] for x in levels], np.float32)}
    return Block("frames", names, index, np.array(seq, np.int64), times, columns)


def told(story: Callable[[Door], Any], **how: Any) -> Door:
    made: list[Door] = []

    async def main(loop: Any) -> None:
        door = Door(loop, **how)
        made.append(door)
        try:
            await story(door)
        finally:
            door.running.cancel()
            await asyncio.wait({door.running})
            if not door.running.cancelled() and (error := door.running.exception()):
                raise error

    virtual.run(main)
    return made[0]


A, B, C = ORIGINS


def test_the_reflex_decides_before_anything_is_stored_and_the_future_tells_when_it_is():
    async def story(door: Door) -> None:
        stored = await door.send([A, B, A], [0, 0, 5])
        assert door.acts == [("breaker_open", [(A, 1)])]
        assert not stored.done()
        assert (door.intake.waiting_rows, door.journal.entries) == (3, [])
        await stored
        assert door.journal.rows[0][1:3] == (A, 0)
        assert (door.intake.waiting_rows, door.intake.waiting_bytes) == (0, 0)

    told(story)


def test_what_waits_goes_together_and_few_rows_go_at_once():
    async def story(door: Door) -> None:
        first = await door.send([A], [0])
        await asyncio.sleep(ACK_S / 2)
        others = [await door.send([o], [0]) for o in (A, B, C, A)]
        await first
        assert [len(e) for e in door.journal.entries] == [1]
        await asyncio.gather(*others)
        assert [[len(i) for i in e] for e in door.journal.entries] == [[1], [4]]  # type: ignore[arg-type] # rows
        assert door.intake.counts.commit_rows_most == 4

    told(story)


def commits(entries: list[list[Item]]) -> list[int]:
    """Rows of each."""
    return [sum(len(i) for i in entry if isinstance(i, Block)) for entry in entries]


def test_a_steady_stream_is_stored_at_a_pace_and_what_comes_after_a_pause_at_once():
    async def story(door: Door) -> None:
        door.journal.took_s = quick_s = PACE_NS / 1e9 / 100
        await (await door.send([A], [0]))
        began_ns = door.clock.monotonic_ns()
        futures = []
        for _ in range(4):
            futures.append(await door.send([A], [0]))
            await asyncio.sleep(PACE_NS / 1e9 / 8)
        assert door.acts == []
        await door.send([A], [5])
        assert door.acts == [("breaker_open", [(A, 5)])], "a reflex waits for no pace"
        await futures[-1]
        assert door.clock.monotonic_ns() - began_ns == pytest.approx(PACE_NS, rel=0.02)
        assert commits(door.journal.entries) == [1, 5]
        await asyncio.sleep(PACE_NS / 1e9)
        began_ns = door.clock.monotonic_ns()
        await (await door.send([A], [0]))
        assert door.clock.monotonic_ns() - began_ns == pytest.approx(quick_s * 1e9, rel=0.02)

    told(story)


def test_what_somebody_awaits_or_fills_an_entry_is_not_put_off():
    async def story(door: Door) -> None:
        door.journal.took_s = quick_s = PACE_NS / 1e9 / 100
        await (await door.send([A], [0]))
        began_ns = door.clock.monotonic_ns()
        put_off = await door.send([A], [0])
        await (await door.send([B], [0], awaited=True))
        assert put_off.done()
        await (await door.send([A] * COMMIT_ROWS_MAX, [0] * COMMIT_ROWS_MAX))
        # Together more than one entry holds: the second follows the first.
        await door.send([A] * (COMMIT_ROWS_MAX - 1), [0] * (COMMIT_ROWS_MAX - 1))
        await (await door.send([A] * (COMMIT_ROWS_MAX - 1), [0] * (COMMIT_ROWS_MAX - 1)))
        await door.send([C], [0])
        await door.intake.drained()
        assert door.clock.monotonic_ns() - began_ns == pytest.approx(5 * quick_s * 1e9, rel=0.02)
        most = COMMIT_ROWS_MAX
        assert commits(door.journal.entries) == [1, 2, most, most - 1, most - 1, 1]

    told(story)


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(st.sampled_from([*ORIGINS, STRANGER]), min_size=1, max_size=5) | st.sampled_from(ORIGINS),
        max_size=12,
    ),
    st.lists(st.integers(0, 3), max_size=6),
    st.integers(0, 3),
)
def test_every_row_is_stored_once_in_its_origins_order_whatever_fails(steps, pauses, refuses):
    async def story(door: Door) -> None:
        door.journal.refuses = refuses
        futures = []
        for i, step in enumerate(steps):
            if isinstance(step, str):
                futures.append(await door.intake.end("frames", step))
            else:
                futures.append(await door.send(step, [0] * len(step)))
            await asyncio.sleep(ACK_S / 2 * (pauses[i % len(pauses)] if pauses else 0))
        await door.intake.drained()
        assert all(f.done() for f in futures)
        for entry in door.journal.entries:
            for item in entry:
                if isinstance(item, Block):
                    item.check(SPEC["frames"].schema)
        sent = [o for s in steps if not isinstance(s, str) for o in s]
        for origin in ORIGINS:
            numbers = [r[2] for r in door.journal.rows if r[1] == origin]
            assert numbers == list(range(sent.count(origin)))
            ends = [i for e in door.journal.entries for i in e if isinstance(i, End) and i.origin == origin]
            assert len(ends) == steps.count(origin)
        counts = door.intake.counts
        assert (counts.refused_rows, counts.rows) == (sent.count(STRANGER), len(sent))
        assert counts.stored_rows == len(sent) - sent.count(STRANGER)
        assert counts.retries == min(refuses, counts.commits + refuses if counts.commits else 0)

    told(story)


def test_an_end_stays_between_the_rows_before_and_after_it():
    async def story(door: Door) -> None:
        door.journal.open.clear()
        await door.send([A], [0])
        await asyncio.sleep(0)
        await door.send([A], [1])
        await door.intake.end("frames", A)
        last = await door.send([A], [2])
        door.journal.open.set()
        await last
        kinds = ["end" if isinstance(i, End) else len(i) for e in door.journal.entries for i in e]
        assert kinds == [1, 1, "end", 1]

    told(story)


def test_rows_that_come_again_move_no_reflex_but_are_stored_as_an_item_of_their_own():
    async def story(door: Door) -> None:
        door.journal.open.clear()
        await door.send([A, A], [0, 5], [3, 4])
        await asyncio.sleep(0)
        await door.send([A, A], [0, 5], [3, 4])
        last = await door.send([A, B], [9, 0], [5, 1])
        door.journal.open.set()
        await last
        assert [s for _, rows in door.acts for s in rows] == [(A, 4), (A, 5)]
        assert [[r[2] for r in row_list([i])] for e in door.journal.entries for i in e] == [
            [3, 4],
            [3, 4, 5, 1],
        ]
        assert door.intake.counts.repeated_rows == 2

    told(story)


def test_what_the_journal_has_moves_no_reflex():
    async def story(door: Door) -> None:
        await (await door.send([A, A], [0, 5], [3, 4]))
        assert door.acts == []

    told(story, last_seq={A: 4})


def test_numbers_go_on_after_a_restart_and_none_is_given_twice():
    """A number that was given but never stored may have made a command: it must not come again for another row."""

    async def story(door: Door) -> None:
        await (await door.send([A, B, A], [0, 0, 0]))
        assert [r[1:3] for r in door.journal.rows] == [
            (A, sequence(3, 0)),
            (A, sequence(3, 1)),
            (B, sequence(0, 0)),
        ]

    told(story, last_seq={A: sequence(2, 17)})


@pytest.mark.parametrize("limit, value", [("PENDING_ROWS_MAX", 4), ("PENDING_BYTES_MAX", 32)])
def test_who_brings_more_than_may_wait_is_made_to_wait_in_turn(monkeypatch, limit, value):
    monkeypatch.setattr(intake_module, limit, value)

    async def story(door: Door) -> None:
        door.journal.open.clear()
        await door.send([A, A, A], [0, 0, 0])
        late = [asyncio.ensure_future(door.send([o, o], [0, 0])) for o in (B, C)]
        await asyncio.sleep(1)
        assert not any(f.done() for f in late)
        assert door.intake.waiting_rows == 3
        assert door.intake.age_ns(door.clock.monotonic_ns()) == 1_000_000_000
        door.journal.open.set()
        for one in await asyncio.gather(*late):
            await one
        assert [r[1] for r in door.journal.rows] == [A] * 3 + [B] * 2 + [C] * 2
        assert door.intake.counts.waits == 2
        assert door.intake.counts.waited_ns >= 2_000_000_000
        assert door.intake.age_ns(door.clock.monotonic_ns()) == 0

    told(story)


def test_a_block_larger_than_all_that_may_wait_goes_alone(monkeypatch):
    monkeypatch.setattr(intake_module, "PENDING_ROWS_MAX", 2)
    monkeypatch.setattr(intake_module, "COMMIT_ROWS_MAX", 2)

    async def story(door: Door) -> None:
        await (await door.send([A] * 5, [0] * 5))
        assert len(door.journal.rows) == 5

    told(story)


def test_rows_that_the_engine_has_not_taken_count_as_waiting(monkeypatch):
    monkeypatch.setattr(intake_module, "PENDING_ROWS_MAX", 4)

    async def story(door: Door) -> None:
        door.elsewhere = 3
        late = asyncio.ensure_future(door.send([A, A], [0, 0]))
        await asyncio.sleep(1)
        assert not late.done()
        door.elsewhere = 2
        door.intake.made_room()
        await (await late)

    told(story)


def test_commits_are_cut_at_their_limit(monkeypatch):
    monkeypatch.setattr(intake_module, "COMMIT_ROWS_MAX", 4)

    async def story(door: Door) -> None:
        door.journal.open.clear()
        futures = [await door.send([A, B, C], [0, 0, 0]) for _ in range(4)]
        door.journal.open.set()
        await asyncio.gather(*futures)
        assert [sum(len(row_list([i])) for i in e) for e in door.journal.entries] == [3] * 4

    told(story)


@pytest.mark.parametrize("code", ["messaging.unavailable", "messaging.full", "messaging.no-stream"])
def test_a_server_that_is_away_or_full_is_waited_out_and_said(code):
    async def story(door: Door) -> None:
        door.journal.refuses, door.journal.code = 3, code
        stored = await door.send([A], [0])
        await asyncio.sleep(ACK_S * 2)
        assert code in door.intake.trouble
        await stored
        assert door.intake.trouble == ""
        assert (door.intake.counts.retries, len(door.journal.rows)) == (3, 1)

    told(story)


def test_any_other_error_ends_the_intake():
    async def story(door: Door) -> None:
        door.journal.refuses, door.journal.code = 1, "messaging.too-large"
        await door.send([A], [0])
        with pytest.raises(MessagingError):
            await door.running
        door.running = asyncio.ensure_future(asyncio.sleep(0))

    told(story)


def test_a_stream_that_does_not_come_from_devices_is_an_assertion():
    async def story(door: Door) -> None:
        block = block_of([A], [0], [0]).renamed("tens")
        with pytest.raises(AssertionError):
            await door.intake.take(block)
        with pytest.raises(AssertionError):
            await door.intake.take_unnumbered("tens", block.origins, block.origin_index, block.time_ns, {})

    told(story)


def test_the_reflex_goes_on_from_where_the_engine_is():
    async def story(door: Door) -> None:
        engine = Graph(SPEC, GATEWAY, "durable")
        before = block_of([A], [4], [0])
        engine.push(before)
        door.intake.take_over(engine.snapshot())
        await door.send([A], [5], [1])  # 5 is a step of 1 from 4, and of 5 from nothing
        assert door.acts == []

    told(story, last_seq={A: 0})
