"""A block is its split: the rows of each origin, in order, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core import block as blocks_module
from ganglion.core.batch import Batch
from ganglion.core.block import Block
from ganglion.core.errors import DataError
from ganglion.core.schema import Field, Schema, f32
from tests.core.block_cases import blocks, fixed_block, same_block
from tests.core.wire_cases import same_bits


def rows(block: Block):
    """Every row: (origin, seq, time, bytes of the columns)."""
    return [
        (
            block.origins[block.origin_index[i]],
            int(block.seq[i]),
            int(block.time_ns[i]),
            tuple(c[i].tobytes() for c in block.columns.values()),
        )
        for i in range(len(block))
    ]


@given(blocks())
def test_the_split_has_each_origins_rows_in_their_order(case):
    block, schema = case
    batches = block.check(schema).split()
    found = [
        (b.origin, int(b.seq[i]), int(b.time_ns[i]), tuple(c[i].tobytes() for c in b.columns.values()))
        for b in batches
        for i in range(len(b))
    ]
    names = [o for o in block.origins if o in {r[0] for r in rows(block)}]
    assert [b.origin for b in batches] == names
    assert found == [r for name in names for r in rows(block) if r[0] == name]
    for batch in batches:
        assert batch.stream == block.stream
        batch.check(schema)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=3 * blocks_module.FEW_ROWS), st.booleans())
def test_groups_are_a_stable_sort_by_origin_however_many_rows_there_are(index, many):
    origins = tuple(f"o{i}" for i in range(blocks_module.NARROW_MAX + 1 if many else 10))
    numbers = np.arange(len(index), dtype=np.int64)
    groups = Block("s", origins, np.array(index, np.int32), numbers, numbers, {}).groups
    assert groups.order.tolist() == sorted(range(len(index)), key=lambda i: (index[i], i))
    assert groups.present.tolist() == sorted(set(index))
    assert (groups.ends - groups.starts).tolist() == [index.count(o) for o in sorted(set(index))]
    assert groups.starts.tolist() == [0, *groups.ends.tolist()[:-1]]
    assert {a.dtype for a in (groups.order, groups.starts, groups.ends, groups.present)} == {
        np.dtype(np.intp)
    }


@given(blocks())
def test_joining_the_split_gives_the_rows_back_by_origin(case):
    block, schema = case
    joined = Block.joined(block.split()).check(schema)
    assert [same_bits(a, b) for a, b in zip(joined.split(), block.split(), strict=True)]
    assert sorted(rows(joined)) == sorted(rows(block))
    assert rows(Block.of(block.split()[0])) == rows(Block.joined(block.split()[:1]))


@given(blocks(), st.data())
def test_taking_renaming_and_compacting_keep_the_rows(case, data):
    block, schema = case
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(block), max_size=len(block))))
    mask[data.draw(st.integers(0, len(block) - 1))] = True
    chosen = block.take(mask)
    assert rows(chosen) == [r for r, kept in zip(rows(block), mask, strict=True) if kept]
    compact = chosen.compact().check(schema)
    assert rows(compact) == rows(chosen)
    assert set(compact.origins) == {r[0] for r in rows(chosen)}
    assert list(compact.origins) == [o for o in chosen.origins if o in compact.origins]
    assert compact.compact() is compact
    before, after = [b.renamed("t") for b in block.split()], block.renamed("t").split()
    assert all(same_bits(a, b) for a, b in zip(before, after, strict=True))


@given(blocks(), st.integers(0, 16), st.booleans())
def test_a_block_cut_in_two_is_whole_again(case, at, compacted):
    block, schema = case
    parts = [block.take(slice(None, at)), block.take(slice(at, None))]
    parts = [p.compact() if compacted else p for p in parts if len(p)]
    whole = Block.concat(parts).check(schema)
    assert rows(whole) == rows(block)
    if not compacted:
        assert same_block(whole, block)


def spoilt(**changes):
    block = fixed_block()
    return Block(**{k: changes.get(k, getattr(block, k)) for k in Block.__dataclass_fields__})


SCHEMA = Schema((Field("temp", f32), Field("q", Field("q", f32).type.__class__("i32"))))
FIVE = np.arange(5, dtype=np.int64)


@pytest.mark.parametrize(
    "block",
    [
        fixed_block().take(slice(0, 0)),
        spoilt(origin_index=np.array([0, 2, 0, 2, 3], np.int32)),
        spoilt(origin_index=np.array([0, 2, 0, 2, -1], np.int32)),
        spoilt(origin_index=np.array([0, 2, 0, 2, 0], np.int64)),
        spoilt(origin_index=np.array([0, 2, 0, 2], np.int32)),
        spoilt(origins=("a", "b", "a")),
        spoilt(seq=np.array([2, 5, 2, 8, 3])),
        spoilt(seq=np.array([2, 5, 1, 8, 3])),
        spoilt(seq=np.array([2, 5, 3, 5, 4])),
        spoilt(seq=FIVE.astype(np.int32)),
        spoilt(time_ns=FIVE[:4]),
    ],
)
def test_rows_that_are_not_as_promised_are_refused(block):
    with pytest.raises(DataError) as caught:
        block.check(SCHEMA)
    assert caught.value.code == "batch.sequence"


def test_more_rows_than_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr(blocks_module, "ROWS_MAX", 4)
    with pytest.raises(DataError):
        fixed_block().check(SCHEMA)


@pytest.mark.parametrize(
    "columns",
    [
        {"temp": FIVE.astype(np.float32)},
        {"q": FIVE.astype(np.int32), "temp": FIVE.astype(np.float32)},
        {"temp": FIVE.astype(np.float64), "q": FIVE.astype(np.int32)},
        {"temp": FIVE[:4].astype(np.float32), "q": FIVE.astype(np.int32)},
    ],
)
def test_columns_that_are_not_the_schemas_are_refused(columns):
    fixed_block().check(SCHEMA)
    with pytest.raises(DataError) as caught:
        spoilt(columns=columns).check(SCHEMA)
    assert caught.value.code == "batch.schema"


def test_numbers_at_the_ends_of_64_bits_are_compared_and_not_subtracted():
    ends = np.array([-(2**63), 2**63 - 1], np.int64)
    both = np.zeros(2, np.int32)
    block = Block("s", ("o",), both, ends, ends, {"temp": ends.astype(np.float32), "q": both})
    block.check(SCHEMA)
    with pytest.raises(DataError):
        block.take(np.array([1, 0])).check(SCHEMA)


def test_a_batch_is_a_block_of_one_origin():
    batch = Batch("s", "o", FIVE, FIVE, {"temp": FIVE.astype(np.float32)})
    block = Block.of(batch)
    assert block.origins == ("o",)
    assert same_bits(block.split()[0], batch)
    assert block.size_bytes == batch.size_bytes
