"""A graph is a deterministic machine: what it gives follows from the items, however it is split or restarted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.batch import Batch
from ganglion.core.block import Block
from ganglion.core.wire import End, Item
from ganglion.engine.graph import Emission, Graph
from ganglion.flow.assignment import Assignment
from tests.engine.flows import EDGE, GATEWAY, LONG_HISTORY, SPEC, STRANGER, WHOLE, histories, items_of
from tests.engine.streams import ORIGINS, plain, plain_emissions, row_list, rows_of, stored

assignments = st.sampled_from([WHOLE, GATEWAY])


def graph(assignment: Assignment, part: str = "all") -> Graph:
    return Graph(SPEC, assignment, part)  # type: ignore[arg-type]  # one of the literals, by parameter


def pushed(target: Graph, items: list[Item]) -> list[Emission]:
    return [e for item in items for e in target.push(item)]


def frames(origin: str, *values: float, first: int = 0) -> Batch:
    times = list(range(first, first + len(values)))
    return rows_of("frames", origin, first, times, frame=np.array([[v, 0] for v in values], np.float32))


def test_what_one_trip_sets_off():
    found = pushed(graph(WHOLE), [frames(ORIGINS[0], *[0] * 6, 5, *[0] * 8)])
    # Six frames, the trip, eight frames; the kernel keeps quiet about the seventh, so the trip must not be that one.
    assert [e.stage for e in found] == ["tens_kept", "totals_kept"]
    found = pushed(graph(WHOLE), [frames(ORIGINS[0], *[0] * 5, 5, *[0] * 9)])
    kinds = [(e.kind, e.stage) for e in found]
    assert kinds == [
        ("act", "breaker_open"),
        ("sink", "tens_kept"),
        ("sink", "incidents"),
        ("sink", "totals_kept"),
    ]
    items = {e.stage: e.item for e in found}
    assert all(isinstance(item, Batch) for item in items.values())
    rows = {stage: [r[2] for r in row_list([item])] for stage, item in items.items()}
    assert rows["breaker_open"] == [5]
    assert rows["incidents"] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    (window,) = [item for stage, item in items.items() if stage == "tens_kept"]
    assert isinstance(window, Batch)
    assert window.columns["n"].tolist() == [9]
    assert window.columns["top"].tolist() == [5]


@given(histories, assignments)
def test_the_same_items_give_the_same_emissions(items, assignment):
    once, again = pushed(graph(assignment), items), pushed(graph(assignment), items)
    assert plain_emissions(once) == plain_emissions(again)


@given(histories, assignments, st.sampled_from(["all", "durable", "reflex"]))
def test_a_graph_restored_after_every_item_goes_on_the_same(items, assignment, part):
    whole, restarted = graph(assignment, part), graph(assignment, part)
    for item in items:
        state = stored(restarted.snapshot())
        restarted = graph(assignment, part)
        restarted.restore(state)
        assert plain_emissions(restarted.push(item)) == plain_emissions(whole.push(item))
    assert restarted.counts == whole.counts


@given(histories, assignments)
def test_pushing_leaves_the_items_and_earlier_emissions_as_they_were(items, assignment):
    before = [plain(item) for item in items]
    target = graph(assignment)
    given_items, at_once = [], []
    for item in items:
        emissions = target.push(item)
        given_items += emissions
        at_once += plain_emissions(emissions)
    assert [plain(item) for item in items] == before
    assert plain_emissions(given_items) == at_once


@given(histories, assignments)
def test_the_reflex_part_gives_the_commands_and_the_durable_part_the_rest(items, assignment):
    everything = pushed(graph(assignment), items)
    commands = [e for e in everything if e.kind == "act"]
    rest = [e for e in everything if e.kind != "act"]
    assert plain_emissions(pushed(graph(assignment, "reflex"), items)) == plain_emissions(commands)
    assert plain_emissions(pushed(graph(assignment, "durable"), items)) == plain_emissions(rest)


def test_each_part_runs_only_its_stages():
    def operators(part: str) -> set[str]:
        return set(graph(WHOLE, part).counts)

    assert operators("reflex") == {"level", "trips"}
    assert operators("durable") == operators("all") == {"level", "trips", "incident", "tens", "totals"}


@given(histories)
def test_two_nodes_keep_the_rows_that_one_node_would_keep(items):
    alone = pushed(graph(WHOLE), items)
    below, above = graph(GATEWAY), graph(EDGE)
    shared = pushed(below, items)
    shared += pushed(above, [e.item for e in shared if e.kind == "export" and e.stage == "tens"])
    for sink in ("incidents", "tens_kept", "totals_kept"):
        assert rows_in(sink, shared) == rows_in(sink, alone)


def rows_in(sink: str, emissions: list[Emission]) -> object:
    return row_list(e.item for e in emissions if e.kind == "sink" and e.stage == sink)


@given(histories)
def test_exports_are_the_assigned_streams_of_the_assigned_origins(items):
    exported = [e for e in pushed(graph(GATEWAY), items) if e.kind == "export"]
    assert {e.stage for e in exported} <= {"tens", "trips"}
    assert all(e.item.stream == e.stage for e in exported)
    assert STRANGER not in {e.item.origin for e in exported if not isinstance(e.item, Block)}
    assert sum(isinstance(item, End) for item in items if item.origin != STRANGER) * 2 == sum(
        isinstance(e.item, End) for e in exported
    )


def test_an_end_goes_through_after_the_last_rows_and_not_through_a_window_over_all_origins():
    target = graph(WHOLE)
    pushed(target, [frames(ORIGINS[0], 1, 2)])
    emissions = target.push(End("frames", ORIGINS[0]))
    found = [(e.stage, isinstance(e.item, End)) for e in emissions]
    assert [f for f in found if f[0] == "tens_kept"] == [("tens_kept", False), ("tens_kept", True)]
    assert found.count(("incidents", True)) == 1
    assert [f for f in found if f[0] == "totals_kept"] == [("totals_kept", False)]
    assert not [e for e in emissions if e.kind == "act"]


def test_a_stranger_is_counted_and_sets_nothing_off():
    target = graph(WHOLE)
    assert target.push(frames(STRANGER, 9, 0, 9)) == []
    assert target.counts["in:frames"].rows == 3
    assert target.counts["level"].rows == 0


def test_counts_tell_what_became_of_the_rows_of_every_stage():
    target = graph(WHOLE)
    pushed(target, items_of(LONG_HISTORY))
    counts = target.counts
    rows = sum(len(samples) for _, _, samples in LONG_HISTORY)
    assert counts["in:frames"].rows == rows
    assert counts["level"].rows == rows - 2  # those of the stranger
    assert counts["level"].bad == 0
    assert counts["trips"].rows == counts["tens"].rows == counts["level"].out
    assert counts["totals"].rows == counts["tens"].out


def test_a_part_of_a_snapshot_restores_only_the_operators_it_names():
    target = graph(WHOLE)
    pushed(target, items_of(LONG_HISTORY))
    state = stored(target.snapshot(only=["level"]))
    restored = graph(WHOLE)
    restored.restore(state | {"operators": state["operators"] | {"gone": {}}})
    assert restored.counts["level"] == target.counts["level"]
    assert restored.counts["tens"].rows == 0


def test_an_unknown_stream_is_an_assertion():
    with pytest.raises(AssertionError, match="nowhere"):
        graph(WHOLE).push(End("nowhere", ORIGINS[0]))
