"""Batches: what `check` promises, and the ways to break each part of the promise."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core import batch as batch_module
from ganglion.core.batch import BOOT_BITS, Batch, sequence
from ganglion.core.errors import DataError
from ganglion.core.schema import Field, Schema, boolean, f32
from tests.core.wire_cases import LEAST, MOST, batches, same_bits

SCHEMA = Schema((Field("x", f32[2]), Field("on", boolean)))


def good(n=3):
    return Batch(
        "s",
        "o",
        np.arange(n),
        np.arange(n) * 10,
        {"x": np.zeros((n, 2), np.float32), "on": np.zeros(n, bool)},
    )


def column(name, value):
    return lambda b: replace(b, columns={**b.columns, name: value})


VIOLATIONS = [
    ("field missing", "schema", lambda b: replace(b, columns={"x": b.columns["x"]})),
    ("field too many", "schema", column("y", np.zeros(3))),
    ("order", "schema", lambda b: replace(b, columns=dict(reversed(b.columns.items())))),
    ("name", "schema", lambda b: replace(b, columns={"x": b.columns["x"], "off": b.columns["on"]})),
    ("dtype", "schema", column("x", np.zeros((3, 2)))),
    ("byte order", "schema", column("x", np.zeros((3, 2), ">f4"))),
    ("dtype of the truth", "schema", column("on", np.zeros(3, np.uint8))),
    ("shape", "schema", column("x", np.zeros((3, 3), np.float32))),
    ("scalar for frame", "schema", column("x", np.zeros(3, np.float32))),
    ("rows of a column", "schema", column("x", np.zeros((2, 2), np.float32))),
    ("no rows", "sequence", lambda b: b.take(slice(0, 0))),
    ("repeated", "sequence", lambda b: replace(b, seq=np.array([1, 1, 2]))),
    ("decreasing", "sequence", lambda b: replace(b, seq=np.array([3, 2, 1]))),
    ("wraps round", "sequence", lambda b: replace(b.take(slice(0, 2)), seq=np.array([MOST, LEAST]))),
    ("wraps round later", "sequence", lambda b: replace(b, seq=np.array([0, MOST, LEAST]))),
    ("float numbers", "sequence", lambda b: replace(b, seq=np.arange(3.0))),
    ("short numbers", "sequence", lambda b: replace(b, seq=np.arange(3, dtype=np.int32))),
    ("unsigned numbers", "sequence", lambda b: replace(b, seq=np.arange(3, dtype=np.uint64))),
    ("two-dimensional numbers", "sequence", lambda b: replace(b, seq=np.arange(6).reshape(3, 2))),
    ("one number", "sequence", lambda b: replace(b, seq=np.array(1))),
    ("too few times", "sequence", lambda b: replace(b, time_ns=np.arange(2))),
    ("float times", "sequence", lambda b: replace(b, time_ns=np.arange(3.0))),
    ("two-dimensional times", "sequence", lambda b: replace(b, time_ns=np.zeros((3, 1), np.int64))),
]


@pytest.mark.parametrize("code, spoil", [v[1:] for v in VIOLATIONS], ids=[v[0] for v in VIOLATIONS])
def test_each_broken_promise_is_refused(code, spoil):
    with pytest.raises(DataError) as caught:
        spoil(good()).check(SCHEMA)
    assert caught.value.code == f"batch.{code}"
    assert caught.value.why
    assert caught.value.next_step


def test_more_rows_than_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr(batch_module, "ROWS_MAX", 3)
    assert good(3).check(SCHEMA)
    with pytest.raises(DataError):
        good(4).check(SCHEMA)


def test_the_ends_of_the_numbers_and_any_times_are_fine():
    batch = replace(good(), seq=np.array([LEAST, 0, MOST]), time_ns=np.array([MOST, LEAST, 0]))
    assert batch.check(SCHEMA) is batch
    assert (batch.first_seq, batch.last_seq) == (LEAST, MOST)


@given(batches())
def test_what_a_schema_describes_passes_and_its_size_is_that_of_its_rows(case):
    batch, schema = case
    assert batch.check(schema) is batch
    assert batch.size_bytes == len(batch) * schema.row_bytes


@given(batches(), st.data())
def test_parts_put_together_are_the_whole(case, data):
    batch, schema = case
    cut = data.draw(st.integers(1, len(batch)))
    parts = [p for p in (batch.take(slice(0, cut)), batch.take(slice(cut, None))) if len(p)]
    assert same_bits(Batch.concat(parts), batch)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(batch), max_size=len(batch))))
    taken = batch.take(mask)
    assert taken.seq.tolist() == [s for s, m in zip(batch.seq.tolist(), mask, strict=True) if m]
    assert taken.row_digests() == [d for d, m in zip(batch.row_digests(), mask, strict=True) if m]
    if len(taken):
        taken.check(schema)


@given(batches(), st.data())
def test_a_digest_sees_every_changed_bit_of_its_row_and_of_no_other(case, data):
    batch, _ = case
    name = data.draw(st.sampled_from(list(batch.columns)))
    row = data.draw(st.integers(0, len(batch) - 1))
    changed = batch.columns[name].copy()
    if changed.dtype == bool:
        changed.reshape(len(batch), -1)[row, 0] ^= True
    else:
        view = changed.reshape(len(batch), -1)[row].view(np.uint8)
        view[data.draw(st.integers(0, len(view) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    other = replace(batch, columns={**batch.columns, name: changed})
    differs = [a != b for a, b in zip(batch.row_digests(), other.row_digests(), strict=True)]
    assert differs == [i == row for i in range(len(batch))]


def test_concat_of_different_origins_is_a_bug():
    with pytest.raises(AssertionError):
        Batch.concat([good(), replace(good(), origin="p")])
    with pytest.raises(AssertionError):
        Batch.concat([])


def test_a_batch_under_another_name_shares_its_rows():
    batch = good()
    renamed = batch.renamed("t")
    assert renamed.stream == "t"
    assert renamed.columns is batch.columns
    with pytest.raises(AttributeError):
        batch.stream = "u"


@given(st.integers(0, 2**22 - 1), st.integers(0, 2**BOOT_BITS - 1))
def test_every_boot_counts_on_above_the_last(boot, count):
    number = sequence(boot, count)
    assert 0 <= number < 2**62
    assert (number >> BOOT_BITS, number & (2**BOOT_BITS - 1)) == (boot, count)


@pytest.mark.parametrize("boot, count", [(-1, 0), (0, -1), (2**22, 0), (0, 2**40)])
def test_numbers_out_of_range_are_bugs(boot, count):
    with pytest.raises(AssertionError):
        sequence(boot, count)
