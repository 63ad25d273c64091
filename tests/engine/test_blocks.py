"""A block does what its split does: the engine gives the same rows, keeps the same state, counts the same."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.core.batch import Batch
from ganglion.core.block import MANY, Block
from ganglion.core.packing import pack
from ganglion.core.wire import End, Item, decode, encode, encode_several
from ganglion.engine import arrivals, operators, windows
from ganglion.engine.exporter import Exporter
from ganglion.engine.graph import Emission, Graph
from ganglion.engine.operators import MapOperator
from ganglion.engine.seen import Seen, take_block
from ganglion.flow.stages import MapStage
from ganglion.kernels.c.toolchain import compilers
from ganglion.kernels.loading import load
from ganglion.kernels.running import runner_of
from tests.engine.flows import GATEWAY, SPEC, STRANGER, WHOLE, items_of
from tests.engine.site import Site, sink_rows
from tests.engine.stores import Killed, Lifetime
from tests.engine.streams import DAY_MS, HOUR_MS, ORIGINS, batches_of, interleaved, plain, row_list, stored
from tests.engine.test_operators import STAGES, mapped, numbered
from tests.engine.window_cases import bys, keeps_ms, lags_ms, operator

chances = st.randoms(use_true_random=False)
values = st.integers(-2, 8)
turns = st.lists(
    st.tuples(
        st.sampled_from([*ORIGINS, *ORIGINS, STRANGER]),
        st.sampled_from([0, 0, 0, 0, 3, 25, 200]),
        st.lists(values, min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=5,
)
histories = st.lists(turns | st.sampled_from(ORIGINS), min_size=1, max_size=6)


def mixed(history: list[Any], chance: Any) -> list[Item]:
    """Blocks, each of several turns, and end marks."""
    steps: list[tuple[str, int, list[int]]] = []
    lengths = []
    for step in history:
        steps += [(step, 0, [])] if isinstance(step, str) else step
        lengths.append(1 if isinstance(step, str) else len(step))
    items, made = items_of(steps), []
    for length in lengths:
        part, items = items[:length], items[length:]
        batches = [i for i in part if isinstance(i, Batch)]
        made.append(interleaved(batches, chance) if batches else part[0])
    return made


def split(items: Iterable[Item]) -> list[Item]:
    return [b for i in items for b in (i.split() if isinstance(i, Block) else [i])]


def by_origin(emissions: Sequence[Emission]) -> dict[Any, list[Any]]:
    """What left, by kind, stage and origin: rows and end marks in order."""
    found: defaultdict[Any, list[Any]] = defaultdict(list)
    for e in emissions:
        if isinstance(e.item, End):
            found[e.kind, e.stage, e.item.origin].append("end")
        for row in row_list([e.item]):
            found[e.kind, e.stage, row[1]].append(row)
    return dict(found)


NO_COMPILER = pytest.mark.skipif(not compilers(), reason="there is no C compiler (gcc, clang or ziglang)")


@pytest.fixture(scope="module", params=["numpy", pytest.param("compiled", marks=NO_COMPILER)])
def libraries(request, tmp_path_factory):
    """Kernels and folds in NumPy, or compiled."""
    if request.param == "numpy":
        return {}
    runs = set(WHOLE.runs)
    return load(SPEC.kernels(runs), tmp_path_factory.mktemp("kernels"), SPEC.folds(runs))


@given(histories, chances, st.sampled_from([WHOLE, GATEWAY]), st.sampled_from(["all", "durable", "reflex"]))
def test_a_graph_gives_for_a_block_what_it_gives_for_its_split(libraries, history, chance, assignment, part):
    items = mixed(history, chance)
    whole, parted = (Graph(SPEC, assignment, part, libraries) for _ in range(2))
    for item in items:
        before = plain(item)
        given_whole = whole.push(item)
        given_parted = [e for one in split([item]) for e in parted.push(one)]
        assert by_origin(given_whole) == by_origin(given_parted)
        assert plain(item) == before
    assert whole.counts == parted.counts
    assert pack(whole.snapshot()) == pack(parted.snapshot())


@given(histories, chances)
def test_a_graph_restored_between_blocks_goes_on_the_same(history, chance):
    whole, restarted = Graph(SPEC, WHOLE), Graph(SPEC, WHOLE)
    for item in mixed(history, chance):
        state = stored(restarted.snapshot())
        restarted = Graph(SPEC, WHOLE)
        restarted.restore(state)
        assert by_origin(restarted.push(item)) == by_origin(whole.push(item))


# -------------------------------------------------------------------------------------------- windows

moments = st.builds(
    lambda away, offset: away + offset,
    st.sampled_from([0, 0, 0, 0, 0, 0, -HOUR_MS, -3 * DAY_MS]),
    st.integers(-5, 30),
)
sent = st.lists(
    st.tuples(st.sampled_from(ORIGINS), st.lists(st.tuples(moments, values), min_size=1, max_size=4)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150)
@given(
    st.lists(sent | st.sampled_from(ORIGINS), min_size=2, max_size=10),
    bys,
    lags_ms,
    keeps_ms,
    chances,
    st.sampled_from([20_000, 2]),
    st.booleans(),
)
def test_windows_give_for_a_block_what_they_give_for_its_split(
    steps, by, lag_max_ms, keep_ms, chance, windows_max, restarts
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "WINDOWS_MAX", windows_max)
        whole, parted = operator(by, lag_max_ms, keep_ms), operator(by, lag_max_ms, keep_ms)
        next_seq: defaultdict[str, int] = defaultdict(int)
        for step in steps:
            if isinstance(step, str):
                assert rows_of_both(whole.end("level", step)[0], parted.end("level", step)[0])
                continue
            block = interleaved(_numbered(step, next_seq), chance)
            given_parted = [b for batch in block.split() for b in parted.process(batch)]
            assert rows_of_both(whole.process(block), given_parted)
            assert pack(whole.snapshot()) == pack(parted.snapshot())
            if restarts:
                state = stored(whole.snapshot())
                whole = operator(by, lag_max_ms, keep_ms)
                whole.restore(state)
        assert whole.counts == parted.counts


def _numbered(step: Any, next_seq: defaultdict[str, int]) -> list[Batch]:
    batches = []
    for origin, rows in step:
        seq = next_seq[origin] + np.arange(len(rows), dtype=np.int64)
        next_seq[origin] += len(rows)
        times = np.array([t for t, _ in rows], np.int64) * 1_000_000
        frame = np.array([v for _, v in rows], np.float32)
        batches.append(Batch("level", origin, seq, times, {"frame": frame}))
    return batches


def rows_of_both(a: Iterable[Item], b: Iterable[Item]) -> bool:
    return row_list(a) == row_list(b)


def test_rows_of_the_newest_windows_of_many_origins_are_added_without_looking_at_any(monkeypatch):
    """The usual block costs no work per origin."""
    names = [f"gw1-room-{i:02d}" for i in range(50)]
    target = operator("origin")

    def block(at_ms: int, seq: int) -> Block:
        step = [(name, [(at_ms, 1), (at_ms + 1, 2)]) for name in names]
        return Block.joined(_numbered(step, defaultdict(lambda: seq)))

    target.process(block(0, 0))
    monkeypatch.setattr(windows.WindowOperator, "_one", None)
    assert target.process(block(2, 2)) == []
    monkeypatch.undo()
    (given_rows,) = target.process(block(10, 4))
    assert isinstance(given_rows, Block)
    assert given_rows.origins == tuple(names)
    assert given_rows.columns["n"].tolist() == [4] * 50


@pytest.mark.parametrize("lag_ms", [5, 100])
def test_windows_over_all_origins_take_usual_blocks_at_once_too(monkeypatch, lag_ms):
    target = operator("all", lag_max_ms=lag_ms)
    first = _numbered([(o, [(1, 1)]) for o in ORIGINS], defaultdict(int))
    second = _numbered([(o, [(3, 1), (4, 1)]) for o in ORIGINS], defaultdict(lambda: 1))
    target.process(Block.joined(first))
    monkeypatch.setattr(windows.WindowOperator, "_one", None)
    assert target.process(Block.joined(second)) == []


# ------------------------------------------------------------------------------------------------ map


@given(
    st.lists(
        st.tuples(st.sampled_from(ORIGINS), st.lists(st.integers(-3, 4), min_size=1, max_size=5)),
        min_size=1,
        max_size=12,
    ),
    chances,
    st.sampled_from(["running", "plainly"]),
    st.sampled_from([100_000, 2]),
)
def test_a_map_takes_the_states_of_all_origins(tmp_path_factory, history, chance, name, keys_max):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operators, "KEYS_MAX", keys_max)
        whole, parted = mapped(name), mapped(name)
        block = interleaved(numbered(history), chance)
        for item in (block.take(slice(0, 5)), block.take(slice(5, None))):
            if len(item):
                given_parted = [b for batch in item.split() for b in parted.process(batch)]
                assert row_list(whole.process(item)) == row_list(given_parted)
        assert whole.counts == parted.counts
        assert pack(whole.snapshot()) == pack(parted.snapshot())


@pytest.mark.skipif(not compilers(), reason="there is no C compiler (gcc, clang or ziglang)")
def test_a_compiled_map_takes_the_states_of_all_origins(tmp_path):
    stage = STAGES["running"]
    assert isinstance(stage, MapStage)
    runner = runner_of(stage.kernel, load([stage.kernel], tmp_path, []))
    assert runner.same_bits
    compiled, plainly = MapOperator(stage, STAGES[stage.inputs[0]], runner), mapped("running")
    rng = np.random.default_rng(3)
    history = [(ORIGINS[i % 3], rng.integers(-3, 5, 4).tolist()) for i in range(30)]
    block = Block.joined(numbered(history))
    for first in range(0, len(block), 7):
        part = block.take(slice(first, first + 7))
        assert row_list(compiled.process(part)) == row_list(plainly.process(part))
    assert held(compiled) == held(plainly)


def held(target: MapOperator) -> Any:
    state = stored(target.snapshot())["state"]
    return {o: {name: np.asarray(v).tolist() for name, v in one.items()} for o, one in state.items()}


# ----------------------------------------------------------------------------------- seen, and exports


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(ORIGINS), st.sets(st.integers(0, 12), min_size=1, max_size=5)),
            min_size=1,
            max_size=3,
            unique_by=lambda t: t[0],
        ),
        max_size=6,
    ),
    chances,
)
def test_what_was_seen_of_a_block_is_what_was_seen_of_its_split(steps, chance):
    of_blocks: dict[str, Seen] = {}
    of_batches: dict[str, Seen] = {}
    for step in steps:
        batches = [
            Batch("s", origin, (seq := np.array(sorted(numbers), np.int64)), seq, {"x": seq})
            for origin, numbers in step
            if origin != ORIGINS[2]
        ]
        if not batches:
            continue
        block = interleaved(batches, chance)
        fresh, repeated, late, refused = take_block(block, lambda o: of_blocks.setdefault(o, Seen()))
        taken = [of_batches.setdefault(b.origin, Seen()).take(b) for b in block.split()]
        assert (repeated, late, refused) == (sum(t[1] for t in taken), sum(t[2] for t in taken), 0)
        assert row_list([fresh] if fresh else []) == row_list([t[0] for t in taken if t[0] is not None])
        assert {o: s.last_seq for o, s in of_blocks.items()} == {o: s.last_seq for o, s in of_batches.items()}
    assert pack([s.snapshot() for s in of_blocks.values()]) == pack(
        [s.snapshot() for s in of_batches.values()]
    )


def test_rows_of_an_origin_too_many_are_left_out():
    block = Block.joined([Batch("s", o, np.arange(2), np.arange(2), {}) for o in ORIGINS])
    fresh, _, _, refused = take_block(block, lambda o: None if o == ORIGINS[1] else Seen())
    assert fresh is not None
    assert refused == 2
    assert [b.origin for b in fresh.split()] == [ORIGINS[0], ORIGINS[2]]


@given(
    st.lists(st.tuples(st.booleans(), turns), min_size=1, max_size=6), chances, st.booleans(), st.booleans()
)
def test_exports_keep_every_row_in_its_origins_order(steps, chance, gather, restored):
    exporter = Exporter(gather=gather)
    items = mixed([turn for _, turn in steps], chance)
    pushed: list[Item] = []
    for item, (as_block, _) in zip(items, steps, strict=True):
        for one in [item] if as_block else split([item]):
            exporter.add(one)
            pushed.append(one)
        due = exporter.take()
        if restored:
            state = stored(exporter.snapshot())
            exporter = Exporter(gather=gather)
            exporter.restore(state)
        pushed.append(End("due", str(len(due))))
        steps_due.extend(due)
    exporter.flush()
    steps_due.extend(exporter.take())
    found = [decode(payload) for _, _, payload in steps_due]
    origins = [o for _, o, _ in steps_due]
    steps_due.clear()
    assert [o for o, i in zip(origins, found, strict=True) if isinstance(i, Block)] == [
        MANY for i in found if isinstance(i, Block)
    ]
    for origin in (*ORIGINS, STRANGER):
        wanted = [r for r in row_list(i for i in pushed if not isinstance(i, End)) if r[1] == origin]
        assert [r for r in row_list(found) if r[1] == origin] == wanted
    for item in found:
        if isinstance(item, Block):
            item.check(SPEC["frames"].schema)


steps_due: list[tuple[str, str, bytes]] = []


# -------------------------------------------------------------------------------------------- durable


@settings(max_examples=30)
@given(histories, chances, st.lists(st.integers(1, 60), max_size=3), st.booleans(), st.booleans())
def test_a_journal_of_blocks_is_taken_exactly_once_and_gives_what_its_split_gives(
    history, chance, kills, gather, several
):
    items: list[Item | None] = [*mixed(history, chance)]
    items += [None, *items[: len(items) // 2], None]
    head = [i for i in items[:2] if i is not None] if several else []
    payloads: list[bytes | None] = [encode_several(head)] if head else []
    payloads += [None if i is None else encode(i) for i in items[len(head) :]]

    def outcome(site: Site) -> Any:
        """Rows by stream and origin, in order."""
        sent_rows = row_list(decode(payload) for *_, payload in site.outbox.messages)
        found: defaultdict[Any, list[Any]] = defaultdict(list)
        for row in [*sent_rows, *sink_rows(site, "incidents")]:
            found[row[:2]].append(row)
        return found

    def run(made: list[bytes | None], lives: list[int] = []) -> Site:  # noqa: B006  # not changed
        site = Site(made, GATEWAY, gather=gather, entries_per_checkpoint=2)
        for steps in lives:
            try:
                asyncio.run(site.run(Lifetime(steps)))
            except Killed:
                continue
        asyncio.run(site.run())
        return site

    whole = run(payloads)
    again = run(payloads, kills)
    assert again.outbox.messages == whole.outbox.messages
    assert sink_rows(again, "incidents") == sink_rows(whole, "incidents")
    singles = [one for i in items for one in (split([i]) if i is not None else [None])]
    parted = run([None if one is None else encode(one) for one in singles])
    assert outcome(whole) == outcome(parted)
    assert whole.started_engine.progress.bad_messages == 0


def test_a_block_of_another_schema_or_with_wrong_numbers_is_a_bad_message():
    (item,) = items_of([("gw1-relay-00", 0, [0, 5, 0])])
    assert isinstance(item, Batch)
    good = Block.of(item)
    misshapen = Block(
        good.stream, good.origins, good.origin_index, good.seq, good.time_ns, {"other": good.seq}
    )
    repeating = Block(
        good.stream, good.origins, good.origin_index, np.array([1, 1, 2]), good.time_ns, good.columns
    )
    site = Site([encode(misshapen), encode(repeating), encode(good)], GATEWAY)
    asyncio.run(site.run())
    assert site.started_engine.progress.bad_messages == 2
    assert site.started_engine.progress.last_seq("frames", "gw1-relay-00") == 2


def test_origins_of_a_block_beyond_the_limit_are_counted_and_the_others_pass(monkeypatch):
    monkeypatch.setattr(arrivals, "LINES_MAX", 1)
    items = items_of([("gw1-relay-00", 0, [0, 5]), ("gw1-relay-01", 0, [1, 2])])
    site = Site([encode(Block.joined(batches_of(items)))], GATEWAY)
    asyncio.run(site.run())
    progress = site.started_engine.progress
    assert (progress.bad_messages, list(progress.seen)) == (1, [("frames", "gw1-relay-00")])
